//! The session: is anybody there, and whose answer is this.

use serde::{Deserialize, Serialize};

use super::{Command, Done, Nothing};
use crate::qga::encode::Lead;

/// Arguments of both syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncArguments {
    /// A number the client has not used before on this channel.
    pub id: i64,
}

/// Echoes a number, so that a client can tell late answers from the one it waits for.
#[derive(Debug)]
pub enum GuestSync {}

impl Command for GuestSync {
    const NAME: &'static str = "guest-sync";
    type Arguments = SyncArguments;
    type Reply = i64;
}

/// The same, its reply led by 0xFF: all before that byte is to be forgotten.
#[derive(Debug)]
pub enum GuestSyncDelimited {}

impl Command for GuestSyncDelimited {
    const NAME: &'static str = "guest-sync-delimited";
    const LEAD: Lead = Lead::Delimited;
    type Arguments = SyncArguments;
    type Reply = i64;
}

/// Answers, and does nothing.
#[derive(Debug)]
pub enum GuestPing {}

impl Command for GuestPing {
    const NAME: &'static str = "guest-ping";
    type Arguments = Nothing;
    type Reply = Done;
}
