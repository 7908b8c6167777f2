//! The part of a plan that is about the uplink: a NIC that is plugged in, or the link of a VLAN or
//! VXLAN, which is made, kept as it should be, and removed when the network has another.
//!
//! A VLAN or VXLAN is found by what it is (its NIC and tag, its VNI and port), not by its name: the
//! kernel has each once, and a NIC may be renamed. Those of somebody else are refused even where
//! they are plugged in nowhere, for an address, a route or a container may hang on them unseen. Who
//! wants to use one says so, by giving it as the NIC.

use std::net::IpAddr;

use super::super::name::{LinkName, Mtu};
use super::super::uplink::{Flood, Vlan, Vxlan};
use super::super::{BridgeSpec, Uplink};
use super::{
    Change, Ipv6, Link, LinkKind, LinkPower, Owner, Refusal, Tunnel, alias, find, name_of, owner,
};

/// The changes that give the bridge its uplink, in order.
pub(super) fn ensure(
    spec: &BridgeSpec,
    bridge: Option<&Link>,
    links: &[Link],
) -> Result<Vec<Change>, Refusal> {
    match &spec.uplink {
        Uplink::None => Ok(former(spec, None, links)),
        Uplink::Nic(nic) => {
            let mut changes = former(spec, find(links, nic.as_str()), links);
            changes.extend(plug_nic(spec, nic, bridge, links)?);
            Ok(changes)
        }
        Uplink::Vlan(vlan) => ensure_vlan(spec, vlan, bridge, links),
        Uplink::Vxlan(vxlan) => ensure_vxlan(spec, vxlan, bridge, links),
    }
}

/// The links of VLANs and VXLANs that were made for a network; of one that was cut short, only the
/// name tells.
pub(super) fn ours<'a>(spec: &BridgeSpec, links: &'a [Link]) -> impl Iterator<Item = &'a Link> {
    let (network, name) = (spec.network.to_string(), spec.uplink.link());
    links.iter().filter(move |link| {
        matches!(link.kind, LinkKind::Vlan { .. } | LinkKind::Vxlan(_))
            && match owner(link) {
                Owner::Ours(of) => of == network,
                Owner::Unfinished => name.as_ref().is_some_and(|name| name.as_str() == link.name),
                Owner::Foreign => false,
            }
    })
}

/// What removes those that the network does not have any more.
fn former(spec: &BridgeSpec, kept: Option<&Link>, links: &[Link]) -> Vec<Change> {
    ours(spec, links)
        .filter(|link| kept.is_none_or(|kept| kept.index != link.index))
        .map(|link| Change::Remove { link: link.name.clone(), index: link.index })
        .collect()
}

/// What plugs a NIC into our bridge, and sets it up.
fn plug_nic(
    spec: &BridgeSpec,
    nic: &LinkName,
    bridge: Option<&Link>,
    links: &[Link],
) -> Result<Vec<Change>, Refusal> {
    let link = carrier(spec, nic, links)?;
    let mut changes = Vec::new();
    match link.controller {
        Some(index) if bridge.is_some_and(|bridge| bridge.index == index) => {}
        Some(index) => {
            let controller = name_of(links, index);
            return Err(Refusal::UplinkTaken { nic: nic.to_string(), controller });
        }
        None => match link.addresses.first() {
            Some(&address) => {
                return Err(Refusal::UplinkInUse { nic: nic.to_string(), address });
            }
            None => changes.push(Change::Plug { link: nic.clone() }),
        },
    }
    changes.extend(raise(nic, link));
    Ok(changes)
}

/// A NIC that carries the network's packets, and is no part of a bond.
fn carrier<'a>(spec: &BridgeSpec, nic: &LinkName, links: &'a [Link]) -> Result<&'a Link, Refusal> {
    let Some(link) = find(links, nic.as_str()) else {
        return Err(Refusal::UplinkAbsent { nic: nic.to_string() });
    };
    let above = links.iter().find(|above| link.controller == Some(above.index));
    if let Some(bond) = above.filter(|above| above.kind == LinkKind::Bond) {
        return Err(Refusal::UplinkInBond { nic: nic.to_string(), bond: bond.name.clone() });
    }
    let (nic, has, needs) = (nic.to_string(), link.mtu, spec.mtu.bytes());
    if has < needs { Err(Refusal::UplinkMtu { nic, has, needs }) } else { Ok(link) }
}

