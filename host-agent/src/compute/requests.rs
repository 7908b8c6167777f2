//! What a command becomes: checked against what is known, and turned into a change, or refused
//! with the reason. Everything is decided here, under the registry's lock and without I/O; what is
//! reserved is put back if the operation cannot be written down.

use std::collections::BTreeMap;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::image::State as ImageState;
use ostler_protocol::rpc::instance::{
    Adjust, Delete, DeleteMode, Halt, Lock, PowerState, Rebuild, Rescue, Reset, Resize, Shelve,
    Size, Snapshot, Update, VmState,
};
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name, OperationId, Timestamp};

use super::admission::{self, Capacity, Facts};
use super::change::running;
use super::command::Command;
use super::lifecycle::{self, Action};
use super::manager::{Admitted, Compute, Reservation};
use super::operations::{can_cancel, root_serial};
use super::registry::{Registry, Volatile};
use crate::config::Settings;
use crate::hypervisor::spec::DiskTarget;
use crate::hypervisor::{Hypervisor, Link};
use crate::journal::records::{Change, ImageRecord, InstanceRecord, Running, Source};
use crate::journal::{Entry, Write};
use crate::network::Network;

/// The longest user name Linux takes.
const USER_MAX: usize = 32;
/// The longest reason of a lock, bytes.
const REASON_MAX: usize = 255;

/// Who asks, as far as a request needs to know.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    /// The operation it becomes.
    pub(super) by: OperationId,
    pub(super) now: Timestamp,
    pub(super) capacity: Capacity,
}

