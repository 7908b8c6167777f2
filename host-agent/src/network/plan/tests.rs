//! Plans for links that do not exist.

use super::super::{Flood, Mtu, Vlan, VlanId, Vxlan};
use super::*;

fn br() -> LinkName {
    "br-lan".parse().unwrap()
}

fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        index,
        name: name.to_owned(),
        kind,
        power: LinkPower::Up,
        mtu: 1500,
        controller: None,
        alias: None,
        group: 0,
        carrier: false,
        ipv6: Ipv6::Disabled,
        addresses: Vec::new(),
        remotes: Vec::new(),
    }
}

fn ours(index: u32) -> Link {
    let mut bridge = link(index, "br-lan", LinkKind::Bridge);
    bridge.alias = Some("ostler:lan".to_owned());
    bridge.group = GROUP;
    bridge
}

fn spec(uplink: Uplink) -> BridgeSpec {
    BridgeSpec {
        bridge: "br-lan".parse().unwrap(),
        network: "lan".parse().unwrap(),
        uplink,
        mtu: Mtu::ETHERNET,
    }
}

fn eth0() -> Uplink {
    Uplink::Nic("eth0".parse().unwrap())
}

#[test]
fn a_new_bridge_is_sealed_before_it_is_up() {
    let changes = ensure(&spec(Uplink::None), &[]).unwrap();
    let at = |wanted: &Change| changes.iter().position(|change| change == wanted).unwrap();
    assert_eq!(at(&Change::Create), 0);
    assert!(at(&Change::DisableIpv6 { link: br() }) < at(&Change::Raise { link: br() }));
}

#[test]
fn a_bridge_that_is_right_needs_no_change() {
    assert_eq!(ensure(&spec(Uplink::None), &[ours(1)]), Ok(vec![]));
    let mut nic = link(2, "eth0", LinkKind::Other);
    nic.controller = Some(1);
    assert_eq!(ensure(&spec(eth0()), &[ours(1), nic]), Ok(vec![]));
}

#[test]
fn a_bridge_cut_short_is_finished_and_may_be_removed() {
    let mut bridge = ours(1);
    bridge.alias = None;
    let changes = ensure(&spec(Uplink::None), std::slice::from_ref(&bridge)).unwrap();
    assert_eq!(changes, [Change::Mark { link: br(), alias: "ostler:lan".to_owned() }]);
    let removal = remove(&spec(Uplink::None), &[bridge]);
    assert_eq!(removal, Ok(Removal::Delete(vec![1])));
}

#[test]
fn drift_of_our_bridge_is_repaired() {
    let mut bridge = ours(1);
    bridge.power = LinkPower::Down;
    bridge.mtu = 1400;
    bridge.ipv6 = Ipv6::Spoken;
    let changes = ensure(&spec(Uplink::None), std::slice::from_ref(&bridge)).unwrap();
    let repairs = [
        Change::DisableIpv6 { link: br() },
        Change::SetMtu { link: br(), mtu: Mtu::ETHERNET },
        Change::Raise { link: br() },
    ];
    assert_eq!(changes, repairs);
    let Condition::Drifted(why) = observe(&spec(Uplink::None), &[bridge]).condition else {
        panic!("not drifted");
    };
    assert_eq!(why.len(), 3);
}

#[test]
fn a_foreign_bridge_is_used_as_it_is_or_refused() {
    let bridge = link(1, "br-lan", LinkKind::Bridge);
    assert_eq!(ensure(&spec(Uplink::None), std::slice::from_ref(&bridge)), Ok(vec![]));
    assert_eq!(remove(&spec(Uplink::None), std::slice::from_ref(&bridge)), Ok(Removal::NotOurs));
    let nic = link(2, "eth0", LinkKind::Other);
    for change in
        [|bridge: &mut Link| bridge.power = LinkPower::Down, |bridge: &mut Link| bridge.mtu = 1400]
    {
        let mut unfit = bridge.clone();
        change(&mut unfit);
        let refusal = ensure(&spec(Uplink::None), &[unfit]).unwrap_err();
        assert!(refusal.to_string().contains("ip link set br-lan"), "{refusal}");
    }
    let refusal = ensure(&spec(eth0()), &[bridge, nic]).unwrap_err();
    assert!(refusal.to_string().contains("ip link set eth0 master br-lan"), "{refusal}");
}

