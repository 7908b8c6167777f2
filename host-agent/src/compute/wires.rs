//! The ports of instances: what they are plugged into, how a domain's NIC is, and what is left of
//! them. On a node by itself that is a bridge for each network ([`Bridges`]).

use std::sync::Arc;

use crate::refusal::{Action, Reason, Refusal};

use super::causes::network_fault;
use crate::hypervisor::spec::Nic;
use crate::journal::records::{InterfaceRecord, NetworkRecord};
use crate::network::{BridgeSpec, LinkName, Mtu, Network, Uplink, old_tap_name, tap_name};

/// A port, and its network where the node knows that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// How its instance has it.
    pub interface: InterfaceRecord,
    /// Its network.
    pub network: Option<NetworkRecord>,
}

/// What instances' ports are plugged into. Every method may be repeated.
pub trait Wires: Send + Sync + 'static {
    /// Have ready what the ports are plugged into.
    fn bind(&self, ports: &[Port]) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// The NICs of a domain with these ports, in the same order.
    ///
    /// # Errors
    /// A port's network is not known.
    fn describe(&self, ports: &[Port]) -> Result<Vec<Nic>, Refusal>;

    /// Leave nothing of the ports behind, once their domain is gone.
    fn release(
        &self,
        ports: &[InterfaceRecord],
    ) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// A Linux bridge for each network.
#[derive(Debug)]
pub struct Bridges<N>(pub Arc<N>);

impl<N: Network> Wires for Bridges<N> {
    async fn bind(&self, ports: &[Port]) -> Result<(), Refusal> {
        for port in ports {
            let spec = bridge_spec(network_of(port)?)?;
            self.0.ensure_bridge(&spec).await.map_err(|error| network_fault(&error))?;
        }
        Ok(())
    }

    fn describe(&self, ports: &[Port]) -> Result<Vec<Nic>, Refusal> {
        let nic = |port: &Port| {
            let network = network_of(port)?;
            Ok(Nic {
                mac: port.interface.mac,
                bridge: network.bridge.clone(),
                tap: tap_name(port.interface.id).as_str().to_owned(),
                alias: port.interface.alias(),
                mtu: u16::try_from(network.mtu).ok(),
            })
        };
        ports.iter().map(nic).collect()
    }

    /// libvirt removes the taps with the domain; one it lost is removed here.
    async fn release(&self, ports: &[InterfaceRecord]) -> Result<(), Refusal> {
        for port in ports {
            for tap in [tap_name(port.id), old_tap_name(port.id)] {
                let removed = self.0.remove_tap(&tap).await;
                removed.map_err(|error| network_fault(&error))?;
            }
        }
        Ok(())
    }
}

fn network_of(port: &Port) -> Result<&NetworkRecord, Refusal> {
    port.network.as_ref().ok_or_else(|| {
        let text = format!("there is no network {} on this node", port.interface.network);
        Refusal::new(Reason::NotFound, text).next("make it").by(Action::NetworkEnsure)
    })
}

/// A network's bridge in the driver's terms.
///
/// # Errors
/// `invalid_params`: a link's name or the MTU cannot be.
pub(super) fn bridge_spec(network: &NetworkRecord) -> Result<BridgeSpec, Refusal> {
    let wrong = |parameter: &str, error: &dyn std::error::Error| {
        Refusal::of(Reason::InvalidParams, error).about(format!("parameter {parameter}"))
    };
    let link = |parameter: &str, name: &str| -> Result<LinkName, Refusal> {
        name.parse().map_err(|e| wrong(parameter, &e))
    };
    Ok(BridgeSpec {
        bridge: link("bridge", &network.bridge)?,
        network: network.name.clone(),
        uplink: match &network.uplink {
            None => Uplink::None,
            Some(nic) => Uplink::Nic(link("uplink", nic)?),
        },
        mtu: Mtu::new(network.mtu).map_err(|e| wrong("mtu", &e))?,
    })
}