impl<H: Hypervisor, N: Network> Compute<H, N> {
    /// What a command becomes.
    ///
    /// # Errors
    /// Why it is refused.
    pub(super) fn admit(&self, command: Command, asked: Asked) -> Result<Admitted, Fault> {
        let mut registry = self.registry.lock();
        let registry = &mut *registry;
        if registry.live.len() >= self.settings().limits.operations {
            let text = format!("busy: {} operations are under way", registry.live.len());
            return Err(Fault::new(Reason::Busy, text).next("ask again later"));
        }
        match command {
            Command::Boot(boot) => {
                self.need_hypervisor()?;
                let record = admission::admit(
                    &boot,
                    asked.by,
                    &Self::facts(&self.settings(), registry, asked),
                )?;
                registry.instances.insert(record.id, record.clone());
                Ok(Admitted {
                    subject: Subject::Instance(record.id),
                    change: Change::Boot,
                    was: Running::No,
                    to_do: true,
                    volatile: Volatile::default(),
                    undo: Reservation::NewInstance(record.id),
                    write: Write { instance: Some(record), ..Write::default() },
                })
            }
            Command::Start(id) => {
                self.act(registry, id, Action::Start, asked, |_, _| Ok(Change::Start))
            }
            Command::Stop(Halt { id, manner, timeout }) => {
                let timeout = self.patience(timeout);
                self.act(registry, id, Action::Stop, asked, |_, _| {
                    Ok(Change::Stop { manner, timeout })
                })
            }
            Command::Reboot(Halt { id, manner, timeout }) => {
                let timeout = self.patience(timeout);
                let change = Change::Reboot { manner, timeout };
                self.act(registry, id, Action::Reboot(manner), asked, |_, _| Ok(change))
            }
            Command::Pause(id) => {
                self.act(registry, id, Action::Pause, asked, |_, _| Ok(Change::Pause))
            }
            Command::Unpause(id) => {
                self.act(registry, id, Action::Unpause, asked, |_, _| Ok(Change::Unpause))
            }
            Command::Suspend(id) => {
                self.act(registry, id, Action::Suspend, asked, |_, _| Ok(Change::Suspend))
            }
            Command::Resume(id) => {
                self.act(registry, id, Action::Resume, asked, |_, _| Ok(Change::Resume))
            }
            Command::Rebuild(Rebuild { id, image }) => {
                self.act(registry, id, Action::Rebuild, asked, |record, registry| {
                    let from = admission::source(&image, &registry.images)?;
                    fits_disk(record, &from)?;
                    Ok(Change::Rebuild { from })
                })
            }
            Command::Reset(Reset { id, root_device }) => {
                self.act(registry, id, Action::Reset, asked, |record, _| {
                    is_root(record, &root_device)?;
                    let InstanceRecord { image, base, direct, .. } = record.clone();
                    Ok(Change::Rebuild { from: Source { image, base, direct } })
                })
            }
            Command::Rescue(Rescue { id, image }) => {
                self.act(registry, id, Action::Rescue, asked, |record, registry| {
                    let from = match image {
                        Some(image) => admission::source(&image, &registry.images)?,
                        None => {
                            let InstanceRecord { image, base, direct, .. } = record.clone();
                            Source { image, base, direct }
                        }
                    };
                    let disk = only_disk(from.base.virtual_size);
                    admission::room(&disk, &Self::facts(&self.settings(), registry, asked))?;
                    Ok(Change::Rescue { from })
                })
            }
            Command::Unrescue(id) => {
                self.act(registry, id, Action::Unrescue, asked, |_, _| Ok(Change::Unrescue))
            }
            Command::Resize(resize) => {
                let Resize { id, .. } = resize;
                let timeout = self.patience(None);
                self.act(registry, id, Action::Resize, asked, |record, registry| {
                    let settings = self.settings();
                    let facts = Self::facts(&settings, registry, asked);
                    let to = admission::resize(&resize, record, &facts)?;
                    Ok(Change::Resize { to, timeout })
                })
            }
            Command::ConfirmResize(id) => {
                self.act(registry, id, Action::ConfirmResize, asked, |_, _| {
                    Ok(Change::ConfirmResize)
                })
            }
            Command::RevertResize(id) => {
                self.act(registry, id, Action::RevertResize, asked, |record, _| {
                    let start = record.resized.as_ref().map_or(Running::No, |r| r.was);
                    Ok(Change::RevertResize { start })
                })
            }
            Command::Adjust(adjust) => {
                let Adjust { id, vcpus, memory } = adjust;
                self.act(registry, id, Action::Adjust, asked, |record, registry| {
                    admission::adjust(
                        &adjust,
                        record,
                        &Self::facts(&self.settings(), registry, asked),
                    )?;
                    let vcpus = vcpus.filter(|vcpus| *vcpus != record.vcpus);
                    let memory = memory.filter(|memory| *memory != record.memory);
                    Ok(Change::Adjust { vcpus, memory })
                })
            }
            Command::Snapshot(Snapshot { id, name, quiesce }) => {
                let image = name.clone();
                let change = Change::Snapshot { image: name, quiesce };
                self.make_image(registry, id, Action::Snapshot, asked, image, change)
            }
            Command::Shelve(Shelve { id, offload, timeout }) => {
                let image = shelf(id)?;
                let timeout = self.patience(timeout);
                let change = Change::Shelve { image: image.clone(), offload, timeout };
                self.make_image(registry, id, Action::Shelve, asked, image, change)
            }
            Command::Offload(id) => {
                self.act(registry, id, Action::Offload, asked, |_, _| Ok(Change::Offload))
            }
            Command::Unshelve(id) => {
                self.act(registry, id, Action::Unshelve, asked, |record, registry| {
                    self.unshelve(record, registry, asked)
                })
            }
            Command::Update(update) => {
                self.act(registry, update.id, Action::Update, asked, |record, _| {
                    updated(update, record)
                })
            }
            Command::Lock(Lock { id, reason }) => {
                let reason = reason.unwrap_or_default();
                admission::text("reason", &reason, REASON_MAX)?;
                self.act(registry, id, Action::Lock, asked, |_, _| Ok(Change::Lock { reason }))
            }
            Command::Unlock(id) => {
                self.act(registry, id, Action::Unlock, asked, |_, _| Ok(Change::Unlock))
            }
            Command::Delete(delete) => self.delete(registry, &delete, asked),
            Command::Restore(id) => self.act(registry, id, Action::Restore, asked, |record, _| {
                Ok(Change::Restore { to: restored(record) })
            }),
            Command::Password(password) => {
                check_user(&password.user)?;
                let change = Change::Password { user: password.user };
                let action = Action::Password;
                let mut admitted =
                    self.act(registry, password.id, action, asked, |_, _| Ok(change))?;
                admitted.volatile.word = Some(password.password);
                Ok(admitted)
            }
            Command::ImageImport(import) => registry.import(import, asked.now),
            Command::ImageRemove(name) => registry.remove_image(name),
            Command::NetworkEnsure(ensure) => registry.ensure_network(ensure, asked.now),
            Command::NetworkRemove(name) => registry.remove_network(name),
        }
    }

    fn patience(&self, timeout: Option<u32>) -> u32 {
        timeout.unwrap_or(self.settings().shutdown_timeout.as_millis() as u32)
    }

    fn facts<'a>(settings: &'a Settings, registry: &'a Registry, asked: Asked) -> Facts<'a> {
        Facts {
            capacity: asked.capacity,
            claims: registry.claims(),
            policy: &settings.admission,
            flavors: &settings.flavors,
            images: &registry.images,
            networks: &registry.networks,
            instances: &registry.instances,
            now: asked.now,
        }
    }

