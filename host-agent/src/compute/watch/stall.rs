//! Instances that QEMU itself paused because a disk of theirs failed, mostly since the node's disk is
//! full. They lose nothing: what failed is tried again when they go on. For want of space they go
//! on by themselves when there is room; why they stand still is libvirt's to tell, so that
//! outlives the agent.

use std::collections::BTreeSet;
use std::time::Duration;

use ostler_protocol::rpc::instance::{StallReason, TaskState};
use ostler_protocol::rpc::operation::Kind;
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name};

use super::Watch;
use crate::compute::operations::unpause::Unpause;
use crate::compute::outside::Outside;
use crate::compute::registry::Known;
use crate::compute::stalled::{reason, runs};
use crate::hypervisor::Hypervisor;
use crate::journal::records::InstanceRecord;
use crate::volume::Volumes;

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
        let waiting: Vec<(InstanceId, Option<u64>, BTreeSet<Name>)> = {
            let registry = self.registry.lock();
            let stalled = registry.observed.iter().filter(|(_, seen)| seen.stall.is_some());
            stalled
                .filter_map(|(id, _)| {
                    let record = registry.instances.get(id).filter(|record| runs(record))?;
                    let seen = registry.sightings.get(id).copied();
                    Some((*id, seen, other_pools(record, &registry)))
                })
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
        for (id, before, pools) in waiting {
            if !self.is_room_in(&pools).await {
                continue;
            }
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

    /// Whether there is room in all these pools: which of them was full is not known.
    async fn is_room_in(&self, pools: &BTreeSet<Name>) -> bool {
        for pool in pools {
            match self.node.volumes.room(pool).await {
                Ok(space) if space.free >= ROOM.min(Bytes(space.total.0 / 10)) => {}
                Ok(_) => return false,
                Err(error) => {
                    tracing::warn!(%pool, %error, "cannot check the free space in a pool");
                    return false;
                }
            }
        }
        true
    }
}

/// The pools of an instance's volumes that have room of their own.
fn other_pools(record: &InstanceRecord, known: &Known) -> BTreeSet<Name> {
    let volumes = record.volumes.iter().filter_map(|there| known.volumes.get(&there.volume));
    let pools = volumes.filter_map(|volume| volume.pool.clone());
    pools.filter(|pool| !known.shared_pools.contains(pool)).collect()
}
