//! What somebody changed of taps and rules is put right, within moments: the kernel tells that something
//! changed, and all of it is looked at. Bridges are shown as they are: to put them right is an
//! operation's, or a start's.

use std::time::Duration;

use ostler_protocol::rpc::instance::VmState;

use super::Watch;
use crate::compute::outside::Outside;
use crate::compute::wires::{Port, Wires};
use crate::network::Network;

/// What changes together is looked at together.
const SETTLES: Duration = Duration::from_millis(300);

impl<O: Outside> Watch<O> {
    /// Put the network right whenever something changed, until the agent stops.
    pub(in crate::compute) async fn follow_network(&self) {
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
}

fn told(mended: &[String]) {
    for what in mended {
        tracing::warn!(what, "somebody changed the network: it is put right");
    }
}
