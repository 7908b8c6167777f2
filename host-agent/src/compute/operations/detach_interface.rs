//! Detach: take a port from an instance. A running guest is asked to let go of it, and has to.

use ostler_protocol::rpc::port;
use ostler_protocol::rpc::values::PortId;

use super::attach_interface::PATIENCE;
use super::prelude::*;
use super::sample;
use crate::compute::admission::port::interface_of;
use crate::compute::admission::volume::WITH_VOLUMES;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("made to give a port back", TaskState::DetachingInterface, WITH_VOLUMES);

/// Take the port from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct DetachInterface {
    /// Which.
    pub(in crate::compute) port: PortId,
    /// How long the guest may take to let go of it, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(asked: port::Detach, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let port::Detach { id, port, timeout } = asked;
    gate.act(id, &LEGAL, |instance, _| {
        interface_of(instance, port)?;
        Ok(DetachInterface { port, timeout: timeout.unwrap_or(PATIENCE) }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![DetachInterface { port: sample::port_id(), timeout: PATIENCE }.into()]
}

impl Describe for DetachInterface {
    fn plan(&self, was: Running) -> Plan {
        let port = || Subject::Port(self.port);
        let plan = match was {
            Running::Yes => Plan::default().then_about(Step::UnplugInterface, port()),
            Running::No => Plan::default(),
        };
        plan.then(&[Step::DefineDomain]).then_about(Step::RemoveLink, port())
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn port(&self) -> Option<PortId> {
        Some(self.port)
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.ports.retain(|there| there.id != self.port);
    }
}
