//! Decides what to change: a pure function of the bridge as it should be and the links as they
//! are.
//!
//! A link's [`owner`] follows from two marks. The alias `ostler:<network>` is the one people see.
//! The kernel takes an alias only for a link that exists already, so a crash could leave a bridge
//! of ours without it; therefore each is born with our link group, which the kernel does set in
//! the same instant. Group without alias means: ours, unfinished.

mod change;
mod refusal;
#[cfg(test)]
mod tests;
mod uplink;

use std::net::IpAddr;

use super::name::LinkName;
use super::{BridgeSpec, BridgeState, Condition, Uplink, is_tap_name};

pub(super) use self::change::Change;
pub use self::refusal::Refusal;
pub(super) use self::uplink::room;

/// The alias of a link of ours starts so.
const MARK: &str = "ostler:";

/// The link group links of ours are born with: "ostl" as a number.
pub(super) const GROUP: u32 = 0x6f73_746c;

/// A link of the node, as the kernel shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) kind: LinkKind,
    pub(super) power: LinkPower,
    pub(super) mtu: u32,
    /// Index of the bridge or bond it is plugged into.
    pub(super) controller: Option<u32>,
    pub(super) alias: Option<String>,
    pub(super) group: u32,
    /// A tap's says that a process, normally QEMU, has it open.
    pub(super) carrier: bool,
    pub(super) ipv6: Ipv6,
    /// Addresses of the node on it, link-local ones left out.
    pub(super) addresses: Vec<IpAddr>,
    /// The nodes a VXLAN sends to, a group left out.
    pub(super) remotes: Vec<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    Bridge,
    Tun,
    Loopback,
    /// Several NICs as one.
    Bond,
    /// A VLAN, on the link of this index.
    Vlan {
        on: u32,
        id: u16,
    },
    Vxlan(Tunnel),
    Other,
}

/// A VXLAN's link, as the kernel shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tunnel {
    pub(super) vni: u32,
    pub(super) port: u16,
    pub(super) local: Option<IpAddr>,
    pub(super) group: Option<IpAddr>,
    /// The link it is sent by, where that was said.
    pub(super) by: Option<u32>,
}

/// Whether a link is administratively up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkPower {
    Up,
    Down,
}

/// Whether the node itself speaks IPv6 on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ipv6 {
    Spoken,
    Disabled,
}

/// Whose a bridge is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Owner {
    /// Ours, for the network of this name.
    Ours(String),
    /// Ours, but its making was cut short before the network's name was written.
    Unfinished,
    /// Somebody else's.
    Foreign,
}

/// What a removal should do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Removal {
    /// Delete the links of these indexes, in this order.
    Delete(Vec<u32>),
    /// There is nothing to delete.
    NothingThere,
    /// It is not ours to delete.
    NotOurs,
}

/// The alias of the bridge of `spec`.
pub(super) fn alias(spec: &BridgeSpec) -> String {
    format!("{MARK}{}", spec.network)
}

/// Whose a bridge is, by its marks.
pub(super) fn owner(link: &Link) -> Owner {
    match link.alias.as_deref() {
        Some(alias) if let Some(network) = alias.strip_prefix(MARK) => {
            Owner::Ours(network.to_owned())
        }
        None | Some("") if link.group == GROUP => Owner::Unfinished,
        None | Some(_) => Owner::Foreign,
    }
}

/// The changes that make the bridge and its uplink as they should be, in order; none if they are.
pub(super) fn ensure(spec: &BridgeSpec, links: &[Link]) -> Result<Vec<Change>, Refusal> {
    let bridge = find(links, spec.bridge.as_str());
    let name = || spec.bridge.clone();
    let mut changes = Vec::new();
    let mark = || Change::Mark { link: name(), alias: alias(spec) };
    if let Some(bridge) = bridge {
        if bridge.kind != LinkKind::Bridge {
            return Err(Refusal::NotABridge { bridge: bridge.name.clone() });
        }
        match owner(bridge) {
            Owner::Foreign => return accept_foreign(spec, bridge, links).map(|()| Vec::new()),
            Owner::Ours(network) if network == spec.network.as_str() => {}
            Owner::Ours(network) => {
                return Err(Refusal::Taken { bridge: bridge.name.clone(), network });
            }
            Owner::Unfinished => changes.push(mark()),
        }
    } else {
        changes.extend([Change::Create, mark()]);
    }
    // Before the bridge is up: an interface that comes up gets its link-local address at once.
    if bridge.is_none_or(|bridge| bridge.ipv6 == Ipv6::Spoken) {
        changes.push(Change::DisableIpv6 { link: name() });
    }
    let uplink = uplink::ensure(spec, bridge, links)?;
    let plugs = uplink.iter().any(|change| matches!(change, Change::Plug { .. }));
    changes.extend(uplink);
    // After the uplink: a bridge whose MTU was never fixed takes the smallest of its ports', and
    // so may come out of the plugging with another one than it went in with.
    if plugs || bridge.is_none_or(|bridge| bridge.mtu != spec.mtu.bytes()) {
        changes.push(Change::SetMtu { link: name(), mtu: spec.mtu });
    }
    if bridge.is_none_or(|bridge| bridge.power == LinkPower::Down) {
        changes.push(Change::Raise { link: name() });
    }
    Ok(changes)
}