#[test]
fn a_name_taken_is_refused() {
    let other = link(1, "br-lan", LinkKind::Other);
    assert!(matches!(ensure(&spec(Uplink::None), &[other]), Err(Refusal::NotABridge { .. })));
    let mut bridge = ours(1);
    bridge.alias = Some("ostler:dmz".to_owned());
    let links = [bridge];
    assert!(matches!(ensure(&spec(Uplink::None), &links), Err(Refusal::Taken { .. })));
    assert!(matches!(remove(&spec(Uplink::None), &links), Err(Refusal::Taken { .. })));
}

#[test]
fn an_uplink_the_node_needs_is_never_taken() {
    let mut nic = link(2, "eth0", LinkKind::Other);
    nic.addresses.push("192.0.2.1".parse().unwrap());
    let refusal = ensure(&spec(eth0()), std::slice::from_ref(&nic)).unwrap_err();
    assert!(matches!(refusal, Refusal::UplinkInUse { .. }));
    nic.addresses.clear();
    nic.controller = Some(3);
    let other = link(3, "br0", LinkKind::Bridge);
    assert_eq!(
        ensure(&spec(eth0()), &[nic.clone(), other]),
        Err(Refusal::UplinkTaken { nic: "eth0".into(), controller: "br0".into() })
    );
    let bond = link(3, "bond0", LinkKind::Bond);
    assert_eq!(
        ensure(&spec(eth0()), &[nic.clone(), bond]),
        Err(Refusal::UplinkInBond { nic: "eth0".into(), bond: "bond0".into() })
    );
    nic.controller = None;
    nic.mtu = 1400;
    assert!(matches!(ensure(&spec(eth0()), &[nic]), Err(Refusal::UplinkMtu { .. })));
    assert!(matches!(ensure(&spec(eth0()), &[]), Err(Refusal::UplinkAbsent { .. })));
}

#[test]
fn a_bridge_with_ports_stays() {
    let mut nic = link(2, "eth0", LinkKind::Other);
    nic.controller = Some(1);
    let mut tap = link(3, "tap0f8fad5bd9c", LinkKind::Tun);
    tap.controller = Some(1);
    let refusal = remove(&spec(eth0()), &[ours(1), nic.clone(), tap]).unwrap_err();
    let ports = vec!["tap0f8fad5bd9c".to_owned()];
    assert_eq!(refusal, Refusal::HasPorts { bridge: "br-lan".into(), ports });
    let removal = remove(&spec(eth0()), &[ours(1), nic]);
    assert_eq!(removal, Ok(Removal::Delete(vec![1])), "its own uplink does not hold it");
}

#[test]
fn only_a_free_tap_of_ours_is_removed() {
    let name: LinkName = "tap0f8fad5bd9c".parse().unwrap();
    let mut tap = link(3, name.as_str(), LinkKind::Tun);
    let tried = |tap: &Link| remove_tap(&name, std::slice::from_ref(tap));
    assert_eq!(tried(&tap), Ok(Removal::Delete(vec![3])));
    tap.carrier = true;
    assert!(matches!(tried(&tap), Err(Refusal::TapHeld { .. })));
    tap.kind = LinkKind::Other;
    assert!(matches!(tried(&tap), Err(Refusal::NotATap { .. })));
    assert_eq!(remove_tap(&name, &[]), Ok(Removal::NothingThere));
    let vpn: LinkName = "tap0".parse().unwrap();
    let foreign = link(4, "tap0", LinkKind::Tun);
    assert!(matches!(remove_tap(&vpn, &[foreign]), Err(Refusal::NotATap { .. })));
}

fn vlan(nic: &str, id: u16) -> Uplink {
    Uplink::Vlan(Vlan { nic: nic.parse().unwrap(), id: VlanId::new(id).unwrap() })
}

fn vxlan(vni: u32, remotes: &[&str]) -> Uplink {
    let remotes = remotes.iter().map(|remote| remote.parse().unwrap()).collect();
    let local = "10.0.0.1".parse().unwrap();
    Uplink::Vxlan(Vxlan::new(vni, 4789, local, Flood::Remotes(remotes)).unwrap())
}

/// A NIC with the address that tunnels here have.
fn underlay() -> Link {
    let mut nic = link(2, "eth0", LinkKind::Other);
    nic.addresses.push("10.0.0.1".parse().unwrap());
    nic.mtu = 1600;
    nic
}

/// What a kernel would make of a plan.
fn carry_out(spec: &BridgeSpec, mut links: Vec<Link>) -> Vec<Link> {
    let changes = ensure(spec, &links).unwrap();
    for change in changes {
        apply(spec, &change, &mut links);
    }
    links
}

