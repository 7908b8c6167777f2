//! What somebody changed of the node's links and rules is put right, within moments: the kernel tells
//! that something changed, and all of it is looked at.

use std::time::Duration;

use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::operation::Subject;

use super::Watch;
use crate::compute::causes::network_fault;
use crate::compute::outside::Outside;
use crate::compute::wires::{Port, Wires, bridge_spec};
use crate::journal::records::NetworkRecord;
use crate::network::{BridgeSpec, Condition, Network, bridge_name};
use crate::refusal::Refusal;

/// What changes together is looked at together.
const SETTLES: Duration = Duration::from_millis(300);

impl<O: Outside> Watch<O> {
    /// Put the network right whenever something changed, until the agent stops.
    pub(in crate::compute) async fn follow_network(&self) {
        // Nobody's rules are put in place before these.
        self.mend_ports().await;
        loop {
            self.mend_network().await;
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = self.node.network.changed() => {}
                () = self.node.wires.changed() => {}
            }
            tokio::select! {
                () = self.shutdown.cancelled() => return,
                () = tokio::time::sleep(SETTLES) => {}
            }
        }
    }

    /// Put right what differs from what shall be.
    pub(super) async fn mend_network(&self) {
        match self.mend_bridges().await {
            Ok(mended) => told(&mended),
            Err(fault) => tracing::warn!(%fault, "cannot put the bridges right"),
        }
        self.mend_ports().await;
    }

    async fn mend_ports(&self) {
        match self.node.wires.mend(|| self.wired()).await {
            Ok(mended) => told(&mended),
            Err(fault) => tracing::warn!(%fault, "cannot put the ports right"),
        }
    }

    /// The ports that instances have.
    fn wired(&self) -> Vec<Port> {
        let known = self.registry.lock();
        let there = known.instances.values().filter(|i| i.vm_state != VmState::Deleted);
        there
            .flat_map(|instance| &instance.ports)
            .map(|interface| Port {
                interface: interface.clone(),
                record: known.ports.get(&interface.id).cloned(),
                network: known.networks.get(&interface.network).cloned(),
            })
            .collect()
    }

    async fn mend_bridges(&self) -> Result<Vec<String>, Refusal> {
        let specs: Vec<BridgeSpec> = {
            let known = self.registry.lock();
            // What is being made or removed is that operation's.
            let idle = |network: &&NetworkRecord| {
                known.at_work(&Subject::Network(network.name.clone())).is_none()
            };
            let idle = known.networks.values().filter(idle);
            idle.filter_map(|network| bridge_spec(network).ok()).collect()
        };
        let states = self.node.network.observe(&specs).await;
        let states = states.map_err(|error| network_fault(&error))?;
        let mut mended = Vec::new();
        for (spec, state) in specs.iter().zip(states) {
            let what = match state.condition {
                Condition::Good => continue,
                Condition::Drifted(what) => what.join(", "),
                // Whether another's bridge is to be there is for them to say.
                Condition::Missing if spec.bridge != bridge_name(&spec.network) => continue,
                Condition::Missing => "it was gone".to_owned(),
            };
            match self.node.network.ensure_bridge(spec).await {
                Ok(_) => mended.push(format!("bridge {}: {what}", spec.bridge)),
                Err(error) => tracing::warn!(
                    bridge = %spec.bridge, %error, "a bridge is not as it should be"
                ),
            }
        }
        Ok(mended)
    }
}

fn told(mended: &[String]) {
    for what in mended {
        tracing::warn!(what, "somebody changed the network: it is put right");
    }
}
