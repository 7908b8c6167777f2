//! Instances that QEMU itself paused because a disk of theirs failed, mostly since the node's disk is
//! full. They lose nothing: what failed is tried again when they go on. For want of space they go
//! on by themselves when there is room; why they stand still is libvirt's to tell, so that
//! outlives the agent.

use std::time::Duration;

use ostler_protocol::rpc::instance::{StallReason, TaskState};
use ostler_protocol::rpc::operation::Kind;
use ostler_protocol::rpc::values::{Bytes, InstanceId};

use super::Watch;
use crate::compute::operations::unpause::Unpause;
use crate::compute::outside::Outside;
use crate::compute::stalled::{reason, runs};
use crate::hypervisor::Hypervisor;

/// How often it is seen whether there is room, while an instance waits for it.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// How much is room: with less, the first writes would stop the instance again.
const ROOM: Bytes = Bytes(64 << 20);

impl<O: Outside> Watch<O> {
    /// Have the instances go on that stand still for want of space, if there is room.
    pub(super) async fn go_on_where_room(&self) {
        if !self.registry.settings().resume_when_room {
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
        match self.measured.usage().await {
            Ok(usage) if usage.disk.free >= ROOM => {}
            Ok(_) => return,
            Err(error) => {
                tracing::warn!(%error, "cannot check the free space on the disk");
                return;
            }
        }
        for (id, before) in waiting {
            // As it is now: somebody may have had it go on, and stop, since.
            let Ok(now) = self.node.hypervisor.state(id).await else { continue };
            self.engine.power_found(id, now, before).await;
            if reason(now) != Some(StallReason::NoSpace) {
                continue;
            }
            tracing::info!(instance = %id, "the disk has space again: resuming an instance");
            let unpause = (TaskState::Unpausing, Unpause {}.into(), Kind::Unpause);
            if let Err(fault) = self.gate.by_itself(id, unpause, runs).await {
                tracing::error!(instance = %id, %fault, "cannot unpause an instance");
            }
        }
    }
}
