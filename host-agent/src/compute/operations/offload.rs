//! Offload: leave only the image of a shelved instance.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Legal, REMOVE, Traits};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("offloaded", TaskState::Offloading, &[VmState::Shelved]);
pub(super) const TRAITS: Traits = BRIEF;

/// Leave only the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Offload {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Offload {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Offload {}.into()]
}

impl Describe for Offload {
    fn plan(&self, _: Running) -> Vec<Step> {
        REMOVE.to_vec()
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::ShelvedOffloaded
    }
}
