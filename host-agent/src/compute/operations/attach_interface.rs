//! Attach: give a port to an instance, or a new one on a network, running or not.

use ostler_protocol::rpc::port;
use ostler_protocol::rpc::values::PortId;

use super::prelude::*;
use super::sample;
use crate::compute::admission::port::one_more;
use crate::compute::admission::volume::WITH_VOLUMES;
use crate::journal::Entry;
use crate::journal::records::InterfaceRecord;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("given a port", TaskState::AttachingInterface, WITH_VOLUMES);

/// How long a guest may take to let go, milliseconds, unless told.
pub(super) const PATIENCE: u32 = 60_000;

/// Give it the port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct AttachInterface {
    /// Which, and how.
    pub(in crate::compute) interface: InterfaceRecord,
}

pub(super) fn ask(asked: port::Attach, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let port::Attach { id, interface } = asked;
    let mut new = None;
    let mut admitted = gate.act(id, &LEGAL, |instance, gate| {
        one_more(instance)?;
        let (interface, made) = gate.interface(&interface, instance.owner.as_ref(), &[])?;
        new = made;
        Ok(AttachInterface { interface }.into())
    })?;
    if let Some(record) = new {
        gate.known.ports.insert(record.id, record.clone());
        admitted.reserved.new_ports.push(record.id);
        admitted.write.ports.push(Entry::Put(record));
    }
    Ok(admitted)
}

pub(super) fn samples() -> Vec<Change> {
    [false, true].map(|kept| AttachInterface { interface: sample::interface(kept) }.into()).into()
}

impl Describe for AttachInterface {
    fn plan(&self, was: Running) -> Plan {
        let port = || Subject::Port(self.interface.id);
        let plan = match was {
            Running::Yes => {
                Plan::of(&[Step::EnsureBridges]).then_about(Step::PlugInterface, port())
            }
            Running::No => Plan::default(),
        };
        plan.then(&[Step::DefineDomain])
    }

    // To let go of it again, should it be undone.
    fn patience(&self) -> Option<u32> {
        Some(PATIENCE)
    }

    fn port(&self) -> Option<PortId> {
        Some(self.interface.id)
    }

    fn new_port(&self) -> Option<PortId> {
        (!self.interface.kept).then_some(self.interface.id)
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        if record.interface(self.interface.id).is_none() {
            record.ports.push(self.interface.clone());
        }
    }

    // A guest that keeps the NIC has the port: nobody else gets it before it is detached.
    fn not_done(&self, record: &mut InstanceRecord, whole: bool) {
        if !whole {
            self.apply(record, Running::No);
        }
    }
}
