//! Attach: give a volume to an instance, running or not.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::{Secret, VolumeId};
use ostler_protocol::rpc::volume::connection::AccessMode;
use ostler_protocol::rpc::volume::{self, Bus, Cache, Connection, Format, How, Io};

use super::prelude::*;
use super::sample;
use crate::compute::admission::connection;
use crate::compute::admission::volume::{self as rules, WITH_VOLUMES};
use crate::compute::record::{device, reserved_devices};
use crate::journal::records::{AttachmentRecord, ConnectionRecord, VolumeRecord, VolumeState};
use crate::journal::{Entry, VolumeEntry};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("given a volume", TaskState::AttachingVolume, WITH_VOLUMES);

/// How long a guest may take to let go, milliseconds, unless told.
pub(super) const PATIENCE: u32 = 60_000;

/// The last turn a volume has at the boot.
const BOOT_INDEX_MAX: u8 = 99;

/// The most volumes one instance has.
const VOLUMES_MAX: usize = 64;

/// Give it the volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct AttachVolume {
    /// Which, and how.
    pub(in crate::compute) attachment: AttachmentRecord,
}

pub(super) fn ask(asked: volume::Attach, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let volume::Attach { id, volume, how, connection, passphrase } = asked;
    rules::passphrase(passphrase.as_ref())?;
    if let Some(connection) = connection {
        return from_elsewhere(id, (volume, connection, passphrase), how, gate);
    }
    if passphrase.is_some() {
        let text = "the node has the passphrase of a volume of its own";
        return Err(Refusal::new(Reason::InvalidParams, text)
            .about("parameter passphrase")
            .next("leave it out"));
    }
    let record = gate.whole_volume(volume)?;
    gate.act(id, &LEGAL, |instance, gate| {
        can_have(&record, &how, instance, gate)?;
        Ok(AttachVolume { attachment: attachment(instance, volume, how)? }.into())
    })
}

/// A volume that is kept elsewhere: it is known here as long as an instance has it; several do, if
/// its control plane says that they may, or if they only read.
fn from_elsewhere(
    id: InstanceId,
    (volume, connection, passphrase): (VolumeId, Connection, Option<Secret>),
    mut how: How,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    if how.delete_on_termination {
        let text = "a volume that is kept elsewhere cannot be deleted with the instance";
        return Err(Refusal::new(Reason::InvalidParams, text)
            .about("parameter how.delete_on_termination")
            .next("leave it out, and have its control plane delete it"));
    }
    how.read_only |= connection.terms().access_mode == Some(AccessMode::Ro);
    let sockets = gate.settings.run_dir.join("nbd");
    let multiattach = connection.terms().multiattach == Some(true);
    if multiattach && (passphrase.is_some() || how.cache == Some(Cache::Writeback)) {
        let text = "a volume for several instances can be neither encrypted nor cached";
        return Err(Refusal::new(Reason::InvalidParams, text)
            .about("parameter connection")
            .next("leave out the cache; or have its control plane say multiattach: false"));
    }
    let (connection, secret) = connection::admit(connection, &sockets, passphrase.is_some())?;
    let format = passphrase.as_ref().map(|_| Format::Luks);
    let record = VolumeRecord { format, multiattach, ..record(volume, connection, gate) };
    if gate.known.volumes.contains_key(&volume) {
        let there = gate.idle_volume(volume)?;
        is_same(&there, &record)?;
        let mut admitted = gate.act(id, &LEGAL, |instance, gate| {
            can_have(&there, &how, instance, gate)?;
            Ok(AttachVolume { attachment: attachment(instance, volume, how)? }.into())
        })?;
        (admitted.volatile.secret, admitted.volatile.passphrase) = (secret, passphrase);
        return Ok(admitted);
    }
    let mut admitted = gate.act(id, &LEGAL, |instance, gate| {
        can_have(&record, &how, instance, gate)?;
        Ok(AttachVolume { attachment: attachment(instance, volume, how)? }.into())
    })?;
    gate.known.volumes.insert(volume, record.clone());
    admitted.reserved.new_volume = Some(volume);
    admitted.write.volumes.push(Entry::Put(record));
    (admitted.volatile.secret, admitted.volatile.passphrase) = (secret, passphrase);
    Ok(admitted)
}

