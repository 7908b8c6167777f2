//! What the kernel says of links, addresses and VXLANs' tables, as plans know it.

use std::net::IpAddr;

use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressMessage};
use rtnetlink::packet_route::link::{
    AfSpecInet6, AfSpecUnspec, InfoData, InfoKind, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags,
    LinkInfo, LinkMessage, VlanProtocol,
};
use rtnetlink::packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};

use super::super::plan::{Ipv6, Link, LinkKind, LinkPower, Tunnel};
use super::ANYBODY;

pub(super) fn link(message: LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: LinkKind::Other,
        power: LinkPower::Down,
        mtu: 0,
        controller: None,
        alias: None,
        group: 0,
        carrier: false,
        ipv6: Ipv6::Disabled,
        addresses: Vec::new(),
        remotes: Vec::new(),
    };
    if message.header.flags.contains(LinkFlags::Up) {
        link.power = LinkPower::Up;
    }
    let mut infos = Vec::new();
    let mut on = None;
    for attribute in message.attributes {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel's list grows")]
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(index) if index != 0 => link.controller = Some(index),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Carrier(carrier) => link.carrier = carrier != 0,
            LinkAttribute::LinkInfo(found) => infos = found,
            LinkAttribute::Link(index) => on = Some(index),
            LinkAttribute::AfSpecUnspec(specs) => link.ipv6 = ipv6(&specs),
            _ => {}
        }
    }
    link.kind = match message.header.flags.contains(LinkFlags::Loopback) {
        true => LinkKind::Loopback,
        false => kind(&infos, on),
    };
    (!link.name.is_empty()).then_some(link)
}

/// `on` is the link that a VLAN is on.
fn kind(infos: &[LinkInfo], on: Option<u32>) -> LinkKind {
    let kind = infos
        .iter()
        .find_map(|info| if let LinkInfo::Kind(kind) = info { Some(kind) } else { None });
    let data = infos
        .iter()
        .find_map(|info| if let LinkInfo::Data(data) = info { Some(data) } else { None });
    match (kind, data) {
        (Some(InfoKind::Bridge), _) => LinkKind::Bridge,
        (Some(InfoKind::Tun), _) => LinkKind::Tun,
        (Some(InfoKind::Bond | InfoKind::Team), _) => LinkKind::Bond,
        (_, Some(InfoData::Vlan(infos))) => vlan(infos, on),
        (_, Some(InfoData::Vxlan(infos))) => LinkKind::Vxlan(tunnel(infos)),
        _ => LinkKind::Other,
    }
}

/// Only those of 802.1Q: others have numbers of their own.
fn vlan(infos: &[InfoVlan], on: Option<u32>) -> LinkKind {
    let is_ours = |info: &InfoVlan| !matches!(info, InfoVlan::Protocol(protocol) if *protocol != VlanProtocol::Ieee8021Q);
    let id =
        infos.iter().find_map(|info| if let InfoVlan::Id(id) = info { Some(*id) } else { None });
    match (id, on) {
        (Some(id), Some(on)) if infos.iter().all(is_ours) => LinkKind::Vlan { on, id },
        _ => LinkKind::Other,
    }
}

fn tunnel(infos: &[InfoVxlan]) -> Tunnel {
    let mut tunnel = Tunnel { vni: 0, port: 0, local: None, group: None, by: None };
    for info in infos {
        #[expect(clippy::wildcard_enum_match_arm, reason = "the kernel's list grows")]
        match *info {
            InfoVxlan::Id(vni) => tunnel.vni = vni,
            InfoVxlan::Port(port) => tunnel.port = port,
            InfoVxlan::Local(v4) => tunnel.local = Some(v4.into()),
            InfoVxlan::Local6(v6) => tunnel.local = Some(v6.into()),
            InfoVxlan::Group(v4) => tunnel.group = Some(v4.into()),
            InfoVxlan::Group6(v6) => tunnel.group = Some(v6.into()),
            InfoVxlan::Link(by) => tunnel.by = Some(by),
            _ => {}
        }
    }
    tunnel
}

/// A node that a VXLAN sends to, and the VXLAN's index.
pub(super) fn remote(entry: NeighbourMessage) -> Option<(u32, IpAddr)> {
    let is_for_anybody = entry.attributes.iter().any(
        |attribute| matches!(attribute, NeighbourAttribute::LinkLayerAddress(mac) if *mac == ANYBODY),
    );
    // Entries of bridges' and VXLANs' tables do not say of which family their addresses are.
    let bytes = entry.attributes.iter().find_map(|attribute| {
        if let NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) = attribute {
            Some(bytes.as_slice())
        } else {
            None
        }
    })?;
    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let remote = v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok();
    remote.filter(|_| is_for_anybody).map(|remote| (entry.header.ifindex, remote))
}

fn ipv6(specs: &[AfSpecUnspec]) -> Ipv6 {
    let spoken = specs.iter().any(|spec| match spec {
        AfSpecUnspec::Inet6(items) => items
            .iter()
            .any(|item| matches!(item, AfSpecInet6::DevConf(conf) if conf.disable_ipv6 == 0)),
        AfSpecUnspec::Inet(_) | _ => false,
    });
    if spoken { Ipv6::Spoken } else { Ipv6::Disabled }
}

pub(super) fn address(message: AddressMessage) -> Option<(u32, IpAddr)> {
    // A point-to-point link has both; `Local` is the node's own.
    let pick = |wanted: fn(&AddressAttribute) -> Option<IpAddr>| {
        message.attributes.iter().find_map(wanted)
    };
    let local = pick(|a| if let AddressAttribute::Local(ip) = a { Some(*ip) } else { None });
    let plain = pick(|a| if let AddressAttribute::Address(ip) = a { Some(*ip) } else { None });
    let address = local.or(plain)?;
    let link_local = match address {
        // 169.254/16 may be the node's real address (BGP unnumbered, zeroconf): it counts.
        IpAddr::V4(_) => false,
        IpAddr::V6(v6) => {
            message.header.family == AddressFamily::Inet6 && v6.is_unicast_link_local()
        }
    };
    (!link_local).then_some((message.header.index, address))
}
