//! Adjust: change the vCPUs and the memory of an instance in place, within its maximum.

use super::prelude::*;
use super::resize;
use crate::compute::admission::size;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("adjusted", TaskState::Adjusting, resize::LEGAL.from);

/// Change vCPUs and memory in place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Adjust {
    /// vCPUs.
    pub(in crate::compute) vcpus: Option<u32>,
    /// Memory.
    pub(in crate::compute) memory: Option<Bytes>,
}

pub(super) fn ask(adjust: instance::Adjust, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(adjust.id, &LEGAL, |record, gate| {
        size::adjust(&adjust, record, gate)?;
        let vcpus = adjust.vcpus.filter(|vcpus| *vcpus != record.vcpus);
        let memory = adjust.memory.filter(|memory| *memory != record.memory);
        Ok(Adjust { vcpus, memory }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Adjust { vcpus: Some(2), memory: Some(Bytes::mib(128)) }.into()]
}

impl Describe for Adjust {
    fn plan(&self, _: Running) -> Plan {
        let vcpus = self.vcpus.map(|_| Step::AdjustVcpus);
        let memory = self.memory.map(|_| Step::AdjustMemory);
        Plan::default().then(vcpus.as_slice()).then(memory.as_slice())
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.vcpus = self.vcpus.unwrap_or(record.vcpus);
        record.memory = self.memory.unwrap_or(record.memory);
    }
}
