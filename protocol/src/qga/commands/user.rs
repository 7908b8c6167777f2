//! Accounts of the guest.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Command;

/// Sets the password of an account.
#[derive(Debug)]
pub enum GuestSetUserPassword {}

impl Command for GuestSetUserPassword {
    const NAME: &'static str = "guest-set-user-password";
    type Arguments = SetUserPasswordArguments;
    type Reply = PasswordSet;
}

/// A password was set. Stock agents return nothing but that; what else there is to say stands here only
/// when it is so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordSet {
    /// The account was locked, and this has unlocked it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unlocked: Option<bool>,
    /// What was set is no password one can log in with: the account is locked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<bool>,
    /// The account has expired: it cannot be logged in to, whatever the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expired: Option<bool>,
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
