//! Shelve: switch an instance off and keep it as an image; offloaded, as nothing else.

use super::prelude::*;
use super::{sample, snapshot};
use crate::journal::records::Shelved;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("shelved", TaskState::Shelving, snapshot::LEGAL.from);

/// Switch it off and keep it as an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Shelve {
    /// What to call the image.
    pub(in crate::compute) image: Name,
    /// Whether only the image is left.
    pub(in crate::compute) offload: bool,
    /// How long the guest may take to shut down, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(shelve: instance::Shelve, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let instance::Shelve { id, offload, timeout } = shelve;
    let (image, timeout) = (shelf(id)?, gate.patience(timeout));
    gate.make_image(id, &LEGAL, image.clone(), Shelve { image, offload, timeout })
}

/// The name of the image an instance is shelved as: nobody else has it.
fn shelf(id: InstanceId) -> Result<Name, Refusal> {
    format!("shelved-{id}").parse().map_err(|error| Refusal::of(Reason::Internal, &error))
}

pub(super) fn samples() -> Vec<Change> {
    let image = sample::name("shelf");
    [false, true]
        .map(|offload| Shelve { image: image.clone(), offload, timeout: 1000 }.into())
        .into()
}

impl Describe for Shelve {
    fn plan(&self, was: Running) -> Plan {
        let offload: &[Step] = if self.offload { &REMOVE } else { &[] };
        Plan::default()
            .then_if(was, &SHUT_DOWN)
            .then(&[Step::CopyDisk])
            .then_about(Step::StoreImage, Subject::Image(self.image.clone()))
            .then(&[Step::DiscardMemory])
            .then(offload)
    }

    fn permit(&self) -> Permit {
        Permit::Copy
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn beside(&self, record: &InstanceRecord) -> Bytes {
        record.disk
    }

    fn makes(&self) -> Option<&Name> {
        Some(&self.image)
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.shelved = Some(Shelved { image: self.image.clone() });
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        if self.offload { VmState::ShelvedOffloaded } else { VmState::Shelved }
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
