//! Accounts of the guest.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Command, Done};

/// Sets the password of an account.
#[derive(Debug)]
pub enum GuestSetUserPassword {}

impl Command for GuestSetUserPassword {
    const NAME: &'static str = "guest-set-user-password";
    type Arguments = SetUserPasswordArguments;
    type Reply = Done;
}

/// Arguments of [`GuestSetUserPassword`]. Its debug form leaves the password out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetUserPasswordArguments {
    /// The account.
    pub username: String,
    /// The password, in base64.
    pub password: String,
    /// Whether the password is what `crypt(3)` made of it. The schema requires it.
    pub crypted: bool,
}

impl fmt::Debug for SetUserPasswordArguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetUserPasswordArguments")
            .field("username", &self.username)
            .field("crypted", &self.crypted)
            .finish_non_exhaustive()
    }
}
