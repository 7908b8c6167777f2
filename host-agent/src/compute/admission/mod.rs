//! Admission: where it is decided whether a request becomes an operation. Pure: everything is
//! decided under the registry's lock and without I/O, by what the operation itself says
//! ([`operations`](super::operations)). What is decided is reserved at once, and put back if it
//! cannot be written down.

mod config_drive;
pub(super) mod connection;
pub(super) mod hardware;
pub(super) mod image;
pub(super) mod new_volume;
pub(super) mod notes;
pub(super) mod port;
mod root;
pub(super) mod size;
pub(super) mod volume;

use std::cell::Cell;

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::rpc::hardware::Boards;
use ostler_protocol::rpc::image::{Format, State as ImageState};
use ostler_protocol::rpc::instance::{PowerState, Size, TaskState};
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{
    Bytes, InstanceId, Name, OperationId, PortId, Timestamp, VolumeId,
};

use super::authority::Authority;
use super::claims::{Capacity, Claims, Shares, only_disk};
use super::describe::{Change, Legal};
use super::lifecycle;
use super::registry::{Known, Volatile};
use crate::config::Settings;
use crate::hypervisor::Link;
use crate::journal::records::{ImageRecord, InstanceRecord, Running};
use crate::journal::{Entry, Write};

/// What a request became.
pub(super) struct Admitted {
    pub(super) subject: Subject,
    pub(super) change: Change,
    pub(super) was: Running,
    /// Whether there is anything to do: what is so already needs no step.
    pub(super) to_do: bool,
    pub(super) volatile: Volatile,
    pub(super) write: Write,
    pub(super) reserved: Reservation,
}

impl Admitted {
    /// A change of what is no instance, which reserves nothing.
    pub(super) fn of(subject: Subject, change: impl Into<Change>) -> Self {
        Self {
            subject,
            change: change.into(),
            was: Running::No,
            to_do: true,
            volatile: Volatile::default(),
            write: Write::default(),
            reserved: Reservation::default(),
        }
    }
}

/// What was set in the registry for a request, to be put back if it cannot be written down.
#[derive(Default)]
pub(super) struct Reservation {
    /// The instance is new.
    pub(super) new_instance: Option<InstanceId>,
    /// The instance as it was.
    pub(super) instance: Option<Box<InstanceRecord>>,
    /// The image is new.
    pub(super) new_image: Option<Name>,
    /// The volume is new.
    pub(super) new_volume: Option<VolumeId>,
    /// The ports are new.
    pub(super) new_ports: Vec<PortId>,
}

impl Reservation {
    /// Put back what was set for an operation that could not be written down; what somebody has
    /// taken over since stays with them.
    pub(super) fn put_back(self, by: OperationId, known: &mut Known) {
        let is_ours = |i: &InstanceRecord| i.operation == Some(by);
        if let Some(id) =
            self.new_instance.filter(|id| known.instances.get(id).is_some_and(is_ours))
        {
            known.instances.remove(&id);
        }
        if let Some(before) = self.instance
            && known.instances.get(&before.id).is_some_and(is_ours)
        {
            known.update(before.id, |now| {
                now.task_state = before.task_state;
                now.operation = before.operation;
            });
        }
        if let Some(name) = self.new_image {
            known.images.remove(&name);
        }
        if let Some(id) = self.new_volume {
            known.volumes.remove(&id);
        }
        for id in self.new_ports {
            known.ports.remove(&id);
        }
    }
}

/// Have an instance be at a task from now on, for this operation.
pub(super) fn reserve(
    known: &mut Known,
    record: InstanceRecord,
    task: TaskState,
    change: Change,
    by: OperationId,
) -> Admitted {
    let mut admitted = Admitted::of(Subject::Instance(record.id), change);
    admitted.write.instance = known.update(record.id, |instance| {
        instance.task_state = Some(task);
        instance.operation = Some(by);
    });
    admitted.reserved.instance = Some(Box::new(record));
    admitted
}

/// All that a request is judged by.
pub(super) struct Admission<'a> {
    pub(super) known: &'a mut Known,
    pub(super) settings: &'a Settings,
    pub(super) authority: &'a dyn Authority,
    pub(super) claims: &'a dyn Claims,
    /// The operation it becomes.
    pub(super) by: OperationId,
    pub(super) now: Timestamp,
    /// What the node has, if somebody has looked.
    pub(super) capacity: Option<Capacity>,
    /// Set when nobody has looked, and the request needs it: it is to be judged again then.
    pub(super) lacks_capacity: &'a Cell<bool>,
    /// What instances can be made with, if somebody has looked.
    pub(super) boards: Option<Boards>,
    /// As `lacks_capacity`, of that.
    pub(super) lacks_boards: &'a Cell<bool>,
    pub(super) hypervisor: Link,
}

