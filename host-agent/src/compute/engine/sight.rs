//! What is seen of an instance, and what follows for one that nobody is working on.

use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;

use super::Engine;
use crate::compute::outside::Outside;
use crate::compute::{lifecycle, stalled};
use crate::hypervisor::DomainState;
use crate::journal::Write;

impl<O: Outside> Engine<O> {
    /// Take note of what was asked for when `before` was the last sighting, unless somebody has
    /// seen the instance since.
    pub(in crate::compute) async fn power_found(
        &self,
        id: InstanceId,
        found: impl Into<DomainState>,
        before: Option<u64>,
    ) {
        if self.registry.lock().sightings.get(&id).copied() == before {
            self.power_seen(id, found).await;
        }
    }

    /// Take note of a power state, and of what follows for an instance that nobody is working on.
    pub(in crate::compute) async fn power_seen(
        &self,
        id: InstanceId,
        seen: impl Into<DomainState>,
    ) {
        let state: DomainState = seen.into();
        let (power, stall) = (state.power, stalled::reason(state));
        {
            let mut registry = self.registry.lock();
            if !registry.instances.contains_key(&id) {
                return;
            }
            *registry.sightings.entry(id).or_default() += 1;
        }
        let changed = self.registry.observe(id, |seen| {
            (seen.power, seen.stall) = (power, stall);
            // What is off has nothing plugged in.
            if !matches!(power, PowerState::Running | PowerState::Paused | PowerState::Unknown) {
                seen.plugged.clear();
            }
        });
        match power {
            PowerState::Running | PowerState::Paused => {
                self.node.guests.running(id, self.guest_socket(id));
            }
            PowerState::None
            | PowerState::Shutdown
            | PowerState::Crashed
            | PowerState::Suspended => self.node.guests.stopped(id),
            PowerState::Unknown => {}
        }
        if changed {
            if let Some(reason) = stall {
                tracing::warn!(instance = %id, ?reason, "QEMU paused it: its disk failed");
            }
            self.after_task(id).await;
        }
    }

    /// The stable state that follows from what is observed, if no task is in flight.
    pub(in crate::compute) async fn after_task(&self, id: InstanceId) {
        let write = {
            let mut registry = self.registry.lock();
            let power = registry.observed(id).power;
            let next = registry
                .instances
                .get(&id)
                .filter(|instance| instance.task_state.is_none())
                .and_then(|instance| lifecycle::observed(instance.vm_state, power));
            next.and_then(|vm_state| registry.update(id, |i| i.vm_state = vm_state))
        };
        if let Some(instance) = write {
            tracing::info!(instance = %id, state = ?instance.vm_state, "state changed, as libvirt reports");
            let write = Write { instance: Some(instance), ..Write::default() };
            if let Err(error) = self.registry.journal.write(write).await {
                // The next audit, or the next start, sees the same again.
                tracing::warn!(instance = %id, %error, "cannot write an instance's state to the journal");
            }
        }
        self.registry.tell_instance(id);
    }
}
