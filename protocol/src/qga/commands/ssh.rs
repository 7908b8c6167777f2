//! Who may log in by key.

use serde::{Deserialize, Serialize};

use super::{Command, Done};

/// Lists the keys an account may be used with.
#[derive(Debug)]
pub enum GuestSshGetAuthorizedKeys {}

impl Command for GuestSshGetAuthorizedKeys {
    const NAME: &'static str = "guest-ssh-get-authorized-keys";
    type Arguments = SshAccount;
    type Reply = SshKeys;
}

/// Arguments of [`GuestSshGetAuthorizedKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshAccount {
    /// The account.
    pub username: String,
}

/// The keys of an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SshKeys {
    /// Lines as `authorized_keys` has them, the last one first.
    pub keys: Vec<String>,
}

/// Adds keys.
#[derive(Debug)]
pub enum GuestSshAddAuthorizedKeys {}

impl Command for GuestSshAddAuthorizedKeys {
    const NAME: &'static str = "guest-ssh-add-authorized-keys";
    type Arguments = SshAddArguments;
    type Reply = Done;
}

/// Arguments of [`GuestSshAddAuthorizedKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshAddArguments {
    /// The account.
    pub username: String,
    /// The keys.
    pub keys: Vec<String>,
    /// Whether all others are removed; not if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reset: Option<bool>,
}

/// Removes keys.
#[derive(Debug)]
pub enum GuestSshRemoveAuthorizedKeys {}

impl Command for GuestSshRemoveAuthorizedKeys {
    const NAME: &'static str = "guest-ssh-remove-authorized-keys";
    type Arguments = SshRemoveArguments;
    type Reply = Done;
}

/// Arguments of [`GuestSshRemoveAuthorizedKeys`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SshRemoveArguments {
    /// The account.
    pub username: String,
    /// The keys.
    pub keys: Vec<String>,
}
