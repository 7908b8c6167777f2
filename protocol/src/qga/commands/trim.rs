//! Telling disks which of their blocks are not in use.

use serde::{Deserialize, Serialize};

use super::Command;

/// Trims the mounted file systems that can be.
#[derive(Debug)]
pub enum GuestFstrim {}

impl Command for GuestFstrim {
    const NAME: &'static str = "guest-fstrim";
    type Arguments = TrimArguments;
    type Reply = TrimReport;
}

/// Arguments of [`GuestFstrim`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrimArguments {
    /// Free stretches of fewer bytes are left alone; none, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
}

/// What was trimmed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimReport {
    /// One entry a file system.
    pub paths: Vec<TrimResult>,
}

/// What became of one file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrimResult {
    /// Where it is mounted.
    pub path: String,
    /// Bytes that were trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<i64>,
    /// The shortest stretch that was trimmed, as the file system rounded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<i64>,
    /// Why it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
