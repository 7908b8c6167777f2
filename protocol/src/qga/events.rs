//! Events of Ostler's own port.
//!
//! The standard protocol has no events: an agent only ever answers. These are Ostler's, in the form
//! QMP gives events, and only the port `org.ostler.guest.0` carries them:
//!
//! ```text
//! {"event": "OSTLER_HEARTBEAT", "data": {...}, "timestamp": {"seconds": 1, "microseconds": 2}}
//! ```
//!
//! Whoever opens the port is told first that the agent is ready, then the interfaces and the file
//! systems as they are; afterwards the same again whenever they change, and a heartbeat at the
//! interval it states. So a host that listens knows the guest without asking, and knows how old its
//! knowledge is.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::commands::filesystem::FilesystemInfo;
use super::commands::info::OsInfo;
use super::commands::network::NetworkInterface;
use super::envelope::{Event, Timestamp};

/// The agent serves the port: sent when it starts and whenever the host opens it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Ready {
    /// The agent's version.
    pub version: String,
    /// What it can do beyond the standard; see [`capability`].
    pub capabilities: Vec<String>,
    /// The guest's name.
    pub hostname: String,
    /// The kernel's id of this boot: another one means the guest was restarted in between.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
    /// The operating system.
    pub os: OsInfo,
}

/// Words of [`Ready::capabilities`].
pub mod capability {
    /// Requests may overlap; their replies carry their ids and come in any order.
    pub const PIPELINING: &str = "pipelining";
    /// `OSTLER_NETWORK_CHANGED` is sent.
    pub const NETWORK_EVENTS: &str = "network-events";
    /// `OSTLER_FILESYSTEMS_CHANGED` is sent.
    pub const FILESYSTEM_EVENTS: &str = "filesystem-events";
    /// `OSTLER_HEARTBEAT` is sent.
    pub const HEARTBEAT: &str = "heartbeat";
    /// A freeze ends by itself, and `OSTLER_THAWED` says so.
    pub const FREEZE_LEASE: &str = "freeze-lease";
    /// `guest-exec-status` tells from a place on what a program wrote.
    pub const EXEC_OUTPUT: &str = "exec-output";
}

/// The interfaces as they are now; without their counters, whose change is no event.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NetworkChanged {
    /// As `guest-network-get-interfaces` lists them.
    pub interfaces: Vec<NetworkInterface>,
    /// Whether there are more than are told; see [`bounds`](super::bounds).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// The mounted file systems as they are now.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilesystemsChanged {
    /// As `guest-get-fsinfo` lists them.
    pub filesystems: Vec<FilesystemInfo>,
    /// Whether there are more than are told.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub truncated: bool,
}

/// The guest lives, and how it is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Heartbeat {
    /// Seconds since the guest was started.
    pub uptime: f64,
    /// Load average over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Its memory.
    pub memory: Memory,
    /// Seconds until the next one.
    pub interval: u64,
}

/// Memory of the guest, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What could be had without swapping.
    pub available: u64,
}

/// File systems were thawed because nobody had thawed them in time: what was copied of their disks
/// meanwhile may have been copied after.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thawed {
    /// How many.
    pub filesystems: i64,
    /// The seconds after which it was done.
    pub lease: u64,
}

/// An event of Ostler's, typed.
#[derive(Clone, Debug, PartialEq)]
pub enum GuestEvent {
    /// `OSTLER_READY`
    Ready(Box<Ready>),
    /// `OSTLER_NETWORK_CHANGED`
    NetworkChanged(NetworkChanged),
    /// `OSTLER_FILESYSTEMS_CHANGED`
    FilesystemsChanged(FilesystemsChanged),
    /// `OSTLER_HEARTBEAT`
    Heartbeat(Heartbeat),
    /// `OSTLER_THAWED`
    Thawed(Thawed),
}

/// Why an event is not one of ours.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// A name this version does not know: a later agent's, to be passed over.
    #[error("the event {0} is not known")]
    Unknown(String),
    /// Its data is not what its name promises.
    #[error("the data of the event {name} is malformed")]
    Data {
        /// The event.
        name: String,
        /// What is wrong with it.
        source: serde_json::Error,
    },
}

const READY: &str = "OSTLER_READY";
const NETWORK_CHANGED: &str = "OSTLER_NETWORK_CHANGED";
const FILESYSTEMS_CHANGED: &str = "OSTLER_FILESYSTEMS_CHANGED";
const HEARTBEAT: &str = "OSTLER_HEARTBEAT";
const THAWED: &str = "OSTLER_THAWED";

impl GuestEvent {
    /// Its name on the wire.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ready(_) => READY,
            Self::NetworkChanged(_) => NETWORK_CHANGED,
            Self::FilesystemsChanged(_) => FILESYSTEMS_CHANGED,
            Self::Heartbeat(_) => HEARTBEAT,
            Self::Thawed(_) => THAWED,
        }
    }

    /// The event as it is sent.
    pub fn to_event(&self, timestamp: Timestamp) -> Result<Event, serde_json::Error> {
        let data = match self {
            Self::Ready(data) => serde_json::to_value(data),
            Self::NetworkChanged(data) => serde_json::to_value(data),
            Self::FilesystemsChanged(data) => serde_json::to_value(data),
            Self::Heartbeat(data) => serde_json::to_value(data),
            Self::Thawed(data) => serde_json::to_value(data),
        }?;
        Ok(Event { event: self.name().to_owned(), data, timestamp })
    }

    /// Reads an event that came in.
    pub fn from_event(event: Event) -> Result<Self, EventError> {
        let Event { event: name, data, timestamp: _ } = event;
        fn data_of<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, serde_json::Error> {
            serde_json::from_value(value)
        }
        match name.as_str() {
            READY => data_of(data).map(Self::Ready),
            NETWORK_CHANGED => data_of(data).map(Self::NetworkChanged),
            FILESYSTEMS_CHANGED => data_of(data).map(Self::FilesystemsChanged),
            HEARTBEAT => data_of(data).map(Self::Heartbeat),
            THAWED => data_of(data).map(Self::Thawed),
            _ => return Err(EventError::Unknown(name)),
        }
        .map_err(|source| EventError::Data { name, source })
    }
}
