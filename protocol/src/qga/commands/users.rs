//! Who is logged in.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Lists the users that are logged in.
#[derive(Debug)]
pub enum GuestGetUsers {}

impl Command for GuestGetUsers {
    const NAME: &'static str = "guest-get-users";
    type Arguments = Nothing;
    type Reply = Vec<LoggedInUser>;
}

/// A user, however often logged in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoggedInUser {
    /// The name.
    pub user: String,
    /// Seconds since 1970 of the earliest login that lasts.
    pub login_time: f64,
    /// The domain; Windows only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub domain: Option<String>,
}
