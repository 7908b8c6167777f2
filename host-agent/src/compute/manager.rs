//! Compute put together: what its doors hold, and its life.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crate::refusal::{Action, Operation, Reason, Refusal};
use futures_util::FutureExt;
use ostler_protocol::rpc::event::Event;
use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::values::{OperationId, PortId, Timestamp};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::context::Context;
use super::engine::Engine;
use super::gate::Gate;
use super::measured::Measured;
use super::operations::{self, Command};
use super::outside::{Node, Outside};
use super::reads::Reads;
use super::registry::{Acceptance, Known, LiveOperation, Registry, Volatile};
use super::watch::Watch;
use crate::config::Settings;
use crate::journal::records::{InstanceRecord, OperationRecord, PortRecord};
use crate::journal::{self, Journal, Write};
use crate::volume::Volumes;

/// How often what was over long ago is forgotten.
const FORGET: Duration = Duration::from_secs(3600);

/// What the agent does; see the module.
pub struct Compute<O: Outside> {
    registry: Arc<Registry>,
    engine: Arc<Engine<O>>,
    gate: Arc<Gate<O>>,
    reads: Reads<O>,
}

impl<O: Outside> Compute<O> {
    /// Read the journal and take up what a crash cut off. Nothing is asked of libvirt yet.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn start(
        settings: Arc<Settings>,
        journal: Journal,
        node: Node<O>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, journal::Error> {
        let snapshot = journal.load().await?;
        let boot = node.host.inventory().boot.clone();
        for error in &snapshot.unreadable {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(
                %error, cause, next = "keep a copy of the journal, and report it",
                "cannot read a row of the journal: it is set aside, and what it is about is left as it is"
            );
        }
        let ports = ports_of(&snapshot);
        let known = Known {
            unread: snapshot.unreadable.iter().any(journal::Error::is_of_an_instance),
            unread_needs: snapshot.unreadable.iter().any(journal::Error::is_of_what_needs_images),
            instances: snapshot.instances.into_iter().map(|i| (i.id, i)).collect(),
            images: snapshot.images.into_iter().map(|i| (i.name.clone(), i)).collect(),
            volumes: snapshot.volumes.into_iter().map(|v| (v.id, v)).collect(),
            shared_pools: {
                let shared = node.volumes.pools().into_iter().filter(|pool| pool.is_shared);
                shared.map(|pool| pool.name).collect()
            },
            ports,
            networks: snapshot.networks.into_iter().map(|n| (n.name.clone(), n)).collect(),
            // A clock that was set back does not put what comes now before what is taken up.
            accepted: snapshot
                .unfinished
                .iter()
                .map(|o| o.operation.accepted)
                .max()
                .unwrap_or_default(),
            ..Known::default()
        };
        let limits = settings.limits;
        let registry = Arc::new(Registry::new(known, journal, settings, shutdown));
        let engine = Arc::new(Engine::new(Arc::new(node), Arc::clone(&registry), &limits));
        let measured = Arc::new(Measured::new(Arc::clone(&engine.node)));
        let gate = Arc::new(Gate::new(Arc::clone(&engine), Arc::clone(&measured)));
        let reads = Reads::new(&engine, Arc::clone(&measured));
        let compute = Arc::new(Self { registry, engine, gate, reads });
        compute.take_up(snapshot.unfinished).await;
        let restarted = snapshot.boot.is_some_and(|known| known != boot);
        let watch = Watch::new(Arc::clone(&compute.gate), measured, restarted);
        let guests = Arc::clone(&watch);
        let links = Arc::clone(&watch);
        compute.mind("following the domains", async move { watch.follow_power().await });
        compute.mind("following the guests", async move { guests.follow_guests().await });
        compute.mind("following the network", async move { links.follow_network().await });
        let forgetting = Arc::clone(&compute);
        compute.mind("forgetting what is old", async move { forgetting.forget_old().await });
        let engine = Arc::clone(&compute.engine);
        compute.engine.tasks.spawn(async move { engine.probe_virtualization().await });
        Ok(compute)
    }

    /// Take a request: the operation it became, or became before under the same key.
    ///
    /// # Errors
    /// Why it was refused; nothing was done then.
    pub async fn submit(&self, command: Command, context: Context) -> Result<Operation, Refusal> {
        self.gate.submit(command, context).await
    }

    /// Ask an operation to stop. That it was asked is on disk when this returns, if the journal can
    /// be written: a crash does not make it go on.
    ///
    /// # Errors
    /// There is no such operation, or one of its kind cannot be stopped.
    pub async fn cancel(&self, id: OperationId) -> Result<Operation, Refusal> {
        let Some(live) = self.registry.live(id) else { return self.reads.operation(id).await };
        if !live.change.can_cancel() {
            let text = format!("conflict: {} cannot be cancelled", live.operation().kind);
            return Err(Refusal::new(Reason::Conflict, text)
                .about(format!("operation {id}"))
                .next("wait for it")
                .by(Action::OperationWait(Some(id))));
        }
        tracing::info!(operation = %id, "cancel requested");
        live.ask_to_stop();
        // What is worked on is the worker's to write: this says only that it shall end.
        let write = Write { operation: Some(live.record()), ..Write::default() };
        if let Err(error) = self.registry.journal.write(write).await {
            // A full disk must not keep anybody from stopping what fills it.
            tracing::warn!(operation = %id, %error, "cannot write a cancellation to the journal");
        }
        self.registry.tell_operation(&live);
        Ok(live.operation())
    }

