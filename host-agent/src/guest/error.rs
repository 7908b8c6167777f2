//! Why a guest did not do, or did not say, what it was asked.

use ostler_protocol::qga::ErrorClass;
use ostler_protocol::rpc::values::{ExecId, InstanceId};

/// A question to a guest that failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The instance is off, or not known here.
    #[error("instance {instance} does not run")]
    NotRunning {
        /// The instance.
        instance: InstanceId,
    },
    /// Nothing in the guest answers, or nothing can be asked of it now.
    #[error("the guest of {instance} cannot be asked: {why}")]
    Unavailable {
        /// The instance.
        instance: InstanceId,
        /// What is known of it.
        why: String,
        /// Whether the question may have reached it all the same.
        asked: bool,
    },
    /// The agent answered that it will not or cannot.
    #[error("the guest refused {command}: {desc}")]
    Refused {
        /// What was asked.
        command: &'static str,
        /// The kind of its error. libvirt does not pass it on: over it, an error worded as agents
        /// word that they do not have or permit a command is `CommandNotFound`, any other
        /// `GenericError`.
        class: ErrorClass,
        /// The agent's words, cleaned and cut: from the guest, so not to be trusted.
        desc: String,
    },
    /// What came back is not an answer to it.
    #[error("the guest answered {command} with something that is no answer")]
    Garbled {
        /// What was asked.
        command: &'static str,
    },
    /// No answer in time; the guest may still do it.
    #[error("the guest did not answer {command} in time")]
    Timeout {
        /// What was asked.
        command: &'static str,
    },
    /// The node has no room for more of it, or the guest is frozen. Nothing was done.
    #[error("busy: {why}")]
    Busy {
        /// What there is too much of, or what is in the way.
        why: String,
    },
    /// What was asked for cannot be.
    #[error("{what}")]
    Invalid {
        /// What is wrong with it.
        what: String,
    },
    /// The idempotency key came with another request before.
    #[error("the idempotency key was used for another program")]
    KeyReused,
    /// No such program, or it is long over.
    #[error("no program {exec} of the guest of {instance} is known")]
    UnknownExec {
        /// The instance.
        instance: InstanceId,
        /// The program.
        exec: ExecId,
    },
    /// The question has no form on the wire.
    #[error("{command} cannot be written: {why}")]
    Unwritable {
        /// What was to be asked.
        command: &'static str,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// Whether the same request may succeed later, nothing else changed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Unavailable { .. } | Self::Timeout { .. } | Self::Busy { .. } => true,
            Self::NotRunning { .. }
            | Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::Invalid { .. }
            | Self::KeyReused
            | Self::UnknownExec { .. }
            | Self::Unwritable { .. } => false,
        }
    }

    /// Whether nobody answered, as opposed to an answer that was no success.
    pub const fn is_unavailable(&self) -> bool {
        match self {
            Self::NotRunning { .. } | Self::Unavailable { .. } | Self::Timeout { .. } => true,
            Self::Refused { .. }
            | Self::Garbled { .. }
            | Self::Busy { .. }
            | Self::Invalid { .. }
            | Self::KeyReused
            | Self::UnknownExec { .. }
            | Self::Unwritable { .. } => false,
        }
    }

    /// Whether the guest may have done it, or do it yet, all the same.
    pub const fn may_have_happened(&self) -> bool {
        match self {
            Self::Unavailable { asked, .. } => *asked,
            Self::Garbled { .. } | Self::Timeout { .. } => true,
            Self::NotRunning { .. }
            | Self::Refused { .. }
            | Self::Busy { .. }
            | Self::Invalid { .. }
            | Self::KeyReused
            | Self::UnknownExec { .. }
            | Self::Unwritable { .. } => false,
        }
    }
}
