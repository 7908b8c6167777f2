//! Ports: where instances meet networks. A port outlives the instance that has it, unless it was made
//! with it. The words are neutron's.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{InstanceId, MacAddress, Name, OperationId, PortId, Prefix, Timestamp};

/// How a port is. The words are neutron's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[schemars(rename = "PortStatus")]
pub enum Status {
    /// An instance has it, and runs.
    Active,
    /// Nobody has it, or who has it is off.
    Down,
    /// An instance is being given it, or gives it back.
    Build,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Active, Self::Down, Self::Build];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Down => "DOWN",
            Self::Build => "BUILD",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Addresses that a guest may send from besides its own, as for a router or a pair that shares one.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(deny_unknown_fields)]
pub struct AddressPair {
    /// The addresses, as in `192.0.2.7` or `192.0.2.0/24`.
    pub ip_address: Prefix,
    /// The MAC they come from; the port's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac_address: Option<MacAddress>,
}

/// Parameters of `port.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PortCreate")]
pub struct Create {
    /// The port's id; made here if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<PortId>,
    /// What people call it.
    pub name: Name,
    /// The network it is on.
    pub network: Name,
    /// Its MAC; made from the port's id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The addresses its guest has; none are known if empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixed_ips: Vec<IpAddr>,
    /// Addresses its guest may send from besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Whether its guest is held to its MAC and addresses; it is, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security: Option<bool>,
    /// Whose it is, as in a tenant's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
}

/// Parameters of `port.show` and `port.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PortSelect")]
pub struct Select {
    /// The port.
    pub id: PortId,
}

/// Parameters of `port.list`: by name, then id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PortList")]
pub struct List {
    /// Only those of this name; `*` in it stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those on this network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// Only those of this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Only those of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Only those of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// At most this many; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those that follow this one: the last of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<PortId>,
}

/// Parameters of `port.update`; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PortUpdate")]
pub struct Update {
    /// The port.
    pub id: PortId,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whose it is; an empty text: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The addresses its guest has, in place of those there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fixed_ips: Option<Vec<IpAddr>>,
    /// Addresses its guest may send from besides, in place of those there were.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_address_pairs: Option<Vec<AddressPair>>,
    /// Whether its guest is held to its MAC and addresses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_security: Option<bool>,
}

/// Parameters of `instance.attach_interface`: a port that is there, or a network to make one on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PortAttach")]
pub struct Attach {
    /// The instance.
    pub id: InstanceId,
    /// Which port, or what to make one from.
    pub interface: super::instance::Nic,
}

/// Parameters of `instance.detach_interface`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PortDetach")]
pub struct Detach {
    /// The instance.
    pub id: InstanceId,
    /// The port. It is deleted, if it was made with the instance or by the attach.
    pub port: PortId,
    /// How long the guest may take to let go of it, milliseconds; a minute if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// Who has a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PortBinding")]
pub struct Binding {
    /// The instance.
    pub instance: InstanceId,
    /// What it is called.
    pub name: Name,
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "NetworkPort")]
pub struct Port {
    /// Its id.
    pub id: PortId,
    /// What people call it.
    pub name: Name,
    /// How it is.
    pub status: Status,
    /// The network it is on.
    pub network: Name,
    /// Its MAC.
    pub mac: MacAddress,
    /// The addresses its guest has, where they are known.
    pub fixed_ips: Vec<IpAddr>,
    /// Addresses its guest may send from besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Whether its guest is held to its MAC and addresses.
    pub port_security: bool,
    /// Who has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binding: Option<Binding>,
    /// Whether it goes with the instance that has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete_on_termination: bool,
    /// The node's tap, while an instance runs that has it.
    pub tap: String,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// The operation in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// What was counted of a port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PortStats")]
pub struct Stats {
    /// Frames of its guest that were dropped, by why.
    pub dropped: Vec<Dropped>,
}

/// Frames that were dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "PortDropped")]
pub struct Dropped {
    /// Why, in a word: `mac`, `arp`, `ipv4`, `ipv6`, `nd` (another's address or MAC), `dhcp-server`,
    /// `dhcpv6-server`, `router` (what only those may send), `bridge`, `protocol` (no ARP, IPv4 or
    /// IPv6).
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}
