//! Port: make one on a network, for an instance to come.

use ostler_protocol::rpc::port;
use ostler_protocol::rpc::values::PortId;

use super::prelude::*;
use super::sample;
use crate::compute::admission::{Reservation, notes};
use crate::journal::records::PortRecord;
use crate::journal::{Entry, PortEntry, Write};

/// Keep the port its record describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct PortCreate {
    /// Which.
    pub(in crate::compute) port: PortId,
}

pub(super) fn ask(create: port::Create, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let port::Create {
        id,
        name,
        network,
        mac,
        fixed_ips,
        allowed_address_pairs,
        port_security,
        owner,
    } = create;
    gate.need_network(&network)?;
    let owner = owner.filter(|owner| !owner.is_empty());
    notes::notes(owner.as_deref(), &Default::default())?;
    let (id, mac) = gate.new_port(id, mac, &[])?;
    gate.addresses(None, &network, &fixed_ips, &allowed_address_pairs)?;
    let (created, updated) = (gate.now, gate.now);
    let record = PortRecord {
        id,
        name,
        network,
        mac,
        fixed_ips,
        allowed_address_pairs,
        port_security: port_security.unwrap_or(true),
        owner,
        created,
        updated,
    };
    gate.known.ports.insert(id, record.clone());
    Ok(Admitted {
        reserved: Reservation { new_ports: vec![id], ..Reservation::default() },
        write: Write { ports: vec![Entry::Put(record)], ..Write::default() },
        ..Admitted::of(Subject::Port(id), PortCreate { port: id })
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![PortCreate { port: sample::port_id() }.into()]
}

impl Describe for PortCreate {
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
        match outcome {
            State::Queued | State::Running | State::Succeeded => None,
            State::Undone | State::Failed | State::Cancelled => Some(Entry::Gone(self.port)),
        }
    }
}
