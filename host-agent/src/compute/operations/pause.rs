//! Pause: stop the vCPUs of a guest, and keep its memory.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("paused", TaskState::Pausing, &[VmState::Active, VmState::Paused]);

/// Stop its vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Pause {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Pause {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Pause {}.into()]
}

impl Describe for Pause {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::Pause])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Paused, PowerState::Paused)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Paused
    }
}
