//! What is known now, in memory. Every lock on it is short: no I/O happens under it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::{PowerState, StallReason, VmState, Word};
use ostler_protocol::rpc::operation::{Operation, State, Subject};
use ostler_protocol::rpc::values::{InstanceId, Name, OperationId, Sha256, Timestamp};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::admission::Claims;
use super::operations::Change;
use crate::journal::records::{
    ImageRecord, InstanceRecord, NetworkRecord, OperationRecord, Running,
};

/// What libvirt last told of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Observed {
    pub(super) power: PowerState,
    /// Why QEMU paused it, if it did.
    pub(super) stall: Option<StallReason>,
    /// How often the guest has restarted itself since the agent started.
    pub(super) reboots: u64,
    /// That somebody else changed its definition, in words.
    pub(super) redefined: Option<String>,
}

impl Observed {
    pub(super) const UNKNOWN: Self =
        Self { power: PowerState::Unknown, stall: None, reboots: 0, redefined: None };
}

/// An operation that is not over.
#[derive(Debug)]
pub(super) struct LiveOperation {
    pub(super) id: OperationId,
    pub(super) subject: Subject,
    pub(super) change: Change,
    /// Whether it was begun before the agent started.
    pub(super) resumed: bool,
    /// What must not be written down.
    pub(super) volatile: Volatile,
    /// Whether the instance ran when it was accepted.
    pub(super) was: Running,
    /// Set when somebody asks for it to stop.
    pub(super) cancel: CancellationToken,
    /// Set when a delete waits behind it: what still fails then is left to that.
    pub(super) superseded: CancellationToken,
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
    pub(super) fn new(record: OperationRecord, change: Change, volatile: Volatile) -> Arc<Self> {
        let cancel = CancellationToken::new();
        if record.operation.cancel_asked.is_some() {
            cancel.cancel();
        }
        Arc::new(Self {
            id: record.operation.id,
            subject: record.operation.subject.clone(),
            change,
            was: record.was,
            resumed: record.operation.state != State::Queued,
            volatile,
            cancel,
            superseded: CancellationToken::new(),
            now: watch::Sender::new(record.operation),
        })
    }

    /// Ask it to stop. The next write to the journal has that.
    pub(super) fn ask_to_stop(&self) {
        self.now.send_modify(|o| {
            o.cancel_asked.get_or_insert_with(Timestamp::now);
            o.revision += 1;
        });
        self.cancel.cancel();
    }

    /// As it is now.
    pub(super) fn operation(&self) -> Operation {
        self.now.borrow().clone()
    }

    /// As the journal keeps it.
    pub(super) fn record(&self) -> OperationRecord {
        OperationRecord {
            operation: self.operation(),
            change: self.change.written(),
            was: self.was,
        }
    }
}

/// The node's things.
#[derive(Debug, Default)]
pub(super) struct Registry {
    pub(super) instances: BTreeMap<InstanceId, InstanceRecord>,
    pub(super) observed: HashMap<InstanceId, Observed>,
    /// How often each instance's power state was seen: who asked before and is answered after
    /// somebody else saw it knows less than they.
    pub(super) sightings: HashMap<InstanceId, u64>,
    pub(super) images: BTreeMap<Name, ImageRecord>,
    pub(super) networks: BTreeMap<Name, NetworkRecord>,
    /// Whether there are instances in the journal that cannot be read: what they need is not known.
    pub(super) unread: bool,
    /// Domains of this node that the journal does not know.
    pub(super) orphans: Vec<String>,
    /// The operations that are not over.
    pub(super) live: HashMap<OperationId, Arc<LiveOperation>>,
    /// What waits on each subject; an entry means that a worker is at it.
    pub(super) queues: HashMap<Subject, VecDeque<Arc<LiveOperation>>>,
}