/// Somebody else's bridge does if it is up, large enough, and has the uplink.
fn accept_foreign(spec: &BridgeSpec, bridge: &Link, links: &[Link]) -> Result<(), Refusal> {
    let name = &bridge.name;
    let refuse = |lacks| Err(Refusal::Foreign { bridge: name.clone(), lacks });
    if bridge.power == LinkPower::Down {
        return refuse(format!("is down: ip link set {name} up"));
    }
    if bridge.mtu < spec.mtu.bytes() {
        let (has, needs) = (bridge.mtu, spec.mtu);
        return refuse(format!("has MTU {has}, not {needs}: ip link set {name} mtu {needs}"));
    }
    match &spec.uplink {
        Uplink::None => Ok(()),
        Uplink::Nic(nic) => {
            let plugged = find(links, nic.as_str()).and_then(|link| link.controller);
            if plugged == Some(bridge.index) {
                Ok(())
            } else {
                refuse(format!("{nic} is not its port: ip link set {nic} master {name}"))
            }
        }
        Uplink::Vlan(_) | Uplink::Vxlan(_) => refuse(
            "so no VLAN or VXLAN is plugged into it: give the network another bridge name".into(),
        ),
    }
}

/// Whether the bridge may be removed, and what goes with it.
pub(super) fn remove(spec: &BridgeSpec, links: &[Link]) -> Result<Removal, Refusal> {
    // The bridge last: it is what a removal that was cut short is known by.
    let mut gone: Vec<&Link> = uplink::ours(spec, links).collect();
    let bridge = find(links, spec.bridge.as_str());
    let foreign = match bridge {
        None => false,
        Some(bridge) if bridge.kind != LinkKind::Bridge => true,
        Some(bridge) => match owner(bridge) {
            Owner::Foreign => true,
            Owner::Ours(network) if network != spec.network.as_str() => {
                return Err(Refusal::Taken { bridge: bridge.name.clone(), network });
            }
            Owner::Ours(_) | Owner::Unfinished => false,
        },
    };
    if let Some(bridge) = bridge.filter(|_| !foreign) {
        let stays = |port: &String| match &spec.uplink {
            Uplink::Nic(nic) => port != nic.as_str(),
            Uplink::None | Uplink::Vlan(_) | Uplink::Vxlan(_) => true,
        };
        let mut ports = ports(bridge, links);
        ports.retain(|port| stays(port) && gone.iter().all(|link| link.name != *port));
        if !ports.is_empty() {
            return Err(Refusal::HasPorts { bridge: bridge.name.clone(), ports });
        }
        gone.push(bridge);
    }
    Ok(match (gone.is_empty(), foreign) {
        (false, _) => Removal::Delete(gone.iter().map(|link| link.index).collect()),
        (true, true) => Removal::NotOurs,
        (true, false) => Removal::NothingThere,
    })
}

/// Whether the tap may be removed.
pub(super) fn remove_tap(tap: &LinkName, links: &[Link]) -> Result<Removal, Refusal> {
    if !is_tap_name(tap.as_str()) {
        return Err(Refusal::NotATap { link: tap.to_string() });
    }
    match find(links, tap.as_str()) {
        None => Ok(Removal::NothingThere),
        Some(link) if link.kind != LinkKind::Tun => Err(Refusal::NotATap { link: tap.to_string() }),
        Some(link) if link.carrier => Err(Refusal::TapHeld { tap: tap.to_string() }),
        Some(link) => Ok(Removal::Delete(vec![link.index])),
    }
}

/// The bridge to plug a tap into: none if it is not there, is not ours, or is plugged in already.
pub(super) fn plug_tap(tap: &LinkName, bridge: &LinkName, links: &[Link]) -> Option<u32> {
    let link = find(links, tap.as_str()).filter(|link| link.kind == LinkKind::Tun)?;
    let bridge = find(links, bridge.as_str()).filter(|link| link.kind == LinkKind::Bridge)?;
    let wanted = is_tap_name(tap.as_str()) && link.controller != Some(bridge.index);
    wanted.then_some(bridge.index)
}

/// How the bridge compares with what was asked.
pub(super) fn observe(spec: &BridgeSpec, links: &[Link]) -> BridgeState {
    let bridge = find(links, spec.bridge.as_str());
    let condition = match (bridge, ensure(spec, links)) {
        (None, _) => Condition::Missing,
        (Some(_), Ok(changes)) if changes.is_empty() => Condition::Good,
        (Some(_), Ok(changes)) => {
            Condition::Drifted(changes.iter().map(Change::to_string).collect())
        }
        (Some(_), Err(refusal)) => Condition::Drifted(vec![refusal.to_string()]),
    };
    let ports = bridge.map(|bridge| ports(bridge, links)).unwrap_or_default();
    let uplink = uplink::ours(spec, links).next().map(|link| link.name.clone());
    BridgeState { bridge: spec.bridge.clone(), condition, uplink, ports }
}

fn find<'a>(links: &'a [Link], name: &str) -> Option<&'a Link> {
    links.iter().find(|link| link.name == name)
}

fn name_of(links: &[Link], index: u32) -> String {
    let link = links.iter().find(|link| link.index == index);
    link.map_or_else(|| format!("link {index}"), |link| link.name.clone())
}

fn ports(bridge: &Link, links: &[Link]) -> Vec<String> {
    let mut ports: Vec<String> = links
        .iter()
        .filter(|link| link.controller == Some(bridge.index))
        .map(|link| link.name.clone())
        .collect();
    ports.sort();
    ports
}
