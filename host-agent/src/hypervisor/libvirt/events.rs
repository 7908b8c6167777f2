//! libvirt's events and state codes in our words; pure. Codes newer than we know become
//! [`PowerReason::Unstated`] or are passed over, never an error.

use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;
use virt::sys;

use super::ffi::RawEvent;
use crate::hypervisor::{DomainState, HypervisorEvent, PowerReason};

/// What to tell of an event; none for those nobody needs.
pub(super) fn translate(event: RawEvent) -> Option<HypervisorEvent> {
    match event {
        RawEvent::Lifecycle { domain, event, detail } => {
            lifecycle(InstanceId(domain), event, detail)
        }
        RawEvent::Reboot { domain } => Some(HypervisorEvent::Rebooted { id: InstanceId(domain) }),
        RawEvent::DeviceRemoved { domain, alias } => {
            Some(HypervisorEvent::Unplugged { id: InstanceId(domain), alias })
        }
        RawEvent::DeviceKept { domain, alias } => {
            Some(HypervisorEvent::Kept { id: InstanceId(domain), alias })
        }
        RawEvent::AgentLifecycle { domain, state } => {
            let connected = match state {
                sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_CONNECTED => true,
                sys::VIR_CONNECT_DOMAIN_EVENT_AGENT_LIFECYCLE_STATE_DISCONNECTED => false,
                _ => return None,
            };
            Some(HypervisorEvent::AgentConnected { id: InstanceId(domain), connected })
        }
    }
}

fn lifecycle(id: InstanceId, event: u32, detail: u32) -> Option<HypervisorEvent> {
    let (power, reason) = match event {
        sys::VIR_DOMAIN_EVENT_UNDEFINED => {
            // a rename is followed by the definition of the new name
            return (detail == sys::VIR_DOMAIN_EVENT_UNDEFINED_REMOVED)
                .then_some(HypervisorEvent::Removed { id });
        }
        sys::VIR_DOMAIN_EVENT_STARTED => (PowerState::Running, started(detail)),
        sys::VIR_DOMAIN_EVENT_SUSPENDED => (PowerState::Paused, suspended(detail)),
        sys::VIR_DOMAIN_EVENT_RESUMED => (PowerState::Running, PowerReason::Resumed),
        sys::VIR_DOMAIN_EVENT_STOPPED => (PowerState::Shutdown, stopped(detail)),
        sys::VIR_DOMAIN_EVENT_SHUTDOWN => (PowerState::Shutdown, PowerReason::ShuttingDown),
        sys::VIR_DOMAIN_EVENT_PMSUSPENDED => (PowerState::Suspended, PowerReason::GuestSuspended),
        sys::VIR_DOMAIN_EVENT_CRASHED => (PowerState::Crashed, PowerReason::Crashed),
        _ => return None,
    };
    Some(HypervisorEvent::Lifecycle { id, power, reason })
}

const fn started(detail: u32) -> PowerReason {
    match detail {
        sys::VIR_DOMAIN_EVENT_STARTED_BOOTED => PowerReason::Booted,
        sys::VIR_DOMAIN_EVENT_STARTED_MIGRATED => PowerReason::Migrated,
        sys::VIR_DOMAIN_EVENT_STARTED_RESTORED | sys::VIR_DOMAIN_EVENT_STARTED_FROM_SNAPSHOT => {
            PowerReason::Restored
        }
        sys::VIR_DOMAIN_EVENT_STARTED_WAKEUP => PowerReason::Resumed,
        _ => PowerReason::Unstated,
    }
}

