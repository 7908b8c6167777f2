//! Boot: make an instance from an image, and start it. What it had made goes when it fails; the
//! record stays, in ERROR, to tell why.

use super::prelude::*;
use crate::compute::admission::{Reservation, size};
use crate::journal::Write;

/// Make the instance and start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Boot {}

pub(super) fn ask(boot: instance::Boot, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.need_hypervisor()?;
    let record = size::admit(&boot, gate)?;
    gate.known.instances.insert(record.id, record.clone());
    Ok(Admitted {
        reserved: Reservation { new_instance: Some(record.id), ..Reservation::default() },
        write: Write { instance: Some(record.clone()), ..Write::default() },
        ..Admitted::of(Subject::Instance(record.id), Boot {})
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Boot {}.into()]
}

impl Describe for Boot {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::CreateRootDisk]).then(&START)
    }

    fn permit(&self) -> Permit {
        Permit::Boot
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
