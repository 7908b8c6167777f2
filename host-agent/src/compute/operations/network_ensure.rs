//! Network: make the bridge of a network as described, or leave it as it is.

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
        mtu: ensure.mtu.unwrap_or(Mtu::ETHERNET.bytes()),
        created: known.map_or(gate.now, |n| n.created),
    };
    let other = networks.values().find(|n| n.bridge == network.bridge && n.name != network.name);
    if let Some(other) = other {
        let text = format!("conflict: bridge {} belongs to network {}", network.bridge, other.name);
        return Err(Refusal::new(Reason::Conflict, text).about("parameter bridge"));
    }
    // Names and sizes are checked now, so that nothing is accepted that cannot be.
    bridge_spec(&network)?;
    Ok(Admitted::of(subject, NetworkEnsure { network }))
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
