//! What is known of the node's things, and of what is under way on them.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::{PowerState, StallReason, VmState};
use ostler_protocol::rpc::operation::{State, Subject};
use ostler_protocol::rpc::values::{
    Bytes, InstanceId, Name, OperationId, PortId, Sha256, Timestamp, VolumeId,
};

use super::live::LiveOperation;
use crate::compute::claims::Claimed;
use crate::journal::records::{
    AttachmentRecord, ImageRecord, InstanceRecord, InterfaceRecord, NetworkRecord, PortRecord,
    VolumeRecord,
};
use crate::journal::{Entry, PortEntry, VolumeEntry};

/// What libvirt last told of an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::compute) struct Observed {
    pub(in crate::compute) power: PowerState,
    /// Why QEMU paused it, if it did.
    pub(in crate::compute) stall: Option<StallReason>,
    /// How often the guest has restarted itself since the agent started.
    pub(in crate::compute) reboots: u64,
    /// That somebody else changed its definition, in words.
    pub(in crate::compute) redefined: Option<String>,
    /// In what its disks differ from those it has by its record, in words.
    pub(in crate::compute) plugged: Vec<String>,
}

impl Observed {
    pub(in crate::compute) const UNKNOWN: Self = Self {
        power: PowerState::Unknown,
        stall: None,
        reboots: 0,
        redefined: None,
        plugged: Vec::new(),
    };
}

/// The node's things.
#[derive(Debug, Default)]
pub(in crate::compute) struct Known {
    pub(in crate::compute) instances: BTreeMap<InstanceId, InstanceRecord>,
    pub(in crate::compute) observed: HashMap<InstanceId, Observed>,
    /// How often each instance's power state was seen: who asked before and is answered after
    /// somebody else saw it knows less than they.
    pub(in crate::compute) sightings: HashMap<InstanceId, u64>,
    pub(in crate::compute) images: BTreeMap<Name, ImageRecord>,
    pub(in crate::compute) networks: BTreeMap<Name, NetworkRecord>,
    pub(in crate::compute) volumes: BTreeMap<VolumeId, VolumeRecord>,
    pub(in crate::compute) ports: BTreeMap<PortId, PortRecord>,
    /// The pools whose room is that of the instances' disks.
    pub(in crate::compute) shared_pools: Vec<Name>,
    /// In what volumes differ from what the agent made, in words.
    pub(in crate::compute) volume_drift: HashMap<VolumeId, String>,
    /// The instances that are letting go of a volume that is kept elsewhere, or were not given it
    /// after all: they need nothing of it any more.
    pub(in crate::compute) leaving: HashSet<(VolumeId, Subject)>,
    /// Whether there are instances in the journal that cannot be read: their domains are no
    /// orphans.
    pub(in crate::compute) unread: bool,
    /// Whether there are instances or volumes in the journal that cannot be read: what they need is
    /// not known.
    pub(in crate::compute) unread_needs: bool,
    /// Domains of this node that the journal does not know.
    pub(in crate::compute) orphans: Vec<String>,
    /// The operations that are not over.
    pub(in crate::compute) live: HashMap<OperationId, Arc<LiveOperation>>,
    /// What waits on each subject; an entry means that a worker is at it.
    pub(in crate::compute) queues: HashMap<Subject, VecDeque<Arc<LiveOperation>>>,
    /// When the last operation was accepted: they are taken up in this order after a crash.
    pub(in crate::compute) accepted: Timestamp,
}

impl Known {
    /// What was last observed of an instance. Of one that was deleted, its domain was seen to go:
    /// nobody looks for that again.
    pub(in crate::compute) fn observed(&self, id: InstanceId) -> Observed {
        let mut seen = self.observed.get(&id).cloned().unwrap_or(Observed::UNKNOWN);
        let deleted = self.instances.get(&id).is_some_and(|i| i.vm_state == VmState::Deleted);
        if deleted && seen.power == PowerState::Unknown {
            seen.power = PowerState::None;
        }
        seen
    }

