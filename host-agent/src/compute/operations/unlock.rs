//! Unlock: allow changes of an instance again.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::TaskState;
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Legal, Traits};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal = Legal {
    heeds_lock: false,
    ..Legal::new("unlocked", TaskState::Updating, super::update::STANDING)
};
pub(super) const TRAITS: Traits = BRIEF;

/// Allow changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unlock {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Unlock {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Unlock {}.into()]
}

impl Describe for Unlock {
    fn plan(&self, _: Running) -> Vec<Step> {
        Vec::new()
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.locked = None;
    }
}
