//! Networks: each is a Linux bridge on the node.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Name, PortId, Timestamp};

/// A VXLAN tunnel: UDP packets between nodes, which carry their guests' frames. One of `remotes` and
/// `group` is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Vxlan {
    /// Which of the tunnels on a port it is: 1 to 16777215, the same on all nodes.
    pub vni: u32,
    /// The node's own address.
    pub local: IpAddr,
    /// The other nodes' addresses, each of which is sent what is for everybody.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remotes: Vec<IpAddr>,
    /// A multicast group that is sent what is for everybody, by the NIC that is the `uplink`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<IpAddr>,
    /// The UDP port, here and there; 4789 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
}

/// Parameters of `network.ensure`: make it so, or leave it as it is. For a network that is there,
/// they say all that it shall be: what is absent is as it is for a new one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ensure {
    /// What it is called.
    pub name: Name,
    /// The bridge, at most 15 bytes; `br-<name>` if absent. One that exists is used as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// A NIC or bond of the node that joins the bridge, or the NIC of a VLAN or of a VXLAN's group;
    /// none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The VLAN of the uplink that joins the bridge, 1 to 4094; frames without a tag if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// A tunnel to other nodes that joins the bridge; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// The largest packet, bytes; if absent 1500, or what a VXLAN has room for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Parameters of `network.show` and `network.remove`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// Which.
    pub name: Name,
}

/// Whether the bridge is as it should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "NetworkState")]
pub enum State {
    /// As it should be.
    Up,
    /// There, but not as it should be.
    Drifted,
    /// Not there.
    Missing,
}

/// What connects a network to the world outside the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "NetworkKind")]
pub enum Kind {
    /// Nothing.
    Isolated,
    /// A NIC or a bond.
    Nic,
    /// A VLAN on a NIC or a bond.
    Vlan,
    /// A VXLAN tunnel.
    Vxlan,
}

impl Kind {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Isolated => "isolated",
            Self::Nic => "nic",
            Self::Vlan => "vlan",
            Self::Vxlan => "vxlan",
        }
    }
}

/// A port of a network, by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NamedPort {
    /// Its id.
    pub id: PortId,
    /// What people call it.
    pub name: Name,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// What it is called.
    pub name: Name,
    /// The bridge.
    pub bridge: String,
    /// What connects it to the world outside the node; earlier agents do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// The NIC that joins the bridge, or that of its VLAN or VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The VLAN that joins the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The tunnel that joins the bridge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// The link that was made for its VLAN or VXLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// Whether the bridge and what joins it are as they should be.
    pub state: State,
    /// In what they are not: what would be done about it, or why that cannot be.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// Its ports, by name; only in `network.show`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<NamedPort>,
    /// How many instances have a port on it.
    pub instances: u32,
    /// When it was first ensured.
    pub created: Timestamp,
}
