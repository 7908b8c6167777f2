//! Restore: take back a soft delete, and start the instance if it ran.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("restored", TaskState::Restoring, &[VmState::SoftDeleted]);

/// Take back a soft delete.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Restore {
    /// The state it had, and shall have.
    pub(in crate::compute) to: VmState,
}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |record, _| Ok(Restore { to: before(record) }.into()))
}

/// The state a soft-deleted instance had, as far as it can be had again.
const fn before(record: &InstanceRecord) -> VmState {
    match record.deleted_from {
        Some(VmState::Active | VmState::Paused) => VmState::Active,
        Some(VmState::Building | VmState::SoftDeleted | VmState::Deleted) | None => {
            VmState::Stopped
        }
        Some(state) => state,
    }
}

pub(super) fn samples() -> Vec<Change> {
    vec![Restore { to: VmState::Active }.into()]
}

impl Describe for Restore {
    fn plan(&self, was: Running) -> Plan {
        match self.to {
            VmState::Active | VmState::Rescued => Plan::of(&START),
            VmState::Resized => Plan::default().then_if(was, &START),
            VmState::Building
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Shelved
            | VmState::ShelvedOffloaded
            | VmState::SoftDeleted
            | VmState::Error
            | VmState::Deleted => Plan::default(),
        }
    }

    fn permit(&self) -> Permit {
        Permit::Boot
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.deleted_from = None;
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        self.to
    }
}