fn record(id: VolumeId, connection: ConnectionRecord, gate: &Admission<'_>) -> VolumeRecord {
    VolumeRecord {
        id,
        name: Name::from(id),
        pool: None,
        connection: Some(connection),
        format: None,
        size: Bytes(0),
        state: VolumeState::Available,
        bootable: false,
        multiattach: false,
        qos: Default::default(),
        source: None,
        base: None,
        snapshots: Vec::new(),
        owner: None,
        metadata: BTreeMap::new(),
        fault: None,
        created: gate.now,
        updated: gate.now,
    }
}

/// Whether a volume that an instance has is the one that is described.
fn is_same(there: &VolumeRecord, asked: &VolumeRecord) -> Result<(), Refusal> {
    let conflict = |text: String, next: &str| {
        Err(Refusal::new(Reason::Conflict, format!("conflict: {text}"))
            .about(Subject::Volume(there.id).to_string())
            .next(next))
    };
    let Some(connection) = &there.connection else {
        let text = format!("volume {} is this node's own", there.name);
        return conflict(text, "leave out the connection, or give another id");
    };
    // What was found at a device is not in a request.
    let mut known = connection.clone();
    if let ConnectionRecord::Local { identity, .. } = &mut known {
        *identity = None;
    }
    let facts = |record: &VolumeRecord| (record.format, record.multiattach);
    let is_same = asked.connection.as_ref() == Some(&known);
    if is_same && facts(there) == facts(asked) {
        return Ok(());
    }
    let text =
        format!("an instance has volume {} by another connection ({connection})", there.name);
    conflict(text, "send the same connection; or detach the volume there first")
}

/// Whether a volume is kept elsewhere.
pub(super) fn is_elsewhere(known: &BTreeMap<VolumeId, VolumeRecord>, id: VolumeId) -> bool {
    known.get(&id).is_some_and(|volume| volume.connection.is_some())
}

/// Whether an instance can have a volume beside those who have it.
pub(super) fn can_have(
    record: &VolumeRecord,
    how: &How,
    instance: &InstanceRecord,
    gate: &Admission<'_>,
) -> Result<(), Refusal> {
    let users = gate.known.users_of(record.id);
    if users.iter().any(|(user, _)| user.id == instance.id) {
        let text = format!("conflict: the instance has volume {} already", record.name);
        return Err(Refusal::new(Reason::Conflict, text).about(format!("volume {}", record.id)));
    }
    is_known(record.id, instance)?;
    if instance.volumes.len() >= VOLUMES_MAX {
        let text = format!("conflict: an instance has at most {VOLUMES_MAX} volumes");
        return Err(Refusal::new(Reason::Conflict, text));
    }
    // Readers may be many; one who writes is alone, unless the volume is for several.
    let readers = how.read_only && users.iter().all(|(_, attachment)| attachment.read_only);
    if record.multiattach || readers {
        return Ok(());
    }
    gate.nobody_has(record, "attached to another").map_err(|fault| {
        fault.next(match record.connection {
            None => "detach it first, or make a volume for several: volume create --multiattach",
            Some(_) => "detach it first; several have it if its connection says multiattach: true",
        })
    })
}

/// Whether a guest knows another volume by this one's id.
pub(super) fn is_known(volume: VolumeId, instance: &InstanceRecord) -> Result<(), Refusal> {
    let Some(there) = instance.volumes.iter().find(|there| there.known_as() == volume) else {
        return Ok(());
    };
    let text = format!(
        "conflict: volume {} took the place of {volume}, and the guest knows it by that id",
        there.volume
    );
    Err(Refusal::new(Reason::Conflict, text)
        .about(Subject::Volume(volume).to_string())
        .next("detach that one first, or swap it for this one"))
}

