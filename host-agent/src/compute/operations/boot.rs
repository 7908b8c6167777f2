//! Boot: make an instance from an image, and start it. What it had made goes when it fails; the
//! record stays, in ERROR, to tell why.

use super::prelude::*;
use crate::compute::admission::{Reservation, size};
use crate::journal::Write;

/// Make the instance and start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Boot {
    /// Whether it has a config drive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) config_drive: bool,
}

pub(super) fn ask(boot: instance::Boot, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.need_hypervisor()?;
    let record = size::admit(&boot, gate)?;
    let change = Boot { config_drive: record.config_drive.is_some() };
    gate.known.instances.insert(record.id, record.clone());
    Ok(Admitted {
        reserved: Reservation { new_instance: Some(record.id), ..Reservation::default() },
        write: Write { instance: Some(record.clone()), ..Write::default() },
        ..Admitted::of(Subject::Instance(record.id), change)
    })
}

pub(super) fn samples() -> Vec<Change> {
    [false, true].map(|config_drive| Boot { config_drive }.into()).into()
}

impl Describe for Boot {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::CreateRootDisk]).then(config_drive(self.config_drive)).then(&START)
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
