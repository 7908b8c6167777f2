//! The front gate: takes commands, refuses those that cannot be, and makes operations of the
//! rest; one at a time, so that what was checked still holds when it is written down.

use std::collections::{BTreeMap, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use ostler_protocol::rpc::event::{Event, News};
use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{Boot, Status, VmState};
use ostler_protocol::rpc::operation::{Kind, Operation, State, Subject};
use ostler_protocol::rpc::values::{Bytes, InstanceId, OperationId, Timestamp};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::Capacity;
use super::command::{Command, Context};
use super::faults::{self, Moment};
use super::gate::{Admitted, Gate};
use super::operations::{Change, traits};
use super::plan::pending;
use super::registry::{LiveOperation, Registry, Shared, Volatile};
use super::steps::hypervisor_fault;
use super::virtualization::Virtualization;
use crate::config::Settings;
use crate::disk::{Directory, Disks};
use crate::guest::Guests;
use crate::host::{Host, Usage};
use crate::hypervisor::{self, Hypervisor};
use crate::image::{Cache, Limits};
use crate::journal::records::{InstanceRecord, OperationRecord};
use crate::journal::{self, Accepted, Journal, Write};
use crate::network::Network;
use crate::turns::Turns;

/// Events kept for listeners that lag; they tell what is, so a lost one is made good by the next.
const EVENTS: usize = 1024;

/// How long it is believed what the instances' disks take.
const ALLOCATED_FOR: Duration = Duration::from_secs(10);

/// The node's drivers.
pub struct Node<H: Hypervisor, N> {
    /// What runs domains.
    pub hypervisor: Arc<H>,
    /// Bridges and taps.
    pub network: N,
    /// Disks.
    pub disks: Directory,
    /// Images.
    pub images: Cache,
    /// The agents inside.
    pub guests: Guests<H>,
    /// The machine.
    pub host: Host,
    /// What domains run on, once that is known.
    pub virtualization: Virtualization,
}

/// The agent's heart; see the module.
pub struct Compute<H: Hypervisor, N> {
    pub(super) node: Node<H, N>,
    settings: watch::Sender<Arc<Settings>>,
    pub(super) journal: Journal,
    pub(super) registry: Shared,
    pub(super) boots: Turns,
    pub(super) copies: Turns,
    pub(super) downloads: Turns,
    /// Told whenever what is observed of an instance changes.
    pub(super) observed_changed: watch::Sender<()>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    /// Set when something has ended that the agent cannot do without.
    broken: CancellationToken,
    pub(super) started: Timestamp,
    /// Whether the node was restarted since the agent last ran, and what ran before is off.
    pub(super) node_restarted: AtomicBool,
    events: broadcast::Sender<Event>,
    pub(super) gate: tokio::sync::Mutex<()>,
    /// What the instances' disks take, and when that was seen.
    allocated: tokio::sync::Mutex<Option<(Instant, Bytes)>>,
    /// Held while what nobody waits for is tidied up.
    pub(super) tidying: tokio::sync::Mutex<()>,
}

/// An operation to be, and who asked for it.
pub(super) struct Whose {
    pub(super) id: OperationId,
    pub(super) kind: Kind,
    pub(super) context: Context,
    pub(super) fingerprint: String,
    pub(super) now: Timestamp,
}

/// The journal's error in the caller's words.
pub(super) fn journal_fault(error: &journal::Error) -> Fault {
    let reason = if error.is_full() { Reason::NoSpace } else { Reason::Internal };
    Fault::of(reason, error).next("see the agent's log, and free space where the journal is")
}

impl<H: Hypervisor, N: Network> Compute<H, N> {
    /// Read the journal and take up what a crash cut off. Nothing is asked of libvirt yet.
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn start(
        settings: Arc<Settings>,
        journal: Journal,
        node: Node<H, N>,
        shutdown: CancellationToken,
    ) -> Result<Arc<Self>, journal::Error> {
        let snapshot = journal.load().await?;
        let boot = node.host.inventory().boot.clone();
        for error in &snapshot.unreadable {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::error!(
                %error, cause, next = "keep a copy of the journal, and report it",
                "a row of the journal is set aside: what it is about is left as it is"
            );
        }
        let unread = snapshot.unreadable.iter().any(journal::Error::is_of_an_instance);
        let registry = Registry {
            unread,
            instances: snapshot.instances.into_iter().map(|i| (i.id, i)).collect(),
            images: snapshot.images.into_iter().map(|i| (i.name.clone(), i)).collect(),
            networks: snapshot.networks.into_iter().map(|n| (n.name.clone(), n)).collect(),
            ..Registry::default()
        };
        let compute = Arc::new(Self {
            boots: Turns::new(settings.limits.boots),
            copies: Turns::new(settings.limits.copies),
            downloads: Turns::new(settings.limits.downloads),
            node,
            settings: watch::Sender::new(settings),
            journal,
            registry: Shared::new(registry),
            observed_changed: watch::Sender::new(()),
            tasks: TaskTracker::new(),
            shutdown,
            broken: CancellationToken::new(),
            started: Timestamp::now(),
            node_restarted: AtomicBool::new(snapshot.boot.is_some_and(|known| known != boot)),
            events: broadcast::Sender::new(EVENTS),
            gate: tokio::sync::Mutex::default(),
            allocated: tokio::sync::Mutex::default(),
            tidying: tokio::sync::Mutex::default(),
        });
        compute.take_up(snapshot.unfinished).await;
        compute.mind("following the domains", |compute| async move {
            compute.follow_power().await;
        });
        compute.mind("following the guests", |compute| async move {
            compute.follow_guests().await;
        });
        compute.mind("forgetting what is old", |compute| async move {
            compute.forget_old().await;
        });
        let prober = Arc::clone(&compute);
        compute.tasks.spawn(async move { prober.probe_virtualization().await });
        Ok(compute)
    }

    /// The settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    pub(super) fn settings_changes(&self) -> watch::Receiver<Arc<Settings>> {
        self.settings.subscribe()
    }

    /// Go on with other settings; what is under way goes on as it began.
    pub fn reload(&self, settings: Settings, images: Limits) {
        self.boots.resize(settings.limits.boots);
        self.copies.resize(settings.limits.copies);
        self.downloads.resize(settings.limits.downloads);
        self.node.disks.copies(settings.limits.copies);
        self.node.disks.keep_free(settings.admission.disk_reserve);
        self.node.images.put_up_with(images);
        self.settings.send_replace(Arc::new(settings));
    }

    /// Have a task run that the agent cannot do without: should it end before the agent stops, the
    /// agent ends, and whoever looks after it starts it again.
    fn mind<F: Future<Output = ()> + Send + 'static>(
        self: &Arc<Self>,
        what: &'static str,
        task: impl FnOnce(Arc<Self>) -> F,
    ) {
        let (compute, task) = (Arc::clone(self), task(Arc::clone(self)));
        self.tasks.spawn(async move {
            let ended = AssertUnwindSafe(task).catch_unwind().await;
            if ended.is_err() || !compute.shutdown.is_cancelled() {
                compute.give_up(what);
            }
        });
    }

    /// End the agent, since something of it has ended without which it serves nobody.
    pub(super) fn give_up(&self, what: &str) {
        tracing::error!(what, "ended, and the agent cannot do without it: the agent ends");
        self.broken.cancel();
    }

    /// Done when the agent cannot go on ([`Self::give_up`]).
    pub async fn is_broken(&self) {
        self.broken.cancelled().await;
    }

    /// Wait until all work has ended, after the shutdown token was cancelled: what is at a safe
    /// point stops there, and the next start goes on from the journal.
    pub async fn drain(&self, patience: Duration) {
        self.tasks.close();
        if tokio::time::timeout(patience, self.tasks.wait()).await.is_err() {
            tracing::warn!("operations still at work are left to the next start");
        }
        self.node.guests.drain().await;
    }

    /// Take up the operations that a stop of the agent cut off, in their order. What a delete is
    /// waiting behind is cancelled again: that it was may not be written down.
    async fn take_up(self: &Arc<Self>, unfinished: Vec<OperationRecord>) {
        for record in unfinished {
            let (id, subject) = (record.operation.id, record.operation.subject.clone());
            let change = match Change::read(record.change.clone()) {
                Ok(change) => change,
                Err(error) => {
                    tracing::error!(
                        operation = %id, %subject, %error,
                        next = "see to its subject by hand, or delete that",
                        "what it was to do cannot be read: it is left as it is"
                    );
                    continue;
                }
            };
            if change.described().overrides() {
                self.registry.lock().cancel_pointless(&subject);
            }
            self.enqueue(LiveOperation::new(record, change, Volatile::default()));
        }
        self.free_the_lost().await;
    }

    /// Have the instances free whose operation the journal has lost: nobody would end it.
    async fn free_the_lost(&self) {
        let freed: Vec<InstanceRecord> = {
            let mut registry = self.registry.lock();
            let live: HashSet<OperationId> = registry.live.keys().copied().collect();
            let lost = |i: &&InstanceRecord| i.operation.is_some_and(|id| !live.contains(&id));
            let lost: Vec<_> = registry.instances.values().filter(lost).map(|i| i.id).collect();
            let free = |instance: &mut InstanceRecord| {
                let text = "what was being done to the instance cannot be read from the journal";
                let fault = Fault::new(Reason::Interrupted, text)
                    .next("see how it is: ostler instance show; and ask again for what is wanted");
                (instance.task_state, instance.operation) = (None, None);
                instance.fault = Some(fault);
                if instance.vm_state == VmState::Building {
                    instance.vm_state = VmState::Error;
                }
            };
            lost.into_iter().filter_map(|id| registry.update(id, free)).collect()
        };
        for instance in freed {
            tracing::error!(instance = %instance.id, "its operation is lost: it is free again");
            let write = Write { instance: Some(instance), ..Write::default() };
            if let Err(error) = self.journal.write(write).await {
                tracing::warn!(%error, "that could not be written down");
            }
        }
    }

    /// Events from now on.
    pub fn events(&self) -> broadcast::Receiver<Event> {
        self.events.subscribe()
    }

    /// Take a command: the operation it became, or became before under the same key.
    ///
    /// # Errors
    /// Why it was refused; nothing was done then.
    pub async fn submit(
        self: &Arc<Self>,
        command: Command,
        context: Context,
    ) -> Result<Operation, Fault> {
        // Asked before the gate, where nobody waits for it.
        let free = if let Command::Boot(Boot { id: Some(id), .. }) = &command {
            self.is_free(*id).await
        } else {
            Ok(())
        };
        let capacity = self.capacity().await;
        let _one_at_a_time = self.gate.lock().await;
        let fingerprint = command.fingerprint();
        if let Some(key) = &context.key {
            let known = self.journal.find_key(key).await.map_err(|e| journal_fault(&e))?;
            match known {
                Some((operation, same)) if same == fingerprint => {
                    return Ok(self.live(operation.id).map_or(operation, |live| live.operation()));
                }
                Some((operation, _)) => {
                    let text = format!("the key {key} was used for another request");
                    return Err(Fault::new(Reason::KeyReused, text)
                        .about(format!("operation {}", operation.id))
                        .next("use a new key for a new request"));
                }
                None => {}
            }
        }
        if self.shutdown.is_cancelled() {
            return Err(Fault::new(Reason::Draining, "the agent is stopping")
                .next("ask again when it is back"));
        }
        let now = Timestamp::now();
        if context.is_expired(now) {
            return Err(Fault::new(Reason::Expired, "the deadline passed before the request came")
                .next("ask again with a later deadline; compare the clocks"));
        }
        free?;
        let capacity = capacity?;
        let kind = command.kind();
        let id = OperationId::random();
        let admitted = {
            let settings = self.settings();
            let mut registry = self.registry.lock();
            let hypervisor = *self.node.hypervisor.link().borrow();
            let mut gate = Gate {
                registry: &mut registry,
                settings: &settings,
                by: id,
                now,
                capacity,
                hypervisor,
            };
            gate.is_open()?;
            command.ask(&mut gate)?
        };
        let whose = Whose { id, kind, context, fingerprint, now };
        self.accept(whose, admitted).await
    }

    /// Write an operation down, and have it carried out.
    pub(super) async fn accept(
        self: &Arc<Self>,
        whose: Whose,
        mut admitted: Admitted,
    ) -> Result<Operation, Fault> {
        let Whose { id, kind, context, fingerprint, now } = whose;
        let operation = Operation {
            id,
            kind,
            subject: admitted.subject,
            key: context.key,
            state: State::Queued,
            steps: match admitted.to_do {
                true => pending(&admitted.change.described().plan(admitted.was)),
                false => Vec::new(),
            },
            error: None,
            result: None,
            deadline: context.deadline,
            cancel_asked: None,
            revision: 1,
            accepted: now,
            started: None,
            finished: None,
        };
        let change = admitted.change;
        let record = OperationRecord { operation, change: change.written(), was: admitted.was };
        admitted.write.operation = Some(record.clone());
        let written = self.journal.accept(Accepted { fingerprint }, admitted.write).await;
        if let Err(error) = written {
            self.registry.lock().put_back(admitted.undo);
            return Err(journal_fault(&error));
        }
        let _ = faults::reach(Moment::Accepted, kind, "");
        tracing::info!(operation = %id, %kind, subject = %record.operation.subject, "accepted");
        let live = LiveOperation::new(record, change, admitted.volatile);
        let operation = live.operation();
        self.enqueue(live);
        self.tell(News::Operation(Box::new(operation.clone())));
        if let Subject::Instance(instance) = &operation.subject {
            self.tell_instance(*instance);
        }
        Ok(operation)
    }

    /// Ask an operation to stop. That it was asked is on disk when this returns, if the journal can
    /// be written: a crash does not make it go on.
    ///
    /// # Errors
    /// There is no such operation, or one of its kind cannot be stopped.
    pub async fn cancel(&self, id: OperationId) -> Result<Operation, Fault> {
        let Some(live) = self.live(id) else { return self.operation(id).await };
        let operation = live.operation();
        if !traits(operation.kind).can_cancel {
            let text = format!("conflict: {} cannot be cancelled", operation.kind);
            return Err(Fault::new(Reason::Conflict, text)
                .about(format!("operation {id}"))
                .next("wait for it: ostler operation wait"));
        }
        tracing::info!(operation = %id, "cancel asked for");
        live.ask_to_stop();
        // What is worked on is the worker's to write: this says only that it shall end.
        let write = Write { operation: Some(live.record()), ..Write::default() };
        if let Err(error) = self.journal.write(write).await {
            // A full disk must not keep anybody from stopping what fills it.
            tracing::warn!(operation = %id, %error, "a cancellation could not be written down");
        }
        self.tell_operation(&live);
        Ok(live.operation())
    }

    /// Whether an id that a caller chose is nobody's on this node.
    ///
    /// # Errors
    /// `conflict`, with what has it; or that it could not be seen.
    async fn is_free(&self, id: InstanceId) -> Result<(), Fault> {
        if self.registry.lock().instances.contains_key(&id) {
            return Ok(()); // a matter of admission
        }
        let taken = |by: String| {
            Err(Fault::new(Reason::Conflict, format!("conflict: the id {id} is taken by {by}"))
                .about(format!("instance {id}"))
                .next("choose another id, or leave it out to have one made"))
        };
        match self.node.hypervisor.state(id).await {
            Err(hypervisor::Error::NotFound { .. }) => {}
            Ok(_) => {
                return taken("a domain of this node that the journal does not know".to_owned());
            }
            Err(error @ hypervisor::Error::NotOurs { .. }) => return taken(error.to_string()),
            Err(error) => return Err(hypervisor_fault(&error)),
        }
        let folder = self.node.disks.files(id).folder;
        match tokio::fs::symlink_metadata(&folder).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Ok(_) | Err(_) => taken(format!("{}, which is there already", folder.display())),
        }
    }

    pub(super) fn live(&self, id: OperationId) -> Option<Arc<LiveOperation>> {
        self.registry.lock().live.get(&id).cloned()
    }

    pub(super) async fn usage(&self) -> Result<Usage, Fault> {
        self.node.host.usage().await.map_err(|e| Fault::of(Reason::Internal, &e))
    }

    pub(super) async fn capacity(&self) -> Result<Capacity, Fault> {
        let inventory = self.node.host.inventory();
        let disk = Bytes(self.usage().await?.disk.free.0 + self.allocated().await?.0);
        Ok(Capacity { cpus: inventory.cpus, memory: inventory.memory, disk })
    }

    /// What the instances' disks take by now, as of some seconds ago: what they wrote since then is
    /// missing from what is free.
    async fn allocated(&self) -> Result<Bytes, Fault> {
        let mut known = self.allocated.lock().await;
        match *known {
            Some((at, bytes)) if at.elapsed() < ALLOCATED_FOR => Ok(bytes),
            Some(_) | None => {
                let bytes = self.node.disks.allocated().await;
                let bytes = bytes.map_err(|error| Fault::of(Reason::Internal, &error))?;
                *known = Some((Instant::now(), bytes));
                Ok(bytes)
            }
        }
    }

    /// Tell listeners; nobody need be there.
    pub(super) fn tell(&self, news: News) {
        let event = Event { host: self.settings().host.to_string(), time: Timestamp::now(), news };
        let _ = self.events.send(event);
    }

    pub(super) fn tell_operation(&self, operation: &LiveOperation) {
        self.tell(News::Operation(Box::new(operation.operation())));
    }

    pub(super) fn tell_instance(&self, id: InstanceId) {
        let news = {
            let registry = self.registry.lock();
            registry.instances.get(&id).map(|record| News::Instance {
                id,
                status: Status::of(record.vm_state, record.task_state),
                power_state: registry.observed(id).power,
                stalled: self.stalled(&registry, record),
            })
        };
        if let Some(news) = news {
            self.tell(news);
        }
    }

    /// Forget what was over long ago, once an hour.
    async fn forget_old(&self) {
        let mut tick = tokio::time::interval(Duration::from_secs(3600));
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                () = self.shutdown.cancelled() => return,
            }
            let before = Timestamp(
                Timestamp::now().0.saturating_sub(self.settings().keep.as_millis() as u64),
            );
            if let Err(error) = self.journal.forget(before).await {
                tracing::warn!(%error, "old operations could not be forgotten");
            }
            self.registry
                .lock()
                .instances
                .retain(|_, i| i.vm_state != VmState::Deleted || i.updated >= before);
        }
    }
}

/// The counts of instances by status.
pub(super) fn by_status(instances: &BTreeMap<InstanceId, InstanceRecord>) -> BTreeMap<String, u32> {
    instances.values().fold(BTreeMap::new(), |mut counts, i| {
        let status = Status::of(i.vm_state, i.task_state).to_string();
        *counts.entry(status).or_default() += 1;
        counts
    })
}
