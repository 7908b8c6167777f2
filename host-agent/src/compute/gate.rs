//! The gate: takes requests, and makes operations of those that can be.
//!
//! ```text
//!   request ── the key: asked before? ── judged and reserved at once (admission, pure)
//!                                            │ in the registry and its subject's queue
//!                                            v
//!                                        journal: accepted, on disk ──> answered, and begun
//!                                            └ cannot be written: put back
//! ```
//!
//! What is judged is judged by all that was reserved before it, whether that is on disk yet or not.
//! So nobody waits for another's write, and requests that come together share a commit.

use std::cell::Cell;
use std::sync::Arc;

use crate::refusal::{Operation, Reason, Refusal};
use ostler_protocol::rpc::event::News;
use ostler_protocol::rpc::instance::{Boot, TaskState};
use ostler_protocol::rpc::network::Ensure;
use ostler_protocol::rpc::operation::{Kind, State, Subject};
use ostler_protocol::rpc::values::{IdempotencyKey, InstanceId, OperationId, Timestamp};

use super::admission::{self, Admission, Admitted, Reservation};
use super::causes::{hypervisor_fault, journal_fault, network_fault};
use super::context::Context;
use super::describe::Change;
use super::engine::Engine;
use super::faults::{self, Moment};
use super::keys::Keys;
use super::measured::Measured;
use super::operations::Command;
use super::outside::Outside;
use super::registry::{Acceptance, Known, LiveOperation};
use super::wires::uplink_of;
use crate::disk::Disks;
use crate::hypervisor::{self, Hypervisor};
use crate::journal::records::InstanceRecord;
use crate::journal::{Accepted, Write};
use crate::network::{Network, Uplink};

/// Takes requests.
pub(super) struct Gate<O: Outside> {
    pub(super) engine: Arc<Engine<O>>,
    measured: Arc<Measured<O>>,
    keys: Keys,
}

/// What was judged, and waits to be on disk.
struct Reserved {
    live: Arc<LiveOperation>,
    write: Write,
    reserved: Reservation,
    /// Whether nobody is at its subject.
    idle: bool,
}

impl<O: Outside> Gate<O> {
    pub(super) fn new(engine: Arc<Engine<O>>, measured: Arc<Measured<O>>) -> Self {
        Self { engine, measured, keys: Keys::default() }
    }

    /// Take a request: the operation it became, or became before under the same key.
    ///
    /// # Errors
    /// Why it was refused; nothing was done then.
    pub(super) async fn submit(
        &self,
        mut command: Command,
        context: Context,
    ) -> Result<Operation, Refusal> {
        let fingerprint = command.fingerprint();
        let _same_key = match &context.key {
            Some(key) => Some(self.keys.hold(key).await),
            None => None,
        };
        if let Some(key) = &context.key
            && let Some(operation) = self.asked_before(key, &fingerprint).await?
        {
            return Ok(operation);
        }
        if self.engine.shutdown.is_cancelled() {
            return Err(Refusal::new(Reason::Draining, "the agent is stopping")
                .next("ask again when it is back"));
        }
        if context.is_expired(Timestamp::now()) {
            return Err(Refusal::new(
                Reason::Expired,
                "the deadline passed before the request came",
            )
            .next("ask again with a later deadline; compare the clocks"));
        }
        if let Command::Boot(Boot { id: Some(id), .. }) = &command {
            self.is_free(*id).await?;
        }
        if let Command::NetworkEnsure(ensure) = &mut command {
            self.fit_to_tunnel(ensure).await?;
        }
        let kind = command.kind();
        let (mut capacity, mut boards) = (None, None);
        let reserved = loop {
            let (lacks_capacity, lacks_boards) = (Cell::new(false), Cell::new(false));
            let judged = self.reserve(kind, &context, |known, by, now| {
                let settings = self.engine.registry.settings();
                let mut admission = Admission {
                    known,
                    settings: &settings,
                    authority: &*self.engine.node.authority,
                    claims: &*self.engine.node.claims,
                    by,
                    now,
                    capacity,
                    lacks_capacity: &lacks_capacity,
                    boards,
                    lacks_boards: &lacks_boards,
                    hypervisor: *self.engine.node.hypervisor.link().borrow(),
                };
                admission.is_open()?;
                command.clone().ask(&mut admission)
            });
            match judged {
                Err(_) if lacks_capacity.get() && capacity.is_none() => {
                    capacity = Some(self.measured.capacity().await?);
                }
                Err(_) if lacks_boards.get() && boards.is_none() => {
                    boards = Some(self.measured.boards().await?);
                }
                judged => break judged?,
            }
        };
        self.accept(reserved, fingerprint).await
    }

    /// Do something to an instance without having been asked: unless somebody is at work on it, or
    /// it is no longer as it has to be. A lock is against people.
    pub(super) async fn by_itself(
        &self,
        instance: InstanceId,
        (task, change, kind): (TaskState, Change, Kind),
        is_as_it_was: impl FnOnce(&InstanceRecord) -> bool,
    ) -> Result<(), Refusal> {
        let mut gone_on = false;
        let reserved = self.reserve(kind, &Context::default(), |known, by, _| {
            let before = known.instances.get(&instance).filter(|i| i.task_state.is_none()).cloned();
            let Some(before) = before.filter(is_as_it_was) else {
                gone_on = true;
                return Err(Refusal::new(Reason::Conflict, "it is not as it was"));
            };
            Ok(admission::reserve(known, before, task, change, by))
        });
        match reserved {
            Err(_) if gone_on => Ok(()),
            reserved => self.accept(reserved?, String::new()).await.map(drop),
        }
    }

