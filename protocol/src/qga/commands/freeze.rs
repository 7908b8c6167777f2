//! Freezing and thawing file systems.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// The longest lease that may be asked for, in seconds: a day.
pub const LONGEST_LEASE: i64 = 86_400;

/// Whether file systems are frozen by the agent.
#[derive(Debug)]
pub enum GuestFsfreezeStatus {}

impl Command for GuestFsfreezeStatus {
    const NAME: &'static str = "guest-fsfreeze-status";
    type Arguments = Nothing;
    type Reply = FreezeStatus;
}

/// Whether file systems are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FreezeStatus {
    /// None is, by the agent.
    Thawed,
    /// Some are, or are about to be.
    Frozen,
}

/// Freezes all file systems that can be; returns how many.
#[derive(Debug)]
pub enum GuestFsfreezeFreeze {}

impl Command for GuestFsfreezeFreeze {
    const NAME: &'static str = "guest-fsfreeze-freeze";
    type Arguments = FreezeArguments;
    type Reply = i64;
}

/// Arguments of [`GuestFsfreezeFreeze`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeArguments {
    /// After so many seconds they are thawed unasked: 1 to [`LONGEST_LEASE`]. Ostler's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<i64>,
}

/// Freezes the file systems mounted at given places; returns how many. A place where none is mounted
/// is passed over.
#[derive(Debug)]
pub enum GuestFsfreezeFreezeList {}

impl Command for GuestFsfreezeFreezeList {
    const NAME: &'static str = "guest-fsfreeze-freeze-list";
    type Arguments = FreezeListArguments;
    type Reply = i64;
}

/// Arguments of [`GuestFsfreezeFreezeList`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FreezeListArguments {
    /// As of [`FreezeArguments`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<i64>,
    /// Where they are mounted; all, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mountpoints: Option<Vec<String>>,
}

/// Thaws all file systems, whoever froze them; returns how many.
#[derive(Debug)]
pub enum GuestFsfreezeThaw {}

impl Command for GuestFsfreezeThaw {
    const NAME: &'static str = "guest-fsfreeze-thaw";
    type Arguments = Nothing;
    type Reply = i64;
}
