//! The node itself.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hardware::Boards;
use super::values::{Bytes, Name, Timestamp};

/// Parameters of methods that take none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// The answer to `host.ping`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Pong {
    /// The node.
    pub host: String,
    /// The agent's version.
    pub version: String,
    /// The newest version of the RPC it speaks.
    pub protocol: u32,
    /// The oldest one it still answers.
    pub protocol_oldest: u32,
    /// Its clock.
    pub time: Timestamp,
    /// When the agent started: which run of it answers.
    #[serde(default)]
    pub started: Timestamp,
}

/// Whether libvirt can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// It answers.
    Up,
    /// It does not; the agent is trying.
    Down,
    /// Not configured.
    None,
}

/// A size instances come in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Flavor {
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, bytes.
    pub memory: Bytes,
    /// Size of the root disk, bytes; the image's own size if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
}

/// So much of something: in all, promised to instances, and still to be had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Share {
    /// What admission counts with: the physical amount, less the reserve, times the ratio.
    pub limit: u64,
    /// Promised to instances.
    pub claimed: u64,
}

/// The answer to `host.show`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Host {
    /// The node.
    pub host: String,
    /// The agent's version.
    pub version: String,
    /// When the agent started.
    pub started: Timestamp,
    /// Whether libvirt can be reached.
    pub hypervisor: Link,
    /// Whether the broker can be reached.
    pub broker: Link,
    /// What domains run on: `kvm` or `qemu`.
    pub virt_type: String,
    /// The processor guests see: libvirt's word for its mode (`host-model`, `maximum`), or a model.
    #[serde(default)]
    pub cpu_mode: String,
    /// Why these two: `configured`, or what was tried and what came of it.
    #[serde(default)]
    pub virt_type_reason: String,
    /// What instances can be made with; absent while libvirt does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boards: Option<Boards>,
    /// The kernel's release.
    pub kernel: String,
    /// The processor's model.
    pub cpu_model: String,
    /// Hardware threads.
    pub cpus: u32,
    /// Load over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Memory, bytes.
    pub memory: Bytes,
    /// Memory that could be used now, bytes.
    pub memory_available: Bytes,
    /// The disk instances live on, bytes.
    pub disk: Bytes,
    /// What is free of it, bytes.
    pub disk_available: Bytes,
    /// vCPUs for admission.
    pub vcpus_share: Share,
    /// Memory for admission, bytes.
    pub memory_share: Share,
    /// Disk for admission, bytes: what instances have of it by now and what is free, less the
    /// reserve, times the ratio; claimed are the disks in their whole size.
    #[serde(default)]
    pub disk_share: Share,
    /// How many instances there are, by status.
    pub instances: BTreeMap<String, u32>,
    /// Operations not over yet.
    pub operations: u32,
    /// The flavors of the node's configuration.
    pub flavors: BTreeMap<Name, Flavor>,
    /// Domains that are this node's by their metadata, and that its journal does not know.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub orphans: Vec<String>,
}
