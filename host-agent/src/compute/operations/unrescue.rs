//! Unrescue: boot an instance from its own disk again, and drop the rescue disk.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{CANCELLABLE, Change, Describe, Legal, START, Traits};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("unrescued", TaskState::Unrescuing, &[VmState::Rescued]);
pub(super) const TRAITS: Traits = CANCELLABLE;

/// Boot it from its own disk again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unrescue {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Unrescue {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Unrescue {}.into()]
}

impl Describe for Unrescue {
    fn plan(&self, _: Running) -> Vec<Step> {
        [&[Step::PowerOff][..], &START, &[Step::DropRescueDisk, Step::DropBase]].concat()
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