    /// Change an instance's record, and have it as it is then; none if there is no such instance.
    pub(in crate::compute) fn update(
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

impl Known {
    /// When an operation is accepted: after all others, so that they are taken up in the same order.
    pub(in crate::compute) fn accepted_now(&mut self) -> Timestamp {
        self.accepted = Timestamp::now().max(Timestamp(self.accepted.0 + 1));
        self.accepted
    }

    /// Put an operation into its subject's queue; whether nobody is at that yet.
    pub(in crate::compute) fn enqueue(&mut self, operation: &Arc<LiveOperation>) -> bool {
        self.live.insert(operation.id, Arc::clone(operation));
        let idle = !self.queues.contains_key(&operation.subject);
        let queue = self.queues.entry(operation.subject.clone()).or_default();
        queue.push_back(Arc::clone(operation));
        idle
    }

    /// End what is under way on a subject that is about to go: what can be is cancelled, and what
    /// is tried again and again is not any more.
    pub(in crate::compute) fn cancel_pointless(&self, subject: &Subject) {
        for operation in self.queues.get(subject).into_iter().flatten() {
            operation.superseded.cancel();
            if operation.change.can_cancel() {
                operation.ask_to_stop();
            }
        }
    }

    /// Take an image's or a network's row for what it is now.
    pub(in crate::compute) fn set_image(&mut self, entry: &Entry<ImageRecord>) {
        match entry {
            Entry::Put(image) => drop(self.images.insert(image.name.clone(), image.clone())),
            Entry::Gone(name) => drop(self.images.remove(name)),
        }
    }

    pub(in crate::compute) fn set_network(&mut self, entry: &Entry<NetworkRecord>) {
        match entry {
            Entry::Put(net) => drop(self.networks.insert(net.name.clone(), net.clone())),
            Entry::Gone(name) => drop(self.networks.remove(name)),
        }
    }

    pub(in crate::compute) fn set_volume(&mut self, entry: &VolumeEntry) {
        match entry {
            Entry::Put(volume) => drop(self.volumes.insert(volume.id, volume.clone())),
            Entry::Gone(id) => {
                self.volumes.remove(id);
                self.volume_drift.remove(id);
            }
        }
    }

    pub(in crate::compute) fn set_port(&mut self, entry: &PortEntry) {
        match entry {
            Entry::Put(port) => drop(self.ports.insert(port.id, port.clone())),
            Entry::Gone(id) => drop(self.ports.remove(id)),
        }
    }

    /// The operation that works on a port.
    pub(in crate::compute) fn at_port(&self, id: PortId) -> Option<Arc<LiveOperation>> {
        let is_over = |o: &LiveOperation| o.now.borrow().state.is_over();
        self.live.values().find(|o| o.change.port() == Some(id) && !is_over(o)).cloned()
    }

    /// The instance that has a port, or is being given it.
    pub(in crate::compute) fn user_of_port(
        &self,
        id: PortId,
    ) -> Option<(&InstanceRecord, &InterfaceRecord)> {
        let there = self.instances.values().filter(|i| i.vm_state != VmState::Deleted);
        let has = |i| Some((i, InstanceRecord::interface(i, id)?));
        there.filter_map(has).next()
    }

    /// The operation that works on a volume, or reads it.
    pub(in crate::compute) fn at_volume(&self, id: VolumeId) -> Option<Arc<LiveOperation>> {
        self.all_at_volume(id).next().cloned()
    }

    /// Whether an operation on something else than `subject` works on a volume, or reads it.
    pub(in crate::compute) fn is_at_volume(&self, id: VolumeId, but: &Subject) -> bool {
        self.all_at_volume(id).any(|o| o.subject != *but)
    }

    fn all_at_volume(&self, id: VolumeId) -> impl Iterator<Item = &Arc<LiveOperation>> {
        let is_over = |o: &LiveOperation| o.now.borrow().state.is_over();
        self.live.values().filter(move |o| o.change.volumes().contains(&id) && !is_over(o))
    }

    /// The instances that have a volume, or are being given it.
    pub(in crate::compute) fn users_of(
        &self,
        id: VolumeId,
    ) -> Vec<(&InstanceRecord, &AttachmentRecord)> {
        let has = |attachment: &&AttachmentRecord| attachment.volume == id;
        let there = self.instances.values().filter(|i| i.vm_state != VmState::Deleted);
        there.filter_map(|i| Some((i, i.volumes.iter().find(has)?))).collect()
    }

    /// Whether an instance has a volume.
    pub(in crate::compute) fn is_user(&self, id: VolumeId, subject: &Subject) -> bool {
        self.users_of(id).iter().any(|(user, _)| Subject::Instance(user.id) == *subject)
    }

    /// Whether another than `subject` needs what there is of a volume: has it, or is about to, and is
    /// not letting go of it.
    pub(in crate::compute) fn is_needed(&self, id: VolumeId, subject: &Subject) -> bool {
        let users = self.users_of(id).into_iter().map(|(user, _)| Subject::Instance(user.id));
        let at_it = self.all_at_volume(id).map(|operation| operation.subject.clone());
        users.chain(at_it).any(|other| other != *subject && !self.leaving.contains(&(id, other)))
    }

    /// The operation that is being done on a subject. One that is over and not yet out of the queue
    /// keeps nobody.
    pub(in crate::compute) fn at_work(&self, subject: &Subject) -> Option<Arc<LiveOperation>> {
        let first = self.queues.get(subject).and_then(|queue| queue.front().cloned());
        first.filter(|operation| !operation.now.borrow().state.is_over())
    }

    /// What is promised to instances, with what operations under way are about to promise.
    pub(in crate::compute) fn claimed(&self) -> Claimed {
        let mut claims = Claimed::of(self.instances.values());
        for operation in self.live.values() {
            if let Some(record) = self.outcome(operation) {
                let now = self.instances.get(&record.id);
                claims.grow(&Claimed::of(now), &Claimed::of([&record]));
                claims.disk += now.map_or(0, |now| operation.change.beside(now).0);
            }
        }
        claims.disk += self.promised(|pool| self.shared_pools.contains(pool)).0;
        claims
    }

    /// What is promised to volumes in such pools, with what operations under way are about to.
    pub(in crate::compute) fn promised(&self, counts: impl Fn(&Name) -> bool) -> Bytes {
        let size = |volume: &VolumeRecord| {
            let of = |o: &&Arc<LiveOperation>| o.change.volumes().contains(&volume.id);
            let grown = self.live.values().filter(of).filter_map(|o| o.change.extends_to());
            grown.max().unwrap_or_default().max(volume.size)
        };
        let counted =
            self.volumes.values().filter(|volume| volume.pool.as_ref().is_some_and(&counts));
        Bytes(counted.map(|volume| size(volume).0).sum())
    }

    /// The record of the instance an operation works on, as it shall be.
    pub(in crate::compute) fn target(&self, operation: &LiveOperation) -> Option<InstanceRecord> {
        let Subject::Instance(id) = operation.subject else { return None };
        let record = self.instances.get(&id)?;
        Some(operation.change.applied(record, operation.was))
    }

    /// Whether an image's file is needed by anything, this instance as it is now left out.
    pub(in crate::compute) fn needs(
        &self,
        sha256: &Sha256,
        format: Format,
        but: Option<InstanceId>,
    ) -> bool {
        let is_it =
            |image: &ImageRecord| image.format == format && image.sha256.as_ref() == Some(sha256);
        let named = self.unread_needs || self.images.values().any(is_it);
        let instance = |record: &InstanceRecord| record.needs(sha256, format);
        let volume = |volume: &VolumeRecord| {
            volume.base.as_ref().is_some_and(|b| b.format == format && b.sha256 == *sha256)
        };
        named
            || self.volumes.values().any(volume)
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

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::operation::Kind;

    use super::super::{Acceptance, Volatile};
    use super::*;
    use crate::compute::describe::Change;
    use crate::compute::operations::sample;
    use crate::compute::operations::unshelve::Unshelve;
    use crate::journal::records::{Base, Running};
    use crate::refusal::Operation;

    #[test]
    fn an_unshelve_needs_the_image_it_makes_the_disk_from() {
        let shelf =
            Base { sha256: "cd".repeat(32).parse().unwrap(), ..sample::source("debian").base };
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
        let change = Change::from(Unshelve {
            image: Some(image),
            base: Some(shelf.clone()),
            config_drive: false,
        });
        let volatile = Volatile::default();
        let accepted = Acceptance::Accepted;
        let live = LiveOperation::new(operation, change, Running::No, volatile, accepted);
        let mut registry = Known::default();
        registry.instances.insert(record.id, record);
        assert!(!registry.needs(&shelf.sha256, shelf.format, None));
        registry.live.insert(live.id, live);
        assert!(registry.needs(&shelf.sha256, shelf.format, None));
    }
}
