//! Rescue: boot an instance from a rescue image, its own disk beside it.

use super::prelude::*;
use super::{rebuild, sample};
use crate::compute::admission::image;
use crate::compute::claims::only_disk;
use crate::journal::records::Source;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("rescued", TaskState::Rescuing, rebuild::LEGAL.from);

/// Boot it from a rescue image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Rescue {
    /// What it boots from.
    pub(in crate::compute) from: Source,
}

pub(super) fn ask(rescue: instance::Rescue, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(rescue.id, &LEGAL, |record, gate| {
        let from = match (rescue.image, record.source(), &record.image) {
            (Some(image), ..) => image::source(&image, &gate.known.images)?,
            (None, Some(own), _) => own,
            (None, None, Some(image)) => image::source(image, &gate.known.images)?,
            (None, None, None) => {
                let text = "the instance boots from a volume that was made from no image";
                return Err(Refusal::new(Reason::InvalidParams, text)
                    .about("parameter image")
                    .next("name the image to boot"));
            }
        };
        gate.room(&only_disk(from.base.virtual_size))?;
        Ok(Rescue { from }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Rescue { from: sample::source("rescue") }.into()]
}

impl Describe for Rescue {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::PowerOff, Step::CreateRescueDisk]).then(&START)
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.rescue = Some(self.from.clone());
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Rescued
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
