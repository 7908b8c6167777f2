//! Port update: change the name, the owner or the addresses of a port.

use std::net::IpAddr;

use ostler_protocol::rpc::port::{self, AddressPair};
use ostler_protocol::rpc::values::{PortId, Timestamp};

use super::prelude::*;
use super::sample;
use crate::compute::admission::notes;
use crate::journal::records::PortRecord;
use crate::journal::{Entry, PortEntry};

/// Have it be as described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct PortUpdate {
    /// Which.
    pub(in crate::compute) port: PortId,
    /// The name it shall have.
    pub(in crate::compute) name: Name,
    /// The owner it shall have.
    pub(in crate::compute) owner: Option<String>,
    /// The addresses its guest shall have.
    pub(in crate::compute) fixed_ips: Vec<IpAddr>,
    /// Those its guest may send from besides.
    pub(in crate::compute) allowed_address_pairs: Vec<AddressPair>,
    /// Whether its guest shall be held to that.
    pub(in crate::compute) port_security: bool,
    /// Whether an instance has it, whose guest is held to something else now.
    pub(in crate::compute) guards: bool,
}

pub(super) fn ask(update: port::Update, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let port::Update { id, name, owner, fixed_ips, allowed_address_pairs, port_security } = update;
    let record = gate.idle_port(id)?;
    let before = record.clone();
    let owner = match owner {
        None => record.owner,
        Some(owner) => Some(owner).filter(|owner| !owner.is_empty()),
    };
    notes::notes(owner.as_deref(), &Default::default())?;
    let fixed_ips = fixed_ips.unwrap_or(record.fixed_ips);
    let allowed_address_pairs = allowed_address_pairs.unwrap_or(record.allowed_address_pairs);
    gate.addresses(Some(id), &record.network, &fixed_ips, &allowed_address_pairs)?;
    let name = name.unwrap_or(record.name);
    let port_security = port_security.unwrap_or(record.port_security);
    let guards = gate.known.user_of_port(id).is_some()
        && (&before.fixed_ips, &before.allowed_address_pairs, before.port_security)
            != (&fixed_ips, &allowed_address_pairs, port_security);
    let change = PortUpdate {
        port: id,
        name,
        owner,
        fixed_ips,
        allowed_address_pairs,
        port_security,
        guards,
    };
    Ok(Admitted::of(Subject::Port(id), change))
}

pub(super) fn samples() -> Vec<Change> {
    let (port, name) = (sample::port_id(), sample::name("new"));
    let (fixed_ips, allowed_address_pairs) = (Vec::new(), Vec::new());
    let update = PortUpdate {
        port,
        name,
        owner: None,
        fixed_ips,
        allowed_address_pairs,
        port_security: true,
        guards: false,
    };
    vec![update.clone().into(), PortUpdate { guards: true, ..update }.into()]
}

impl Describe for PortUpdate {
    fn plan(&self, _: Running) -> Plan {
        match self.guards {
            true => Plan::of(&[Step::GuardPort]),
            false => Plan::default(),
        }
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn port(&self) -> Option<PortId> {
        Some(self.port)
    }

    fn port_after(&self, known: Option<&PortRecord>, outcome: State) -> Option<PortEntry> {
        let known = known.filter(|_| outcome == State::Succeeded)?;
        Some(Entry::Put(PortRecord {
            name: self.name.clone(),
            owner: self.owner.clone(),
            fixed_ips: self.fixed_ips.clone(),
            allowed_address_pairs: self.allowed_address_pairs.clone(),
            port_security: self.port_security,
            updated: Timestamp::now(),
            ..known.clone()
        }))
    }
}
