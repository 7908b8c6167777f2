//! Ports: whether one is there, who has it, and whether one can be made. Pure.

use std::net::IpAddr;

use ostler_protocol::rpc::instance::Nic;
use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::port::AddressPair;
use ostler_protocol::rpc::values::{MacAddress, Name, PortId};

use super::Admission;
use super::notes::invalid;
use crate::journal::records::{InstanceRecord, InterfaceRecord, PortRecord};
use crate::refusal::{Action, Reason, Refusal};

/// The most NICs one instance may have: what the PCI topology leaves room for.
const NICS_MAX: usize = 16;
/// The most addresses a port has.
const ADDRESSES_MAX: usize = 64;

impl Admission<'_> {
    /// A port that is there, and that nobody works on.
    ///
    /// # Errors
    /// Why it cannot be worked on.
    pub(in crate::compute) fn idle_port(&self, id: PortId) -> Result<PortRecord, Refusal> {
        let about = || Subject::Port(id).to_string();
        let Some(record) = self.known.ports.get(&id) else {
            return Err(Refusal::new(Reason::NotFound, format!("there is no port {id}"))
                .about(about())
                .next("see which there are")
                .by(Action::PortList));
        };
        if let Some(operation) = self.known.at_port(id) {
            let kind = operation.now.borrow().kind;
            let text = format!("conflict: port {} is being worked on: {kind}", record.name);
            return Err(Refusal::new(Reason::Conflict, text)
                .about(about())
                .next("wait for it")
                .by(Action::OperationWait(Some(operation.id))));
        }
        Ok(record.clone())
    }

    /// The same, of one that no instance has.
    ///
    /// # Errors
    /// Why it cannot be worked on; `in_use`, and by whom.
    pub(in crate::compute) fn free_port(
        &self,
        id: PortId,
        word: &str,
    ) -> Result<PortRecord, Refusal> {
        let record = self.idle_port(id)?;
        let Some((user, _)) = self.known.user_of_port(id) else { return Ok(record) };
        let text = format!(
            "port {} is in use by instance {} ({}), and cannot be {word}",
            record.name, user.name, user.id
        );
        Err(Refusal::new(Reason::InUse, text)
            .about(Subject::Port(id).to_string())
            .next("detach it first")
            .by(Action::InstanceDetachInterface))
    }

    /// Whether a network is there.
    ///
    /// # Errors
    /// `not_found`.
    pub(in crate::compute) fn need_network(&self, network: &Name) -> Result<(), Refusal> {
        if self.known.networks.contains_key(network) {
            return Ok(());
        }
        let text = format!("there is no network {network} on this node");
        Err(Refusal::new(Reason::NotFound, text)
            .about("parameter network")
            .next("make it, or see which there are")
            .by(Action::NetworkEnsure)
            .by(Action::NetworkList))
    }

    /// The id and the MAC of a new port; `others` are about to be made with it.
    ///
    /// # Errors
    /// Somebody has them.
    pub(in crate::compute) fn new_port(
        &self,
        id: Option<PortId>,
        mac: Option<MacAddress>,
        others: &[PortRecord],
    ) -> Result<(PortId, MacAddress), Refusal> {
        let has =
            |mac: MacAddress| self.known.ports.values().chain(others).any(|port| port.mac == mac);
        if let Some(id) = id.filter(|id| self.known.ports.contains_key(id)) {
            return Err(Refusal::new(Reason::Conflict, format!("conflict: port {id} exists"))
                .about("parameter id")
                .next("leave out the id to have one made"));
        }
        match mac {
            Some(mac) if has(mac) => {
                let text = format!("conflict: MAC {mac} is in use on this node");
                Err(Refusal::new(Reason::Conflict, text)
                    .about("parameter mac")
                    .next("leave out the MAC to have one made"))
            }
            Some(mac) => Ok((id.unwrap_or_else(PortId::random), mac)),
            None => {
                let id = id.unwrap_or_else(PortId::random);
                // If the MAC that its id makes is somebody's, another id's does as well.
                let mut mac = made_from(id);
                while has(mac) {
                    mac = made_from(PortId::random());
                }
                Ok((id, mac))
            }
        }
    }

    /// A NIC that is asked for: how an instance has its port, and the port, if it is to be made.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(in crate::compute) fn interface(
        &self,
        asked: &Nic,
        owner: Option<&String>,
        others: &[PortRecord],
    ) -> Result<(InterfaceRecord, Option<PortRecord>), Refusal> {
        match (&asked.network, asked.port) {
            (None, None) => Err(invalid("network", "name a network or a port".to_owned())),
            (Some(_), Some(_)) => {
                let text = "a port is on a network already".to_owned();
                Err(invalid("network", text).next("name the port alone"))
            }
            (None, Some(_)) if asked.mac.is_some() => {
                let text = "a port has a MAC already".to_owned();
                Err(invalid("mac", text).next("leave it out"))
            }
            (None, Some(id)) => {
                let PortRecord { network, mac, .. } = self.free_port(id, "given to another")?;
                Ok((InterfaceRecord { id, network, mac, kept: true }, None))
            }
            (Some(network), None) => {
                self.need_network(network)?;
                let (id, mac) = self.new_port(None, asked.mac, others)?;
                let interface = InterfaceRecord { id, network: network.clone(), mac, kept: false };
                let port = PortRecord::of(&interface, owner.cloned(), self.now);
                Ok((interface, Some(port)))
            }
        }
    }

    /// Whether a port on this network can have these addresses.
    ///
    /// # Errors
    /// One of them is no guest's, is given twice, or is another port's.
    pub(in crate::compute) fn addresses(
        &self,
        port: Option<PortId>,
        network: &Name,
        addresses: &[IpAddr],
        pairs: &[AddressPair],
    ) -> Result<(), Refusal> {
        let counts = [("fixed_ips", addresses.len()), ("allowed_address_pairs", pairs.len())];
        if let Some((parameter, _)) = counts.into_iter().find(|(_, n)| *n > ADDRESSES_MAX) {
            let text = format!("a port has at most {ADDRESSES_MAX} of them");
            return Err(invalid(parameter, text));
        }
        for (n, address) in addresses.iter().enumerate() {
            if let Some(what) = no_guests(*address) {
                return Err(invalid("fixed_ips", format!("{address} is {what}")));
            }
            if addresses.iter().take(n).any(|other| other == address) {
                return Err(invalid("fixed_ips", format!("{address} is given twice")));
            }
            let has = |other: &&PortRecord| {
                Some(other.id) != port
                    && other.network == *network
                    && other.fixed_ips.contains(address)
            };
            if let Some(other) = self.known.ports.values().find(has) {
                let text = format!("conflict: port {} has the address {address}", other.name);
                return Err(Refusal::new(Reason::Conflict, text)
                    .about("parameter fixed_ips")
                    .next("choose another"));
            }
        }
        Ok(())
    }
}

