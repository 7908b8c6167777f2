//! Lock: refuse changes of an instance until it is unlocked.

use super::prelude::*;
use super::update::STANDING;
use crate::compute::admission::notes;

/// The longest reason, bytes.
const REASON_MAX: usize = 255;

pub(in crate::compute) const LEGAL: Legal =
    Legal { heeds_lock: false, ..Legal::new("locked", TaskState::Updating, STANDING) };

/// Refuse changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Lock {
    /// Why.
    pub(in crate::compute) reason: String,
}

pub(super) fn ask(lock: instance::Lock, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let reason = lock.reason.unwrap_or_default();
    notes::text("reason", &reason, REASON_MAX)?;
    gate.act(lock.id, &LEGAL, |_, _| Ok(Lock { reason }.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Lock { reason: String::new() }.into()]
}

impl Describe for Lock {
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
        record.locked = Some(self.reason.clone());
    }
}
