//! Unlock: allow changes of an instance again.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal = Legal {
    heeds_lock: false,
    ..Legal::new("unlocked", TaskState::Updating, super::update::STANDING)
};

/// Allow changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unlock {}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |_, _| Ok(Unlock {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Unlock {}.into()]
}

impl Describe for Unlock {
    fn plan(&self, _: Running) -> Plan {
        Plan::default()
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.locked = None;
    }
}
