//! Refusals: why something was refused or failed, and what to do about it, in nobody's words in
//! particular. Each door says them in its own: the JSON-RPC one as faults, with the command that an
//! operator would type.

use std::error::Error;
use std::fmt;

use ostler_protocol::rpc::values::{InstanceId, OperationId, VolumeId};
use serde::{Deserialize, Serialize};

/// An operation, as it is worked on and kept.
pub type Operation = ostler_protocol::rpc::operation::Operation<Refusal>;

/// Why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A parameter is missing or out of range.
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
    /// The agent is stopping and takes no new work.
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
    /// A defect in the agent; its log has more. Also any reason that a later version gave.
    #[serde(other)]
    Internal,
}

/// What an operator may be told to do by the agent: each is a request of every door's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// See what the node has.
    HostShow,
    /// See which instances there are.
    InstanceList,
    /// See how it is.
    InstanceShow(Option<InstanceId>),
    /// Switch it on.
    InstanceStart(Option<InstanceId>),
    /// Restart it without asking its guest.
    InstanceRebootHard(InstanceId),
    /// Let its vCPUs run.
    InstanceUnpause,
    /// Switch it on with the memory that was saved.
    InstanceResume,
    /// Boot it from its own disk again.
    InstanceUnrescue,
    /// Give it another size.
    InstanceResize,
    /// Keep its new size, or go back to the old one.
    InstanceResizeEnd,
    /// Bring it back.
    InstanceUnshelve,
    /// Take back a soft delete.
    InstanceRestore,
    /// Allow changes again.
    InstanceUnlock,
    /// Set a password in its guest.
    InstancePassword,
    /// Delete it.
    InstanceDelete,
    /// Delete it though it is in ERROR.
    InstanceDeleteIgnoring,
    /// See what is known of its guest.
    GuestReport,
    /// See what is known of its guest, once it is there.
    GuestReportWait,
    /// Fetch an image.
    ImageImport,
    /// See which images there are.
    ImageList,
    /// Remove an image.
    ImageRemove,
    /// Make a network.
    NetworkEnsure,
    /// See which networks there are.
    NetworkList,
    /// Remove a network.
    NetworkRemove,
    /// See which ports there are.
    PortList,
    /// Take a port from an instance.
    InstanceDetachInterface,
    /// See which volumes there are.
    VolumeList,
    /// See how a volume is.
    VolumeShow(Option<VolumeId>),
    /// Delete a volume though it is in error.
    VolumeDeleteForced,
    /// Give an instance a volume.
    InstanceAttachVolume,
    /// Take a volume from an instance.
    InstanceDetachVolume,
    /// See where volumes are kept.
    VolumePools,
    /// See which operations there are.
    OperationList,
    /// Wait for an operation.
    OperationWait(Option<OperationId>),
}

/// Why something was refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Kept", into = "Kept")]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// What was wrong, in a sentence.
    pub message: String,
    /// What it is about: `instance 0f8f...`, `image debian`, `parameter networks[0].mac`.
    pub subject: Option<String>,
    /// The step of the operation that failed.
    pub step: Option<String>,
    /// What lies below the message, outermost first.
    pub causes: Vec<String>,
    /// What to do next.
    pub next: Option<String>,
    /// By which requests that is done.
    pub by: Vec<Action>,
}

impl Refusal {
    /// A refusal with its sentence.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            subject: None,
            step: None,
            causes: Vec::new(),
            next: None,
            by: Vec::new(),
        }
    }

    /// A refusal whose sentence and causes are those of an error and its sources.
    pub fn of(reason: Reason, error: &dyn Error) -> Self {
        let mut refusal = Self::new(reason, error.to_string());
        let mut source = error.source();
        while let Some(cause) = source {
            refusal.causes.push(cause.to_string());
            source = cause.source();
        }
        refusal
    }

    /// Say what it is about.
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>) -> Self {
        self.subject = Some(subject.into());
        self
    }

    /// Say at which step.
    #[must_use]
    pub fn at(mut self, step: impl Into<String>) -> Self {
        self.step = Some(step.into());
        self
    }

    /// Say what to do next.
    #[must_use]
    pub fn next(mut self, what: impl Into<String>) -> Self {
        (self.next, self.by) = (Some(what.into()), Vec::new());
        self
    }

    /// Say by which request that is done.
    #[must_use]
    pub fn by(mut self, action: Action) -> Self {
        self.by.push(action);
        self
    }
}

impl fmt::Display for Refusal {
    /// The sentence and its causes, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.causes.iter().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

impl Error for Refusal {}

/// A refusal as the journal keeps it: in the form that versions from before this type kept, so that
/// each reads the other's.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Always there for earlier versions, which want a number.
    #[serde(default)]
    code: i64,
    message: String,
    data: KeptData,
}

#[derive(Serialize, Deserialize)]
struct KeptData {
    reason: Reason,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    step: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    causes: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    by: Vec<Action>,
}

impl From<Kept> for Refusal {
    fn from(kept: Kept) -> Self {
        let Kept { code: _, message, data } = kept;
        let KeptData { reason, subject, step, causes, next, by } = data;
        Self { reason, message, subject, step, causes, next, by }
    }
}

impl From<Refusal> for Kept {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, message, subject, step, causes, next, by } = refusal;
        let data = KeptData { reason, subject, step, causes, next, by };
        Self { code: 0, message, data }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_an_earlier_version_kept_is_read_and_what_is_kept_is_read_again() {
        let before = json!({"code": -32002, "message": "conflict: no", "data": {"reason": "conflict",
            "subject": "instance x", "causes": ["so"], "next": "start it: ostler instance start"}});
        let refusal: Refusal = serde_json::from_value(before).unwrap();
        assert_eq!(refusal.to_string(), "conflict: no: so");
        assert_eq!(refusal.next.as_deref(), Some("start it: ostler instance start"));
        let refusal = refusal.next("start it").by(Action::InstanceStart(None)).at("define domain");
        let kept = serde_json::to_value(&refusal).unwrap();
        assert_eq!(serde_json::from_value::<Refusal>(kept).unwrap(), refusal);
        let later = json!({"message": "no", "data": {"reason": "not yet thought of"}});
        assert_eq!(serde_json::from_value::<Refusal>(later).unwrap().reason, Reason::Internal);
    }
}
