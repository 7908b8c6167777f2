//! Rebuild: give an instance a new root disk from an image; its identity and its ports stay.

use ostler_protocol::rpc::hardware::Hardware;

use super::prelude::*;
use super::sample;
use crate::compute::admission::{hardware, image, size};
use crate::compute::record::own_devices;
use crate::journal::records::Source;

pub(in crate::compute) const LEGAL: Legal = Legal::new(
    "rebuilt",
    TaskState::Rebuilding,
    &[VmState::Active, VmState::Stopped, VmState::Error],
);

/// Give it a new root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Rebuild {
    /// What the disk is made from.
    pub(in crate::compute) from: Source,
    /// What the instance is made with from now on; as before if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::compute) hardware: Option<Hardware>,
    /// Whether it has a config drive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) config_drive: bool,
    /// Whether it boots from a volume, which stays as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) on_volume: bool,
}

pub(super) fn ask(
    rebuild: instance::Rebuild,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    gate.act(rebuild.id, &LEGAL, |record, gate| {
        let from = image::source(&rebuild.image, &gate.known.images)?;
        let on_volume = record.root_volume().is_some();
        let image = &gate.known.images[&from.image];
        match on_volume {
            true => keeps_image(record, &from)?,
            false => fits_disk(record, &from)?,
        }
        let disk = Some(record.disk).filter(|_| !on_volume);
        size::least(from.image.as_str(), &image.properties, record.memory, disk)?;
        let mut hardware = hardware::admit(&image.properties, &record.options, gate)?;
        // A TPM stays with its instance: libvirt removes its state only with a domain that has one.
        hardware.tpm = hardware.tpm.or(record.hardware.tpm);
        match on_volume {
            true => hardware.disk_bus = record.hardware.disk_bus,
            false => leaves_volumes(record, &from, &hardware)?,
        }
        let config_drive = record.config_drive.is_some();
        Ok(Rebuild { from, hardware: Some(hardware), config_drive, on_volume }.into())
    })
}

/// Whether an instance that boots from a volume has this image already: what is on the volume is
/// not replaced.
fn keeps_image(record: &InstanceRecord, from: &Source) -> Result<(), Refusal> {
    if record.image.as_ref() == Some(&from.image) {
        return Ok(());
    }
    let text = "the instance boots from a volume, and what that holds is kept at a rebuild";
    Err(Refusal::new(Reason::InvalidParams, text)
        .about("parameter image")
        .next("name the image the volume was made from; for another, boot another instance"))
}

/// Whether an image fits the disk the instance has.
fn fits_disk(record: &InstanceRecord, from: &Source) -> Result<(), Refusal> {
    if from.base.virtual_size <= record.disk {
        return Ok(());
    }
    let text = format!(
        "the instance's disk of {} cannot hold image {}, which needs {}",
        record.disk, from.image, from.base.virtual_size
    );
    Err(Refusal::new(Reason::InvalidParams, text)
        .about("parameter image")
        .next("resize the instance first, or choose another image"))
}

/// Whether the instance's own disks, on the bus of the new hardware, are where no volume is.
fn leaves_volumes(
    record: &InstanceRecord,
    from: &Source,
    hardware: &Hardware,
) -> Result<(), Refusal> {
    let own = own_devices(Some(&from.base), hardware);
    let Some(there) = record.volumes.iter().find(|there| own.contains(&there.device)) else {
        return Ok(());
    };
    let text = format!(
        "conflict: the image wants the instance's own disks on another bus, and volume {} is {} there",
        there.volume, there.device
    );
    Err(Refusal::new(Reason::Conflict, text)
        .about("parameter image")
        .next("detach the volume first, or choose an image with the same hw_disk_bus")
        .by(Action::InstanceDetachVolume))
}

pub(super) fn samples() -> Vec<Change> {
    [(false, false), (true, false), (true, true)]
        .map(|(config_drive, on_volume)| {
            let (from, hardware) = (sample::source("other"), Some(Hardware::default()));
            Rebuild { from, hardware, config_drive, on_volume }.into()
        })
        .into()
}

impl Describe for Rebuild {
    fn plan(&self, was: Running) -> Plan {
        let (renew, end): (&[Step], &[Step]) = match self.on_volume {
            true => (&[], &[]),
            false => {
                (&[Step::SetRootAside, Step::CreateRootDisk], &[Step::DropAside, Step::DropBase])
            }
        };
        Plan::of(&[Step::PowerOff])
            .then(renew)
            .then(config_drive(self.config_drive))
            .then(&[Step::EnsureBridges, Step::DefineDomain])
            .then_if(was, &[Step::StartDomain])
            .then(end)
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn beside(&self, record: &InstanceRecord) -> Bytes {
        record.disk
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.image = Some(self.from.image.clone());
        if !self.on_volume {
            record.base = Some(self.from.base.clone());
        }
        record.direct.clone_from(&self.from.direct);
        if let Some(hardware) = &self.hardware {
            record.hardware = hardware.clone();
        }
    }

    fn done(&self, _: &InstanceRecord, was: Running) -> VmState {
        as_it_was(was)
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
