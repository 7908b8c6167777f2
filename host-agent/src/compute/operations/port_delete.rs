//! Port deletion: forget a port that no instance has.

use ostler_protocol::rpc::values::PortId;

use super::prelude::*;
use super::sample;
use crate::journal::records::PortRecord;
use crate::journal::{Entry, PortEntry};

/// Forget it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct PortDelete {
    /// Which.
    pub(in crate::compute) port: PortId,
}

pub(super) fn ask(id: PortId, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.free_port(id, "deleted")?;
    Ok(Admitted::of(Subject::Port(id), PortDelete { port: id }))
}

pub(super) fn samples() -> Vec<Change> {
    vec![PortDelete { port: sample::port_id() }.into()]
}

impl Describe for PortDelete {
    fn plan(&self, _: Running) -> Plan {
        Plan::default()
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn port(&self) -> Option<PortId> {
        Some(self.port)
    }

    fn port_after(&self, _: Option<&PortRecord>, outcome: State) -> Option<PortEntry> {
        (outcome == State::Succeeded).then_some(Entry::Gone(self.port))
    }
}
