//! The gate: where it is decided whether a request becomes an operation. Everything is decided
//! here, under the registry's lock and without I/O, by what the operation itself says
//! ([`operations`](super::operations)); what is reserved is put back if the operation cannot be
//! written down.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::image::{Format, State as ImageState};
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name, OperationId, Timestamp};

use super::admission::{self, Capacity, Facts, only_disk};
use super::lifecycle;
use super::operations::{Change, Legal, traits};
use super::registry::{Registry, Volatile};
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
    pub(super) undo: Reservation,
}

/// What was set in the registry for a request, to be put back if it cannot be written down.
pub(super) enum Reservation {
    None,
    NewInstance(InstanceId),
    Instance(Box<InstanceRecord>),
    NewImage(Name),
    InstanceAndImage(Box<InstanceRecord>, Name),
}

/// All that a request is judged by.
pub(super) struct Gate<'a> {
    pub(super) registry: &'a mut Registry,
    pub(super) settings: &'a Settings,
    /// The operation it becomes.
    pub(super) by: OperationId,
    pub(super) now: Timestamp,
    pub(super) capacity: Capacity,
    pub(super) hypervisor: Link,
}

impl Gate<'_> {
    /// Whether there is a place for one more operation.
    ///
    /// # Errors
    /// `busy`.
    pub(super) fn is_open(&self) -> Result<(), Fault> {
        let live = self.registry.live.len();
        if live < self.settings.limits.operations {
            return Ok(());
        }
        let text = format!("busy: {live} operations are under way");
        Err(Fault::new(Reason::Busy, text).next("ask again later"))
    }

    /// What room is judged by.
    pub(super) fn facts(&self) -> Facts<'_> {
        Facts {
            capacity: self.capacity,
            claims: self.registry.claims(),
            policy: &self.settings.admission,
            flavors: &self.settings.flavors,
            images: &self.registry.images,
            networks: &self.registry.networks,
            instances: &self.registry.instances,
            now: self.now,
        }
    }

    /// How long a guest may take, milliseconds.
    pub(super) fn patience(&self, timeout: Option<u32>) -> u32 {
        timeout.unwrap_or(self.settings.shutdown_timeout.as_millis() as u32)
    }

    /// Whether what the instances do is known.
    ///
    /// # Errors
    /// `hypervisor_unavailable`.
    pub(super) fn need_hypervisor(&self) -> Result<(), Fault> {
        match self.hypervisor {
            Link::Up => Ok(()),
            Link::Down => Err(Fault::new(
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
        change: impl FnOnce(&InstanceRecord, &Self) -> Result<Change, Fault>,
    ) -> Result<Admitted, Fault> {
        let subject = Subject::Instance(instance);
        let about = |fault: Fault| match fault.data.subject {
            None => fault.about(subject.to_string()),
            Some(_) => fault,
        };
        let record = self.registry.instances.get(&instance).cloned().ok_or_else(|| {
            about(Fault::new(Reason::NotFound, format!("there is no instance {instance}")))
                .next("see ostler instance list")
        })?;
        lifecycle::is_legal(legal, &record, self.now).map_err(about)?;
        self.need_hypervisor().map_err(about)?;
        let waiting = self.registry.queues.get(&subject).map_or(0, |queue| queue.len());
        if waiting >= self.settings.limits.queue {
            let text = format!("busy: {waiting} operations wait on the instance");
            return Err(about(Fault::new(Reason::Busy, text)).next("ask again later"));
        }
        let power = self.registry.observed(instance).power;
        let change = change(&record, self).map_err(about)?;
        let described = change.described();
        if power == PowerState::Unknown && described.gives_back_power() {
            let text = "it is not known yet whether the instance runs";
            return Err(about(Fault::new(Reason::HypervisorUnavailable, text))
                .next("ask again in a moment: the hypervisor is being asked"));
        }
        let beside = described.beside(&record);
        if beside > Bytes(0) {
            admission::room(&only_disk(beside), &self.facts()).map_err(about)?;
        }
        let to_do = !described.is_so(record.vm_state, power);
        let write = self.registry.update(instance, |instance| {
            instance.task_state = Some(legal.task);
            instance.operation = Some(self.by);
        });
        Ok(Admitted {
            subject,
            change,
            was: lifecycle::running(power),
            to_do,
            volatile: Volatile::default(),
            undo: Reservation::Instance(Box::new(record)),
            write: Write { instance: write, ..Write::default() },
        })
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
        change: Change,
    ) -> Result<Admitted, Fault> {
        let mut made = None;
        let mut admitted = self.act(id, legal, |record, gate| {
            let images = &gate.registry.images;
            if images.contains_key(&image) {
                let text = format!("conflict: there is an image {image} already");
                return Err(Fault::new(Reason::Conflict, text)
                    .about(format!("image {image}"))
                    .next("choose another name, or remove the image: ostler image remove"));
            }
            let source = images.get(&record.image);
            made = Some(ImageRecord {
                name: image.clone(),
                state: ImageState::Importing,
                format: Format::Qcow2,
                source: format!("instance {id}"),
                sha256: None,
                size: Bytes(0),
                virtual_size: record.disk,
                properties: source.map(|image| image.properties.clone()).unwrap_or_default(),
                created: gate.now,
            });
            Ok(change)
        })?;
        if let Some(record) = made {
            self.registry.images.insert(image.clone(), record.clone());
            admitted.write.image = Some(Entry::Put(record));
            if let Reservation::Instance(before) = admitted.undo {
                admitted.undo = Reservation::InstanceAndImage(before, image);
            }
        }
        Ok(admitted)
    }

    /// Operations on an image or a network are done one at a time.
    ///
    /// # Errors
    /// `conflict`, with the one under way.
    pub(super) fn idle(&self, subject: &Subject) -> Result<(), Fault> {
        match self.registry.at_work(subject) {
            None => Ok(()),
            Some(operation) => {
                let kind = operation.now.borrow().kind;
                let text = format!("conflict: {kind} of {subject} is under way");
                Err(Fault::new(Reason::Conflict, text)
                    .about(subject.to_string())
                    .next(format!("wait for it: ostler operation wait {}", operation.id)))
            }
        }
    }
}

impl Registry {
    /// End what is under way on a subject that is about to go: what can be is cancelled, and what
    /// is tried again and again is not any more.
    pub(super) fn cancel_pointless(&self, subject: &Subject) {
        for operation in self.queues.get(subject).into_iter().flatten() {
            operation.superseded.cancel();
            if traits(operation.now.borrow().kind).can_cancel {
                operation.ask_to_stop();
            }
        }
    }

    pub(super) fn put_back(&mut self, reservation: Reservation) {
        match reservation {
            Reservation::None => {}
            Reservation::NewInstance(id) => {
                self.instances.remove(&id);
            }
            Reservation::Instance(record) => self.put_back_instance(&record),
            Reservation::NewImage(name) => {
                self.images.remove(&name);
            }
            Reservation::InstanceAndImage(record, name) => {
                self.put_back_instance(&record);
                self.images.remove(&name);
            }
        }
    }

    fn put_back_instance(&mut self, record: &InstanceRecord) {
        self.update(record.id, |now| {
            now.task_state = record.task_state;
            now.operation = record.operation;
        });
    }
}
