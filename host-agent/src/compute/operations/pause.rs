//! Pause: stop the vCPUs of a guest, and keep its memory.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{PowerState, TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Legal, Traits};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("paused", TaskState::Pausing, &[VmState::Active, VmState::Paused]);
pub(super) const TRAITS: Traits = BRIEF;

/// Stop its vCPUs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Pause {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Pause {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Pause {}.into()]
}

impl Describe for Pause {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::Pause]
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Paused, PowerState::Paused)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Paused
    }
}
