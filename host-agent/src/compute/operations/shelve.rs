//! Shelve: switch an instance off and keep it as an image; offloaded, as nothing else.

use super::prelude::*;
use super::{sample, snapshot};
use crate::journal::records::Shelved;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("shelved", TaskState::Shelving, snapshot::LEGAL.from);

/// Switch it off and keep it as an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Shelve {
    /// What to call the image; none if it boots from a volume, which is all that is left then.
    pub(in crate::compute) image: Option<Name>,
    /// Whether only the image is left.
    pub(in crate::compute) offload: bool,
    /// How long the guest may take to shut down, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(shelve: instance::Shelve, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let instance::Shelve { id, offload, timeout } = shelve;
    let (image, timeout) = (shelf(id)?, gate.patience(timeout));
    if gate.known.instances.get(&id).is_some_and(|record| record.root_volume().is_some()) {
        let change = Shelve { image: None, offload: true, timeout };
        return gate.act(id, &LEGAL, |_, _| Ok(change.into()));
    }
    snapshot::writes(id, gate)?;
    gate.make_image(id, &LEGAL, image.clone(), Shelve { image: Some(image), offload, timeout })
}

/// The name of the image an instance is shelved as: nobody else has it.
fn shelf(id: InstanceId) -> Result<Name, Refusal> {
    format!("shelved-{id}").parse().map_err(|error| Refusal::of(Reason::Internal, &error))
}

pub(super) fn samples() -> Vec<Change> {
    let image = Some(sample::name("shelf"));
    [(image.clone(), false), (image, true), (None, true)]
        .map(|(image, offload)| Shelve { image, offload, timeout: 1000 }.into())
        .into()
}

impl Describe for Shelve {
    fn plan(&self, was: Running) -> Plan {
        let offload: &[Step] = if self.offload { &REMOVE } else { &[] };
        let plan = Plan::default().then_if(was, &SHUT_DOWN);
        let plan = match &self.image {
            None => plan,
            Some(image) => plan
                .then(&[Step::CopyDisk])
                .then_about(Step::StoreImage, Subject::Image(image.clone())),
        };
        plan.then(&[Step::DiscardMemory]).then(offload)
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

    // Nothing, where the root disk is a volume: it has no size of its own.
    fn beside(&self, record: &InstanceRecord) -> Bytes {
        record.disk
    }

    fn makes(&self) -> Option<&Name> {
        self.image.as_ref()
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.shelved = self.image.clone().map(|image| Shelved { image });
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        if self.offload { VmState::ShelvedOffloaded } else { VmState::Shelved }
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