fn raise(name: &LinkName, link: &Link) -> Option<Change> {
    (link.power == LinkPower::Down).then(|| Change::Raise { link: name.clone() })
}

/// The NIC of a VLAN may have addresses, and be on another bridge: frames with a tag are taken out
/// before either sees them.
fn ensure_vlan(
    spec: &BridgeSpec,
    vlan: &Vlan,
    bridge: Option<&Link>,
    links: &[Link],
) -> Result<Vec<Change>, Refusal> {
    let nic = carrier(spec, &vlan.nic, links)?;
    let wanted = LinkKind::Vlan { on: nic.index, id: vlan.id.number() };
    let there = links.iter().find(|link| link.kind == wanted);
    if let Some(there) = there {
        is_for(spec, there, vlan.to_string(), |wanted, link| Refusal::ForeignVlan {
            wanted,
            link,
        })?;
    }
    let mut changes = former(spec, there, links);
    changes.extend(raise(&vlan.nic, nic));
    let made = |link| Change::CreateVlan { link, vlan: vlan.clone() };
    changes.extend(link(spec, there, bridge, links, made, vlan.to_string())?.changes);
    Ok(changes)
}

fn ensure_vxlan(
    spec: &BridgeSpec,
    vxlan: &Vxlan,
    bridge: Option<&Link>,
    links: &[Link],
) -> Result<Vec<Change>, Refusal> {
    let under = underlay(vxlan, links)?;
    if let Some(bytes) = most(under)
        && vxlan.room(bytes).is_none_or(|room| room < spec.mtu)
    {
        return Err(too_large(vxlan, under, spec.mtu.bytes()));
    }
    let is_it = |link: &&Link| {
        matches!(link.kind, LinkKind::Vxlan(Tunnel { vni, port, .. })
            if (vni, port) == (vxlan.vni, vxlan.port))
    };
    let there = links.iter().find(is_it);
    if let Some(there) = there {
        is_for(spec, there, vxlan.to_string(), |wanted, link| Refusal::ForeignVxlan {
            wanted,
            link,
        })?;
    }
    let (group, by) = match &vxlan.flood {
        Flood::Remotes(_) => (None, None),
        Flood::Group { group, .. } => (Some(*group), Some(under.index)),
    };
    let tunnel = Tunnel { vni: vxlan.vni, port: vxlan.port, local: Some(vxlan.local), group, by };
    // One that differs in what the kernel does not change is made anew: its bridge stays.
    let there = there.filter(|link| link.kind == LinkKind::Vxlan(tunnel));
    let mut changes = former(spec, there, links);
    let made = |link| Change::CreateVxlan { link, vxlan: vxlan.clone() };
    let planned = link(spec, there, bridge, links, made, vxlan.to_string())?;
    changes.extend(planned.changes);
    if let Flood::Remotes(wanted) = &vxlan.flood {
        let has: &[IpAddr] = there.map_or(&[], |link| &link.remotes);
        let link = planned.name;
        let (add, drop) = (
            wanted.iter().filter(|remote| !has.contains(remote)),
            has.iter().filter(|remote| !wanted.contains(remote)),
        );
        let added = |&remote| Change::AddRemote { link: link.clone(), remote };
        let dropped = |&remote| Change::DropRemote { link: link.clone(), remote };
        changes.extend(add.map(added).chain(drop.map(dropped)));
    }
    Ok(changes)
}