impl Registry {
    /// What was last observed of an instance. Of one that was deleted, its domain was seen to go:
    /// nobody looks for that again.
    pub(super) fn observed(&self, id: InstanceId) -> Observed {
        let mut seen = self.observed.get(&id).cloned().unwrap_or(Observed::UNKNOWN);
        let deleted = self.instances.get(&id).is_some_and(|i| i.vm_state == VmState::Deleted);
        if deleted && seen.power == PowerState::Unknown {
            seen.power = PowerState::None;
        }
        seen
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

impl Registry {
    /// The operation that is being done on a subject. One that is over and not yet out of the queue
    /// keeps nobody.
    pub(super) fn at_work(&self, subject: &Subject) -> Option<Arc<LiveOperation>> {
        let first = self.queues.get(subject).and_then(|queue| queue.front().cloned());
        first.filter(|operation| !operation.now.borrow().state.is_over())
    }

    /// What is promised to instances, with what operations under way are about to promise.
    pub(super) fn claims(&self) -> Claims {
        let mut claims = Claims::of(self.instances.values());
        for operation in self.live.values() {
            if let Some(record) = self.outcome(operation) {
                let now = self.instances.get(&record.id);
                claims.grow(&Claims::of(now), &Claims::of([&record]));
                let change = operation.change.described();
                claims.disk += now.map_or(0, |now| change.beside(now).0);
            }
        }
        claims
    }

    /// The record of the instance an operation works on, as it shall be.
    pub(super) fn target(&self, operation: &LiveOperation) -> Option<InstanceRecord> {
        let Subject::Instance(id) = operation.subject else { return None };
        let record = self.instances.get(&id)?;
        Some(operation.change.applied(record, operation.was))
    }

    /// Whether an image's file is needed by anything, this instance as it is now left out.
    pub(super) fn needs(&self, sha256: &Sha256, format: Format, but: Option<InstanceId>) -> bool {
        let is_it =
            |image: &ImageRecord| image.format == format && image.sha256.as_ref() == Some(sha256);
        let named = self.unread || self.images.values().any(is_it);
        let instance = |record: &InstanceRecord| record.needs(sha256, format);
        named
            || self.instances.values().filter(|i| Some(i.id) != but).any(instance)
            || self
                .live
                .values()
                .filter_map(|operation| self.outcome(operation))
                .any(|record| record.needs(sha256, format))
    }

    /// The record of the instance an operation works on, as it will be in the state that follows:
    /// what one has of its disk depends on it.
    fn outcome(&self, operation: &LiveOperation) -> Option<InstanceRecord> {
        let mut record = self.target(operation)?;
        record.vm_state = operation.change.settled(State::Succeeded, &record, operation.was);
        Some(record)
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

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::operation::Kind;

    use super::*;
    use crate::compute::operations::sample;
    use crate::compute::operations::unshelve::Unshelve;
    use crate::journal::records::Base;

    #[test]
    fn an_unshelve_needs_the_image_it_makes_the_disk_from() {
        let shelf = Base { sha256: "cd".repeat(32).parse().unwrap(), ..sample::record().base };
        let record = InstanceRecord { vm_state: VmState::ShelvedOffloaded, ..sample::record() };
        let image = "shelf".parse().unwrap();
        let operation = Operation {
            id: OperationId::random(),
            kind: Kind::Unshelve,
            subject: Subject::Instance(record.id),
            key: None,
            state: State::Running,
            steps: Vec::new(),
            error: None,
            result: None,
            deadline: None,
            cancel_asked: None,
            revision: 1,
            accepted: Timestamp(1),
            started: None,
            finished: None,
        };
        let change = Change::from(Unshelve { image, base: Some(shelf.clone()) });
        let written = OperationRecord { operation, change: change.written(), was: Running::No };
        let live = LiveOperation::new(written, change, Volatile::default());
        let mut registry = Registry::default();
        registry.instances.insert(record.id, record);
        assert!(!registry.needs(&shelf.sha256, shelf.format, None));
        registry.live.insert(live.id, live);
        assert!(registry.needs(&shelf.sha256, shelf.format, None));
    }
}
