//! Decides what to change: a pure function of the bridge as it should be and the links as they
//! are.
//!
//! A link's [`owner`] follows from two marks. The alias `ostler:<network>` is the one people see.
//! The kernel takes an alias only for a link that exists already, so a crash could leave a bridge
//! of ours without it; therefore each is born with our link group, which the kernel does set in
//! the same instant. Group without alias means: ours, unfinished.

use std::fmt;
use std::net::IpAddr;

use super::name::{LinkName, Mtu};
use super::{BridgeSpec, BridgeState, Condition, Uplink, is_tap_name};

/// The alias of a bridge of ours starts so.
const MARK: &str = "ostler:";

/// The link group bridges of ours are born with: "ostl" as a number.
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
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LinkKind {
    Bridge,
    Tun,
    Other,
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

/// One change to the node's links.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Make the bridge, with our group, down.
    Create,
    /// Write our mark on the bridge.
    Mark {
        /// The whole alias.
        alias: String,
    },
    /// Keep the node itself from speaking IPv6 on the bridge.
    DisableIpv6,
    /// Plug the uplink in.
    PlugUplink {
        /// The NIC.
        nic: LinkName,
    },
    /// Set the uplink up.
    RaiseUplink {
        /// The NIC.
        nic: LinkName,
    },
    /// Fix the bridge's MTU.
    SetMtu {
        /// The MTU.
        mtu: Mtu,
    },
    /// Set the bridge up.
    RaiseBridge,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create => f.write_str("create the bridge"),
            Self::Mark { alias } => write!(f, "mark the bridge as {alias}"),
            Self::DisableIpv6 => f.write_str("disable IPv6 on the bridge"),
            Self::PlugUplink { nic } => write!(f, "plug {nic} into the bridge"),
            Self::RaiseUplink { nic } => write!(f, "set {nic} up"),
            Self::SetMtu { mtu } => write!(f, "set the bridge's MTU to {mtu}"),
            Self::RaiseBridge => f.write_str("set the bridge up"),
        }
    }
}

/// Why what was asked cannot be, and what the operator can do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name belongs to a link of another kind.
    #[error("{bridge} exists and is not a bridge: give the network another bridge name")]
    NotABridge {
        /// The name.
        bridge: String,
    },
    /// The bridge is ours, for another network.
    #[error("bridge {bridge} serves network {network}: give this network another bridge name")]
    Taken {
        /// The bridge.
        bridge: String,
        /// The network it serves.
        network: String,
    },
    /// Somebody else's bridge, which does not do, and which we do not change.
    #[error("bridge {bridge} was not made by this agent and {lacks}")]
    Foreign {
        /// The bridge.
        bridge: String,
        /// What it lacks, and the command that mends it.
        lacks: String,
    },
    /// There is no such NIC.
    #[error("uplink {nic} does not exist on this node")]
    UplinkAbsent {
        /// The NIC.
        nic: String,
    },
    /// The NIC is part of something else.
    #[error("uplink {nic} is already plugged into {controller}")]
    UplinkTaken {
        /// The NIC.
        nic: String,
        /// What it is plugged into.
        controller: String,
    },
    /// Taking the NIC would cut the node off.
    #[error(
        "uplink {nic} carries the node's address {address}: the node would lose it; use another \
         NIC, or move the address to a bridge of your own and name that bridge"
    )]
    UplinkInUse {
        /// The NIC.
        nic: String,
        /// One of its addresses.
        address: IpAddr,
    },
    /// The NIC carries less than the network promises.
    #[error(
        "uplink {nic} has MTU {has}, the network needs {needs}: raise the NIC's or lower the network's"
    )]
    UplinkMtu {
        /// The NIC.
        nic: String,
        /// Its MTU.
        has: u32,
        /// The network's MTU.
        needs: u32,
    },
    /// Something is still plugged into the bridge.
    #[error("bridge {bridge} still has ports: {}", ports.join(", "))]
    HasPorts {
        /// The bridge.
        bridge: String,
        /// The links plugged into it.
        ports: Vec<String>,
    },
    /// A process holds the tap.
    #[error("tap {tap} is held by a process, normally a running instance")]
    TapHeld {
        /// The tap.
        tap: String,
    },
    /// The link is not a tap with a name of ours.
    #[error("link {link} is not a tap of this agent")]
    NotATap {
        /// The link.
        link: String,
    },
}

/// What a removal should do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Removal {
    /// Delete the link of this index.
    Delete { index: u32 },
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

/// The changes that make the bridge as it should be, in order; none if it is.
pub(super) fn ensure(spec: &BridgeSpec, links: &[Link]) -> Result<Vec<Change>, Refusal> {
    let bridge = find(links, spec.bridge.as_str());
    let mut changes = Vec::new();
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
            Owner::Unfinished => changes.push(Change::Mark { alias: alias(spec) }),
        }
    } else {
        changes.push(Change::Create);
        changes.push(Change::Mark { alias: alias(spec) });
    }
    // Before the bridge is up: an interface that comes up gets its link-local address at once.
    if bridge.is_none_or(|bridge| bridge.ipv6 == Ipv6::Spoken) {
        changes.push(Change::DisableIpv6);
    }
    let mut plugs = false;
    if let Uplink::Nic(nic) = &spec.uplink {
        let (plug, raise) = uplink(spec, nic, bridge, links)?;
        plugs = plug.is_some();
        changes.extend(plug);
        changes.extend(raise);
    }
    // After the uplink: a bridge whose MTU was never fixed takes the smallest of its ports', and
    // so may come out of the plugging with another one than it went in with.
    if plugs || bridge.is_none_or(|bridge| bridge.mtu != spec.mtu.bytes()) {
        changes.push(Change::SetMtu { mtu: spec.mtu });
    }
    if bridge.is_none_or(|bridge| bridge.power == LinkPower::Down) {
        changes.push(Change::RaiseBridge);
    }
    Ok(changes)
}