fn apply(spec: &BridgeSpec, change: &Change, links: &mut Vec<Link>) {
    let next = links.iter().map(|link| link.index).max().unwrap_or(0) + 1;
    let index = |links: &[Link], name: &LinkName| find(links, name.as_str()).unwrap().index;
    let born = |name: &LinkName, kind| Link {
        power: LinkPower::Down,
        group: GROUP,
        ipv6: Ipv6::Spoken,
        mtu: spec.mtu.bytes(),
        ..link(next, name.as_str(), kind)
    };
    let name = match change {
        Change::Create => return links.push(born(&spec.bridge, LinkKind::Bridge)),
        Change::CreateVlan { link, vlan } => {
            let kind = LinkKind::Vlan { on: index(links, &vlan.nic), id: vlan.id.number() };
            return links.push(born(link, kind));
        }
        Change::CreateVxlan { link, vxlan } => {
            let Vxlan { vni, port, local, .. } = *vxlan;
            let tunnel = Tunnel { vni, port, local: Some(local), group: None, by: None };
            return links.push(born(link, LinkKind::Vxlan(tunnel)));
        }
        Change::Remove { index, .. } => return links.retain(|link| link.index != *index),
        Change::Mark { link, .. }
        | Change::DisableIpv6 { link }
        | Change::SetMtu { link, .. }
        | Change::Plug { link }
        | Change::Raise { link }
        | Change::AddRemote { link, .. }
        | Change::DropRemote { link, .. } => link,
    };
    let bridge = find(links, spec.bridge.as_str()).map(|bridge| bridge.index);
    let link = links.iter_mut().find(|link| link.name == name.as_str()).unwrap();
    match change {
        Change::Mark { alias, .. } => link.alias = Some(alias.clone()),
        Change::DisableIpv6 { .. } => link.ipv6 = Ipv6::Disabled,
        Change::SetMtu { mtu, .. } => link.mtu = mtu.bytes(),
        Change::Plug { .. } => link.controller = bridge,
        Change::Raise { .. } => link.power = LinkPower::Up,
        Change::AddRemote { remote, .. } => link.remotes.push(*remote),
        Change::DropRemote { remote, .. } => link.remotes.retain(|there| there != remote),
        Change::Create
        | Change::CreateVlan { .. }
        | Change::CreateVxlan { .. }
        | Change::Remove { .. } => unreachable!(),
    }
}

#[test]
fn a_vlan_is_made_sealed_and_plugged_in_while_its_nic_keeps_its_address() {
    let spec = spec(vlan("eth0", 100));
    let changes = ensure(&spec, &[underlay()]).unwrap();
    let at = |wanted: &Change| changes.iter().position(|change| change == wanted).unwrap();
    let link: LinkName = "eth0.100".parse().unwrap();
    let raise = at(&Change::Raise { link: link.clone() });
    assert!(at(&Change::DisableIpv6 { link: link.clone() }) < raise);
    assert!(at(&Change::Plug { link: link.clone() }) < raise);
    assert!(at(&Change::Mark { link, alias: "ostler:lan".into() }) < raise);
    let links = carry_out(&spec, vec![underlay()]);
    assert_eq!(ensure(&spec, &links), Ok(vec![]));
    assert_eq!(find(&links, "eth0"), Some(&underlay()), "the NIC is as it was");
    assert_eq!(observe(&spec, &links).uplink.as_deref(), Some("eth0.100"));
}

#[test]
fn a_vlan_of_others_is_refused_and_named_even_where_it_is_plugged_in_nowhere() {
    let mut there = link(3, "mgmt", LinkKind::Vlan { on: 2, id: 100 });
    let tried = |there: &Link| ensure(&spec(vlan("eth0", 100)), &[underlay(), there.clone()]);
    let refusal = tried(&there).unwrap_err();
    assert_eq!(
        refusal,
        Refusal::ForeignVlan { wanted: "VLAN 100 of eth0".into(), link: "mgmt".into() }
    );
    assert!(refusal.to_string().contains("give mgmt as the uplink"), "{refusal}");
    there.alias = Some("ostler:dmz".into());
    assert!(
        matches!(tried(&there), Err(Refusal::SegmentTaken { network, .. }) if network == "dmz")
    );
    // The same number on another NIC, or another on this, is no matter.
    there.kind = LinkKind::Vlan { on: 7, id: 100 };
    assert!(tried(&there).is_ok());
    there.kind = LinkKind::Vlan { on: 2, id: 101 };
    assert!(tried(&there).is_ok());
    there.name = "eth0.100".into();
    assert!(matches!(tried(&there), Err(Refusal::LinkTaken { .. })));
}

