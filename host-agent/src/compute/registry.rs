//! What is known now, in memory. Every lock on it is short: no I/O happens under it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::instance::{PowerState, Word};
use ostler_protocol::rpc::operation::{Operation, Subject};
use ostler_protocol::rpc::values::{InstanceId, Name, OperationId, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::journal::records::{
    Change, ImageRecord, InstanceRecord, NetworkRecord, OperationRecord,
};

/// What libvirt last told of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) power: PowerState,
    /// How often the guest has restarted itself since the agent started.
    pub(super) reboots: u64,
}

impl Observed {
    pub(super) const UNKNOWN: Self = Self { power: PowerState::Unknown, reboots: 0 };
}

/// An operation that is not over.
#[derive(Debug)]
pub(super) struct LiveOperation {
    pub(super) id: OperationId,
    pub(super) subject: Subject,
    pub(super) change: Change,
    /// What must not be written down.
    pub(super) volatile: Volatile,
    /// Not to be begun after this.
    pub(super) deadline: Option<Timestamp>,
    /// Set when somebody asks for it to stop.
    pub(super) cancel: CancellationToken,
    /// As the caller sees it; changes are told to whoever waits.
    pub(super) now: watch::Sender<Operation>,
}

/// What an operation knows that the journal does not.
#[derive(Debug, Default)]
pub(super) struct Volatile {
    /// The word of a password change.
    pub(super) word: Option<Word>,
    /// The image's source with its query.
    pub(super) source: Option<String>,
}

impl LiveOperation {
    pub(super) fn new(
        record: OperationRecord,
        volatile: Volatile,
        deadline: Option<Timestamp>,
    ) -> Arc<Self> {
        Arc::new(Self {
            id: record.operation.id,
            subject: record.operation.subject.clone(),
            change: record.change,
            volatile,
            deadline,
            cancel: CancellationToken::new(),
            now: watch::Sender::new(record.operation),
        })
    }

    /// As it is now.
    pub(super) fn operation(&self) -> Operation {
        self.now.borrow().clone()
    }

    /// As the journal keeps it.
    pub(super) fn record(&self) -> OperationRecord {
        OperationRecord { operation: self.operation(), change: self.change.clone() }
    }
}

/// The node's things.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) instances: BTreeMap<InstanceId, InstanceRecord>,
    pub(super) observed: HashMap<InstanceId, Observed>,
    pub(super) images: BTreeMap<Name, ImageRecord>,
    pub(super) networks: BTreeMap<Name, NetworkRecord>,
    /// The operations that are not over.
    pub(super) live: HashMap<OperationId, Arc<LiveOperation>>,
    /// What waits on each subject; an entry means that a worker is at it.
    pub(super) queues: HashMap<Subject, VecDeque<Arc<LiveOperation>>>,
}

impl Registry {
    /// What was last observed of an instance.
    pub(super) fn observed(&self, id: InstanceId) -> Observed {
        self.observed.get(&id).copied().unwrap_or(Observed::UNKNOWN)
    }

    /// Change an instance's record, and have it as it is then; none if there is no such instance.
    pub(super) fn update(
        &mut self,
        id: InstanceId,
        change: impl FnOnce(&mut InstanceRecord),
    ) -> Option<InstanceRecord> {
        let record = self.instances.get_mut(&id)?;
        change(record);
        record.revision += 1;
        record.updated = Timestamp::now();
        Some(record.clone())
    }
}

/// The registry behind its lock.
#[derive(Debug)]
pub(super) struct Shared(Mutex<Registry>);

impl Shared {
    pub(super) fn new(registry: Registry) -> Self {
        Self(Mutex::new(registry))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Registry> {
        // A panic under the lock leaves a registry that is still whole: each change is one insert.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
