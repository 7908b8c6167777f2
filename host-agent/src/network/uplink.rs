//! What connects a bridge to the world outside the node: a NIC, a VLAN on one, or a VXLAN tunnel.
//!
//! The links of VLANs and VXLANs are made by us. Their names are derived, as a bridge's is, so that a
//! link whose making was cut short before it was marked is found again.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use super::name::{LinkName, Mtu, hashed};

/// The port VXLAN is sent to, by RFC 7348.
pub const VXLAN_PORT: u16 = 4789;

/// What connects a bridge to the world outside the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uplink {
    /// Nothing: the instances reach each other only.
    None,
    /// A NIC or a bond of the node, given up to the bridge; it must carry no address of the node.
    Nic(LinkName),
    /// A VLAN on a NIC or a bond, which the node may use besides.
    Vlan(Vlan),
    /// A VXLAN tunnel to other nodes.
    Vxlan(Vxlan),
}

impl Uplink {
    /// The name of the link we make for it.
    pub fn link(&self) -> Option<LinkName> {
        match self {
            Self::None | Self::Nic(_) => None,
            Self::Vlan(vlan) => Some(vlan.link()),
            Self::Vxlan(vxlan) => Some(vxlan.link()),
        }
    }
}

/// A VLAN on a NIC or a bond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vlan {
    /// The NIC or bond.
    pub nic: LinkName,
    /// The tag of its frames.
    pub id: VlanId,
}

impl Vlan {
    /// The name of its link: `eth1.100` where that fits.
    fn link(&self) -> LinkName {
        let plain = format!("{}.{}", self.nic, self.id.0);
        plain.parse().unwrap_or_else(|_| hashed("vlx", &plain))
    }
}

impl fmt::Display for Vlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VLAN {} of {}", self.id.0, self.nic)
    }
}

/// A tag of a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VlanId(u16);

/// Why a number is no tag of a VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given} is no VLAN: use 1 to 4094; for frames without a tag, give the uplink without a VLAN"
)]
pub struct VlanIdError {
    given: u16,
}

impl VlanId {
    /// Zero means no VLAN, and 4095 is reserved.
    pub const fn new(id: u16) -> Result<Self, VlanIdError> {
        if id >= 1 && id <= 4094 { Ok(Self(id)) } else { Err(VlanIdError { given: id }) }
    }

    /// The number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

/// A VXLAN tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Which of the networks that share a port it is.
    pub(super) vni: u32,
    /// The UDP port, here and there.
    pub(super) port: u16,
    /// The node's own address.
    pub(super) local: IpAddr,
    /// Where frames go that are for everybody, or for somebody who is not known yet.
    pub(super) flood: Flood,
}

/// Where a VXLAN tunnel sends frames that are for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flood {
    /// To each of these nodes.
    Remotes(BTreeSet<IpAddr>),
    /// To a multicast group, by this NIC.
    Group {
        /// The group.
        group: IpAddr,
        /// The NIC.
        nic: LinkName,
    },
}

/// Why there can be no such VXLAN tunnel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VxlanError {
    /// The number is out of range.
    #[error("{0} is no VXLAN: use a VNI of 1 to 16777215")]
    Vni(u32),
    /// The port is none.
    #[error("0 is no port: use 1 to 65535, normally 4789")]
    Port,
    /// No node can have the address.
    #[error("{0} cannot be the address of a node: use one that other nodes can reach")]
    Address(IpAddr),
    /// Not an address of a group.
    #[error("{0} is not a multicast address: use one of 224.0.0.0/4 or ff00::/8")]
    NotAGroup(IpAddr),
    /// IPv4 and IPv6 do not reach each other.
    #[error("{other} and the local address {local} are not both IPv4 or both IPv6")]
    Family {
        /// The node's own.
        local: IpAddr,
        /// The other.
        other: IpAddr,
    },
    /// It would send to itself.
    #[error("{0} is the local address and a remote: name the other nodes only")]
    Itself(IpAddr),
    /// It would send to nobody.
    #[error("a VXLAN needs somebody to send to: give the other nodes' addresses, or a group")]
    Nobody,
}

impl Vxlan {
    /// A tunnel that can be.
    pub fn new(vni: u32, port: u16, local: IpAddr, flood: Flood) -> Result<Self, VxlanError> {
        if !(1..1 << 24).contains(&vni) {
            return Err(VxlanError::Vni(vni));
        }
        if port == 0 {
            return Err(VxlanError::Port);
        }
        let others: Vec<IpAddr> = match &flood {
            Flood::Remotes(remotes) => remotes.iter().copied().collect(),
            Flood::Group { group, .. } if group.is_multicast() => vec![*group],
            Flood::Group { group, .. } => return Err(VxlanError::NotAGroup(*group)),
        };
        let nodes: &[IpAddr] = match &flood {
            Flood::Remotes(_) => &others,
            Flood::Group { .. } => &[],
        };
        if let Some(&address) = nodes.iter().chain([&local]).find(|address| !may_be_a_node(address))
        {
            return Err(VxlanError::Address(address));
        }
        if let Some(&other) = others.iter().find(|other| other.is_ipv4() != local.is_ipv4()) {
            return Err(VxlanError::Family { local, other });
        }
        if others.contains(&local) {
            return Err(VxlanError::Itself(local));
        }
        if others.is_empty() {
            return Err(VxlanError::Nobody);
        }
        Ok(Self { vni, port, local, flood })
    }

