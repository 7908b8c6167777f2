//! Instances that QEMU itself paused because a disk of theirs failed, mostly since the node's disk is
//! full. They lose nothing: what failed is tried again when they go on. For want of space they go
//! on by themselves when there is room; why they stand still is libvirt's to tell, so that
//! outlives the agent.

use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::instance::{PowerState, StallReason, Stalled, TaskState, VmState};
use ostler_protocol::rpc::operation::Kind;
use ostler_protocol::rpc::values::{Bytes, InstanceId};

use super::manager::Compute;
use super::operations::unpause::Unpause;
use super::registry::Registry;
use crate::hypervisor::{DomainState, Hypervisor, PowerReason};
use crate::journal::records::InstanceRecord;
use crate::network::Network;

/// How often it is seen whether there is room, while an instance waits for it.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// How much is room: with less, the first writes would stop the instance again.
const ROOM: Bytes = Bytes(64 << 20);

impl<H: Hypervisor, N: Network> Compute<H, N> {
    /// What is told of an instance that QEMU paused.
    pub(super) fn stalled(&self, registry: &Registry, record: &InstanceRecord) -> Option<Stalled> {
        let reason = registry.observed(record.id).stall.filter(|_| runs(record))?;
        let unpause = format!("ostler instance unpause {}", record.id);
        let message = match reason {
            StallReason::NoSpace if self.settings().resume_when_room => {
                "paused by QEMU: a write to its disk failed, no space left on the node; it goes on \
                 by itself when there is room"
                    .to_owned()
            }
            StallReason::NoSpace => format!(
                "paused by QEMU: a write to its disk failed, no space left on the node; free some, \
                 then: {unpause}"
            ),
            StallReason::IoError => format!(
                "paused by QEMU: its disk failed; see the node's kernel log and storage, then: \
                 {unpause}"
            ),
        };
        Some(Stalled { reason, message })
    }

    /// Have the instances go on that stand still for want of space, if there is room.
    pub(super) async fn go_on_where_room(self: &Arc<Self>) {
        if !self.settings().resume_when_room {
            return;
        }
        let waiting: Vec<(InstanceId, Option<u64>)> = {
            let registry = self.registry.lock();
            let waits = |id| registry.instances.get(id).is_some_and(runs);
            let stalled = registry.observed.iter().filter(|(_, seen)| seen.stall.is_some());
            stalled
                .filter(|(id, _)| waits(id))
                .map(|(id, _)| (*id, registry.sightings.get(id).copied()))
                .collect()
        };
        if waiting.is_empty() {
            return;
        }
        // Who waits here follows the events of all instances: a file system that does not answer
        // must not keep them.
        match tokio::time::timeout(LOOK / 2, self.usage()).await {
            Ok(Ok(usage)) if usage.disk.free >= ROOM => {}
            Ok(Ok(_)) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "it could not be seen whether there is room on the disk");
                return;
            }
            Err(_) => {
                tracing::warn!("the disk does not say in time whether there is room on it");
                return;
            }
        }
        for (id, before) in waiting {
            // As it is now: somebody may have had it go on, and stop, since.
            let Ok(now) = self.node.hypervisor.state(id).await else { continue };
            self.power_found(id, now, before).await;
            if reason(now) != Some(StallReason::NoSpace) {
                continue;
            }
            tracing::info!(instance = %id, "the disk has room again: it goes on");
            let unpause = (TaskState::Unpausing, Unpause {}.into(), Kind::Unpause);
            if let Err(fault) = self.by_itself(id, unpause, runs).await {
                tracing::error!(instance = %id, %fault, "it could not be unpaused");
            }
        }
    }
}

/// Whether an instance is to run. One that was paused on request stays so, whatever its disk does.
const fn runs(record: &InstanceRecord) -> bool {
    match record.vm_state {
        VmState::Active | VmState::Rescued | VmState::Resized => true,
        VmState::Building
        | VmState::Paused
        | VmState::Suspended
        | VmState::Stopped
        | VmState::Shelved
        | VmState::ShelvedOffloaded
        | VmState::SoftDeleted
        | VmState::Error
        | VmState::Deleted => false,
    }
}

/// Why QEMU paused a domain that is like this, if it did.
pub(super) const fn reason(state: DomainState) -> Option<StallReason> {
    if !matches!(state.power, PowerState::Paused) {
        return None;
    }
    match state.reason {
        PowerReason::NoSpace => Some(StallReason::NoSpace),
        PowerReason::IoError => Some(StallReason::IoError),
        PowerReason::Booted
        | PowerReason::Migrated
        | PowerReason::Restored
        | PowerReason::Resumed
        | PowerReason::PauseRequested
        | PowerReason::StartingUp
        | PowerReason::Watchdog
        | PowerReason::Saving
        | PowerReason::ShuttingDown
        | PowerReason::ShutDown
        | PowerReason::Destroyed
        | PowerReason::Crashed
        | PowerReason::Saved
        | PowerReason::StartFailed
        | PowerReason::GuestSuspended
        | PowerReason::Unstated => None,
    }
}
