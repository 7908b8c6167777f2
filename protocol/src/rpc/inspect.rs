//! Looking into an instance: its definition, its counters, its screen.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::instance::PowerState;
use super::values::{Bytes, InstanceId, MacAddress, Secret, Timestamp};

/// Which of an instance's two definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Definition {
    /// What runs now; the persistent one while it is off.
    #[default]
    Live,
    /// What the next start is made from.
    Persistent,
}

/// Parameters of `instance.xml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadXml {
    /// The instance.
    pub id: InstanceId,
    /// Which definition; the live one unless told.
    #[serde(default)]
    pub definition: Definition,
}

/// A definition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Xml {
    /// libvirt's domain XML, without secrets.
    pub xml: String,
}

/// What is counted of a running instance. What the hypervisor does not tell is absent: it is not
/// zero. The words are nova's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Diagnostics {
    /// The instance.
    pub id: InstanceId,
    /// What it does.
    pub state: PowerState,
    /// What drives the hypervisor: `libvirt`.
    pub driver: String,
    /// What executes it: `kvm` or `qemu`.
    pub hypervisor: String,
    /// How long its QEMU has run, seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uptime: Option<u64>,
    /// Processor time of all of it, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_time: Option<u64>,
    /// Its vCPUs.
    pub num_cpus: u32,
    /// Its NICs.
    pub num_nics: u32,
    /// Its disks.
    pub num_disks: u32,
    /// Each vCPU.
    pub cpu_details: Vec<CpuDetail>,
    /// Each NIC.
    pub nic_details: Vec<NicDetail>,
    /// Each disk.
    pub disk_details: Vec<DiskDetail>,
    /// Memory.
    pub memory_details: MemoryDetail,
}

/// One vCPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CpuDetail {
    /// Its number.
    pub id: u32,
    /// Processor time, nanoseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<u64>,
}

/// One NIC, as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NicDetail {
    /// Its MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Its tap on the node.
    pub tap: String,
    /// Bytes received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_octets: Option<u64>,
    /// Packets received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_packets: Option<u64>,
    /// Errors in receiving.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_errors: Option<u64>,
    /// Packets to it that were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rx_drop: Option<u64>,
    /// Bytes sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_octets: Option<u64>,
    /// Packets sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_packets: Option<u64>,
    /// Errors in sending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_errors: Option<u64>,
    /// Packets of its that were dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tx_drop: Option<u64>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskDetail {
    /// Its target, as in `vda`.
    pub target: String,
    /// Bytes read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_bytes: Option<u64>,
    /// Requests to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_requests: Option<u64>,
    /// Bytes written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_bytes: Option<u64>,
    /// Requests to write.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write_requests: Option<u64>,
    /// Requests to flush.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flush_requests: Option<u64>,
    /// Requests that failed, where the hypervisor counts them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errors: Option<u64>,
}

/// Memory. What the guest says of itself comes by its balloon driver, and is only as true as the
/// guest is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MemoryDetail {
    /// The most it may have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub maximum: Option<Bytes>,
    /// What the balloon leaves it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Bytes>,
    /// What its QEMU has of the node's memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rss: Option<Bytes>,
    /// The guest: all it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_total: Option<Bytes>,
    /// The guest: what nothing uses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_free: Option<Bytes>,
    /// The guest: what could be had without swapping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_available: Option<Bytes>,
    /// The guest: caches of disks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_caches: Option<Bytes>,
    /// The guest: read from swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_in: Option<Bytes>,
    /// The guest: written to swap.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub swap_out: Option<Bytes>,
    /// The guest: faults that needed the disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub major_faults: Option<u64>,
    /// The guest: all other faults.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minor_faults: Option<u64>,
    /// When the guest said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<Timestamp>,
}

/// Where a VNC server listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Screen {
    /// Its address on the node.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Parameters of `instance.vnc_open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OpenScreen {
    /// The instance.
    pub id: InstanceId,
    /// For how many seconds somebody may connect with the password: 1 to 3600, 60 unless told.
    /// Who is connected stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub valid: Option<u32>,
}

/// A screen with its password.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct OpenedScreen {
    /// Its address on the node.
    #[schemars(with = "String")]
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
    /// The password; it takes the place of the one before it.
    pub password: Secret,
    /// Until when it is taken.
    pub until: Timestamp,
}
