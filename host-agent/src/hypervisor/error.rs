//! Why the hypervisor did not do what it was asked, in the words of whoever asked.

use ostler_protocol::rpc::values::InstanceId;

/// A failed call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The hypervisor was asked and has no such domain.
    #[error("the hypervisor has no domain {domain}")]
    NotFound {
        /// The domain.
        domain: InstanceId,
    },
    /// There is such a domain, and it is somebody else's: nothing was done to it.
    #[error("the domain {domain} on this node is not this agent's: {why}")]
    NotOurs {
        /// The domain.
        domain: InstanceId,
        /// What its mark says, or that there is none.
        why: String,
    },
    /// Others are before us: our own queue is full, or another job holds the domain.
    #[error("{step}: busy: {reason}")]
    Busy {
        /// What was asked.
        step: &'static str,
        /// Who is before us.
        reason: String,
    },
    /// No connection, or it broke during the call; the call may have taken effect.
    #[error("{step}: the hypervisor cannot be reached: {reason}")]
    Unreachable {
        /// What was asked.
        step: &'static str,
        /// What is known of the connection.
        reason: String,
    },
    /// No answer in time; the call may go on and take effect.
    #[error("{step}: no answer from the hypervisor in time")]
    Timeout {
        /// What was asked.
        step: &'static str,
    },
    /// The guest's agent is not connected, not running or hung.
    #[error("the guest agent of {domain} does not answer: {reason}")]
    GuestAgentUnavailable {
        /// The domain.
        domain: InstanceId,
        /// The hypervisor's words.
        reason: String,
    },
    /// The guest's agent answered, with an error or with something that is no answer.
    #[error("the guest agent of {domain} refused: {reason}")]
    GuestAgentRefused {
        /// The domain.
        domain: InstanceId,
        /// The agent's words; from the guest, so not to be trusted.
        reason: String,
    },
    /// The request cannot be carried out as it stands; the same request will fail again.
    #[error("{step}: refused: {reason}")]
    Refused {
        /// What was asked.
        step: &'static str,
        /// Of which domain, if of one.
        domain: Option<InstanceId>,
        /// The hypervisor's words.
        reason: String,
    },
    /// It was tried and did not work.
    #[error("{step}: {message}")]
    Failed {
        /// What was asked.
        step: &'static str,
        /// Of which domain, if of one.
        domain: Option<InstanceId>,
        /// The hypervisor's words.
        message: String,
    },
}

impl Error {
    /// Whether the same request may succeed later, nothing else changed.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Busy { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::GuestAgentUnavailable { .. } => true,
            Self::NotFound { .. }
            | Self::NotOurs { .. }
            | Self::GuestAgentRefused { .. }
            | Self::Refused { .. }
            | Self::Failed { .. } => false,
        }
    }

    /// Whether the change that was asked for may have happened all the same.
    pub const fn may_have_happened(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Timeout { .. } => true,
            Self::NotFound { .. }
            | Self::NotOurs { .. }
            | Self::Busy { .. }
            | Self::GuestAgentUnavailable { .. }
            | Self::GuestAgentRefused { .. }
            | Self::Refused { .. }
            | Self::Failed { .. } => false,
        }
    }
}
