//! Revert a resize: go back to the old size and the old disk.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{TaskState, VmState};
use ostler_protocol::rpc::values::InstanceId;
use serde::{Deserialize, Serialize};

use super::{CANCELLABLE, Change, Describe, Legal, Traits, as_it_was, if_running};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("put back to its old size", TaskState::RevertingResize, &[VmState::Resized]);
pub(super) const TRAITS: Traits = CANCELLABLE;

/// Go back to the old size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct RevertResize {
    /// Whether it ran before the resize, and so shall now.
    pub(in crate::compute) start: Running,
}

pub(super) fn ask(id: InstanceId, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    gate.act(id, &LEGAL, |record, _| {
        let start = record.resized.as_ref().map_or(Running::No, |resized| resized.was);
        Ok(RevertResize { start }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    [Running::Yes, Running::No].map(|start| RevertResize { start }.into()).to_vec()
}

impl Describe for RevertResize {
    fn plan(&self, _: Running) -> Vec<Step> {
        let mut steps =
            vec![Step::PowerOff, Step::PutRootBack, Step::EnsureBridges, Step::DefineDomain];
        steps.extend(if_running(self.start, &[Step::StartDomain]));
        steps
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
