//! The ports of instances: what they are plugged into, how a domain's NIC is, what its guest may send,
//! and what is left of them. On a node by itself that is a bridge for each network, and rules for each
//! tap ([`Bridges`]).

use std::sync::Arc;

use ostler_protocol::rpc::network::Vxlan as WireVxlan;
use ostler_protocol::rpc::values::{PortId, Prefix};

use crate::refusal::{Action, Reason, Refusal};

use super::causes::network_fault;
use crate::hypervisor::spec::Nic;
use crate::journal::records::{InterfaceRecord, NetworkRecord, PortRecord};
use crate::network::filter::{Dropped, FilterError, Filters, Guard, InPlace};
use crate::network::{
    BridgeSpec, Flood, LinkName, Mtu, Network, Uplink, VXLAN_PORT, Vlan, VlanId, Vxlan,
    old_tap_name, tap_name,
};

/// How an instance has a port, and what the node knows of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// How its instance has it.
    pub interface: InterfaceRecord,
    /// The port.
    pub record: Option<PortRecord>,
    /// Its network.
    pub network: Option<NetworkRecord>,
}

/// What instances' ports are plugged into. Every method may be repeated.
pub trait Wires: Send + Sync + 'static {
    /// Have ready what the ports are plugged into, and what holds their guests to what they may send.
    fn bind(&self, ports: &[Port]) -> impl Future<Output = Result<(), Refusal>> + Send;

    /// Hold the guests of these ports to what their records say now.
    fn guard(&self, ports: &[Port]) -> impl Future<Output = Result<(), Refusal>> + Send;

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

    /// Put right what somebody changed of the ports that instances have, and leave nothing of any
    /// other: what was mended, in words. `ports` is asked when nothing is being bound.
    fn mend(
        &self,
        ports: impl Fn() -> Vec<Port> + Send + Sync,
    ) -> impl Future<Output = Result<Vec<String>, Refusal>> + Send;

    /// Until somebody may have changed what holds guests to what they may send.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// What was dropped of what a port's guest sent.
    fn dropped(&self, port: PortId) -> impl Future<Output = Result<Vec<Dropped>, Refusal>> + Send;
}

/// A Linux bridge for each network, and rules for each tap.
#[derive(Debug)]
pub struct Bridges<N, F> {
    /// Bridges and taps.
    pub network: Arc<N>,
    /// What guests may send.
    pub filters: F,
}

impl<N: Network, F: Filters> Wires for Bridges<N, F> {
    async fn bind(&self, ports: &[Port]) -> Result<(), Refusal> {
        // Before there is a tap: not one frame comes through without them.
        self.guard(ports).await?;
        for port in ports {
            let spec = bridge_spec(network_of(port)?)?;
            self.network.ensure_bridge(&spec).await.map_err(|error| network_fault(&error))?;
        }
        Ok(())
    }

    async fn guard(&self, ports: &[Port]) -> Result<(), Refusal> {
        let (mut guards, mut free) = (Vec::new(), Vec::new());
        for port in ports {
            match guard_of(port)? {
                Some(guard) => guards.push(guard),
                None => free.push(tap_name(port.interface.id)),
            }
        }
        if !free.is_empty() {
            self.filters.remove(&free).await.map_err(|error| filter_fault(&error))?;
        }
        match guards.is_empty() {
            true => Ok(()),
            false => self.filters.put(&guards).await.map_err(|error| filter_fault(&error)),
        }
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
                let removed = self.network.remove_tap(&tap).await;
                removed.map_err(|error| network_fault(&error))?;
            }
        }
        let taps: Vec<LinkName> = ports.iter().map(|port| tap_name(port.id)).collect();
        match taps.is_empty() {
            true => Ok(()),
            false => self.filters.remove(&taps).await.map_err(|error| filter_fault(&error)),
        }
    }

    async fn mend(
        &self,
        ports: impl Fn() -> Vec<Port> + Send + Sync,
    ) -> Result<Vec<String>, Refusal> {
        let wanted = || ports().iter().filter_map(|port| guard_of(port).ok()?).collect();
        let synced = self.filters.sync(wanted).await.map_err(|error| filter_fault(&error))?;
        let mut mended = match synced {
            InPlace::Found => Vec::new(),
            InPlace::Mended => vec!["what guests may send".to_owned()],
        };
        let taps: Vec<(LinkName, LinkName)> = ports()
            .iter()
            .filter_map(|port| {
                let bridge: LinkName = port.network.as_ref()?.bridge.parse().ok()?;
                let id = port.interface.id;
                Some([tap_name(id), old_tap_name(id)].map(|tap| (tap, bridge.clone())))
            })
            .flatten()
            .collect();
        if !taps.is_empty() {
            let plugged = self.network.plug_taps(&taps).await;
            let plugged = plugged.map_err(|error| network_fault(&error))?;
            mended.extend(plugged.iter().map(|tap| format!("tap {tap}: plugged in again")));
        }
        Ok(mended)
    }

    async fn changed(&self) {
        self.filters.changed().await;
    }

    async fn dropped(&self, port: PortId) -> Result<Vec<Dropped>, Refusal> {
        let dropped = self.filters.dropped(&tap_name(port)).await;
        dropped.map_err(|error| filter_fault(&error))
    }
}

