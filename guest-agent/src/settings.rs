//! How the agent is to run, as validated.

use std::path::PathBuf;
use std::time::Duration;

use crate::log::Log;
use crate::policy::Policy;

pub(crate) const STANDARD_PORT: &str = "/dev/virtio-ports/org.qemu.guest_agent.0";
pub(crate) const OSTLER_PORT: &str = "/dev/virtio-ports/org.ostler.guest.0";
pub(crate) const SERIAL_LINE: &str = "/dev/ttyS0";

/// How the agent is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Whether to go to the background.
    pub daemon: bool,
    /// What its channels are.
    pub method: Method,
    /// The standard channel: a path, or an address of vsock.
    pub path: Option<PathBuf>,
    /// Ostler's own channel.
    pub ostler: Option<PathBuf>,
    /// The speed of a serial line.
    pub baud: u32,
    /// Whether to wait for a serial line that is not there.
    pub retry: bool,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Where a daemon leaves its process id.
    pub pid_file: PathBuf,
    /// For what outlives a restart of the agent.
    pub state_directory: PathBuf,
    /// What it may do.
    pub policy: Policy,
    /// How long file systems may stay frozen before they are thawed unasked.
    pub freeze_lease: Duration,
    /// The program that is told of freezing and thawing.
    pub hook: Option<PathBuf>,
    /// How long it may take.
    pub hook_timeout: Duration,
    /// If given, only programs whose command line begins with one of these may be run.
    pub programs: Option<Vec<String>>,
    /// What it tells.
    pub log: Log,
    /// What in the configuration has no effect.
    pub warnings: Vec<String>,
}

/// What a channel is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// A virtio-serial port, waited for if it is not there.
    VirtioSerial,
    /// A serial line.
    IsaSerial,
    /// A socket that is bound at the path and takes one client at a time.
    UnixListen,
    /// The same, bound at an address of vsock.
    VsockListen,
}

impl Method {
    pub(crate) const ALL: [Self; 4] =
        [Self::VirtioSerial, Self::IsaSerial, Self::UnixListen, Self::VsockListen];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::VirtioSerial => "virtio-serial",
            Self::IsaSerial => "isa-serial",
            Self::UnixListen => "unix-listen",
            Self::VsockListen => "vsock-listen",
        }
    }

    /// Its standard channel and Ostler's own, where nothing else is said.
    pub(crate) const fn usual(self) -> (Option<&'static str>, Option<&'static str>) {
        match self {
            Self::VirtioSerial => (Some(STANDARD_PORT), Some(OSTLER_PORT)),
            Self::IsaSerial => (Some(SERIAL_LINE), None),
            Self::UnixListen | Self::VsockListen => (None, None),
        }
    }
}
