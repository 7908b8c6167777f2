//! Processors: which there are, what they did, how much waits for them.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Lists the logical processors.
#[derive(Debug)]
pub enum GuestGetVcpus {}

impl Command for GuestGetVcpus {
    const NAME: &'static str = "guest-get-vcpus";
    type Arguments = Nothing;
    type Reply = Vec<LogicalProcessor>;
}

/// Takes processors into use or out of it. Returns how many of the list, from its start, are as asked.
#[derive(Debug)]
pub enum GuestSetVcpus {}

impl Command for GuestSetVcpus {
    const NAME: &'static str = "guest-set-vcpus";
    type Arguments = SetVcpusArguments;
    type Reply = i64;
}

/// Arguments of [`GuestSetVcpus`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetVcpusArguments {
    /// The processors, in the order in which they are to be changed.
    pub vcpus: Vec<LogicalProcessor>,
}

/// A logical processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LogicalProcessor {
    /// The kernel's number.
    pub logical_id: i64,
    /// Whether it is in use.
    pub online: bool,
    /// Whether it can be taken out of use; without meaning in a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub can_offline: Option<bool>,
}

/// Tells what each processor spent its time on.
#[derive(Debug)]
pub enum GuestGetCpustats {}

impl Command for GuestGetCpustats {
    const NAME: &'static str = "guest-get-cpustats";
    type Arguments = Nothing;
    type Reply = Vec<CpuStatistics>;
}

/// What a processor spent its time on, as its system counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum CpuStatistics {
    /// Linux.
    Linux(LinuxCpuStatistics),
    /// A system a later agent runs on; never sent.
    #[serde(other)]
    Unknown,
}

/// What a processor spent its time on since boot, in milliseconds. Old kernels count less.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinuxCpuStatistics {
    /// The kernel's number.
    pub cpu: i64,
    /// Programs.
    pub user: u64,
    /// Programs of low priority.
    pub nice: u64,
    /// The kernel.
    pub system: u64,
    /// Nothing.
    pub idle: u64,
    /// Nothing, while something waited for a disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iowait: Option<u64>,
    /// Interrupts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub irq: Option<u64>,
    /// Soft interrupts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub softirq: Option<u64>,
    /// Other guests of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steal: Option<u64>,
    /// Guests of this system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<u64>,
    /// Guests of this system of low priority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guestnice: Option<u64>,
}

/// Tells how many tasks ran or waited to, on average.
#[derive(Debug)]
pub enum GuestGetLoad {}

impl Command for GuestGetLoad {
    const NAME: &'static str = "guest-get-load";
    type Arguments = Nothing;
    type Reply = LoadAverage;
}

/// The load.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadAverage {
    /// Over a minute.
    pub load1m: f64,
    /// Over five.
    pub load5m: f64,
    /// Over fifteen.
    pub load15m: f64,
}
