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
}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |record, gate| {
        let Some(shelved) = &record.shelved else {
            let text = "the image it was shelved as is not known";
            return Err(Refusal::new(Reason::NotFound, text).next("delete the instance"));
        };
        let image = shelved.image.clone();
        if record.vm_state != VmState::ShelvedOffloaded {
            return Ok(Unshelve { image, base: None }.into());
        }
        gate.room(&record.size())?;
        let base = Some(size::source(&image, &gate.known.images)?.base);
        Ok(Unshelve { image, base }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    let image = sample::name("shelf");
    [None, Some(sample::source("shelf").base)]
        .map(|base| Unshelve { image: image.clone(), base }.into())
        .into()
}

impl Describe for Unshelve {
    fn plan(&self, _: Running) -> Plan {
        let disk: &[Step] = match self.base {
            Some(_) => &[Step::CreateRootDisk],
            None => &[],
        };
        Plan::of(disk)
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
