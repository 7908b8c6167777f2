//! Network: make the bridge of a network, and what joins it, as described, or leave it as it is.
//!
//! For a network that is there, this is how it is changed: the request says all that it shall be,
//! and what differs is changed under its running guests.

use ostler_protocol::rpc::network;

use super::prelude::*;
use super::sample;
use crate::compute::wires::bridge_spec;
use crate::journal::Entry;
use crate::journal::records::NetworkRecord;
use crate::network::{Mtu, bridge_name};

/// Make the network's bridge as described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct NetworkEnsure {
    /// As it shall be.
    pub(in crate::compute) network: NetworkRecord,
}

pub(super) fn ask(ensure: network::Ensure, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let subject = Subject::Network(ensure.name.clone());
    gate.idle(&subject)?;
    let networks = &gate.known.networks;
    let known = networks.get(&ensure.name);
    let bridge = ensure
        .bridge
        .or_else(|| known.map(|n| n.bridge.clone()))
        .unwrap_or_else(|| bridge_name(&ensure.name).as_str().to_owned());
    let network = NetworkRecord {
        name: ensure.name,
        bridge,
        uplink: ensure.uplink,
        vlan: ensure.vlan,
        vxlan: ensure.vxlan,
        mtu: ensure.mtu.unwrap_or(Mtu::ETHERNET.bytes()),
        created: known.map_or(gate.now, |n| n.created),
    };
    let other = networks.values().find(|n| n.bridge == network.bridge && n.name != network.name);
    if let Some(other) = other {
        let text = format!("conflict: bridge {} belongs to network {}", network.bridge, other.name);
        return Err(Refusal::new(Reason::Conflict, text).about("parameter bridge"));
    }
    if let Some(known) = known {
        stays(known, &network)?;
    }
    // Names and sizes are checked now, so that nothing is accepted that cannot be.
    bridge_spec(&network)?;
    Ok(Admitted::of(subject, NetworkEnsure { network }))
}

/// Whether what cannot change under running guests stays: their bridge, and a NIC on it, which the
/// kernel does not show to be ours to take away.
fn stays(known: &NetworkRecord, network: &NetworkRecord) -> Result<(), Refusal> {
    let refuse = |parameter: &str, what: &str, has: &str| {
        let text = format!("conflict: network {} has {what} {has}, and keeps it", known.name);
        Err(Refusal::new(Reason::Conflict, text)
            .about(format!("parameter {parameter}"))
            .next("remove the network and make it again")
            .by(Action::NetworkRemove))
    };
    if known.bridge != network.bridge {
        return refuse("bridge", "the bridge", &known.bridge);
    }
    match known.nic() {
        Some(nic) if network.nic() != Some(nic) => refuse("uplink", "the NIC", nic),
        Some(_) | None => Ok(()),
    }
}

pub(super) fn samples() -> Vec<Change> {
    vec![NetworkEnsure { network: sample::network() }.into()]
}

impl Describe for NetworkEnsure {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::EnsureBridge])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn network_after(&self, outcome: State) -> Option<Entry<NetworkRecord>> {
        (outcome == State::Succeeded).then(|| Entry::Put(self.network.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_an_earlier_version_is_read_and_written_as_it_was() {
        let kept = r#"{"name":"lan","bridge":"br-lan","uplink":"eth1","mtu":1500,"created":0}"#;
        let record: NetworkRecord = serde_json::from_str(kept).unwrap();
        assert_eq!(record, NetworkRecord { uplink: Some("eth1".into()), ..sample::network() });
        assert_eq!(serde_json::to_string(&record).unwrap(), kept);
    }

    #[test]
    fn a_bridge_and_a_nic_on_it_stay_and_all_else_may_change() {
        let plain = sample::network();
        let nic = NetworkRecord { uplink: Some("eth1".into()), ..plain.clone() };
        let vlan = NetworkRecord { vlan: Some(100), ..nic.clone() };
        for (from, to) in [(&plain, &nic), (&nic, &nic), (&plain, &vlan), (&vlan, &plain)] {
            assert_eq!(stays(from, to), Ok(()));
        }
        for (from, to) in [(&nic, &plain), (&nic, &vlan)] {
            let refusal = stays(from, to).unwrap_err();
            assert_eq!(refusal.reason, Reason::Conflict);
            assert!(refusal.message.contains("eth1"), "{refusal:?}");
        }
        let moved = NetworkRecord { bridge: "br-x".into(), ..plain.clone() };
        assert!(stays(&plain, &moved).is_err());
    }
}
