//! Confirm a resize: keep the new size, and drop the old disk.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("confirmed in its new size", TaskState::ConfirmingResize, &[VmState::Resized]);

/// Keep the new size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct ConfirmResize {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(ConfirmResize {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![ConfirmResize {}.into()]
}

impl Describe for ConfirmResize {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::DropAside])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.resized = None;
    }

    fn done(&self, _: &InstanceRecord, was: Running) -> VmState {
        as_it_was(was)
    }
}
