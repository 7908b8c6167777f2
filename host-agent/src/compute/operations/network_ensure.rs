//! Network: make the bridge of a network as described, or leave it as it is.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::network;
use ostler_protocol::rpc::operation::{State, Subject};
use serde::{Deserialize, Serialize};

use super::{BRIEF, Change, Describe, Traits, sample};
use crate::compute::gate::{Admitted, Gate, Reservation};
use crate::compute::registry::{Registry, Volatile};
use crate::compute::steps::{Step, StepError, bridge_spec};
use crate::journal::records::{NetworkRecord, Running};
use crate::journal::{Entry, Write};
use crate::network::{Mtu, bridge_name};

pub(super) const TRAITS: Traits = BRIEF;

/// Make the network's bridge as described.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct NetworkEnsure {
    /// As it shall be.
    pub(in crate::compute) network: NetworkRecord,
}

pub(super) fn ask(ensure: network::Ensure, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let subject = Subject::Network(ensure.name.clone());
    gate.idle(&subject)?;
    let networks = &gate.registry.networks;
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
        return Err(Fault::new(Reason::Conflict, text).about("parameter bridge"));
    }
    // Names and sizes are checked now, so that nothing is accepted that cannot be.
    if let Err(StepError::Failed(fault)) = bridge_spec(&network) {
        return Err(*fault);
    }
    Ok(Admitted {
        subject,
        change: NetworkEnsure { network }.into(),
        volatile: Volatile::default(),
        was: Running::No,
        to_do: true,
        undo: Reservation::None,
        write: Write::default(),
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![NetworkEnsure { network: sample::network() }.into()]
}

impl Describe for NetworkEnsure {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::EnsureBridge]
    }

    fn settle(&self, _: &Subject, state: State, registry: &mut Registry, write: &mut Write) {
        if state == State::Succeeded {
            let network = self.network.clone();
            registry.networks.insert(network.name.clone(), network.clone());
            write.network = Some(Entry::Put(network));
        }
    }
}