/// The link that a tunnel's packets leave by.
fn underlay<'a>(vxlan: &Vxlan, links: &'a [Link]) -> Result<&'a Link, Refusal> {
    let address = vxlan.local;
    let has = |link: &&Link| link.addresses.contains(&address);
    let Some(of_address) = links.iter().find(has) else {
        return Err(Refusal::NoSuchAddress { address });
    };
    match &vxlan.flood {
        Flood::Remotes(_) => Ok(of_address),
        Flood::Group { nic, .. } => {
            find(links, nic.as_str()).ok_or_else(|| Refusal::UplinkAbsent { nic: nic.to_string() })
        }
    }
}

/// What an underlay carries. An address on the loopback is reached by any NIC: nobody knows then.
fn most(underlay: &Link) -> Option<u32> {
    (underlay.kind != LinkKind::Loopback).then_some(underlay.mtu)
}

/// The largest packet of a network by this tunnel.
pub(in super::super) fn room(vxlan: &Vxlan, links: &[Link]) -> Result<Mtu, Refusal> {
    let under = underlay(vxlan, links)?;
    let Some(bytes) = most(under) else {
        return Err(Refusal::UnknownMtu { link: under.name.clone() });
    };
    vxlan.room(bytes).ok_or_else(|| too_large(vxlan, under, Mtu::LEAST))
}

fn too_large(vxlan: &Vxlan, under: &Link, needs: u32) -> Refusal {
    let room = under.mtu.saturating_sub(vxlan.overhead());
    Refusal::VxlanMtu { address: vxlan.local, link: under.name.clone(), room, needs }
}

/// Whether a VLAN or VXLAN that is there was made for this network.
fn is_for(
    spec: &BridgeSpec,
    there: &Link,
    wanted: String,
    foreign: impl Fn(String, String) -> Refusal,
) -> Result<(), Refusal> {
    match owner(there) {
        Owner::Ours(network) if network == spec.network.as_str() => Ok(()),
        Owner::Ours(network) => Err(Refusal::SegmentTaken { wanted, network }),
        Owner::Unfinished => Ok(()),
        Owner::Foreign => Err(foreign(wanted, there.name.clone())),
    }
}

/// What is done to a VLAN's or VXLAN's link.
struct Planned {
    name: LinkName,
    changes: Vec<Change>,
}

/// What makes the link of a VLAN or VXLAN as it should be, plugs it in and sets it up.
fn link(
    spec: &BridgeSpec,
    there: Option<&Link>,
    bridge: Option<&Link>,
    links: &[Link],
    made: impl Fn(LinkName) -> Change,
    wanted: String,
) -> Result<Planned, Refusal> {
    let derived = spec.uplink.link();
    let called = match there {
        Some(there) => there.name.parse().ok(),
        None => derived,
    };
    let Some(name) = called else {
        let link = there.map(|there| there.name.clone()).unwrap_or_default();
        return Err(Refusal::LinkTaken { wanted, link });
    };
    let mut changes = Vec::new();
    let unmarked = there.is_none_or(|there| owner(there) == Owner::Unfinished);
    if there.is_none() {
        let goes = |link: &Link| ours(spec, links).any(|gone| gone.index == link.index);
        if let Some(other) = find(links, name.as_str()).filter(|link| !goes(link)) {
            return Err(Refusal::LinkTaken { wanted, link: other.name.clone() });
        }
        changes.push(made(name.clone()));
    }
    if unmarked {
        changes.push(Change::Mark { link: name.clone(), alias: alias(spec) });
    }
    // Before it is up, as for the bridge.
    if there.is_none_or(|there| there.ipv6 == Ipv6::Spoken) {
        changes.push(Change::DisableIpv6 { link: name.clone() });
    }
    if there.is_some_and(|there| there.mtu != spec.mtu.bytes()) {
        changes.push(Change::SetMtu { link: name.clone(), mtu: spec.mtu });
    }
    let plugged = there.and_then(|there| there.controller);
    if plugged.is_none() || plugged != bridge.map(|bridge| bridge.index) {
        changes.push(Change::Plug { link: name.clone() });
    }
    if there.is_none_or(|there| there.power == LinkPower::Down) {
        changes.push(Change::Raise { link: name.clone() });
    }
    Ok(Planned { name, changes })
}
