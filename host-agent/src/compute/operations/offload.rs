//! Offload: leave only the image of a shelved instance.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("offloaded", TaskState::Offloading, &[VmState::Shelved]);

/// Leave only the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Offload {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Offload {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Offload {}.into()]
}

impl Describe for Offload {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&REMOVE)
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::ShelvedOffloaded
    }
}