#[test]
fn a_vlan_on_a_member_of_a_bond_is_refused_and_on_the_bond_it_is_not() {
    let mut nic = link(2, "eth0", LinkKind::Other);
    nic.controller = Some(3);
    let links = [nic, link(3, "bond0", LinkKind::Bond)];
    for uplink in [vlan("eth0", 100), eth0()] {
        let refusal = ensure(&spec(uplink), &links).unwrap_err();
        assert_eq!(refusal, Refusal::UplinkInBond { nic: "eth0".into(), bond: "bond0".into() });
        assert!(refusal.to_string().ends_with("use bond0"), "{refusal}");
    }
    assert!(ensure(&spec(vlan("bond0", 100)), &links).is_ok());
    assert!(ensure(&spec(Uplink::Nic("bond0".parse().unwrap())), &links).is_ok());
}

#[test]
fn a_vlan_carries_no_more_than_its_nic() {
    let large = BridgeSpec { mtu: Mtu::new(1601).unwrap(), ..spec(vlan("eth0", 100)) };
    assert!(matches!(ensure(&large, &[underlay()]), Err(Refusal::UplinkMtu { has: 1600, .. })));
}

#[test]
fn a_tunnel_sends_to_the_remotes_it_shall_have_and_to_no_others() {
    let two = spec(vxlan(7, &["10.0.0.2", "10.0.0.3"]));
    let links = carry_out(&two, vec![underlay()]);
    let tunnel = find(&links, "vxlan-7").unwrap();
    assert_eq!(tunnel.remotes, two_addresses("10.0.0.2", "10.0.0.3"));
    assert_eq!((tunnel.mtu, tunnel.ipv6), (1500, Ipv6::Disabled));
    assert_eq!(ensure(&two, &links), Ok(vec![]));
    // A change of remotes touches nothing else.
    let other = spec(vxlan(7, &["10.0.0.3", "10.0.0.4"]));
    let link: LinkName = "vxlan-7".parse().unwrap();
    assert_eq!(
        ensure(&other, &links).unwrap(),
        [
            Change::AddRemote { link: link.clone(), remote: "10.0.0.4".parse().unwrap() },
            Change::DropRemote { link, remote: "10.0.0.2".parse().unwrap() },
        ]
    );
    let links = carry_out(&other, links);
    assert_eq!(find(&links, "vxlan-7").unwrap().remotes, two_addresses("10.0.0.3", "10.0.0.4"));
}

fn two_addresses(a: &str, b: &str) -> Vec<IpAddr> {
    vec![a.parse().unwrap(), b.parse().unwrap()]
}

#[test]
fn a_tunnel_has_room_for_what_its_underlay_carries_less_its_headers() {
    let Uplink::Vxlan(tunnel) = vxlan(7, &["10.0.0.2"]) else { unreachable!() };
    let mut nic = underlay();
    assert_eq!(
        room(&tunnel, std::slice::from_ref(&nic)),
        Mtu::new(1550).map_err(|_| unreachable!())
    );
    nic.mtu = 1500;
    let refusal = ensure(&spec(vxlan(7, &["10.0.0.2"])), std::slice::from_ref(&nic)).unwrap_err();
    assert!(matches!(refusal, Refusal::VxlanMtu { room: 1450, needs: 1500, .. }), "{refusal}");
    nic.addresses.clear();
    let absent = Refusal::NoSuchAddress { address: "10.0.0.1".parse().unwrap() };
    assert_eq!(room(&tunnel, std::slice::from_ref(&nic)), Err(absent));
    // An address that any NIC may lead to says nothing.
    let lo = Link { kind: LinkKind::Loopback, mtu: 65536, ..underlay() };
    assert!(matches!(room(&tunnel, std::slice::from_ref(&lo)), Err(Refusal::UnknownMtu { .. })));
    assert!(ensure(&spec(vxlan(7, &["10.0.0.2"])), &[lo]).is_ok(), "a given MTU is believed");
}

#[test]
fn a_tunnel_of_others_with_the_same_number_and_port_is_refused_and_named() {
    let tunnel = |port| Tunnel { vni: 7, port, local: None, group: None, by: None };
    let tried = |there: Link| ensure(&spec(vxlan(7, &["10.0.0.2"])), &[underlay(), there]);
    let there = link(3, "flannel.7", LinkKind::Vxlan(tunnel(4789)));
    let refusal = tried(there.clone()).unwrap_err();
    assert!(matches!(&refusal, Refusal::ForeignVxlan { link, .. } if link == "flannel.7"));
    assert!(tried(Link { kind: LinkKind::Vxlan(tunnel(8472)), ..there.clone() }).is_ok());
    let refusal = tried(Link { alias: Some("ostler:dmz".into()), ..there }).unwrap_err();
    assert!(matches!(refusal, Refusal::SegmentTaken { network, .. } if network == "dmz"));
}

