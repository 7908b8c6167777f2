//! Rebuild: give an instance a new root disk from an image; its identity and its ports stay.

use ostler_protocol::rpc::hardware::Hardware;

use super::prelude::*;
use super::sample;
use crate::compute::admission::{hardware, size};
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
}

pub(super) fn ask(
    rebuild: instance::Rebuild,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    gate.act(rebuild.id, &LEGAL, |record, gate| {
        let from = size::source(&rebuild.image, &gate.known.images)?;
        fits_disk(record, &from)?;
        let image = &gate.known.images[&from.image];
        size::least(image, record.memory, record.disk)?;
        let mut hardware = hardware::admit(&image.properties, &record.options, gate)?;
        // A TPM stays with its instance: libvirt removes its state only with a domain that has one.
        hardware.tpm = hardware.tpm.or(record.hardware.tpm);
        Ok(Rebuild { from, hardware: Some(hardware), config_drive: record.config_drive.is_some() }
            .into())
    })
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

pub(super) fn samples() -> Vec<Change> {
    [false, true]
        .map(|config_drive| {
            let from = sample::source("other");
            Rebuild { from, hardware: Some(Hardware::default()), config_drive }.into()
        })
        .into()
}

impl Describe for Rebuild {
    fn plan(&self, was: Running) -> Plan {
        Plan::of(&[Step::PowerOff, Step::SetRootAside, Step::CreateRootDisk])
            .then(config_drive(self.config_drive))
            .then(&[Step::EnsureBridges, Step::DefineDomain])
            .then_if(was, &[Step::StartDomain])
            .then(&[Step::DropAside, Step::DropBase])
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn beside(&self, record: &InstanceRecord) -> Bytes {
        record.disk
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.image = self.from.image.clone();
        record.base = self.from.base.clone();
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
