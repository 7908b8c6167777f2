//! Following what libvirt tells: power states from evidence only.
//!
//! ```text
//!   event ──> observed ──> no task in flight? ──> lifecycle::observed ──> journal, event
//!   link down ──> all UNKNOWN, and nothing is done
//!   link up, lagged, every so often ──> reconcile
//! ```

use std::sync::Arc;

use ostler_protocol::rpc::event::News;
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;

use super::lifecycle;
use super::manager::Compute;
use super::registry::Observed;
use super::stall;
use crate::hypervisor::{DomainState, Error, Hypervisor, HypervisorEvent, Link, PowerReason};
use crate::journal::Write;
use crate::network::Network;

impl<H: Hypervisor, N: Network> Compute<H, N> {
    /// Follow libvirt's events until the agent stops.
    pub(super) async fn follow_power(self: &Arc<Self>) {
        let mut events = self.node.hypervisor.events();
        let mut settings = self.settings_changes();
        let mut audit = tokio::time::interval(self.settings().reconcile_interval);
        let mut room = tokio::time::interval(stall::LOOK);
        room.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                () = self.shutdown.cancelled() => return,
                _ = audit.tick() => None,
                _ = room.tick() => {
                    self.go_on_where_room().await;
                    continue;
                }
                Ok(()) = settings.changed() => {
                    audit = tokio::time::interval(self.settings().reconcile_interval);
                    continue;
                }
                event = events.next() => match event {
                    Some(event) => Some(event),
                    None => return,
                },
            };
            match event {
                None | Some(HypervisorEvent::LinkUp | HypervisorEvent::Lagged { .. }) => {
                    if *self.node.hypervisor.link().borrow() == Link::Up {
                        self.reconcile().await;
                        self.go_on_where_room().await;
                    }
                }
                Some(HypervisorEvent::LinkDown) => self.all_unknown(),
                // Not yet off, and running again in a moment if this is a reboot.
                Some(HypervisorEvent::Lifecycle { reason: PowerReason::ShuttingDown, .. }) => {}
                Some(HypervisorEvent::Lifecycle { id, power, reason }) => {
                    tracing::debug!(instance = %id, ?power, ?reason, "libvirt tells");
                    self.power_told(id, DomainState { power, reason }).await;
                }
                Some(HypervisorEvent::Removed { id }) => {
                    self.power_told(id, PowerState::None.into()).await;
                }
                Some(HypervisorEvent::Rebooted { id }) => {
                    self.observe(id, |seen| seen.reboots += 1);
                    self.node.guests.restarted(id);
                }
                Some(HypervisorEvent::AgentConnected { id, connected }) => {
                    self.node.guests.agent_connected(id, connected);
                }
            }
        }
    }

    /// Pass on what changes in the guests.
    pub(super) async fn follow_guests(&self) {
        let mut changes = self.node.guests.changes();
        loop {
            let change = tokio::select! {
                () = self.shutdown.cancelled() => return,
                change = changes.recv() => change,
            };
            match change {
                Ok((id, guest)) => self.tell(News::Guest { id, guest }),
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn all_unknown(&self) {
        let ids: Vec<InstanceId> = {
            let mut registry = self.registry.lock();
            for seen in registry.observed.values_mut() {
                (seen.power, seen.stall) = (PowerState::Unknown, None);
            }
            registry.observed.keys().copied().collect()
        };
        tracing::warn!("libvirt cannot be reached; power states are unknown until it can");
        self.observed_changed.send_replace(());
        for id in ids {
            self.tell_instance(id);
        }
    }

    /// Take note of what an event tells. It may be old: events wait while we look around, and an
    /// operation may have been through since. So where a state would follow from it, libvirt is
    /// asked how it is now; and how a disk failed is not told.
    async fn power_told(&self, id: InstanceId, told: DomainState) {
        let (believed, before) = {
            let registry = self.registry.lock();
            let quiet = registry.instances.get(&id).filter(|i| i.task_state.is_none());
            let believed = quiet.and_then(|i| lifecycle::observed(i.vm_state, told.power));
            (believed.is_some(), registry.sightings.get(&id).copied())
        };
        if !believed && told.reason != PowerReason::IoError {
            return self.power_seen(id, told).await;
        }
        let now = match self.node.hypervisor.state(id).await {
            Ok(state) => state,
            Err(Error::NotFound { .. }) => PowerState::None.into(),
            Err(error) => {
                // No evidence; the next audit sees to it.
                tracing::info!(instance = %id, %error, "its power state could not be asked for");
                return;
            }
        };
        self.power_found(id, now, before).await;
    }

    /// Take note of what was asked for when `before` was the last sighting, unless somebody has
    /// seen the instance since.
    pub(super) async fn power_found(
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
    pub(super) async fn power_seen(&self, id: InstanceId, seen: impl Into<DomainState>) {
        let state: DomainState = seen.into();
        let (power, stall) = (state.power, stall::reason(state));
        {
            let mut registry = self.registry.lock();
            if !registry.instances.contains_key(&id) {
                return;
            }
            *registry.sightings.entry(id).or_default() += 1;
        }
        let changed = self.observe(id, |seen| (seen.power, seen.stall) = (power, stall));
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
    pub(super) async fn after_task(&self, id: InstanceId) {
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
            tracing::info!(instance = %id, state = ?instance.vm_state, "as libvirt tells");
            let write = Write { instance: Some(instance), ..Write::default() };
            if let Err(error) = self.journal.write(write).await {
                // The next audit, or the next start, sees the same again.
                tracing::warn!(instance = %id, %error, "a state could not be written down");
            }
        }
        self.tell_instance(id);
    }

    /// Change what is observed of an instance; whether that made a difference.
    pub(super) fn observe(&self, id: InstanceId, change: impl FnOnce(&mut Observed)) -> bool {
        let changed = {
            let mut registry = self.registry.lock();
            let seen = registry.observed.entry(id).or_insert(Observed::UNKNOWN);
            let before = seen.clone();
            change(seen);
            *seen != before
        };
        if changed {
            self.observed_changed.send_replace(());
        }
        changed
    }
}
