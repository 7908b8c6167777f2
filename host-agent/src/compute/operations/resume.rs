//! Resume: switch an instance on with the memory that was saved; then its clock is set.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("resumed", TaskState::Resuming, &[VmState::Active, VmState::Suspended]);

/// Switch it on with the memory that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Resume {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Resume {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Resume {}.into()]
}

impl Describe for Resume {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::EnsureBridges, Step::RestoreMemory, Step::SyncClock])
    }

    fn permit(&self) -> Permit {
        Permit::Boot
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Active, PowerState::Running)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }
}