const fn suspended(detail: u32) -> PowerReason {
    match detail {
        sys::VIR_DOMAIN_EVENT_SUSPENDED_PAUSED => PowerReason::PauseRequested,
        sys::VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED => PowerReason::Migrated,
        sys::VIR_DOMAIN_EVENT_SUSPENDED_IOERROR => PowerReason::IoError,
        sys::VIR_DOMAIN_EVENT_SUSPENDED_WATCHDOG => PowerReason::Watchdog,
        sys::VIR_DOMAIN_EVENT_SUSPENDED_RESTORED
        | sys::VIR_DOMAIN_EVENT_SUSPENDED_FROM_SNAPSHOT => PowerReason::Restored,
        sys::VIR_DOMAIN_EVENT_SUSPENDED_GUEST_SHUTDOWN => PowerReason::ShuttingDown,
        _ => PowerReason::Unstated,
    }
}

const fn stopped(detail: u32) -> PowerReason {
    match detail {
        sys::VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN => PowerReason::ShutDown,
        sys::VIR_DOMAIN_EVENT_STOPPED_DESTROYED => PowerReason::Destroyed,
        sys::VIR_DOMAIN_EVENT_STOPPED_CRASHED => PowerReason::Crashed,
        sys::VIR_DOMAIN_EVENT_STOPPED_MIGRATED => PowerReason::Migrated,
        sys::VIR_DOMAIN_EVENT_STOPPED_SAVED => PowerReason::Saved,
        sys::VIR_DOMAIN_EVENT_STOPPED_FAILED => PowerReason::StartFailed,
        sys::VIR_DOMAIN_EVENT_STOPPED_FROM_SNAPSHOT => PowerReason::Restored,
        _ => PowerReason::Unstated,
    }
}

/// A state and its reason, as libvirt numbers them.
pub(super) const fn state(state: u32, reason: u32) -> DomainState {
    let (power, reason) = match state {
        sys::VIR_DOMAIN_RUNNING => (PowerState::Running, running(reason)),
        sys::VIR_DOMAIN_BLOCKED => (PowerState::Running, PowerReason::Unstated),
        sys::VIR_DOMAIN_PAUSED => (PowerState::Paused, paused(reason)),
        sys::VIR_DOMAIN_SHUTDOWN => (PowerState::Shutdown, PowerReason::ShuttingDown),
        sys::VIR_DOMAIN_SHUTOFF => (PowerState::Shutdown, shut_off(reason)),
        sys::VIR_DOMAIN_CRASHED => (PowerState::Crashed, PowerReason::Crashed),
        sys::VIR_DOMAIN_PMSUSPENDED => (PowerState::Suspended, PowerReason::GuestSuspended),
        _ => (PowerState::Unknown, PowerReason::Unstated),
    };
    DomainState { power, reason }
}

const fn running(reason: u32) -> PowerReason {
    match reason {
        sys::VIR_DOMAIN_RUNNING_BOOTED => PowerReason::Booted,
        sys::VIR_DOMAIN_RUNNING_MIGRATED
        | sys::VIR_DOMAIN_RUNNING_MIGRATION_CANCELED
        | sys::VIR_DOMAIN_RUNNING_POSTCOPY => PowerReason::Migrated,
        sys::VIR_DOMAIN_RUNNING_RESTORED | sys::VIR_DOMAIN_RUNNING_FROM_SNAPSHOT => {
            PowerReason::Restored
        }
        sys::VIR_DOMAIN_RUNNING_UNPAUSED
        | sys::VIR_DOMAIN_RUNNING_SAVE_CANCELED
        | sys::VIR_DOMAIN_RUNNING_WAKEUP => PowerReason::Resumed,
        sys::VIR_DOMAIN_RUNNING_CRASHED => PowerReason::Crashed,
        _ => PowerReason::Unstated,
    }
}

