//! What a node knows of a guest: what the agent inside said, cleaned and bounded.
//!
//! Texts that come from a guest are cut to 255 characters and freed of control characters; lists
//! are cut to 1,024 entries, and `truncated` says so. What a node can have a guest do is in [`work`].

pub mod work;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::values::{InstanceId, Timestamp};

/// Whether the guest can be talked to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GuestState {
    /// The instance does not run.
    Off,
    /// It runs, and no agent has answered yet.
    Waiting,
    /// The agent answers.
    Ready,
    /// The agent answered before, and does not now.
    Silent,
    /// What comes from the guest is not the protocol.
    Garbled,
}

/// The way to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Transport {
    /// Ostler's own port, with ids and events.
    Ostler,
    /// The standard port, through libvirt.
    Libvirt,
}

/// What is known of a guest without asking it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GuestSummary {
    /// Whether it can be talked to.
    pub state: GuestState,
    /// The way to its agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transport: Option<Transport>,
    /// The agent's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// When it was last heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard: Option<Timestamp>,
}

/// Parameters of `guest.report`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// The instance.
    pub id: InstanceId,
    /// Wait at most so long for an agent that has not answered yet, milliseconds; 0 unless told,
    /// 60,000 at most. Ask again to wait longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u32>,
    /// Answer with the last report kept, whatever its age, without asking the guest.
    #[serde(default)]
    pub cached: bool,
}

/// What the guest says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Report {
    /// The instance.
    pub id: InstanceId,
    /// Whether it can be talked to.
    pub state: GuestState,
    /// The way the report came.
    pub transport: Transport,
    /// When the report was taken.
    pub taken: Timestamp,
    /// How long ago that was, milliseconds.
    pub age: u64,
    /// The agent.
    pub agent: Agent,
    /// Its host name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_name: Option<String>,
    /// Its operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<Os>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its filesystems.
    pub filesystems: Vec<Filesystem>,
    /// The last heartbeat, from agents that send one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Heartbeat>,
    /// Parts the guest could not or would not tell, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<Missing>,
    /// Whether a list was cut.
    #[serde(default)]
    pub truncated: bool,
}

/// A part of a report that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Missing {
    /// The agent command that would have told.
    pub command: String,
    /// What the guest said instead.
    pub why: String,
}

/// The agent inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Agent {
    /// Its version.
    pub version: String,
    /// The commands it allows.
    pub commands: Vec<String>,
}

/// The guest's operating system, from `guest-get-osinfo`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Os {
    /// As in `debian`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// As in `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pretty_name: Option<String>,
    /// As in `12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version_id: Option<String>,
    /// As uname(1) says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_release: Option<String>,
    /// As in `x86_64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
}

/// A network interface as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Interface {
    /// Its name in the guest.
    pub name: String,
    /// Its MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<String>,
    /// Its addresses, with prefix length: `10.0.0.5/24`.
    pub addresses: Vec<String>,
    /// Bytes received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_bytes: Option<u64>,
    /// Bytes sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_bytes: Option<u64>,
}

/// A filesystem as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Filesystem {
    /// Where it is mounted.
    pub mountpoint: String,
    /// As in `ext4`.
    pub kind: String,
    /// The block device's name in the guest.
    pub device: String,
    /// Bytes used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// Bytes in all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// The serials of the disks it lies on: the node's volume ids.
    pub serials: Vec<String>,
}

/// A heartbeat of an agent that sends them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Heartbeat {
    /// When it came.
    pub at: Timestamp,
    /// Seconds since the guest booted.
    pub uptime: f64,
    /// Load over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Bytes of memory in all.
    pub memory_total: u64,
    /// Bytes of memory available.
    pub memory_available: u64,
}
