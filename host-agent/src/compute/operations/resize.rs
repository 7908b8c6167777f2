//! Resize: give an instance another size. The old disk is kept aside until the resize is confirmed
//! or reverted.

use ostler_protocol::rpc::instance::Size;

use super::prelude::*;
use super::sample;
use crate::compute::admission::size;
use crate::journal::records::Resized;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("resized", TaskState::Resizing, &[VmState::Active, VmState::Stopped]);

/// Give it another size.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Resize {
    /// The size it shall have.
    pub(in crate::compute) to: Size,
    /// How long the guest may take to shut down, milliseconds.
    pub(in crate::compute) timeout: u32,
    /// Whether it boots from a volume, which stays as it is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) on_volume: bool,
}

pub(super) fn ask(resize: instance::Resize, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let timeout = gate.patience(None);
    gate.act(resize.id, &LEGAL, |record, gate| {
        let to = size::resize(&resize, record, gate)?;
        Ok(Resize { to, timeout, on_volume: record.root_volume().is_some() }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    [false, true]
        .map(|on_volume| Resize { to: sample::size(), timeout: 1000, on_volume }.into())
        .into()
}

impl Describe for Resize {
    fn plan(&self, was: Running) -> Plan {
        let disk: &[Step] = match self.on_volume {
            true => &[],
            false => &[Step::CopyRootAside, Step::GrowRoot],
        };
        Plan::default()
            .then_if(was, &SHUT_DOWN)
            .then(disk)
            .then(&[Step::EnsureBridges, Step::DefineDomain])
            .then_if(was, &[Step::StartDomain])
    }

    fn permit(&self) -> Permit {
        Permit::Copy
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