    /// What is known, and what can be looked at.
    pub const fn reads(&self) -> &Reads<O> {
        &self.reads
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        self.registry.settings()
    }

    /// Go on with other settings; what is under way goes on as it began.
    pub fn reload(&self, settings: Settings) {
        self.engine.limit(&settings.limits);
        self.registry.settings.send_replace(Arc::new(settings));
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event<Refusal>> {
        self.registry.events()
    }

    /// Done when the agent cannot go on without something of it that has ended.
    pub async fn is_broken(&self) {
        self.engine.is_broken().await;
    }

    /// Wait until all work has ended, after the shutdown token was cancelled: what is at a safe
    /// point stops there, and the next start goes on from the journal.
    pub async fn drain(&self, patience: Duration) {
        self.engine.tasks.close();
        if tokio::time::timeout(patience, self.engine.tasks.wait()).await.is_err() {
            tracing::warn!("operations are still running: the next start resumes them");
        }
        self.engine.node.guests.drain().await;
    }

    /// Have a task run that the agent cannot do without: should it end before the agent stops, the
    /// agent ends, and whoever looks after it starts it again.
    fn mind(&self, what: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let engine = Arc::clone(&self.engine);
        self.engine.tasks.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if ended.is_err() || !engine.shutdown.is_cancelled() {
                engine.give_up(what);
            }
        });
    }

    /// Take up the operations that a stop of the agent cut off, in their order. What a delete is
    /// waiting behind is cancelled again: that it was may not be written down.
    async fn take_up(&self, unfinished: Vec<OperationRecord>) {
        for OperationRecord { operation, change, was } in unfinished {
            let (id, subject) = (operation.id, operation.subject.clone());
            let change = match operations::read(change) {
                Ok(change) => change,
                Err(error) => {
                    tracing::error!(
                        operation = %id, %subject, %error,
                        next = "check its subject by hand, or delete it",
                        "cannot read what an operation should do: it is left as it is"
                    );
                    continue;
                }
            };
            let (overrides, volatile) = (change.overrides(), Volatile::default());
            let live = LiveOperation::new(operation, change, was, volatile, Acceptance::Accepted);
            let idle = {
                let mut known = self.registry.lock();
                if overrides {
                    known.cancel_pointless(&subject);
                }
                known.enqueue(&live)
            };
            if idle {
                self.engine.have_a_worker(subject);
            }
        }
        self.free_the_lost().await;
    }

    /// Have the instances free whose operation the journal has lost: nobody would end it.
    async fn free_the_lost(&self) {
        let freed: Vec<InstanceRecord> = {
            let mut known = self.registry.lock();
            let live: HashSet<OperationId> = known.live.keys().copied().collect();
            let lost = |i: &&InstanceRecord| i.operation.is_some_and(|id| !live.contains(&id));
            let lost: Vec<_> = known.instances.values().filter(lost).map(|i| i.id).collect();
            let free = |instance: &mut InstanceRecord| {
                let text = "what was being done to the instance cannot be read from the journal";
                let fault = Refusal::new(Reason::Interrupted, text)
                    .next("see how it is, and ask again for what is wanted")
                    .by(Action::InstanceShow(Some(instance.id)));
                (instance.task_state, instance.operation) = (None, None);
                instance.fault = Some(fault);
                if instance.vm_state == VmState::Building {
                    instance.vm_state = VmState::Error;
                }
            };
            lost.into_iter().filter_map(|id| known.update(id, free)).collect()
        };
        for instance in freed {
            tracing::error!(instance = %instance.id, "an instance's operation is lost: it accepts requests again");
            let write = Write { instance: Some(instance), ..Write::default() };
            if let Err(error) = self.registry.journal.write(write).await {
                tracing::warn!(%error, "cannot write that to the journal");
            }
        }
    }

    /// Forget what was over long ago, from time to time.
    async fn forget_old(&self) {
        let mut tick = tokio::time::interval(FORGET);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.engine.shutdown.cancelled() => return,
            }
            let keep = self.settings().keep.as_millis() as u64;
            let before = Timestamp(Timestamp::now().0.saturating_sub(keep));
            if let Err(error) = self.registry.journal.forget(before).await {
                tracing::warn!(%error, "cannot delete old operations from the journal");
            }
            let old = |i: &InstanceRecord| i.vm_state == VmState::Deleted && i.updated < before;
            self.registry.lock().instances.retain(|_, instance| !old(instance));
        }
    }
}

/// The ports there are. Those that were made with an instance by an earlier version have no row;
/// whose row cannot be read is not taken for one of those.
fn ports_of(snapshot: &journal::Snapshot) -> BTreeMap<PortId, PortRecord> {
    let mut ports: BTreeMap<_, _> = snapshot.ports.iter().map(|p| (p.id, p.clone())).collect();
    let unread: HashSet<PortId> =
        snapshot.unreadable.iter().filter_map(journal::Error::port).collect();
    for instance in snapshot.instances.iter().filter(|i| i.vm_state != VmState::Deleted) {
        for interface in instance.ports.iter().filter(|there| !unread.contains(&there.id)) {
            let made = || PortRecord::of(interface, instance.owner.clone(), instance.created);
            ports.entry(interface.id).or_insert_with(made);
        }
    }
    ports
}
