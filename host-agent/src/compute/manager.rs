//! The front gate: takes commands, refuses those that cannot be, and makes operations of the
//! rest; one at a time, so that what was checked still holds when it is written down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::event::{Event, News};
use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{Halt, Status, VmState};
use ostler_protocol::rpc::operation::{Operation, State, Subject};
use ostler_protocol::rpc::values::{InstanceId, Name, OperationId, Timestamp};
use tokio::sync::{OnceCell, Semaphore, broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::admission::{self, Capacity, Facts};
use super::command::{Command, Context};
use super::lifecycle::{self, Action};
use super::operations::{Change, can_cancel, pending};
use super::registry::{LiveOperation, Registry, Shared, Volatile};
use crate::config::Settings;
use crate::guest::Guests;
use crate::host::{Host, Usage};
use crate::hypervisor::{Hypervisor, Link, VirtType};
use crate::image::Cache;
use crate::journal::records::{InstanceRecord, OperationRecord};
use crate::journal::{self, Accepted, Journal, Write};
use crate::network::Network;
use crate::volume::Directory;

/// Events kept for listeners that lag; they tell what is, so a lost one is made good by the next.
const EVENTS: usize = 1024;
/// The longest user name Linux takes.
const USER_MAX: usize = 32;

/// The node's drivers.
pub struct Node<H: Hypervisor, N> {
    /// What runs domains.
    pub hypervisor: Arc<H>,
    /// Bridges and taps.
    pub network: N,
    /// Disks.
    pub volumes: Directory,
    /// Images.
    pub images: Cache,
    /// The agents inside.
    pub guests: Guests<H>,
    /// The machine.
    pub host: Host,
    /// What domains run on, once that is known.
    pub virt_type: OnceCell<VirtType>,
}

/// The agent's heart; see the module.
pub struct Compute<H: Hypervisor, N> {
    pub(super) node: Node<H, N>,
    pub(super) settings: Arc<Settings>,
    pub(super) journal: Journal,
    pub(super) registry: Shared,
    pub(super) boots: Semaphore,
    pub(super) downloads: Semaphore,
    /// Told whenever what is observed of an instance changes.
    pub(super) observed_changed: watch::Sender<()>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    pub(super) started: Timestamp,
    events: broadcast::Sender<Event>,
    gate: tokio::sync::Mutex<()>,
}

/// What a command became.
pub(super) struct Admitted {
    pub(super) subject: Subject,
    pub(super) change: Change,
    pub(super) volatile: Volatile,
    pub(super) write: Write,
    pub(super) undo: Reservation,
}

/// What was set in the registry for a command, to be put back if it cannot be written down.
pub(super) enum Reservation {
    None,
    NewInstance(InstanceId),
    Instance(Box<InstanceRecord>),
    NewImage(Name),
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
        let registry = Registry {
            instances: snapshot.instances.into_iter().map(|i| (i.id, i)).collect(),
            images: snapshot.images.into_iter().map(|i| (i.name.clone(), i)).collect(),
            networks: snapshot.networks.into_iter().map(|n| (n.name.clone(), n)).collect(),
            ..Registry::default()
        };
        let compute = Arc::new(Self {
            boots: Semaphore::new(settings.limits.boots),
            downloads: Semaphore::new(settings.limits.downloads),
            node,
            settings,
            journal,
            registry: Shared::new(registry),
            observed_changed: watch::Sender::new(()),
            tasks: TaskTracker::new(),
            shutdown,
            started: Timestamp::now(),
            events: broadcast::Sender::new(EVENTS),
            gate: tokio::sync::Mutex::default(),
        });
        for record in snapshot.unfinished {
            compute.enqueue(LiveOperation::new(record, Volatile::default(), None));
        }
        let follower = Arc::clone(&compute);
        compute.tasks.spawn(async move { follower.follow_power().await });
        let guests = Arc::clone(&compute);
        compute.tasks.spawn(async move { guests.follow_guests().await });
        let prober = Arc::clone(&compute);
        compute.tasks.spawn(async move { prober.probe_virt_type().await });
        let keeper = Arc::clone(&compute);
        compute.tasks.spawn(async move { keeper.forget_old().await });
        Ok(compute)
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
        let capacity = self.capacity().await?;
        let kind = command.kind();
        let id = OperationId::random();
        let mut admitted = self.admit(command, id, now, capacity)?;
        let operation = Operation {
            id,
            kind,
            subject: admitted.subject,
            key: context.key,
            state: State::Queued,
            steps: pending(&admitted.change),
            error: None,
            revision: 1,
            accepted: now,
            started: None,
            finished: None,
        };
        let record = OperationRecord { operation, change: admitted.change };
        admitted.write.operation = Some(record.clone());
        let written = self.journal.accept(Accepted { fingerprint }, admitted.write).await;
        if let Err(error) = written {
            self.registry.lock().put_back(admitted.undo);
            return Err(journal_fault(&error));
        }
        tracing::info!(operation = %id, %kind, subject = %record.operation.subject, "accepted");
        let live = LiveOperation::new(record, admitted.volatile, context.deadline);
        let operation = live.operation();
        self.enqueue(live);
        self.tell(News::Operation(Box::new(operation.clone())));
        if let Subject::Instance(instance) = &operation.subject {
            self.tell_instance(*instance);
        }
        Ok(operation)
    }

    /// Ask an operation to stop.
    ///
    /// # Errors
    /// There is no such operation, or one of its kind cannot be stopped.
    pub async fn cancel(&self, id: OperationId) -> Result<Operation, Fault> {
        let Some(live) = self.live(id) else { return self.operation(id).await };
        let operation = live.operation();
        if !can_cancel(operation.kind) {
            let text = format!("conflict: {} cannot be cancelled", operation.kind);
            return Err(Fault::new(Reason::Conflict, text)
                .about(format!("operation {id}"))
                .next("wait for it: ostler operation wait"));
        }
        tracing::info!(operation = %id, "cancel asked for");
        live.cancel.cancel();
        Ok(operation)
    }

    pub(super) fn live(&self, id: OperationId) -> Option<Arc<LiveOperation>> {
        self.registry.lock().live.get(&id).cloned()
    }

    pub(super) async fn usage(&self) -> Result<Usage, Fault> {
        self.node.host.usage().await.map_err(|e| Fault::of(Reason::Internal, &e))
    }

    pub(super) async fn capacity(&self) -> Result<Capacity, Fault> {
        let inventory = self.node.host.inventory();
        let disk = self.usage().await?.disk.free;
        Ok(Capacity { cpus: inventory.cpus, memory: inventory.memory, disk_available: disk })
    }

    fn admit(
        &self,
        command: Command,
        id: OperationId,
        now: Timestamp,
        capacity: Capacity,
    ) -> Result<Admitted, Fault> {
        let mut registry = self.registry.lock();
        if registry.live.len() >= self.settings.limits.operations {
            let text = format!("busy: {} operations are under way", registry.live.len());
            return Err(Fault::new(Reason::Busy, text).next("ask again later"));
        }
        let default_timeout = self.settings.shutdown_timeout.as_millis() as u32;
        match command {
            Command::Boot(boot) => {
                self.need_hypervisor()?;
                let facts = Facts {
                    capacity,
                    policy: &self.settings.admission,
                    flavors: &self.settings.flavors,
                    images: &registry.images,
                    networks: &registry.networks,
                    instances: &registry.instances,
                    now,
                };
                let record = admission::admit(&boot, id, &facts)?;
                registry.instances.insert(record.id, record.clone());
                Ok(Admitted {
                    subject: Subject::Instance(record.id),
                    change: Change::Boot,
                    volatile: Volatile::default(),
                    undo: Reservation::NewInstance(record.id),
                    write: Write { instance: Some(record), ..Write::default() },
                })
            }
            Command::Start(instance) => {
                self.act(&mut registry, instance, Action::Start, id, now, Change::Start)
            }
            Command::Stop(Halt { id: instance, manner, timeout }) => {
                let change = Change::Stop { manner, timeout: timeout.unwrap_or(default_timeout) };
                self.act(&mut registry, instance, Action::Stop, id, now, change)
            }
            Command::Reboot(Halt { id: instance, manner, timeout }) => {
                let timeout = timeout.unwrap_or(default_timeout);
                let change = Change::Reboot { manner, timeout };
                self.act(&mut registry, instance, Action::Reboot(manner), id, now, change)
            }
            Command::Delete(instance) => {
                let admitted =
                    self.act(&mut registry, instance, Action::Delete, id, now, Change::Delete)?;
                // What is under way on the instance has no purpose any more.
                if let Some(queue) = registry.queues.get(&admitted.subject) {
                    let pointless = |o: &&Arc<LiveOperation>| can_cancel(o.now.borrow().kind);
                    queue.iter().filter(pointless).for_each(|o| o.cancel.cancel());
                }
                Ok(admitted)
            }
            Command::Password(asked) => {
                check_user(&asked.user)?;
                let change = Change::Password { user: asked.user };
                let action = Action::Password;
                let mut admitted = self.act(&mut registry, asked.id, action, id, now, change)?;
                admitted.volatile.word = Some(asked.password);
                Ok(admitted)
            }
            Command::ImageImport(import) => registry.import(import, now),
            Command::ImageRemove(name) => registry.remove_image(name),
            Command::NetworkEnsure(ensure) => registry.ensure_network(ensure, now),
        }
    }

    /// An action on an instance that exists.
    fn act(
        &self,
        registry: &mut Registry,
        instance: InstanceId,
        action: Action,
        by: OperationId,
        now: Timestamp,
        change: Change,
    ) -> Result<Admitted, Fault> {
        let subject = Subject::Instance(instance);
        let about = |fault: Fault| fault.about(subject.to_string());
        let record = registry.instances.get(&instance).cloned().ok_or_else(|| {
            about(Fault::new(Reason::NotFound, format!("there is no instance {instance}")))
                .next("see ostler instance list")
        })?;
        lifecycle::may(action, record.vm_state, record.task_state, record.updated, now)
            .and_then(|()| lifecycle::is_built(action, record.built))
            .map_err(about)?;
        self.need_hypervisor().map_err(about)?;
        let waiting = registry.queues.get(&subject).map_or(0, |queue| queue.len());
        if waiting >= self.settings.limits.queue {
            let text = format!("busy: {waiting} operations wait on the instance");
            return Err(about(Fault::new(Reason::Busy, text)).next("ask again later"));
        }
        let write = registry.update(instance, |instance| {
            instance.task_state = Some(action.task());
            instance.operation = Some(by);
        });
        Ok(Admitted {
            subject,
            change,
            volatile: Volatile::default(),
            undo: Reservation::Instance(Box::new(record)),
            write: Write { instance: write, ..Write::default() },
        })
    }

    fn need_hypervisor(&self) -> Result<(), Fault> {
        match *self.node.hypervisor.link().borrow() {
            Link::Up => Ok(()),
            Link::Down => Err(Fault::new(
                Reason::HypervisorUnavailable,
                "libvirt cannot be reached: what the instances do is not known",
            )
            .next("see whether libvirtd runs: systemctl status libvirtd; the agent reconnects")),
        }
    }

    /// Tell listeners; nobody need be there.
    pub(super) fn tell(&self, news: News) {
        let event = Event { host: self.settings.host.to_string(), time: Timestamp::now(), news };
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
            let before =
                Timestamp(Timestamp::now().0.saturating_sub(self.settings.keep.as_millis() as u64));
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

/// A user name that the guest's tools can be given.
fn check_user(user: &str) -> Result<(), Fault> {
    let plain = |c: char| c.is_ascii_graphic() && c != ':' && c != '/';
    if (1..=USER_MAX).contains(&user.len()) && user.chars().all(plain) && !user.starts_with('-') {
        return Ok(());
    }
    let text = format!("a user name is 1 to {USER_MAX} printable characters without ':' or '/'");
    Err(Fault::new(Reason::InvalidParams, text).about("parameter user"))
}

impl Registry {
    fn put_back(&mut self, reservation: Reservation) {
        match reservation {
            Reservation::None => {}
            Reservation::NewInstance(id) => {
                self.instances.remove(&id);
            }
            Reservation::Instance(record) => {
                self.update(record.id, |now| {
                    now.task_state = record.task_state;
                    now.operation = record.operation;
                });
            }
            Reservation::NewImage(name) => {
                self.images.remove(&name);
            }
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
