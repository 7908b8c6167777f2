//! The clock.

use serde::{Deserialize, Serialize};

use super::{Command, Done, Nothing};

/// Nanoseconds since 1970, UTC.
#[derive(Debug)]
pub enum GuestGetTime {}

impl Command for GuestGetTime {
    const NAME: &'static str = "guest-get-time";
    type Arguments = Nothing;
    type Reply = i64;
}

/// Sets the clock: to a given time, and the hardware's after it; or else from the hardware's.
#[derive(Debug)]
pub enum GuestSetTime {}

impl Command for GuestSetTime {
    const NAME: &'static str = "guest-set-time";
    type Arguments = SetTimeArguments;
    type Reply = Done;
}

/// Arguments of [`GuestSetTime`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetTimeArguments {
    /// Nanoseconds since 1970, UTC; what the hardware's clock says, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}
