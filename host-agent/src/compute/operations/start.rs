//! Start: switch an instance on.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{PowerState, TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{Change, Describe, Legal, Permit, START, Traits, running_again};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("started", TaskState::PoweringOn, &[VmState::Active, VmState::Stopped]);
pub(super) const TRAITS: Traits = Traits { permit: Permit::Boot, can_cancel: true };

/// Switch it on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Start {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Start {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Start {}.into()]
}

impl Describe for Start {
    fn plan(&self, _: Running) -> Vec<Step> {
        START.to_vec()
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Active, PowerState::Running)
    }

    fn done(&self, before: &InstanceRecord, _: Running) -> VmState {
        running_again(before)
    }
}
