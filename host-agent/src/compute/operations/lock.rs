//! Lock: refuse changes of an instance until it is unlocked.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, TaskState};
use serde::{Deserialize, Serialize};

use super::update::STANDING;
use super::{BRIEF, Change, Describe, Legal, Traits};
use crate::compute::admission;
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

/// The longest reason, bytes.
const REASON_MAX: usize = 255;

pub(in crate::compute) const LEGAL: Legal =
    Legal { heeds_lock: false, ..Legal::new("locked", TaskState::Updating, STANDING) };
pub(super) const TRAITS: Traits = BRIEF;

/// Refuse changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Lock {
    /// Why.
    pub(in crate::compute) reason: String,
}

pub(super) fn ask(lock: instance::Lock, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let reason = lock.reason.unwrap_or_default();
    admission::text("reason", &reason, REASON_MAX)?;
    gate.act(lock.id, &LEGAL, |_, _| Ok(Lock { reason }.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Lock { reason: String::new() }.into()]
}

impl Describe for Lock {
    fn plan(&self, _: Running) -> Vec<Step> {
        Vec::new()
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.locked = Some(self.reason.clone());
    }
}
