//! Looking into domains: definitions, counters, where the screen and the console are.
//!
//! Nothing here changes what a guest is. What is read of a running domain goes by the lane of
//! queries, so a QEMU that hangs costs the question about itself and no other.

use std::net::IpAddr;
use std::path::PathBuf;

use ostler_protocol::rpc::values::{Bytes, InstanceId, MacAddress, Timestamp};

use super::Error;

/// Which of a domain's two definitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// What runs now; the persistent one while nothing does.
    Live,
    /// What the next start is made from.
    Persistent,
}

/// What is counted of one domain. What the hypervisor did not tell is absent: it is not zero.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DomainStats {
    /// How long its QEMU has run, seconds, by the node's clock.
    pub uptime: Option<u64>,
    /// Processor time of the whole domain, nanoseconds.
    pub cpu_time: Option<u64>,
    /// Its vCPUs.
    pub vcpus: Vec<VcpuStats>,
    /// Its NICs.
    pub nics: Vec<NicStats>,
    /// Its disks.
    pub disks: Vec<DiskStats>,
    /// Its memory.
    pub memory: MemoryStats,
}

/// One vCPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct VcpuStats {
    /// Its number.
    pub id: u32,
    /// Processor time, nanoseconds.
    pub time: Option<u64>,
}

/// One NIC, as the guest sees it: what its tap sent is what it received.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NicStats {
    /// Its tap on the node.
    pub tap: String,
    /// Its MAC.
    pub mac: Option<MacAddress>,
    /// What it received.
    pub received: Traffic,
    /// What it sent.
    pub sent: Traffic,
}

/// One direction of a NIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes.
    pub bytes: Option<u64>,
    /// Packets.
    pub packets: Option<u64>,
    /// Errors.
    pub errors: Option<u64>,
    /// Packets dropped.
    pub drops: Option<u64>,
}

/// One disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DiskStats {
    /// Its target, as in `vda`.
    pub target: String,
    /// Bytes read.
    pub read_bytes: Option<u64>,
    /// Requests to read.
    pub read_requests: Option<u64>,
    /// Bytes written.
    pub write_bytes: Option<u64>,
    /// Requests to write.
    pub write_requests: Option<u64>,
    /// Requests to flush.
    pub flush_requests: Option<u64>,
    /// Requests that failed; QEMU keeps no such count for most disks.
    pub errors: Option<u64>,
}

/// Memory. What the guest says of itself comes by its balloon driver and is only as true as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemoryStats {
    /// The most it may have.
    pub maximum: Option<Bytes>,
    /// What the balloon leaves it.
    pub current: Option<Bytes>,
    /// What its QEMU has of the node's memory.
    pub rss: Option<Bytes>,
    /// The guest: all it has.
    pub available: Option<Bytes>,
    /// The guest: what nothing uses.
    pub unused: Option<Bytes>,
    /// The guest: what could be had without swapping.
    pub usable: Option<Bytes>,
    /// The guest: caches of disks.
    pub caches: Option<Bytes>,
    /// The guest: read from swap.
    pub swap_in: Option<Bytes>,
    /// The guest: written to swap.
    pub swap_out: Option<Bytes>,
    /// The guest: faults that needed the disk.
    pub major_faults: Option<u64>,
    /// The guest: all other faults.
    pub minor_faults: Option<u64>,
    /// When the guest said so.
    pub told: Option<Timestamp>,
}

/// Where a running domain's VNC server listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Its address on the node.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}

/// Looking into domains; part of what a [`Hypervisor`](super::Hypervisor) does.
///
/// What only a running domain has is [`Error::Refused`] of one that does not run.
pub trait Inspect: Send + Sync + 'static {
    /// A definition, as XML, with its secrets left out.
    fn xml(
        &self,
        id: InstanceId,
        which: Definition,
    ) -> impl Future<Output = Result<String, Error>> + Send;

    /// A digest of the persistent definition as the hypervisor keeps it: another one means that
    /// somebody changed it. To be compared with one of the same version of the hypervisor, for
    /// another may spell the same differently.
    fn fingerprint(&self, id: InstanceId) -> impl Future<Output = Result<String, Error>> + Send;

    /// What is counted of a running domain.
    fn stats(&self, id: InstanceId) -> impl Future<Output = Result<DomainStats, Error>> + Send;

    /// Where a running domain's screen is; none if it has none.
    fn screen(&self, id: InstanceId) -> impl Future<Output = Result<Option<Screen>, Error>> + Send;

    /// The pty of a running domain's serial console.
    fn console(&self, id: InstanceId) -> impl Future<Output = Result<PathBuf, Error>> + Send;
}
