//! Suspend: save the memory of a guest, and switch it off.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("suspended", TaskState::Suspending, &[VmState::Active, VmState::Suspended]);

/// Save its memory and switch it off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Suspend {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Suspend {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Suspend {}.into()]
}

impl Describe for Suspend {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::SaveMemory])
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Suspended, PowerState::Shutdown)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Suspended
    }
}