    /// Give a network that has a tunnel, and no MTU, what the tunnel has room for. That is on record
    /// then: guests are told it, and it does not change by itself.
    async fn fit_to_tunnel(&self, ensure: &mut Ensure) -> Result<(), Refusal> {
        if ensure.mtu.is_some() {
            return Ok(());
        }
        let uplink = uplink_of(ensure.uplink.as_deref(), ensure.vlan, ensure.vxlan.as_ref())?;
        if let Uplink::Vxlan(vxlan) = uplink {
            let room = self.engine.node.network.room(&vxlan).await;
            ensure.mtu = Some(room.map_err(|error| network_fault(&error))?.bytes());
        }
        Ok(())
    }

    /// The operation a key was used for.
    ///
    /// # Errors
    /// `key_reused`: for another request.
    async fn asked_before(
        &self,
        key: &IdempotencyKey,
        fingerprint: &str,
    ) -> Result<Option<Operation>, Refusal> {
        let registry = &self.engine.registry;
        let known = registry.journal.find_key(key).await.map_err(|e| journal_fault(&e))?;
        let Some((operation, before)) = known else { return Ok(None) };
        if before == fingerprint {
            let live = registry.live(operation.id);
            return Ok(Some(live.map_or(operation, |live| live.operation())));
        }
        let text = format!("the key {key} was used for another request");
        Err(Refusal::new(Reason::KeyReused, text)
            .about(format!("operation {}", operation.id))
            .next("use a new key for a new request"))
    }

    /// Judge a request, and have what it reserves be known at once.
    fn reserve(
        &self,
        kind: Kind,
        context: &Context,
        judge: impl FnOnce(&mut Known, OperationId, Timestamp) -> Result<Admitted, Refusal>,
    ) -> Result<Reserved, Refusal> {
        let mut known = self.engine.registry.lock();
        let (id, now) = (OperationId::random(), known.accepted_now());
        let admitted = judge(&mut known, id, now)?;
        let Admitted { subject, change, was, to_do, volatile, mut write, reserved } = admitted;
        let operation = Operation {
            id,
            kind,
            subject,
            key: context.key.clone(),
            state: State::Queued,
            steps: if to_do { change.plan(was).pending() } else { Vec::new() },
            error: None,
            result: None,
            deadline: context.deadline,
            cancel_asked: None,
            revision: 1,
            accepted: now,
            started: None,
            finished: None,
        };
        let live = LiveOperation::new(operation, change, was, volatile, Acceptance::Pending);
        write.operation = Some(live.record());
        let idle = known.enqueue(&live);
        Ok(Reserved { live, write, reserved, idle })
    }

    /// Write an operation down, and have it carried out. Whoever asked may have gone meanwhile.
    async fn accept(&self, reserved: Reserved, fingerprint: String) -> Result<Operation, Refusal> {
        let engine = Arc::clone(&self.engine);
        let accepting = async move { accept(&engine, reserved, fingerprint).await };
        self.engine.tasks.spawn(accepting).await.unwrap_or_else(|error| {
            Err(Refusal::of(Reason::Internal, &error).next("see the agent's log"))
        })
    }

    /// Whether an id that a caller chose is nobody's on this node.
    ///
    /// # Errors
    /// `conflict`, with what has it; or that it could not be seen.
    async fn is_free(&self, id: InstanceId) -> Result<(), Refusal> {
        if self.engine.registry.lock().instances.contains_key(&id) {
            return Ok(()); // a matter of admission
        }
        let taken = |by: String| {
            Err(Refusal::new(Reason::Conflict, format!("conflict: the id {id} is taken by {by}"))
                .about(format!("instance {id}"))
                .next("choose another id, or leave it out to have one made"))
        };
        match self.engine.node.hypervisor.state(id).await {
            Err(hypervisor::Error::NotFound { .. }) => {}
            Ok(_) => {
                return taken("a domain of this node that the journal does not know".to_owned());
            }
            Err(error @ hypervisor::Error::NotOurs { .. }) => return taken(error.to_string()),
            Err(error) => return Err(hypervisor_fault(&error)),
        }
        let folder = self.engine.node.disks.files(id).folder;
        match tokio::fs::symlink_metadata(&folder).await {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Ok(_) | Err(_) => taken(format!("{}, which is there already", folder.display())),
        }
    }
}

async fn accept<O: Outside>(
    engine: &Arc<Engine<O>>,
    reserved: Reserved,
    fingerprint: String,
) -> Result<Operation, Refusal> {
    let Reserved { live, write, reserved, idle } = reserved;
    if idle {
        engine.have_a_worker(live.subject.clone());
    }
    let registry = &engine.registry;
    if let Err(error) = registry.journal.accept(Accepted { fingerprint }, write).await {
        {
            let mut known = registry.lock();
            known.live.remove(&live.id);
            reserved.put_back(live.id, &mut known);
        }
        live.decide(Acceptance::Refused);
        return Err(journal_fault(&error));
    }
    let operation = live.operation();
    let _ = faults::reach(Moment::Accepted, operation.kind, "");
    let (id, kind, subject) = (live.id, operation.kind, &live.subject);
    tracing::info!(operation = %id, %kind, %subject, "accepted");
    live.decide(Acceptance::Accepted);
    registry.tell(News::Operation(Box::new(operation.clone())));
    if let Subject::Instance(instance) = &operation.subject {
        registry.tell_instance(*instance);
    }
    Ok(operation)
}
