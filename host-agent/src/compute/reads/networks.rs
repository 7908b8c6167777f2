//! Answers about networks: what is on record, and how their links are.

use std::collections::HashMap;

use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::network::{Kind, NamedPort, Network as WireNetwork, State};
use ostler_protocol::rpc::values::Name;

use super::Reads;
use crate::compute::causes::network_fault;
use crate::compute::outside::Outside;
use crate::compute::registry::Known;
use crate::compute::wires::bridge_spec;
use crate::journal::records::NetworkRecord;
use crate::network::{BridgeState, Condition, Network};
use crate::refusal::{Action, Reason, Refusal};

impl<O: Outside> Reads<O> {
    /// `network.list`
    ///
    /// # Errors
    /// The node's links cannot be read.
    pub async fn networks(&self) -> Result<Vec<WireNetwork>, Refusal> {
        let (networks, users) = {
            let known = self.registry.lock();
            (known.networks.values().cloned().collect::<Vec<_>>(), users(&known))
        };
        let states = self.bridges(&networks).await?;
        let of = |bridge: &str| states.iter().find(|state| state.bridge.as_str() == bridge);
        let shown = networks.into_iter().map(|network| {
            let users = users.get(&network.name).copied().unwrap_or(0);
            let state = of(&network.bridge);
            view(network, users, state)
        });
        Ok(shown.collect())
    }

    /// `network.show`
    ///
    /// # Errors
    /// There is no such network, or the node's links cannot be read.
    pub async fn network(&self, name: &Name) -> Result<WireNetwork, Refusal> {
        let (network, users, mut ports) = {
            let known = self.registry.lock();
            let network = known.networks.get(name).ok_or_else(|| no_network(name))?;
            let ports = known.ports.values().filter(|port| port.network == *name);
            let ports = ports.map(|port| NamedPort { id: port.id, name: port.name.clone() });
            let users = users(&known).get(name).copied().unwrap_or(0);
            (network.clone(), users, ports.collect::<Vec<_>>())
        };
        ports.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        let states = self.bridges(std::slice::from_ref(&network)).await?;
        Ok(WireNetwork { ports, ..view(network, users, states.first()) })
    }

    async fn bridges(&self, networks: &[NetworkRecord]) -> Result<Vec<BridgeState>, Refusal> {
        let specs: Vec<_> = networks.iter().filter_map(|n| bridge_spec(n).ok()).collect();
        self.node.network.observe(&specs).await.map_err(|error| network_fault(&error))
    }
}

/// How many instances have a port on each network.
fn users(known: &Known) -> HashMap<Name, u32> {
    let mut users = HashMap::new();
    for record in known.instances.values().filter(|i| i.vm_state != VmState::Deleted) {
        let mut names: Vec<&Name> = record.ports.iter().map(|port| &port.network).collect();
        names.sort_unstable();
        names.dedup();
        for name in names {
            *users.entry(name.clone()).or_default() += 1;
        }
    }
    users
}

fn view(network: NetworkRecord, instances: u32, seen: Option<&BridgeState>) -> WireNetwork {
    let (state, drift) = match seen.map(|seen| &seen.condition) {
        Some(Condition::Good) => (State::Up, Vec::new()),
        Some(Condition::Drifted(why)) => (State::Drifted, why.clone()),
        Some(Condition::Missing) | None => (State::Missing, Vec::new()),
    };
    WireNetwork {
        kind: Some(match (&network.uplink, network.vlan, &network.vxlan) {
            (_, _, Some(_)) => Kind::Vxlan,
            (_, Some(_), None) => Kind::Vlan,
            (Some(_), None, None) => Kind::Nic,
            (None, None, None) => Kind::Isolated,
        }),
        name: network.name,
        bridge: network.bridge,
        uplink: network.uplink,
        vlan: network.vlan,
        vxlan: network.vxlan,
        link: seen.and_then(|seen| seen.uplink.clone()),
        mtu: network.mtu,
        state,
        drift,
        ports: Vec::new(),
        instances,
        created: network.created,
    }
}

fn no_network(name: &Name) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no network {name}"))
        .about(format!("network {name}"))
        .next("see which there are")
        .by(Action::NetworkList)
}
