//! Confirm a resize: keep the new size, and drop the old disk.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Legal, Traits, as_it_was};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("confirmed in its new size", TaskState::ConfirmingResize, &[VmState::Resized]);
pub(super) const TRAITS: Traits = BRIEF;

/// Keep the new size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct ConfirmResize {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(ConfirmResize {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![ConfirmResize {}.into()]
}

impl Describe for ConfirmResize {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::DropAside]
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