    /// An action on an instance that exists; `change` says what it comes down to.
    pub(super) fn act(
        &self,
        registry: &mut Registry,
        instance: InstanceId,
        action: Action,
        asked: Asked,
        change: impl FnOnce(&InstanceRecord, &Registry) -> Result<Change, Fault>,
    ) -> Result<Admitted, Fault> {
        let subject = Subject::Instance(instance);
        let about = |fault: Fault| match fault.data.subject {
            None => fault.about(subject.to_string()),
            Some(_) => fault,
        };
        let record = registry.instances.get(&instance).cloned().ok_or_else(|| {
            about(Fault::new(Reason::NotFound, format!("there is no instance {instance}")))
                .next("see ostler instance list")
        })?;
        lifecycle::is_unlocked(action, record.locked.as_deref())
            .and_then(|()| {
                let InstanceRecord { vm_state, task_state, updated, .. } = record;
                lifecycle::may(action, vm_state, task_state, updated, asked.now)
            })
            .and_then(|()| lifecycle::is_built(action, record.built))
            .map_err(about)?;
        self.need_hypervisor().map_err(about)?;
        let waiting = registry.queues.get(&subject).map_or(0, |queue| queue.len());
        if waiting >= self.settings().limits.queue {
            let text = format!("busy: {waiting} operations wait on the instance");
            return Err(about(Fault::new(Reason::Busy, text)).next("ask again later"));
        }
        let power = registry.observed(instance).power;
        let change = change(&record, registry).map_err(about)?;
        if power == PowerState::Unknown && gives_back_power(&change) {
            let text = "it is not known yet whether the instance runs";
            return Err(about(Fault::new(Reason::HypervisorUnavailable, text))
                .next("ask again in a moment: the hypervisor is being asked"));
        }
        let beside = Bytes(admission::beside(&change, &record));
        if beside > Bytes(0) {
            admission::room(&only_disk(beside), &Self::facts(&self.settings(), registry, asked))
                .map_err(about)?;
        }
        let to_do = !lifecycle::is_so(&change, record.vm_state, power);
        let write = registry.update(instance, |instance| {
            instance.task_state = Some(action.task());
            instance.operation = Some(asked.by);
        });
        Ok(Admitted {
            subject,
            change,
            was: running(power),
            to_do,
            volatile: Volatile::default(),
            undo: Reservation::Instance(Box::new(record)),
            write: Write { instance: write, ..Write::default() },
        })
    }

    fn delete(
        &self,
        registry: &mut Registry,
        delete: &Delete,
        asked: Asked,
    ) -> Result<Admitted, Fault> {
        let Delete { id, mode, ignore_error } = *delete;
        let timeout = self.patience(None);
        // What is left of a boot that failed, or of a delete, has nothing to restore.
        let admitted = self.act(registry, id, Action::Delete(mode), asked, |record, _| {
            lifecycle::is_known_error(record.vm_state, ignore_error)?;
            Ok(match mode {
                DeleteMode::Soft if record.vm_state == VmState::Deleted || !record.built => {
                    Change::Delete
                }
                DeleteMode::Soft => Change::SoftDelete { timeout },
                DeleteMode::Hard => Change::Delete,
            })
        })?;
        if mode == DeleteMode::Hard {
            registry.cancel_pointless(&admitted.subject);
        }
        Ok(admitted)
    }

    /// An action that makes an image of the instance's disk.
    fn make_image(
        &self,
        registry: &mut Registry,
        id: InstanceId,
        action: Action,
        asked: Asked,
        image: Name,
        change: Change,
    ) -> Result<Admitted, Fault> {
        let mut made = None;
        let mut admitted = self.act(registry, id, action, asked, |record, registry| {
            if registry.images.contains_key(&image) {
                let text = format!("conflict: there is an image {image} already");
                return Err(Fault::new(Reason::Conflict, text)
                    .about(format!("image {image}"))
                    .next("choose another name, or remove the image: ostler image remove"));
            }
            let source = registry.images.get(&record.image);
            made = Some(ImageRecord {
                name: image.clone(),
                state: ImageState::Importing,
                format: ostler_protocol::rpc::image::Format::Qcow2,
                source: format!("instance {id}"),
                sha256: None,
                size: Default::default(),
                virtual_size: record.disk,
                properties: source.map(|image| image.properties.clone()).unwrap_or_default(),
                created: asked.now,
            });
            Ok(change)
        })?;
        if let Some(record) = made {
            registry.images.insert(image.clone(), record.clone());
            admitted.write.image = Some(Entry::Put(record));
            if let Reservation::Instance(before) = admitted.undo {
                admitted.undo = Reservation::InstanceAndImage(before, image);
            }
        }
        Ok(admitted)
    }

