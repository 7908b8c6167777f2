//! Start: switch an instance on.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("started", TaskState::PoweringOn, &[VmState::Active, VmState::Stopped]);

/// Switch it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Start {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Start {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Start {}.into()]
}

impl Describe for Start {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&START)
    }

    fn permit(&self) -> Permit {
        Permit::Boot
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Active, PowerState::Running)
    }

    fn done(&self, before: &InstanceRecord, _: Running) -> VmState {
        running_again(before)
    }
}
