//! Unshelve: bring a shelved instance back, and drop the image it was kept as.

use super::prelude::*;
use super::sample;
use crate::compute::admission::image;
use crate::journal::records::Base;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("unshelved", TaskState::Unshelving, &[VmState::Shelved, VmState::ShelvedOffloaded]);

/// Bring it back from its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unshelve {
    /// The image; none if it boots from a volume.
    pub(in crate::compute) image: Option<Name>,
    /// The bytes of the image, where only that is left.
    pub(in crate::compute) base: Option<Base>,
    /// Whether it has a config drive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) config_drive: bool,
}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |record, gate| {
        let config_drive = record.config_drive.is_some();
        if record.root_volume().is_some() {
            gate.room(&record.size())?;
            return Ok(Unshelve { image: None, base: None, config_drive }.into());
        }
        let Some(shelved) = &record.shelved else {
            let text = "the image it was shelved as is not known";
            return Err(Refusal::new(Reason::NotFound, text).next("delete the instance"));
        };
        let image = shelved.image.clone();
        if record.vm_state != VmState::ShelvedOffloaded {
            return Ok(Unshelve { image: Some(image), base: None, config_drive }.into());
        }
        gate.room(&record.size())?;
        let base = Some(image::source(&image, &gate.known.images)?.base);
        Ok(Unshelve { image: Some(image), base, config_drive }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    let image = Some(sample::name("shelf"));
    let bases = [(image.clone(), None), (image, Some(sample::source("shelf").base)), (None, None)];
    let of = |(image, base): (Option<Name>, Option<Base>)| {
        [false, true].map(|config_drive| {
            Unshelve { image: image.clone(), base: base.clone(), config_drive }.into()
        })
    };
    bases.into_iter().flat_map(of).collect()
}

impl Describe for Unshelve {
    fn plan(&self, _: Running) -> Plan {
        let disk: &[Step] = match self.is_fresh() {
            true => &[Step::CreateRootDisk],
            false => &[],
        };
        let plan = Plan::of(disk).then(config_drive(self.config_drive)).then(&START);
        match &self.image {
            None => plan,
            Some(image) => plan
                .then_about(Step::DropShelvedImage, Subject::Image(image.clone()))
                .then(&[Step::DropBase]),
        }
    }

    fn permit(&self) -> Permit {
        Permit::Boot
    }

    fn is_fresh(&self) -> bool {
        self.base.is_some() || self.image.is_none()
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.shelved = None;
        if let Some(base) = &self.base {
            record.base = Some(base.clone());
        }
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