    fn unshelve(
        &self,
        record: &InstanceRecord,
        registry: &Registry,
        asked: Asked,
    ) -> Result<Change, Fault> {
        let Some(shelved) = &record.shelved else {
            let text = "the image it was shelved as is not known";
            return Err(Fault::new(Reason::NotFound, text).next("delete the instance"));
        };
        let base = match record.vm_state {
            VmState::ShelvedOffloaded => {
                let size = record.size();
                admission::room(&size, &Self::facts(&self.settings(), registry, asked))?;
                Some(admission::source(&shelved.image, &registry.images)?.base)
            }
            VmState::Building
            | VmState::Active
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved
            | VmState::SoftDeleted
            | VmState::Error
            | VmState::Deleted => None,
        };
        Ok(Change::Unshelve { image: shelved.image.clone(), base })
    }

    pub(super) fn need_hypervisor(&self) -> Result<(), Fault> {
        match *self.node.hypervisor.link().borrow() {
            Link::Up => Ok(()),
            Link::Down => Err(Fault::new(
                Reason::HypervisorUnavailable,
                "libvirt cannot be reached: what the instances do is not known",
            )
            .next("see whether libvirtd runs: systemctl status libvirtd; the agent reconnects")),
        }
    }
}

impl Registry {
    /// End what is under way on a subject that is about to go: what can be is cancelled, and what
    /// is tried again and again is not any more.
    pub(super) fn cancel_pointless(&self, subject: &Subject) {
        for operation in self.queues.get(subject).into_iter().flatten() {
            operation.superseded.cancel();
            if can_cancel(operation.now.borrow().kind) {
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

/// Whether an image fits the disk the instance has.
fn fits_disk(record: &InstanceRecord, from: &Source) -> Result<(), Fault> {
    if from.base.virtual_size <= record.disk {
        return Ok(());
    }
    let text = format!(
        "the instance's disk of {} cannot hold image {}, which needs {}",
        record.disk, from.image, from.base.virtual_size
    );
    Err(Fault::new(Reason::InvalidParams, text)
        .about("parameter image")
        .next("resize the instance first, or choose another image"))
}

/// So much more disk, and nothing else.
const fn only_disk(disk: Bytes) -> Size {
    let none = Bytes(0);
    Size { flavor: None, vcpus: 0, memory: none, disk, max_vcpus: 0, max_memory: none }
}

/// The name of the image an instance is shelved as: nobody else has it.
fn shelf(id: InstanceId) -> Result<Name, Fault> {
    format!("shelved-{id}").parse().map_err(|error| Fault::of(Reason::Internal, &error))
}

/// Whether the instance shall run after the change exactly if it ran before.
const fn gives_back_power(change: &Change) -> bool {
    matches!(
        change,
        Change::Rebuild { .. }
            | Change::Rescue { .. }
            | Change::Unrescue
            | Change::Resize { .. }
            | Change::RevertResize { .. }
            | Change::ConfirmResize
            | Change::Shelve { .. }
    )
}

/// The state a soft-deleted instance had, as far as it can be had again.
const fn restored(record: &InstanceRecord) -> VmState {
    match record.deleted_from {
        Some(VmState::Active | VmState::Paused) => VmState::Active,
        Some(VmState::Building | VmState::SoftDeleted | VmState::Deleted) | None => {
            VmState::Stopped
        }
        Some(state) => state,
    }
}

fn is_root(record: &InstanceRecord, named: &str) -> Result<(), Fault> {
    let target = DiskTarget(0).to_string();
    let serial = root_serial(record.id);
    if named == target || named == serial {
        return Ok(());
    }
    let text = format!("{named:?} is not the root device of the instance");
    Err(Fault::new(Reason::InvalidParams, text)
        .about("parameter root_device")
        .next(format!("its root device is {target}, with the serial {serial}")))
}

/// An update that names all there shall be.
fn updated(update: Update, record: &InstanceRecord) -> Result<Change, Fault> {
    let Update { id: _, name, owner, metadata: changes } = update;
    let owner = match owner {
        None => record.owner.clone(),
        Some(owner) if owner.is_empty() => None,
        Some(owner) => Some(owner),
    };
    let mut metadata: BTreeMap<String, String> = record.metadata.clone();
    for (key, value) in changes {
        match value {
            Some(value) => metadata.insert(key, value),
            None => metadata.remove(&key),
        };
    }
    admission::notes(owner.as_deref(), &metadata)?;
    Ok(Change::Update { name: name.unwrap_or_else(|| record.name.clone()), owner, metadata })
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