/// What plugs the uplink into our bridge, and what sets it up.
fn uplink(
    spec: &BridgeSpec,
    nic: &LinkName,
    bridge: Option<&Link>,
    links: &[Link],
) -> Result<(Option<Change>, Option<Change>), Refusal> {
    let Some(link) = find(links, nic.as_str()) else {
        return Err(Refusal::UplinkAbsent { nic: nic.to_string() });
    };
    if link.mtu < spec.mtu.bytes() {
        return Err(Refusal::UplinkMtu {
            nic: nic.to_string(),
            has: link.mtu,
            needs: spec.mtu.bytes(),
        });
    }
    let raise = (link.power == LinkPower::Down).then(|| Change::RaiseUplink { nic: nic.clone() });
    match link.controller {
        Some(index) if bridge.is_some_and(|bridge| bridge.index == index) => Ok((None, raise)),
        Some(index) => {
            Err(Refusal::UplinkTaken { nic: nic.to_string(), controller: name_of(links, index) })
        }
        None => match link.addresses.first() {
            Some(&address) => Err(Refusal::UplinkInUse { nic: nic.to_string(), address }),
            None => Ok((Some(Change::PlugUplink { nic: nic.clone() }), raise)),
        },
    }
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
    }
}

/// Whether the bridge may be removed.
pub(super) fn remove(spec: &BridgeSpec, links: &[Link]) -> Result<Removal, Refusal> {
    let Some(bridge) = find(links, spec.bridge.as_str()) else {
        return Ok(Removal::NothingThere);
    };
    if bridge.kind != LinkKind::Bridge {
        return Ok(Removal::NotOurs);
    }
    match owner(bridge) {
        Owner::Foreign => return Ok(Removal::NotOurs),
        Owner::Ours(network) if network != spec.network.as_str() => {
            return Err(Refusal::Taken { bridge: bridge.name.clone(), network });
        }
        Owner::Ours(_) | Owner::Unfinished => {}
    }
    let ports: Vec<String> = ports(bridge, links)
        .into_iter()
        .filter(|port| match &spec.uplink {
            Uplink::None => true,
            Uplink::Nic(nic) => port != nic.as_str(),
        })
        .collect();
    if ports.is_empty() {
        Ok(Removal::Delete { index: bridge.index })
    } else {
        Err(Refusal::HasPorts { bridge: bridge.name.clone(), ports })
    }
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
        Some(link) => Ok(Removal::Delete { index: link.index }),
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
    BridgeState { bridge: spec.bridge.clone(), condition, ports }
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

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(at(&Change::DisableIpv6) < at(&Change::RaiseBridge));
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
        assert_eq!(changes, [Change::Mark { alias: "ostler:lan".to_owned() }]);
        let removal = remove(&spec(Uplink::None), &[bridge]);
        assert_eq!(removal, Ok(Removal::Delete { index: 1 }));
    }

    #[test]
    fn drift_of_our_bridge_is_repaired() {
        let mut bridge = ours(1);
        bridge.power = LinkPower::Down;
        bridge.mtu = 1400;
        bridge.ipv6 = Ipv6::Spoken;
        let changes = ensure(&spec(Uplink::None), std::slice::from_ref(&bridge)).unwrap();
        let repairs =
            [Change::DisableIpv6, Change::SetMtu { mtu: Mtu::ETHERNET }, Change::RaiseBridge];
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
        assert_eq!(
            remove(&spec(Uplink::None), std::slice::from_ref(&bridge)),
            Ok(Removal::NotOurs)
        );
        let nic = link(2, "eth0", LinkKind::Other);
        for change in [
            |bridge: &mut Link| bridge.power = LinkPower::Down,
            |bridge: &mut Link| bridge.mtu = 1400,
        ] {
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
        let bond = link(3, "bond0", LinkKind::Other);
        assert_eq!(
            ensure(&spec(eth0()), &[nic.clone(), bond]),
            Err(Refusal::UplinkTaken { nic: "eth0".into(), controller: "bond0".into() })
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
        assert_eq!(removal, Ok(Removal::Delete { index: 1 }), "its own uplink does not hold it");
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

    #[test]
    fn only_a_free_tap_of_ours_is_removed() {
        let name: LinkName = "tap0f8fad5bd9c".parse().unwrap();
        let mut tap = link(3, name.as_str(), LinkKind::Tun);
        let tried = |tap: &Link| remove_tap(&name, std::slice::from_ref(tap));
        assert_eq!(tried(&tap), Ok(Removal::Delete { index: 3 }));
        tap.carrier = true;
        assert!(matches!(tried(&tap), Err(Refusal::TapHeld { .. })));
        tap.kind = LinkKind::Other;
        assert!(matches!(tried(&tap), Err(Refusal::NotATap { .. })));
        assert_eq!(remove_tap(&name, &[]), Ok(Removal::NothingThere));
        let vpn: LinkName = "tap0".parse().unwrap();
        let foreign = link(4, "tap0", LinkKind::Tun);
        assert!(matches!(remove_tap(&vpn, &[foreign]), Err(Refusal::NotATap { .. })));
    }
}
