//! The network, as the guest sees it.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Lists the network interfaces.
#[derive(Debug)]
pub enum GuestNetworkGetInterfaces {}

impl Command for GuestNetworkGetInterfaces {
    const NAME: &'static str = "guest-network-get-interfaces";
    type Arguments = Nothing;
    type Reply = Vec<NetworkInterface>;
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkInterface {
    /// Its name.
    pub name: String,
    /// Its link address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware_address: Option<String>,
    /// Its addresses; absent when it has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip_addresses: Option<Vec<IpAddress>>,
    /// What went through it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub statistics: Option<InterfaceStatistics>,
}

/// An address of an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct IpAddress {
    /// The address.
    pub ip_address: String,
    /// Its family.
    pub ip_address_type: IpAddressType,
    /// Length of its network prefix.
    pub prefix: i64,
}

/// The family of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpAddressType {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// One a later agent has; never sent.
    #[serde(other)]
    Unknown,
}

/// Counters of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct InterfaceStatistics {
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets received.
    pub rx_packets: u64,
    /// Bad packets received.
    pub rx_errs: u64,
    /// Packets dropped by the receiver.
    pub rx_dropped: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Packets that could not be sent.
    pub tx_errs: u64,
    /// Packets dropped by the sender.
    pub tx_dropped: u64,
}

/// Lists the routes.
#[derive(Debug)]
pub enum GuestNetworkGetRoute {}

impl Command for GuestNetworkGetRoute {
    const NAME: &'static str = "guest-network-get-route";
    type Arguments = Nothing;
    type Reply = Vec<NetworkRoute>;
}

/// A route. Which members there are depends on its version of the protocol.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRoute {
    /// The interface it leads to.
    pub iface: String,
    /// Where it leads.
    pub destination: String,
    /// Its rank among others; the least is taken.
    pub metric: i64,
    /// The next router; IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<String>,
    /// Which part of the destination counts; IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<String>,
    /// The first guess of a round trip's time; IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irtt: Option<i64>,
    /// The kernel's flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<u64>,
    /// The kernel's count of its users.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refcnt: Option<i64>,
    /// How often it was used.
    #[serde(default, rename = "use", skip_serializing_if = "Option::is_none")]
    pub used: Option<i64>,
    /// Window of its TCP connections; IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<i64>,
    /// Size of its largest packet; IPv4 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<i64>,
    /// Length of the destination's prefix, as text; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub desprefixlen: Option<String>,
    /// Where packets must come from; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// Length of the source's prefix, as text; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub srcprefixlen: Option<String>,
    /// The next router; IPv6 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nexthop: Option<String>,
    /// 4 or 6.
    pub version: i64,
}
