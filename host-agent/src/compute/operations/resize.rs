//! Resize: give an instance another size. The old disk is kept aside until the resize is confirmed
//! or reverted.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, Size, TaskState, VmState};
use serde::{Deserialize, Serialize};

use super::{Change, Describe, Legal, Permit, SHUT_DOWN, Traits, if_running, sample};
use crate::compute::admission;
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Resized, Running};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("resized", TaskState::Resizing, &[VmState::Active, VmState::Stopped]);
pub(super) const TRAITS: Traits = Traits { permit: Permit::Copy, can_cancel: true };

/// Give it another size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Resize {
    /// The size it shall have.
    pub(in crate::compute) to: Size,
    /// How long the guest may take to shut down, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(resize: instance::Resize, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let timeout = gate.patience(None);
    gate.act(resize.id, &LEGAL, |record, gate| {
        let to = admission::resize(&resize, record, &gate.facts())?;
        Ok(Resize { to, timeout }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Resize { to: sample::size(), timeout: 1000 }.into()]
}

impl Describe for Resize {
    fn plan(&self, was: Running) -> Vec<Step> {
        let mut steps = if_running(was, &SHUT_DOWN);
        steps.extend([
            Step::CopyRootAside,
            Step::GrowRoot,
            Step::EnsureBridges,
            Step::DefineDomain,
        ]);
        steps.extend(if_running(was, &[Step::StartDomain]));
        steps
    }

    fn gives_back_power(&self) -> bool {
        true
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn apply(&self, record: &mut InstanceRecord, was: Running) {
        record.resized = Some(Resized { from: record.size(), was });
        record.set_size(&self.to);
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Resized
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