#[test]
fn a_foreign_bridge_gets_no_vlan_and_no_tunnel() {
    let bridge = link(1, "br-lan", LinkKind::Bridge);
    for uplink in [vlan("eth0", 100), vxlan(7, &["10.0.0.2"])] {
        let refusal = ensure(&spec(uplink), &[bridge.clone(), underlay()]).unwrap_err();
        assert!(matches!(refusal, Refusal::Foreign { .. }), "{refusal}");
    }
}

#[test]
fn a_removal_takes_what_was_made_and_leaves_the_nic() {
    for uplink in [vlan("eth0", 100), vxlan(7, &["10.0.0.2"])] {
        let spec = spec(uplink);
        let links = carry_out(&spec, vec![underlay()]);
        let (bridge, made) = (links[1].index, links[2].index);
        assert_eq!(remove(&spec, &links), Ok(Removal::Delete(vec![made, bridge])));
        // One that was cut short goes on.
        let half: Vec<Link> = links.iter().filter(|l| l.index != bridge).cloned().collect();
        assert_eq!(remove(&spec, &half), Ok(Removal::Delete(vec![made])));
        assert_eq!(remove(&spec, &[underlay()]), Ok(Removal::NothingThere));
    }
}

/// From any of these networks to any other, wherever the way to the first was cut off: the second is
/// made, nothing of the first is left, and what is somebody else's is as it was.
#[test]
fn any_uplink_becomes_any_other_from_wherever_it_was_cut_off() {
    let uplinks = [
        Uplink::None,
        vlan("eth0", 100),
        vlan("eth0", 200),
        vlan("eth1", 100),
        vxlan(7, &["10.0.0.2"]),
        vxlan(7, &["10.0.0.3", "10.0.0.4"]),
        vxlan(8, &["10.0.0.2"]),
    ];
    let mtus = [Mtu::ETHERNET, Mtu::new(1400).unwrap()];
    let mut theirs = link(4, "eth0.300", LinkKind::Vlan { on: 2, id: 300 });
    theirs.addresses.push("192.0.2.1".parse().unwrap());
    let others = [underlay(), link(3, "eth1", LinkKind::Other), theirs];
    let specs: Vec<BridgeSpec> = uplinks
        .iter()
        .flat_map(|uplink| mtus.map(|mtu| BridgeSpec { mtu, ..spec(uplink.clone()) }))
        .collect();
    for (from, to) in specs.iter().flat_map(|from| specs.iter().map(move |to| (from, to))) {
        let whole = carry_out(from, others.to_vec());
        let changes = ensure(to, &whole).unwrap();
        for cut in 0..=changes.len() {
            let mut links = whole.clone();
            for change in &changes[..cut] {
                apply(to, change, &mut links);
            }
            let links = carry_out(to, links);
            assert_eq!(ensure(to, &links), Ok(vec![]), "{from:?} to {to:?} cut at {cut}");
            assert_eq!(links[..3], others, "{from:?} to {to:?} cut at {cut}");
            let made = links.len() - others.len();
            assert_eq!(made, 1 + usize::from(to.uplink != Uplink::None), "{links:?}");
            let Ok(Removal::Delete(gone)) = remove(to, &links) else { panic!("not removed") };
            assert_eq!(gone.len(), made);
        }
    }
}

#[test]
fn only_a_tap_of_ours_that_is_not_plugged_in_is() {
    let (tap, bridge) = ("tap0f8fad5b-d9".parse().unwrap(), "br-lan".parse().unwrap());
    let mut link = link(3, "tap0f8fad5b-d9", LinkKind::Tun);
    let tried = |link: &Link| plug_tap(&tap, &bridge, &[ours(1), link.clone()]);
    assert_eq!(tried(&link), Some(1));
    link.controller = Some(7);
    assert_eq!(tried(&link), Some(1), "somebody has put it elsewhere");
    link.controller = Some(1);
    assert_eq!(tried(&link), None);
    link.controller = None;
    link.kind = LinkKind::Other;
    assert_eq!(tried(&link), None);
    assert_eq!(plug_tap(&tap, &bridge, &[ours(1)]), None);
}
