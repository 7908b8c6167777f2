//! Following the world: what libvirt and the guests tell, and what is there. Power states are
//! believed from evidence only.
//!
//! ```text
//!   event ──> observed ──> no task in flight? ──> lifecycle::observed ──> journal, event
//!   link down ──> all UNKNOWN, and nothing is done
//!   link up, lagged, every so often ──> reconcile
//! ```
//!
//! * `reconcile`: compares what is known with what is, at start and from time to time.
//! * `network`: links and rules that somebody changed are put right.
//! * `stall`: instances that wait for room on the disk go on when there is some.

mod network;
mod reconcile;
mod stall;
mod volumes;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use ostler_protocol::rpc::event::News;
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::gate::Gate;
use super::lifecycle;
use super::measured::Measured;
use super::outside::{Node, Outside};
use super::registry::Registry;
use crate::hypervisor::{DomainState, Error, Hypervisor, HypervisorEvent, Link, PowerReason};

/// Follows the world.
pub(super) struct Watch<O: Outside> {
    node: Arc<Node<O>>,
    registry: Arc<Registry>,
    engine: Arc<Engine<O>>,
    gate: Arc<Gate<O>>,
    measured: Arc<Measured<O>>,
    shutdown: CancellationToken,
    /// Whether the node was restarted since the agent last ran, and what ran before is off.
    node_restarted: AtomicBool,
    /// Held while what nobody waits for is tidied up.
    tidying: tokio::sync::Mutex<()>,
}

impl<O: Outside> Watch<O> {
    pub(super) fn new(
        gate: Arc<Gate<O>>,
        measured: Arc<Measured<O>>,
        node_restarted: bool,
    ) -> Arc<Self> {
        let engine = Arc::clone(&gate.engine);
        Arc::new(Self {
            node: Arc::clone(&engine.node),
            registry: Arc::clone(&engine.registry),
            shutdown: engine.shutdown.clone(),
            engine,
            gate,
            measured,
            node_restarted: AtomicBool::new(node_restarted),
            tidying: tokio::sync::Mutex::default(),
        })
    }

    /// Follow libvirt's events until the agent stops.
    pub(super) async fn follow_power(self: &Arc<Self>) {
        let mut events = self.node.hypervisor.events();
        let mut settings = self.registry.settings.subscribe();
        let mut audit = tokio::time::interval(self.registry.settings().reconcile_interval);
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
                    audit = tokio::time::interval(self.registry.settings().reconcile_interval);
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
                    self.registry.observe(id, |seen| seen.reboots += 1);
                    self.node.guests.restarted(id);
                }
                // Whoever waits for a device looks for itself; this one may come late.
                Some(HypervisorEvent::Unplugged { id, .. }) => {
                    let watch = Arc::clone(self);
                    self.engine.tasks.spawn(async move { watch.find_unplugged_of(id).await });
                }
                Some(HypervisorEvent::Kept { .. }) => {}
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
                Ok((id, guest)) => self.registry.tell(News::Guest { id, guest }),
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
        self.registry.observed_changed.send_replace(());
        for id in ids {
            self.registry.tell_instance(id);
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
            return self.engine.power_seen(id, told).await;
        }
        let now = match self.node.hypervisor.state(id).await {
            Ok(state) => state,
            Err(Error::NotFound { .. }) => PowerState::None.into(),
            Err(error) => {
                // No evidence; the next audit sees to it.
                tracing::info!(instance = %id, %error, "cannot ask for an instance's power state");
                return;
            }
        };
        self.engine.power_found(id, now, before).await;
    }
}
