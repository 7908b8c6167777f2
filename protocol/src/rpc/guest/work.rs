//! Work in a guest, through the agent inside: programs, files, the clock, keys, trimming.
//!
//! None of it is an operation: the answer is the outcome. Each request can be repeated without
//! harm: files are read and written at places that are named, and a program that is asked for twice
//! under one idempotency key is run once.

use std::fmt;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::general_purpose::STANDARD;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::rpc::values::{ExecId, InstanceId, Timestamp};

/// The most bytes one request moves to or from a file, or gives a program to read: as base64 they
/// fit into a message.
pub const PIECE_MAX: usize = 512 << 10;

/// Bytes, in base64 on the wire. They may be secret: the debug form tells their number only.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Data(pub Vec<u8>);

impl fmt::Debug for Data {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom("it is not base64"))
    }
}

impl JsonSchema for Data {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Data".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "contentEncoding": "base64" })
    }
}

/// Parameters of methods that take a guest and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The instance.
    pub id: InstanceId,
}

/// Parameters of `guest.exec`. The debug form has what may be secret left out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Exec {
    /// The instance.
    pub id: InstanceId,
    /// The program: a path in the guest, or a name its agent looks for.
    pub path: String,
    /// Its arguments, without its own name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Its whole environment, as `NAME=VALUE`; that of the guest's agent if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<Vec<String>>,
    /// What it reads from standard input, in base64, 512 KiB at most; nothing if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Data>,
    /// What is kept of what it writes.
    #[serde(default)]
    pub capture: Capture,
    /// It is ended after so many milliseconds; the guest counts in whole seconds. No limit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
    /// The account it runs as; only Ostler's own guest agent knows this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The folder it starts in; only Ostler's own guest agent knows this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// The run of the host agent that this is for: `started` as `host.ping` tells it. Another run,
    /// which does not know what this one did, refuses. Without it, a request that is sent again
    /// after the agent was restarted runs the program again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Timestamp>,
}

impl fmt::Debug for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exec")
            .field("id", &self.id)
            .field("path", &self.path)
            .field("capture", &self.capture)
            .field("timeout_ms", &self.timeout_ms)
            .field("user", &self.user)
            .field("cwd", &self.cwd)
            .finish_non_exhaustive()
    }
}

/// What is kept of what a program writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Capture {
    /// Standard output and standard error, 16 MiB of each.
    #[default]
    Both,
    /// Nothing.
    None,
}

/// The answer to `guest.exec`: a program that was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Started {
    /// What to ask for with `guest.exec_wait`.
    pub exec: ExecId,
    /// Its process id in the guest.
    pub pid: i64,
}

/// Parameters of `guest.exec_wait`: answers when the program is over, when it has written more than
/// is known here, or when the time is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecWait {
    /// The instance.
    pub id: InstanceId,
    /// Which program.
    pub exec: ExecId,
    /// How long to wait at most, milliseconds: 30,000 unless told, 60,000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
    /// How many bytes of standard output are known here; what follows them is told.
    #[serde(default)]
    pub stdout_from: u64,
    /// The same of standard error.
    #[serde(default)]
    pub stderr_from: u64,
}

/// How a program is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ExecState {
    /// It runs, as far as is known.
    Running,
    /// It is over.
    Exited,
    /// What became of it will never be known; `why` says why.
    Lost,
}

/// The answer to `guest.exec_wait`. A program is kept for 10 minutes after its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Execution {
    /// Which program.
    pub exec: ExecId,
    /// How it is doing.
    pub state: ExecState,
    /// What it returned, if it ended by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Whether it was ended for taking longer than `timeout_ms`.
    #[serde(default)]
    pub timed_out: bool,
    /// Why it is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What it wrote to standard output from `stdout_from` on, in base64; 256 KiB at most. There is
    /// more if this does not reach `stdout_size`.
    pub stdout: Data,
    /// The same of standard error.
    pub stderr: Data,
    /// How many bytes of standard output there are.
    pub stdout_size: u64,
    /// How many bytes of standard error there are.
    pub stderr_size: u64,
    /// Whether it wrote more than was kept.
    #[serde(default)]
    pub stdout_truncated: bool,
    /// The same of standard error.
    #[serde(default)]
    pub stderr_truncated: bool,
    /// How long it ran, or has run, milliseconds.
    pub elapsed: u64,
}