impl Admission<'_> {
    /// Whether there is a place for one more operation.
    ///
    /// # Errors
    /// `busy`.
    pub(super) fn is_open(&self) -> Result<(), Refusal> {
        let live = self.known.live.len();
        if live < self.settings.limits.operations {
            return Ok(());
        }
        let text = format!("busy: {live} operations are under way");
        Err(Refusal::new(Reason::Busy, text).next("ask again later"))
    }

    /// Whether there is room for so much more.
    ///
    /// # Errors
    /// `no_capacity`, with what there is.
    pub(super) fn room(&self, more: &Size) -> Result<(), Refusal> {
        let Some(capacity) = self.capacity else {
            self.lacks_capacity.set(true);
            let text = "what the node has is not known";
            return Err(Refusal::new(Reason::NoCapacity, text).next("ask again"));
        };
        let shares = Shares::of(capacity, self.known.claimed(), &self.settings.admission);
        self.claims.admit(more, &shares)
    }

    /// How long a guest may take, milliseconds.
    pub(super) fn patience(&self, timeout: Option<u32>) -> u32 {
        timeout.unwrap_or(self.settings.shutdown_timeout.as_millis() as u32)
    }

    /// Whether what the instances do is known.
    ///
    /// # Errors
    /// `hypervisor_unavailable`.
    pub(super) fn need_hypervisor(&self) -> Result<(), Refusal> {
        match self.hypervisor {
            Link::Up => Ok(()),
            Link::Down => Err(Refusal::new(
                Reason::HypervisorUnavailable,
                "libvirt cannot be reached: what the instances do is not known",
            )
            .next("see whether libvirtd runs: systemctl status libvirtd; the agent reconnects")),
        }
    }

    /// An action on an instance that exists; `change` says what it comes down to.
    ///
    /// # Errors
    /// Why it is refused: nothing is reserved then.
    pub(super) fn act(
        &mut self,
        instance: InstanceId,
        legal: &Legal,
        change: impl FnOnce(&InstanceRecord, &Self) -> Result<Change, Refusal>,
    ) -> Result<Admitted, Refusal> {
        let subject = Subject::Instance(instance);
        let about = |fault: Refusal| match fault.subject {
            None => fault.about(subject.to_string()),
            Some(_) => fault,
        };
        let record = self.known.instances.get(&instance).cloned().ok_or_else(|| {
            about(Refusal::new(Reason::NotFound, format!("there is no instance {instance}")))
                .next("see which there are")
                .by(Action::InstanceList)
        })?;
        self.authority.allows(legal, &record, self.now).map_err(about)?;
        self.need_hypervisor().map_err(about)?;
        let waiting = self.known.queues.get(&subject).map_or(0, |queue| queue.len());
        if waiting >= self.settings.limits.queue {
            let text = format!("busy: {waiting} operations wait on the instance");
            return Err(about(Refusal::new(Reason::Busy, text)).next("ask again later"));
        }
        let power = self.known.observed(instance).power;
        let change = change(&record, self).map_err(about)?;
        if power == PowerState::Unknown && change.gives_back_power() {
            let text = "it is not known yet whether the instance runs";
            return Err(about(Refusal::new(Reason::HypervisorUnavailable, text))
                .next("ask again in a moment: the hypervisor is being asked"));
        }
        let beside = change.beside(&record);
        if beside > Bytes(0) {
            self.room(&only_disk(beside)).map_err(about)?;
        }
        let to_do = !change.is_so(record.vm_state, power);
        let mut admitted = reserve(self.known, record, legal.task, change, self.by);
        (admitted.was, admitted.to_do) = (lifecycle::running(power), to_do);
        Ok(admitted)
    }

    /// An action that makes an image of the instance's disk.
    ///
    /// # Errors
    /// Why it is refused: nothing is reserved then.
    pub(super) fn make_image(
        &mut self,
        id: InstanceId,
        legal: &Legal,
        image: Name,
        change: impl Into<Change>,
    ) -> Result<Admitted, Refusal> {
        let mut made = None;
        let mut admitted = self.act(id, legal, |record, gate| {
            let images = &gate.known.images;
            if images.contains_key(&image) {
                let text = format!("conflict: there is an image {image} already");
                return Err(Refusal::new(Reason::Conflict, text)
                    .about(format!("image {image}"))
                    .next("choose another name, or remove the image")
                    .by(Action::ImageRemove));
            }
            let source = record.image.as_ref().and_then(|image| images.get(image));
            made = Some(ImageRecord {
                name: image.clone(),
                state: ImageState::Importing,
                format: Format::Qcow2,
                source: format!("instance {id}"),
                sha256: None,
                size: Bytes(0),
                virtual_size: record.disk,
                properties: {
                    let of = source.map(|image| image.properties.clone()).unwrap_or_default();
                    hardware::carried(&of, &record.options)
                },
                created: gate.now,
            });
            Ok(change.into())
        })?;
        if let Some(record) = made {
            self.known.images.insert(image.clone(), record.clone());
            admitted.write.image = Some(Entry::Put(record));
            admitted.reserved.new_image = Some(image);
        }
        Ok(admitted)
    }

    /// Operations on an image or a network are done one at a time.
    ///
    /// # Errors
    /// `conflict`, with the one under way.
    pub(super) fn idle(&self, subject: &Subject) -> Result<(), Refusal> {
        match self.known.at_work(subject) {
            None => Ok(()),
            Some(operation) => {
                let kind = operation.now.borrow().kind;
                let text = format!("conflict: {kind} of {subject} is under way");
                Err(Refusal::new(Reason::Conflict, text)
                    .about(subject.to_string())
                    .next("wait for it")
                    .by(Action::OperationWait(Some(operation.id))))
            }
        }
    }
}
