//! Suspend: save the memory of a guest, and switch it off.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{PowerState, TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{CANCELLABLE, Change, Describe, Legal, Traits};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("suspended", TaskState::Suspending, &[VmState::Active, VmState::Suspended]);
pub(super) const TRAITS: Traits = CANCELLABLE;

/// Save its memory and switch it off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Suspend {}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |_, _| Ok(Suspend {}.into()))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Suspend {}.into()]
}

impl Describe for Suspend {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::SaveMemory]
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        (vm, power) == (VmState::Suspended, PowerState::Shutdown)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Suspended
    }
}