/// Parameters of `guest.file_read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileRead {
    /// The instance.
    pub id: InstanceId,
    /// The file in the guest.
    pub path: String,
    /// From where on, bytes.
    #[serde(default)]
    pub offset: u64,
    /// How many bytes at most: 1 to 524,288.
    pub count: u32,
}

/// The answer to `guest.file_read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FilePiece {
    /// What was read, in base64; it may be less than was asked for.
    pub data: Data,
    /// Whether the file's end was reached. If it is false, ask again further on.
    pub eof: bool,
}

/// Parameters of `guest.file_write`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileWrite {
    /// The instance.
    pub id: InstanceId,
    /// The file in the guest. It is made if it is not there and `offset` is 0.
    pub path: String,
    /// Where to write, bytes.
    #[serde(default)]
    pub offset: u64,
    /// What to write, in base64, 512 KiB at most.
    pub data: Data,
    /// Empty the file first; only with `offset` 0.
    #[serde(default)]
    pub truncate: bool,
    /// Give the file these permissions before anything is written: 420 is `rw-r--r--`. This runs
    /// `chmod` in the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<u32>,
}

/// The answer to `guest.file_write`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileWritten {
    /// How many bytes: all of them, or the request failed.
    pub written: u64,
}

/// The answer to `guest.time` and `guest.sync_time`: the guest's clock beside the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Clock {
    /// The guest's clock: milliseconds since 1970.
    pub time: i64,
    /// How far it is ahead of the node's, milliseconds; negative if it is behind.
    pub offset: i64,
    /// How wrong `offset` may be, milliseconds: half of what asking took.
    pub uncertainty: u64,
}

/// What to do with an account's keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeysAction {
    /// Tell them.
    List,
    /// Add these to those there are.
    Add,
    /// Put these in the place of those there are.
    Replace,
    /// Remove these.
    Remove,
}

/// Parameters of `guest.ssh_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SshKeys {
    /// The instance.
    pub id: InstanceId,
    /// The account in the guest.
    pub user: String,
    /// What to do.
    pub action: KeysAction,
    /// The keys, as lines of `authorized_keys`; none to list, 256 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
}

/// The answer to `guest.ssh_keys`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Keys {
    /// The account's keys, if they were to be listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<Vec<String>>,
    /// Whether the list was cut.
    #[serde(default)]
    pub truncated: bool,
}

/// Parameters of `guest.trim`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Trim {
    /// The instance.
    pub id: InstanceId,
    /// Free stretches of fewer bytes are left alone; none, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum: Option<u64>,
}

/// The answer to `guest.trim`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Trimmed {
    /// One entry a file system.
    pub filesystems: Vec<TrimmedFilesystem>,
    /// Whether the list was cut.
    #[serde(default)]
    pub truncated: bool,
}

/// What became of one file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TrimmedFilesystem {
    /// Where it is mounted in the guest.
    pub mountpoint: String,
    /// Bytes that were trimmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trimmed: Option<u64>,
    /// Why it was not, in the guest's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_debug_form_tells_no_secret() {
        let exec = Exec {
            id: InstanceId::random(),
            path: "p".into(),
            args: vec!["hunter2".into()],
            env: Some(vec!["A=hunter2".into()]),
            input: Some(Data(b"hunter2".to_vec())),
            capture: Capture::Both,
            timeout_ms: None,
            user: None,
            cwd: None,
            agent: None,
        };
        assert!(!format!("{exec:?} {:?}", exec.input).contains("hunter2"));
    }

    #[test]
    fn data_is_base64_and_what_is_not_is_not_repeated() {
        let data: Data = serde_json::from_value(json!("aGkA")).unwrap();
        assert_eq!(data.0, b"hi\0");
        assert_eq!(serde_json::to_value(&data).unwrap(), json!("aGkA"));
        let error = serde_json::from_value::<Data>(json!("hunter2!")).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
}