/// How an instance shall have a volume.
pub(super) fn attachment(
    instance: &InstanceRecord,
    volume: VolumeId,
    how: How,
) -> Result<AttachmentRecord, Refusal> {
    let How {
        bus,
        device: asked,
        read_only,
        delete_on_termination,
        cache,
        discard,
        io,
        boot_index,
    } = how;
    if io == Some(Io::Native) && cache == Some(Cache::Writeback) {
        let text = "`native` is for what is not cached";
        return Err(Refusal::new(Reason::InvalidParams, text)
            .about("parameter how.io")
            .next("leave out the cache, or the io"));
    }
    if let Some(index) = boot_index {
        turn(instance, index)?;
    }
    let bus = bus.unwrap_or(match asked.as_deref() {
        Some(device) if device.starts_with("sd") => Bus::Scsi,
        Some(_) | None => Bus::Virtio,
    });
    let taken = reserved_devices(instance);
    let invalid =
        |text: String| Refusal::new(Reason::InvalidParams, text).about("parameter device");
    let device = match asked {
        None => (0..)
            .map(|n| device(bus, n))
            .find(|device| !taken.contains(device))
            .ok_or_else(|| invalid("there is no device left".to_owned()))?,
        Some(asked) if !(0..702).any(|n| device(bus, n) == asked) => {
            let first = device(bus, 1);
            return Err(invalid(format!(
                "{asked:?} is not a device of this bus: devices are called as in {first}"
            )));
        }
        Some(asked) if taken.contains(&asked) => {
            return Err(Refusal::new(Reason::Conflict, format!("conflict: {asked} is taken"))
                .about("parameter device")
                .next("choose another, or leave it out"));
        }
        Some(asked) => asked,
    };
    Ok(AttachmentRecord {
        volume,
        device,
        bus,
        read_only,
        root: false,
        delete_on_termination,
        cache,
        discard,
        io,
        boot_index,
        known_as: None,
    })
}

/// Whether the turn of a disk at the boot is one, and nobody else's.
fn turn(instance: &InstanceRecord, index: u8) -> Result<(), Refusal> {
    let wrong = |reason, text| Err(Refusal::new(reason, text).about("parameter how.boot_index"));
    if !(1..=BOOT_INDEX_MAX).contains(&index) {
        let text = format!("a boot index is 1 to {BOOT_INDEX_MAX}: 0 is the root disk");
        return wrong(Reason::InvalidParams, text);
    }
    match instance.volumes.iter().find(|there| there.boot_index == Some(index)) {
        None => Ok(()),
        Some(there) => {
            wrong(Reason::Conflict, format!("conflict: volume {} has {index}", there.volume))
        }
    }
}

pub(super) fn samples() -> Vec<Change> {
    vec![AttachVolume { attachment: sample::attachment() }.into()]
}

impl Describe for AttachVolume {
    fn plan(&self, was: Running) -> Plan {
        let volume = || Subject::Volume(self.attachment.volume);
        let plan = Plan::default().then_about(Step::ConnectVolume, volume());
        let plan = match was {
            Running::Yes => plan.then_about(Step::PlugVolume, volume()),
            Running::No => plan,
        };
        plan.then(&[Step::DefineDomain])
    }

    // To let go of it again, should it be undone.
    fn patience(&self) -> Option<u32> {
        Some(PATIENCE)
    }

    fn volumes(&self) -> Vec<VolumeId> {
        vec![self.attachment.volume]
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        _: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        let attached = match outcome {
            State::Queued | State::Running | State::Succeeded | State::Failed => true,
            State::Undone | State::Cancelled => false,
        };
        match !attached && is_elsewhere(known, self.attachment.volume) {
            true => vec![Entry::Gone(self.attachment.volume)],
            false => Vec::new(),
        }
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        if record.volumes.iter().all(|there| there.volume != self.attachment.volume) {
            record.volumes.push(self.attachment.clone());
        }
    }

    // A guest that keeps the disk has the volume: nobody else gets it before it is detached.
    fn not_done(&self, record: &mut InstanceRecord, whole: bool) {
        if !whole {
            self.apply(record, Running::No);
        }
    }
}
