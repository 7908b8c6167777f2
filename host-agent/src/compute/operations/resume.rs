//! Resume: switch an instance on with the memory that was saved; then its clock is set.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{PowerState, TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{Change, Describe, Legal, Permit, Traits};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("resumed", TaskState::Resuming, &[VmState::Active, VmState::Suspended]);
pub(super) const TRAITS: Traits = Traits { permit: Permit::Boot, can_cancel: false };

/// Switch it on with the memory that was saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Resume {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Resume {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Resume {}.into()]
}

impl Describe for Resume {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::EnsureBridges, Step::RestoreMemory, Step::SyncClock]
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Active, PowerState::Running)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }
}
