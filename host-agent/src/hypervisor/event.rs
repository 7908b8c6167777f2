//! What the hypervisor tells unasked: power changes, guest agents that come and go, the link.
//!
//! The stream is bounded. A consumer that falls behind gets [`HypervisorEvent::Lagged`] in place
//! of what it missed, and must look at the world again; the same holds after
//! [`HypervisorEvent::LinkUp`], since nothing is told while the link is down.

use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::broadcast;

/// Events kept for the slowest receiver. A node's worth of domains starting at once fits.
pub const EVENT_CAPACITY: usize = 1024;

/// Whether the hypervisor can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// Every connection stands and events are subscribed to.
    Up,
    /// Something is missing; it is being worked on.
    Down,
}

/// What brought a power state about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PowerReason {
    /// Started from its firmware.
    Booted,
    /// Came from another host, or went there.
    Migrated,
    /// Started from saved memory or a snapshot.
    Restored,
    /// vCPUs run again after a pause or suspend.
    Resumed,
    /// Somebody asked for the pause.
    PauseRequested,
    /// QEMU is set up, its vCPUs do not run yet.
    StartingUp,
    /// QEMU could not write to a disk: no space is left on the node.
    NoSpace,
    /// A disk failed under the guest, in a way that was not asked for or is none of these.
    IoError,
    /// The guest's watchdog fired.
    Watchdog,
    /// A snapshot, save or dump holds the vCPUs.
    Saving,
    /// The guest is through with its shutdown. What follows is off, or running again when this
    /// was a reboot by ACPI.
    ShuttingDown,
    /// The guest shut itself down.
    ShutDown,
    /// Somebody pulled the plug.
    Destroyed,
    /// The guest panicked, or QEMU died.
    Crashed,
    /// Memory was saved, then it was stopped.
    Saved,
    /// It did not come up.
    StartFailed,
    /// The guest suspended itself to memory or disk.
    GuestSuspended,
    /// The hypervisor gives none, or one we have no word for.
    Unstated,
}

/// One thing told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HypervisorEvent {
    /// A domain's power state changed.
    Lifecycle {
        /// The domain.
        id: InstanceId,
        /// What it does now.
        power: PowerState,
        /// Why.
        reason: PowerReason,
    },
    /// A domain's definition was removed.
    Removed {
        /// The domain.
        id: InstanceId,
    },
    /// A running guest restarted itself or was reset.
    Rebooted {
        /// The domain.
        id: InstanceId,
    },
    /// A guest has let go of a device, and it is gone.
    Unplugged {
        /// The domain.
        id: InstanceId,
        /// The device.
        alias: String,
    },
    /// A guest refused to let go of a device.
    Kept {
        /// The domain.
        id: InstanceId,
        /// The device.
        alias: String,
    },
    /// The guest agent opened or closed the standard channel.
    AgentConnected {
        /// The domain.
        id: InstanceId,
        /// Whether it is there now.
        connected: bool,
    },
    /// The hypervisor can be used again; what happened meanwhile was not told.
    LinkUp,
    /// The hypervisor cannot be used.
    LinkDown,
    /// This receiver was too slow; so many events are lost to it.
    Lagged {
        /// How many.
        missed: u64,
    },
}

/// A receiver of events.
#[derive(Debug)]
pub struct Events(broadcast::Receiver<HypervisorEvent>);

impl Events {
    pub(crate) fn new(receiver: broadcast::Receiver<HypervisorEvent>) -> Self {
        Self(receiver)
    }

    /// The next event, or none when the driver is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<HypervisorEvent> {
        match self.0.recv().await {
            Ok(event) => Some(event),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some(HypervisorEvent::Lagged { missed })
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_receiver_is_told_what_it_missed() {
        let (sender, receiver) = broadcast::channel(2);
        let mut events = Events::new(receiver);
        for _ in 0..5 {
            sender.send(HypervisorEvent::LinkUp).unwrap();
        }
        assert_eq!(events.next().await, Some(HypervisorEvent::Lagged { missed: 3 }));
        assert_eq!(events.next().await, Some(HypervisorEvent::LinkUp));
        assert_eq!(events.next().await, Some(HypervisorEvent::LinkUp));
        drop(sender);
        assert_eq!(events.next().await, None);
    }
}
