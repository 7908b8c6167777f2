//! The time zone.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Tells the time zone.
#[derive(Debug)]
pub enum GuestGetTimezone {}

impl Command for GuestGetTimezone {
    const NAME: &'static str = "guest-get-timezone";
    type Arguments = Nothing;
    type Reply = Timezone;
}

/// The time zone, as it is now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timezone {
    /// Its abbreviation, which the season changes: `CET`, `CEST`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Seconds east of Greenwich.
    pub offset: i64,
}
