//! Adjust: change the vCPUs and the memory of an instance in place, within its maximum.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, TaskState};
use ostler_protocol::rpc::values::Bytes;
use serde::{Deserialize, Serialize};

use super::{CANCELLABLE, Change, Describe, Legal, Traits, resize};
use crate::compute::admission;
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("adjusted", TaskState::Adjusting, resize::LEGAL.from);
pub(super) const TRAITS: Traits = CANCELLABLE;

/// Change vCPUs and memory in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Adjust {
    /// vCPUs.
    pub(in crate::compute) vcpus: Option<u32>,
    /// Memory.
    pub(in crate::compute) memory: Option<Bytes>,
}

pub(super) fn ask(adjust: instance::Adjust, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(adjust.id, &LEGAL, |record, gate| {
        admission::adjust(&adjust, record, &gate.facts())?;
        let vcpus = adjust.vcpus.filter(|vcpus| *vcpus != record.vcpus);
        let memory = adjust.memory.filter(|memory| *memory != record.memory);
        Ok(Adjust { vcpus, memory }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Adjust { vcpus: Some(2), memory: Some(Bytes::mib(128)) }.into()]
}

impl Describe for Adjust {
    fn plan(&self, _: Running) -> Vec<Step> {
        let vcpus = self.vcpus.map(|_| Step::AdjustVcpus);
        vcpus.into_iter().chain(self.memory.map(|_| Step::AdjustMemory)).collect()
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.vcpus = self.vcpus.unwrap_or(record.vcpus);
        record.memory = self.memory.unwrap_or(record.memory);
    }
}
