//! Unpause: let the vCPUs of a guest run again; then its clock is set.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{PowerState, TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Legal, Traits, running_again};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal = Legal::new(
    "unpaused",
    TaskState::Unpausing,
    // The last two are not nova's: what QEMU paused because its disk failed is to go on.
    &[VmState::Active, VmState::Paused, VmState::Rescued, VmState::Resized],
);
pub(super) const TRAITS: Traits = BRIEF;

/// Let its vCPUs run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Unpause {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Unpause {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Unpause {}.into()]
}

impl Describe for Unpause {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::Unpause, Step::SyncClock]
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        matches!(vm, VmState::Active | VmState::Rescued | VmState::Resized)
            && power == PowerState::Running
    }

    fn done(&self, before: &InstanceRecord, _: Running) -> VmState {
        running_again(before)
    }
}
