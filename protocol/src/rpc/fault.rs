//! Faults: what a caller is told when something was refused or went wrong.
//!
//! A fault has a number (JSON-RPC's), a stable word ([`Reason`]), a sentence, and in `data` the
//! subject, the step, the causes and the next thing to do. Programs match on the word.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Why, in one stable word. Words are only ever added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The message is not JSON.
    ParseError,
    /// The message is JSON but not a JSON-RPC 2.0 request.
    InvalidRequest,
    /// No such method.
    UnknownMethod,
    /// A parameter is missing, unknown, of the wrong type or out of range.
    InvalidParams,
    /// What the request names does not exist.
    NotFound,
    /// The subject's state does not allow this now.
    Conflict,
    /// Something else still needs the subject.
    InUse,
    /// The node has no room for it.
    NoCapacity,
    /// A queue is full; try again later.
    Busy,
    /// The deadline had passed before the work could start.
    Expired,
    /// The idempotency key was used before, for a different request.
    KeyReused,
    /// The agent is shutting down and takes no new work.
    Draining,
    /// libvirt cannot be reached.
    HypervisorUnavailable,
    /// libvirt refused or failed.
    HypervisorFailed,
    /// The guest has no agent, or it does not answer.
    GuestUnavailable,
    /// The guest's agent answered with an error, or with nonsense.
    GuestFailed,
    /// The image's source cannot be read or fetched.
    ImageUnavailable,
    /// The image is not what it was declared to be, or not allowed.
    ImageInvalid,
    /// A bridge, link or tap could not be set up.
    NetworkFailed,
    /// A disk could not be made or removed.
    VolumeFailed,
    /// The node's disk is full.
    NoSpace,
    /// Something took longer than it may.
    TimedOut,
    /// Somebody cancelled it.
    Cancelled,
    /// The agent was stopped while this ran, and could not take it up again.
    Interrupted,
    /// A defect in the agent; its log has more.
    Internal,
    /// A word newer than this build.
    #[serde(other)]
    Unknown,
}

impl Reason {
    /// The JSON-RPC error number: the standard ones, else in the server's range.
    pub const fn code(self) -> i64 {
        match self {
            Self::ParseError => -32700,
            Self::InvalidRequest => -32600,
            Self::UnknownMethod => -32601,
            Self::InvalidParams => -32602,
            Self::Internal | Self::Unknown => -32603,
            Self::NotFound => -32001,
            Self::Conflict => -32002,
            Self::InUse => -32003,
            Self::NoCapacity => -32004,
            Self::Busy => -32005,
            Self::Expired => -32006,
            Self::KeyReused => -32007,
            Self::Draining => -32008,
            Self::HypervisorUnavailable => -32010,
            Self::HypervisorFailed => -32011,
            Self::GuestUnavailable => -32012,
            Self::GuestFailed => -32013,
            Self::ImageUnavailable => -32014,
            Self::ImageInvalid => -32015,
            Self::NetworkFailed => -32016,
            Self::VolumeFailed => -32017,
            Self::NoSpace => -32018,
            Self::TimedOut => -32019,
            Self::Cancelled => -32020,
            Self::Interrupted => -32021,
        }
    }
}

/// A fault, as JSON-RPC's error object; also the `error` of an operation and of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// The number that goes with the reason.
    pub code: i64,
    /// What was wrong, in a sentence.
    pub message: String,
    /// The rest.
    pub data: Detail,
}

/// What a fault says besides its sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Detail {
    /// The stable word.
    pub reason: Reason,
    /// What it is about: `instance 0f8f...`, `image debian`, `parameter networks[0].mac`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// The step of the operation that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// What lies below the message, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub causes: Vec<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl Fault {
    /// A fault with its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        let data = Detail { reason, subject: None, step: None, causes: Vec::new(), next: None };
        Self { code: reason.code(), message: message.into(), data }
    }

    /// A fault whose sentence and causes are those of an error and its sources.
    pub fn of(reason: Reason, error: &dyn std::error::Error) -> Self {
        let mut fault = Self::new(reason, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            fault.data.causes.push(cause.to_string());
            source = cause.source();
        }
        fault
    }

    /// Say what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.data.subject = Some(subject.into());
        self
    }

    /// Say at which step.
    #[must_use]
    pub fn at(mut self, step: impl Into<String>) -> Self {
        self.data.step = Some(step.into());
        self
    }

    /// Say what to do next.
    #[must_use]
    pub fn next(mut self, action: impl Into<String>) -> Self {
        self.data.next = Some(action.into());
        self
    }
}

impl std::fmt::Display for Fault {
    /// The sentence and its causes, on one line.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.message)?;
        self.data.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for Fault {}

/// A decoding error with the path of the field it is about.
pub(super) fn located(error: &serde_path_to_error::Error<serde_json::Error>) -> String {
    match error.path().to_string().as_str() {
        "." => error.inner().to_string(),
        path => format!("{path}: {}", error.inner()),
    }
}
