//! Why a network cannot be as asked.

use std::net::IpAddr;

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
    /// The NIC is part of a bond.
    #[error("uplink {nic} is a member of bond {bond}: use {bond}")]
    UplinkInBond {
        /// The NIC.
        nic: String,
        /// The bond.
        bond: String,
    },
    /// The name that a VLAN or VXLAN would have belongs to another link.
    #[error("{wanted} needs a link called {link}, and another is called so: rename that")]
    LinkTaken {
        /// The VLAN or VXLAN.
        wanted: String,
        /// The name.
        link: String,
    },
    /// The VLAN or VXLAN is ours, for another network.
    #[error("{wanted} serves network {network}: use another number, or that network")]
    SegmentTaken {
        /// The VLAN or VXLAN.
        wanted: String,
        /// The network it serves.
        network: String,
    },
    /// Somebody else made this VLAN.
    #[error(
        "{wanted} exists as {link}, which was not made by this agent: give {link} as the uplink, \
         without a VLAN, or remove it: ip link delete {link}"
    )]
    ForeignVlan {
        /// The VLAN.
        wanted: String,
        /// Its link.
        link: String,
    },
    /// Somebody else made this VXLAN.
    #[error(
        "{wanted} exists as {link}, which was not made by this agent: use another VNI or port, or \
         remove it: ip link delete {link}"
    )]
    ForeignVxlan {
        /// The VXLAN.
        wanted: String,
        /// Its link.
        link: String,
    },
    /// The node does not have the tunnel's address.
    #[error("{address} is not an address of this node: the local address of a VXLAN has to be")]
    NoSuchAddress {
        /// The address.
        address: IpAddr,
    },
    /// The tunnel carries less than the network promises.
    #[error(
        "a VXLAN from {address} on {link} has room for {room} bytes, the network needs {needs}: \
         lower the network's MTU, or raise that of {link} here and on the way"
    )]
    VxlanMtu {
        /// The node's own address.
        address: IpAddr,
        /// The link that has it.
        link: String,
        /// What is left of its MTU.
        room: u32,
        /// The network's MTU.
        needs: u32,
    },
    /// How much a tunnel carries cannot be told.
    #[error(
        "{link} does not tell how much the way to other nodes carries: give the network an MTU"
    )]
    UnknownMtu {
        /// The link that has the node's own address.
        link: String,
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
