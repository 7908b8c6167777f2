//! Shelve: switch an instance off and keep it as an image; offloaded, as nothing else.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{self, TaskState, VmState};
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name};
use serde::{Deserialize, Serialize};

use super::{
    Change, Describe, Legal, Permit, REMOVE, SHUT_DOWN, Traits, if_running, sample, snapshot,
};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running, Shelved};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("shelved", TaskState::Shelving, snapshot::LEGAL.from);
pub(super) const TRAITS: Traits = Traits { permit: Permit::Copy, can_cancel: true };

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

pub(super) fn ask(shelve: instance::Shelve, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let instance::Shelve { id, offload, timeout } = shelve;
    let (image, timeout) = (shelf(id)?, gate.patience(timeout));
    gate.make_image(id, &LEGAL, image.clone(), Shelve { image, offload, timeout }.into())
}

/// The name of the image an instance is shelved as: nobody else has it.
fn shelf(id: InstanceId) -> Result<Name, Fault> {
    format!("shelved-{id}").parse().map_err(|error| Fault::of(Reason::Internal, &error))
}

pub(super) fn samples() -> Vec<Change> {
    let image = sample::name("shelf");
    [false, true]
        .map(|offload| Shelve { image: image.clone(), offload, timeout: 1000 }.into())
        .into()
}

impl Describe for Shelve {
    fn plan(&self, was: Running) -> Vec<Step> {
        let mut steps = if_running(was, &SHUT_DOWN);
        steps.extend([Step::CopyDisk, Step::StoreImage, Step::DiscardMemory]);
        if self.offload {
            steps.extend(REMOVE);
        }
        steps
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
