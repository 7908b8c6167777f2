//! Unshelve: bring a shelved instance back, and drop the image it was kept as.

use super::prelude::*;
use super::sample;
use crate::compute::admission::size;
use crate::journal::records::Base;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("unshelved", TaskState::Unshelving, &[VmState::Shelved, VmState::ShelvedOffloaded]);

/// Bring it back from its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unshelve {
    /// The image.
    pub(in crate::compute) image: Name,
    /// The bytes of the image, where only that is left.
    pub(in crate::compute) base: Option<Base>,
    /// Whether it has a config drive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) config_drive: bool,
}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |record, gate| {
        let Some(shelved) = &record.shelved else {
            let text = "the image it was shelved as is not known";
            return Err(Refusal::new(Reason::NotFound, text).next("delete the instance"));
        };
        let image = shelved.image.clone();
        let config_drive = record.config_drive.is_some();
        if record.vm_state != VmState::ShelvedOffloaded {
            return Ok(Unshelve { image, base: None, config_drive }.into());
        }
        gate.room(&record.size())?;
        let base = Some(size::source(&image, &gate.known.images)?.base);
        Ok(Unshelve { image, base, config_drive }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    let image = sample::name("shelf");
    let bases = [None, Some(sample::source("shelf").base)];
    let of = |base: Option<Base>| {
        [false, true].map(|config_drive| {
            Unshelve { image: image.clone(), base: base.clone(), config_drive }.into()
        })
    };
    bases.into_iter().flat_map(of).collect()
}

impl Describe for Unshelve {
    fn plan(&self, _: Running) -> Plan {
        let disk: &[Step] = match self.base {
            Some(_) => &[Step::CreateRootDisk],
            None => &[],
        };
        Plan::of(disk)
            .then(config_drive(self.config_drive))
            .then(&START)
            .then_about(Step::DropShelvedImage, Subject::Image(self.image.clone()))
            .then(&[Step::DropBase])
    }

    fn permit(&self) -> Permit {
        Permit::Boot
    }

    fn is_fresh(&self) -> bool {
        self.base.is_some()
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.shelved = None;
        if let Some(base) = &self.base {
            record.base = base.clone();
        }
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