/// What the guest of a port may send; none if it is not to be held to anything.
///
/// # Errors
/// What the port is cannot be read: its guest is not let at a network unguarded.
fn guard_of(port: &Port) -> Result<Option<Guard>, Refusal> {
    let Some(record) = &port.record else {
        let id = port.interface.id;
        let text = format!("what is known of port {id} cannot be read");
        return Err(Refusal::new(Reason::Internal, text)
            .next("detach it, and attach another")
            .by(Action::InstanceDetachInterface));
    };
    Ok(record.port_security.then(|| Guard {
        tap: tap_name(record.id),
        mac: record.mac,
        addresses: record.fixed_ips.iter().copied().map(Prefix::of).collect(),
        pairs: record.allowed_address_pairs.clone(),
    }))
}

fn filter_fault(error: &FilterError) -> Refusal {
    Refusal::of(Reason::NetworkFailed, error)
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
/// `invalid_params`: a link's name, a number or an address cannot be, or they do not go together.
pub(super) fn bridge_spec(network: &NetworkRecord) -> Result<BridgeSpec, Refusal> {
    let NetworkRecord { uplink, vlan, vxlan, .. } = network;
    Ok(BridgeSpec {
        bridge: link("bridge", &network.bridge)?,
        network: network.name.clone(),
        uplink: uplink_of(uplink.as_deref(), *vlan, vxlan.as_ref())?,
        mtu: Mtu::new(network.mtu).map_err(|e| wrong("mtu", &e))?,
    })
}

/// What joins a network's bridge, in the driver's terms.
///
/// # Errors
/// As [`bridge_spec`].
pub(super) fn uplink_of(
    nic: Option<&str>,
    vlan: Option<u16>,
    vxlan: Option<&WireVxlan>,
) -> Result<Uplink, Refusal> {
    let refuse = |parameter: &str, text: &str| {
        Err(Refusal::new(Reason::InvalidParams, text).about(format!("parameter {parameter}")))
    };
    let nic = nic.map(|nic| link("uplink", nic)).transpose()?;
    match (nic, vlan, vxlan) {
        (None, None, None) => Ok(Uplink::None),
        (Some(nic), None, None) => Ok(Uplink::Nic(nic)),
        (Some(nic), Some(vlan), None) => {
            let id = VlanId::new(vlan).map_err(|e| wrong("vlan", &e))?;
            Ok(Uplink::Vlan(Vlan { nic, id }))
        }
        (None, Some(_), None) => refuse("uplink", "a VLAN is on a NIC: name that as the uplink"),
        (_, Some(_), Some(_)) => {
            refuse("vlan", "a network has a VLAN or a VXLAN: leave one of them out")
        }
        (nic, None, Some(WireVxlan { vni, local, remotes, group, port })) => {
            let flood = match (nic, group) {
                (None, None) => Flood::Remotes(remotes.iter().copied().collect()),
                (Some(nic), Some(group)) if remotes.is_empty() => {
                    Flood::Group { group: *group, nic }
                }
                (Some(_), Some(_)) => {
                    return refuse(
                        "vxlan",
                        "a VXLAN has remotes or a group: leave one of them out",
                    );
                }
                (None, Some(_)) => {
                    return refuse("uplink", "a group is reached by a NIC: name it as the uplink");
                }
                (Some(_), None) => {
                    let text = "a VXLAN with remotes has no uplink: its local address decides \
                                the way";
                    return refuse("uplink", text);
                }
            };
            let tunnel = Vxlan::new(*vni, port.unwrap_or(VXLAN_PORT), *local, flood);
            Ok(Uplink::Vxlan(tunnel.map_err(|e| wrong("vxlan", &e))?))
        }
    }
}

fn wrong(parameter: &str, error: &dyn std::error::Error) -> Refusal {
    Refusal::of(Reason::InvalidParams, error).about(format!("parameter {parameter}"))
}

fn link(parameter: &str, name: &str) -> Result<LinkName, Refusal> {
    name.parse().map_err(|error| wrong(parameter, &error))
}
