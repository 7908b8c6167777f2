//! Boot: make an instance from an image, and start it. What it had made goes when it fails; the
//! record stays, in ERROR, to tell why.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, VmState};
use ostler_protocol::rpc::operation::{State, Subject};
use serde::{Deserialize, Serialize};

use super::{Change, Describe, Permit, START, Traits};
use crate::compute::admission;
use crate::compute::gate::{Admitted, Gate, Reservation};
use crate::compute::registry::Volatile;
use crate::compute::steps::Step;
use crate::journal::Write;
use crate::journal::records::{InstanceRecord, Running};

pub(super) const TRAITS: Traits = Traits { permit: Permit::Boot, can_cancel: true };

/// Make the instance and start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Boot {}

pub(super) fn ask(boot: instance::Boot, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.need_hypervisor()?;
    let record = admission::admit(&boot, gate.by, &gate.facts())?;
    gate.registry.instances.insert(record.id, record.clone());
    Ok(Admitted {
        subject: Subject::Instance(record.id),
        change: Boot {}.into(),
        was: Running::No,
        to_do: true,
        volatile: Volatile::default(),
        undo: Reservation::NewInstance(record.id),
        write: Write { instance: Some(record), ..Write::default() },
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Boot {}.into()]
}

impl Describe for Boot {
    fn plan(&self, _: Running) -> Vec<Step> {
        [&[Step::CreateRootDisk][..], &START].concat()
    }

    fn is_fresh(&self) -> bool {
        true
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.built = true;
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }

    fn taken_back(&self, outcome: State, _: &InstanceRecord) -> VmState {
        if outcome == State::Cancelled { VmState::Deleted } else { VmState::Error }
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