    /// The name of its link: `vxlan-100` on the usual port.
    fn link(&self) -> LinkName {
        let plain = format!("vxlan-{}", self.vni);
        let usual = (self.port == VXLAN_PORT).then(|| plain.parse().ok()).flatten();
        usual.unwrap_or_else(|| hashed("vxx", &format!("{plain}:{}", self.port)))
    }

    /// What a tunnel adds to a packet of its guests: their Ethernet header, VXLAN's, UDP's, and the
    /// node's IP header.
    pub(super) const fn overhead(&self) -> u32 {
        match self.local {
            IpAddr::V4(_) => 14 + 8 + 8 + 20,
            IpAddr::V6(_) => 14 + 8 + 8 + 40,
        }
    }

    /// What guests can send by an underlay that carries `bytes`.
    pub(super) fn room(&self, bytes: u32) -> Option<Mtu> {
        Mtu::new(bytes.min(65535).saturating_sub(self.overhead())).ok()
    }
}

impl fmt::Display for Vxlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VXLAN {} on port {}", self.vni, self.port)
    }
}

/// Whether another node can have, or reach, this address. Link-local ones mean something else on
/// each NIC.
const fn may_be_a_node(address: &IpAddr) -> bool {
    let never = address.is_multicast() || address.is_unspecified() || address.is_loopback();
    let narrow = match address {
        IpAddr::V4(v4) => v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.to_ipv4_mapped().is_some(),
    };
    !never && !narrow
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn remotes(texts: &[&str]) -> Flood {
        Flood::Remotes(texts.iter().map(|text| ip(text)).collect())
    }

    #[test]
    fn vlan_tags_have_bounds_that_say_what_to_use() {
        for bad in [0, 4095, 5000] {
            let error = VlanId::new(bad).unwrap_err().to_string();
            assert!(error.contains("1 to 4094"), "{error}");
        }
        assert!(VlanId::new(1).is_ok() && VlanId::new(4094).is_ok());
    }

    #[test]
    fn names_of_our_links_are_link_names_and_differ() {
        let vlan = |nic: &str, id| Vlan { nic: nic.parse().unwrap(), id: VlanId::new(id).unwrap() };
        let vxlan = |vni, port| Vxlan::new(vni, port, ip("10.0.0.1"), remotes(&["10.0.0.2"]));
        assert_eq!(vlan("eth1", 100).link().as_str(), "eth1.100");
        assert_eq!(vxlan(16_777_215, 4789).unwrap().link().as_str(), "vxlan-16777215");
        let names = [
            vlan("eth1", 100).link(),
            vlan("enp130s0f1np1", 100).link(),
            vlan("enp130s0f1np1", 101).link(),
            vxlan(100, 4789).unwrap().link(),
            vxlan(100, 8472).unwrap().link(),
            vxlan(101, 8472).unwrap().link(),
        ];
        for (n, name) in names.iter().enumerate() {
            assert_eq!(name.as_str().parse().as_ref(), Ok(name));
            assert!(!names[..n].contains(name), "{name} twice");
        }
    }

    #[test]
    fn a_tunnel_that_cannot_work_is_refused() {
        let new = |vni, local, flood| Vxlan::new(vni, VXLAN_PORT, ip(local), flood);
        let group = |group| Flood::Group { group: ip(group), nic: "eth0".parse().unwrap() };
        assert!(new(1, "10.0.0.1", remotes(&["10.0.0.2", "10.0.0.3"])).is_ok());
        assert!(new(16_777_215, "2001:db8::1", group("ff05::100")).is_ok());
        for (vni, local, flood) in [
            (0, "10.0.0.1", remotes(&["10.0.0.2"])),
            (1 << 24, "10.0.0.1", remotes(&["10.0.0.2"])),
            (1, "127.0.0.1", remotes(&["10.0.0.2"])),
            (1, "fe80::1", remotes(&["2001:db8::2"])),
            (1, "10.0.0.1", remotes(&["239.0.0.1"])),
            (1, "10.0.0.1", remotes(&["2001:db8::2"])),
            (1, "10.0.0.1", remotes(&["10.0.0.2", "10.0.0.1"])),
            (1, "10.0.0.1", remotes(&[])),
            (1, "10.0.0.1", group("10.0.0.2")),
            (1, "10.0.0.1", group("ff05::100")),
        ] {
            let tried = new(vni, local, flood.clone());
            assert!(tried.is_err(), "{vni} {local} {flood:?} was taken");
        }
        assert!(Vxlan::new(1, 0, ip("10.0.0.1"), remotes(&["10.0.0.2"])).is_err());
    }

    #[test]
    fn a_tunnel_takes_fifty_bytes_of_ipv4_and_seventy_of_ipv6() {
        let v4 = Vxlan::new(1, VXLAN_PORT, ip("10.0.0.1"), remotes(&["10.0.0.2"])).unwrap();
        let v6 = Vxlan::new(1, VXLAN_PORT, ip("2001:db8::1"), remotes(&["2001:db8::2"])).unwrap();
        assert_eq!(v4.room(1500).map(Mtu::bytes), Some(1450));
        assert_eq!(v6.room(1500).map(Mtu::bytes), Some(1430));
        assert_eq!(v4.room(600), None, "too little for any network");
    }
}
