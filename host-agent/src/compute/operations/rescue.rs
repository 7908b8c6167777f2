//! Rescue: boot an instance from a rescue image, its own disk beside it.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, TaskState, VmState};
use serde::{Deserialize, Serialize};

use super::{CANCELLABLE, Change, Describe, Legal, START, Traits, rebuild, sample};
use crate::compute::admission::{self, only_disk};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running, Source};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("rescued", TaskState::Rescuing, rebuild::LEGAL.from);
pub(super) const TRAITS: Traits = CANCELLABLE;

/// Boot it from a rescue image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Rescue {
    /// What it boots from.
    pub(in crate::compute) from: Source,
}

pub(super) fn ask(rescue: instance::Rescue, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(rescue.id, &LEGAL, |record, gate| {
        let from = match rescue.image {
            Some(image) => admission::source(&image, &gate.registry.images)?,
            None => record.source(),
        };
        admission::room(&only_disk(from.base.virtual_size), &gate.facts())?;
        Ok(Rescue { from }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Rescue { from: sample::source("rescue") }.into()]
}

impl Describe for Rescue {
    fn plan(&self, _: Running) -> Vec<Step> {
        [&[Step::PowerOff, Step::CreateRescueDisk][..], &START].concat()
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.rescue = Some(self.from.clone());
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Rescued
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
