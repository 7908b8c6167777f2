//! The commands, by topic: name, arguments and reply of each, joined by [`Command`].
//!
//! Spellings, optional members and integer types are those of the published schema. Arguments refuse
//! members they do not know, as agents do; replies pass over them, as hosts must. A closed list of
//! words that a later guest may extend has a variant `Unknown` for reading.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::base64::Base64Data;
use super::encode::Lead;

pub mod cpu;
pub mod disk;
pub mod exec;
pub mod file;
pub mod filesystem;
pub mod freeze;
pub mod info;
pub mod memory;
pub mod network;
pub mod power;
pub mod ssh;
pub mod sync;
pub mod time;
pub mod timezone;
pub mod trim;
pub mod user;
pub mod users;

/// A command, its arguments and its reply.
pub trait Command {
    /// Its name on the wire.
    const NAME: &'static str;
    /// Whether a reply follows when it succeeds. A failure is always answered.
    const SUCCESS_RESPONSE: bool = true;
    /// Whether its reply is led by 0xFF.
    const LEAD: Lead = Lead::Plain;
    /// What it takes.
    type Arguments: Serialize + DeserializeOwned;
    /// What it returns.
    type Reply: Serialize + DeserializeOwned;

    /// The data of a reply that may be megabytes long, in the order in which it is written: it is
    /// encoded while it is sent.
    fn bulk(_reply: &mut Self::Reply) -> Vec<&mut Base64Data> {
        Vec::new()
    }
}

/// No arguments, or nothing to return: `{}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A reply that says nothing but that it was done; what a later agent adds is passed over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, serde::Deserialize)]
pub struct Done {}
