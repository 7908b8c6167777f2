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
}

pub(super) fn ask(update: port::Update, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let port::Update { id, name, owner, fixed_ips, allowed_address_pairs } = update;
    let record = gate.idle_port(id)?;
    let owner = match owner {
        None => record.owner,
        Some(owner) => Some(owner).filter(|owner| !owner.is_empty()),
    };
    notes::notes(owner.as_deref(), &Default::default())?;
    let fixed_ips = fixed_ips.unwrap_or(record.fixed_ips);
    let allowed_address_pairs = allowed_address_pairs.unwrap_or(record.allowed_address_pairs);
    gate.addresses(Some(id), &record.network, &fixed_ips, &allowed_address_pairs)?;
    let name = name.unwrap_or(record.name);
    let change = PortUpdate { port: id, name, owner, fixed_ips, allowed_address_pairs };
    Ok(Admitted::of(Subject::Port(id), change))
}

pub(super) fn samples() -> Vec<Change> {
    let (port, name) = (sample::port_id(), sample::name("new"));
    let (fixed_ips, allowed_address_pairs) = (Vec::new(), Vec::new());
    vec![PortUpdate { port, name, owner: None, fixed_ips, allowed_address_pairs }.into()]
}

impl Describe for PortUpdate {
    fn plan(&self, _: Running) -> Plan {
        Plan::default()
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
            updated: Timestamp::now(),
            ..known.clone()
        }))
    }
}
