//! Unpause: let the vCPUs of a guest run again; then its clock is set.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal = Legal::new(
    "unpaused",
    TaskState::Unpausing,
    // The last two are not nova's: what QEMU paused because its disk failed is to go on.
    &[VmState::Active, VmState::Paused, VmState::Rescued, VmState::Resized],
);

/// Let its vCPUs run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unpause {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Unpause {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Unpause {}.into()]
}

impl Describe for Unpause {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::Unpause, Step::SyncClock])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        matches!(vm, VmState::Active | VmState::Rescued | VmState::Resized)
            && power == PowerState::Running
    }

    fn done(&self, before: &InstanceRecord, _: Running) -> VmState {
        running_again(before)
    }
}
