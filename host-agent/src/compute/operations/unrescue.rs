//! Unrescue: boot an instance from its own disk again, and drop the rescue disk.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("unrescued", TaskState::Unrescuing, &[VmState::Rescued]);

/// Boot it from its own disk again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unrescue {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Unrescue {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Unrescue {}.into()]
}

impl Describe for Unrescue {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::PowerOff]).then(&START).then(&[Step::DropRescueDisk, Step::DropBase])
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.rescue = None;
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
