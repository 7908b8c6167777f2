//! Revert a resize: go back to the old size and the old disk.

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("put back to its old size", TaskState::RevertingResize, &[VmState::Resized]);

/// Go back to the old size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct RevertResize {
    /// Whether it ran before the resize, and so shall now.
    pub(in crate::compute) start: Running,
}

pub(super) fn ask(id: InstanceId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(id, &LEGAL, |record, _| {
        let start = record.resized.as_ref().map_or(Running::No, |resized| resized.was);
        Ok(RevertResize { start }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    [Running::Yes, Running::No].map(|start| RevertResize { start }.into()).into()
}

impl Describe for RevertResize {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::PowerOff, Step::PutRootBack, Step::EnsureBridges, Step::DefineDomain])
            .then_if(self.start, &[Step::StartDomain])
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        if let Some(resized) = record.resized.take() {
            record.set_size(&resized.from);
        }
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        as_it_was(self.start)
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