const fn paused(reason: u32) -> PowerReason {
    match reason {
        sys::VIR_DOMAIN_PAUSED_USER => PowerReason::PauseRequested,
        sys::VIR_DOMAIN_PAUSED_MIGRATION | sys::VIR_DOMAIN_PAUSED_POSTCOPY => PowerReason::Migrated,
        sys::VIR_DOMAIN_PAUSED_SAVE
        | sys::VIR_DOMAIN_PAUSED_DUMP
        | sys::VIR_DOMAIN_PAUSED_SNAPSHOT => PowerReason::Saving,
        sys::VIR_DOMAIN_PAUSED_IOERROR => PowerReason::IoError,
        sys::VIR_DOMAIN_PAUSED_WATCHDOG => PowerReason::Watchdog,
        sys::VIR_DOMAIN_PAUSED_FROM_SNAPSHOT => PowerReason::Restored,
        sys::VIR_DOMAIN_PAUSED_SHUTTING_DOWN => PowerReason::ShuttingDown,
        sys::VIR_DOMAIN_PAUSED_CRASHED => PowerReason::Crashed,
        sys::VIR_DOMAIN_PAUSED_STARTING_UP => PowerReason::StartingUp,
        _ => PowerReason::Unstated,
    }
}

const fn shut_off(reason: u32) -> PowerReason {
    match reason {
        sys::VIR_DOMAIN_SHUTOFF_SHUTDOWN => PowerReason::ShutDown,
        sys::VIR_DOMAIN_SHUTOFF_DESTROYED => PowerReason::Destroyed,
        sys::VIR_DOMAIN_SHUTOFF_CRASHED => PowerReason::Crashed,
        sys::VIR_DOMAIN_SHUTOFF_MIGRATED => PowerReason::Migrated,
        sys::VIR_DOMAIN_SHUTOFF_SAVED => PowerReason::Saved,
        sys::VIR_DOMAIN_SHUTOFF_FAILED => PowerReason::StartFailed,
        sys::VIR_DOMAIN_SHUTOFF_FROM_SNAPSHOT => PowerReason::Restored,
        _ => PowerReason::Unstated,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_map_as_operators_know_them() {
        for (libvirt, power) in [
            (sys::VIR_DOMAIN_NOSTATE, PowerState::Unknown),
            (sys::VIR_DOMAIN_RUNNING, PowerState::Running),
            (sys::VIR_DOMAIN_BLOCKED, PowerState::Running),
            (sys::VIR_DOMAIN_PAUSED, PowerState::Paused),
            (sys::VIR_DOMAIN_SHUTDOWN, PowerState::Shutdown),
            (sys::VIR_DOMAIN_SHUTOFF, PowerState::Shutdown),
            (sys::VIR_DOMAIN_CRASHED, PowerState::Crashed),
            (sys::VIR_DOMAIN_PMSUSPENDED, PowerState::Suspended),
            (u32::MAX, PowerState::Unknown),
        ] {
            assert_eq!(state(libvirt, 0).power, power, "state {libvirt}");
        }
    }

    #[test]
    fn codes_we_do_not_know_are_not_errors() {
        let id = InstanceId::random();
        let event = |event, detail| translate(RawEvent::Lifecycle { domain: id.0, event, detail });
        assert_eq!(event(99, 0), None);
        assert_eq!(
            event(sys::VIR_DOMAIN_EVENT_STOPPED, 99),
            Some(HypervisorEvent::Lifecycle {
                id,
                power: PowerState::Shutdown,
                reason: PowerReason::Unstated
            })
        );
        assert_eq!(translate(RawEvent::AgentLifecycle { domain: id.0, state: 9 }), None);
    }

    #[test]
    fn a_rename_is_not_a_removal() {
        let id = InstanceId::random();
        let undefined = |detail| {
            let event = sys::VIR_DOMAIN_EVENT_UNDEFINED;
            translate(RawEvent::Lifecycle { domain: id.0, event, detail })
        };
        assert_eq!(
            undefined(sys::VIR_DOMAIN_EVENT_UNDEFINED_REMOVED),
            Some(HypervisorEvent::Removed { id })
        );
        assert_eq!(undefined(sys::VIR_DOMAIN_EVENT_UNDEFINED_RENAMED), None);
    }
}
