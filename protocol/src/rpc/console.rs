//! Serial consoles: sessions by request and reply, and what was logged.
//!
//! ```text
//!   console.open ──> session, at
//!   console.read  session, at ──> data, at ──> console.read  session, at ...
//!   console.write session, at, data ──> at
//!   console.close session
//! ```
//!
//! Both directions count bytes. A read at the same place is answered by the same bytes, and bytes
//! written again are skipped, so every request may be repeated after a lost answer.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::values::{ConsoleId, InstanceId};
use crate::qga::base64::Base64Data;

/// The most bytes one `console.write` may bring.
pub const WRITE_MAX: usize = 64 << 10;
/// The most bytes one `console.read` answers.
pub const READ_MAX: usize = 64 << 10;
/// The longest a `console.read` waits, milliseconds.
pub const WAIT_MAX: u32 = 30_000;
/// How long a session without a read lives, milliseconds.
pub const IDLE_MAX: u64 = 60_000;
/// The most an `instance.console_log` answers.
pub const LOG_MAX: u64 = 512 << 10;

/// Bytes, as base64.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Data(Base64Data);

impl Data {
    /// These bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Base64Data(bytes))
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0.0
    }
}

impl JsonSchema for Data {
    fn schema_name() -> Cow<'static, str> {
        "Data".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "contentEncoding": "base64" })
    }
}

/// Parameters of `console.open`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Open {
    /// The instance.
    pub id: InstanceId,
}

/// A session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Opened {
    /// The session; it is closed when nobody has read in it for a minute.
    pub session: ConsoleId,
    /// Where its first read is. Its first write is at 0.
    pub at: u64,
    /// Whether there is a console now.
    pub state: State,
}

/// Whether a session has a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ConsoleState")]
pub enum State {
    /// The instance runs, and what it prints comes.
    Attached,
    /// The instance is off; the session goes on when it runs again.
    Waiting,
}

/// Parameters of `console.read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Read {
    /// The session.
    pub session: ConsoleId,
    /// From where: the last answer's `at`.
    pub at: u64,
    /// How long to wait for something to come, milliseconds: 30,000 at most; not at all unless
    /// told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wait: Option<u32>,
    /// The last answer's `state`: another one ends the wait as well. Unless told, it is what it
    /// is when the request comes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
}

/// What the guest printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Printed {
    /// Where the next read is.
    pub at: u64,
    /// The bytes, whatever they are; 65,536 at most.
    pub data: Data,
    /// Bytes before these that are lost: they were not read in time.
    pub lost: u64,
    /// Whether there is a console now.
    pub state: State,
}

/// Parameters of `console.write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Write {
    /// The session.
    pub session: ConsoleId,
    /// Where these bytes are in what this session has written: at 0 the first. What was taken
    /// already is passed over.
    pub at: u64,
    /// The bytes; 65,536 at most.
    pub data: Data,
}

/// How much was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Taken {
    /// Where the next write is; what lies behind it was not taken, for the guest does not read, or
    /// is off.
    pub at: u64,
    /// Whether there is a console now.
    pub state: State,
}

/// Parameters of `console.close`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// The session; one that is closed already is no error.
    pub session: ConsoleId,
}

/// Parameters of `instance.console_log`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReadLog {
    /// The instance.
    pub id: InstanceId,
    /// How many bytes, counted from the end: 65,536 unless told, 524,288 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
}

/// The end of what the console printed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Log {
    /// The bytes, whatever they are.
    pub data: Data,
    /// How many bytes are kept in all.
    pub size: u64,
}
