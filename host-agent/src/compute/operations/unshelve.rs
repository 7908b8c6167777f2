//! Unshelve: bring a shelved instance back, and drop the image it was kept as.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{TaskState, VmState};
use ostler_protocol::rpc::values::{InstanceId, Name};
use serde::{Deserialize, Serialize};

use super::{Change, Describe, Legal, Permit, START, Traits, sample};
use crate::compute::admission;
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{Base, InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("unshelved", TaskState::Unshelving, &[VmState::Shelved, VmState::ShelvedOffloaded]);
pub(super) const TRAITS: Traits = Traits { permit: Permit::Boot, can_cancel: true };

/// Bring it back from its image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unshelve {
    /// The image.
    pub(in crate::compute) image: Name,
    /// The bytes of the image, where only that is left.
    pub(in crate::compute) base: Option<Base>,
}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |record, gate| {
        let Some(shelved) = &record.shelved else {
            let text = "the image it was shelved as is not known";
            return Err(Fault::new(Reason::NotFound, text).next("delete the instance"));
        };
        let image = shelved.image.clone();
        if record.vm_state != VmState::ShelvedOffloaded {
            return Ok(Unshelve { image, base: None }.into());
        }
        admission::room(&record.size(), &gate.facts())?;
        let base = Some(admission::source(&image, &gate.registry.images)?.base);
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
    fn plan(&self, _: Running) -> Vec<Step> {
        let disk: &[Step] = match self.base {
            Some(_) => &[Step::CreateRootDisk],
            None => &[],
        };
        [disk, &START, &[Step::DropShelvedImage, Step::DropBase]].concat()
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
