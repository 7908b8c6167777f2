//! Disks, their partitions and what is built on them.

use serde::{Deserialize, Serialize};

use super::filesystem::DiskAddress;
use super::{Command, Nothing};

/// Lists disks and partitions.
#[derive(Debug)]
pub enum GuestGetDisks {}

impl Command for GuestGetDisks {
    const NAME: &'static str = "guest-get-disks";
    type Arguments = Nothing;
    type Reply = Vec<DiskInfo>;
}

/// A disk or a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskInfo {
    /// Its device node.
    pub name: String,
    /// Whether it is a partition.
    pub partition: bool,
    /// The device nodes of what it lies on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dependencies: Option<Vec<String>>,
    /// Where it is plugged in, if it is a disk that is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<DiskAddress>,
    /// Its other name, such as that of a logical volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<String>,
    /// What it tells of its health.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub smart: Option<DiskSmart>,
}

/// What a disk tells of its health, by its bus.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum DiskSmart {
    /// NVMe.
    Nvme(Box<NvmeSmart>),
    /// A bus a later agent has; never sent.
    #[serde(other)]
    Unknown,
}

/// The health log of an NVMe disk, field by field as its specification has it; what is 128 bits wide
/// there is two numbers here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the names are the specification's")]
pub struct NvmeSmart {
    pub critical_warning: i64,
    pub temperature: i64,
    pub available_spare: i64,
    pub available_spare_threshold: i64,
    pub percentage_used: i64,
    pub data_units_read_lo: u64,
    pub data_units_read_hi: u64,
    pub data_units_written_lo: u64,
    pub data_units_written_hi: u64,
    pub host_read_commands_lo: u64,
    pub host_read_commands_hi: u64,
    pub host_write_commands_lo: u64,
    pub host_write_commands_hi: u64,
    pub controller_busy_time_lo: u64,
    pub controller_busy_time_hi: u64,
    pub power_cycles_lo: u64,
    pub power_cycles_hi: u64,
    pub power_on_hours_lo: u64,
    pub power_on_hours_hi: u64,
    pub unsafe_shutdowns_lo: u64,
    pub unsafe_shutdowns_hi: u64,
    pub media_errors_lo: u64,
    pub media_errors_hi: u64,
    pub number_of_error_log_entries_lo: u64,
    pub number_of_error_log_entries_hi: u64,
}

/// Tells what went to and from each disk.
#[derive(Debug)]
pub enum GuestGetDiskstats {}

impl Command for GuestGetDiskstats {
    const NAME: &'static str = "guest-get-diskstats";
    type Arguments = Nothing;
    type Reply = Vec<DiskStatsInfo>;
}

/// A block device and its counters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskStatsInfo {
    /// The kernel's name of it.
    pub name: String,
    /// Its device number.
    pub major: u64,
    /// Its device number.
    pub minor: u64,
    /// The counters.
    pub stats: DiskStats,
}

/// Counters since boot: requests, sectors of 512 bytes, milliseconds. Old kernels count less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct DiskStats {
    /// Sectors read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_sectors: Option<u64>,
    /// Reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ios: Option<u64>,
    /// Reads that were merged into others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_merges: Option<u64>,
    /// Sectors written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_sectors: Option<u64>,
    /// Writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ios: Option<u64>,
    /// Writes that were merged into others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_merges: Option<u64>,
    /// Sectors discarded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_sectors: Option<u64>,
    /// Discards.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_ios: Option<u64>,
    /// Discards that were merged into others.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_merges: Option<u64>,
    /// Flushes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_ios: Option<u64>,
    /// Time spent reading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ticks: Option<u64>,
    /// Time spent writing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub write_ticks: Option<u64>,
    /// Time spent discarding.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub discard_ticks: Option<u64>,
    /// Time spent flushing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flush_ticks: Option<u64>,
    /// Requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ios_pgr: Option<u64>,
    /// Time with requests under way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total_ticks: Option<u64>,
    /// The same, times their number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_ticks: Option<u64>,
}