fn made_from(id: PortId) -> MacAddress {
    let [a, b, c, ..] = *id.0.as_bytes();
    MacAddress::in_qemu_range(a, b, c)
}

/// What an address is, if no guest can have it.
fn no_guests(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    match address {
        _ if address.is_unspecified() => Some("no address"),
        _ if address.is_loopback() => Some("a loopback address"),
        _ if address.is_multicast() => Some("a multicast address"),
        _ if broadcast => Some("the broadcast address"),
        IpAddr::V4(_) | IpAddr::V6(_) => None,
    }
}

/// Whether an instance can have one more NIC.
///
/// # Errors
/// `conflict`.
pub(in crate::compute) fn one_more(instance: &InstanceRecord) -> Result<(), Refusal> {
    if instance.ports.len() < NICS_MAX {
        return Ok(());
    }
    let text = format!("conflict: an instance has at most {NICS_MAX} NICs");
    Err(Refusal::new(Reason::Conflict, text))
}

/// The NICs a boot asks for, and the ports that are made for it.
///
/// # Errors
/// Why one of them cannot be.
pub(in crate::compute) fn all(
    asked: &[Nic],
    owner: Option<&String>,
    gate: &Admission<'_>,
) -> Result<(Vec<InterfaceRecord>, Vec<PortRecord>), Refusal> {
    if asked.len() > NICS_MAX {
        return Err(invalid("networks", format!("an instance has at most {NICS_MAX} NICs")));
    }
    let (mut interfaces, mut new): (Vec<InterfaceRecord>, Vec<PortRecord>) = Default::default();
    for (n, nic) in asked.iter().enumerate() {
        let (interface, port) = gate.interface(nic, owner, &new).map_err(|fault| {
            let field = fault.subject.as_deref().and_then(|s| s.strip_prefix("parameter "));
            match field.map(str::to_owned) {
                Some(field) => fault.about(format!("parameter networks[{n}].{field}")),
                None => fault,
            }
        })?;
        if interfaces.iter().any(|there| there.id == interface.id) {
            let text = format!("port {} is named twice", interface.id);
            return Err(invalid("networks", text));
        }
        interfaces.push(interface);
        new.extend(port);
    }
    Ok((interfaces, new))
}

/// How an instance has a port.
///
/// # Errors
/// It does not.
pub(in crate::compute) fn interface_of(
    instance: &InstanceRecord,
    port: PortId,
) -> Result<&InterfaceRecord, Refusal> {
    instance.interface(port).ok_or_else(|| {
        let text = format!("the instance does not have port {port}");
        Refusal::new(Reason::NotFound, text)
            .next("see which it has")
            .by(Action::InstanceShow(Some(instance.id)))
    })
}
