//! Networks: each is a Linux bridge on the node.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{Name, Timestamp};

/// Parameters of `network.ensure`: make it so, or leave it as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ensure {
    /// What it is called.
    pub name: Name,
    /// The bridge, at most 15 bytes; `br-<name>` if absent. One that exists is used as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridge: Option<String>,
    /// A NIC of the node that joins the bridge; none if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The largest packet, bytes; 1500 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// Parameters of `network.remove`.
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

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Network {
    /// What it is called.
    pub name: Name,
    /// The bridge.
    pub bridge: String,
    /// The NIC that joins it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uplink: Option<String>,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// Whether the bridge is as it should be.
    pub state: State,
    /// How many instances have a port on it.
    pub instances: u32,
    /// When it was first ensured.
    pub created: Timestamp,
}
