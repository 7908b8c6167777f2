//! What went wrong, as the operator is told: a sentence, causes, what to do next, an exit code.
//!
//! ```text
//!   Cause    what went wrong     refused | unreachable | timed out | operation not done | ...
//!   Pending  what it left open   nothing | a change that may have been accepted | operations
//! ```
//!
//! The two are apart because every loss of contact has the same causes, but leaves different
//! things open: after a change was sent the operator must learn how to take it up again.

use std::time::Duration;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::operation::State;
use ostler_protocol::rpc::values::{IdempotencyKey, InstanceId, OperationId};
use serde::Serialize;

use crate::password::PasswordError;
use crate::reply::{MaybeNewer, Operation};
use crate::target::TargetError;
use crate::transport::TransportError;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// The command line asks for something that cannot be.
    #[error("{message}")]
    Usage {
        /// What is wrong with it.
        message: String,
        /// What to do instead.
        next: Option<String>,
    },
    /// Which node?
    #[error(transparent)]
    Target(#[from] TargetError),
    /// No password.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// Something of this machine failed: a file, the output.
    #[error("cannot {what}")]
    Local {
        /// What was tried.
        what: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The node said no.
    #[error("{}", .0.message)]
    Refused(Box<Fault>),
    /// The operation was accepted, and is over, but not done.
    #[error("{} did not succeed", .0.kind)]
    NotDone(Box<Operation>),
    /// An operation that was to be cancelled is over otherwise.
    #[error("{} could not be cancelled any more: it is {}", .0.kind, .0.state)]
    NotCancelled(Box<Operation>),
    /// No contact.
    #[error(transparent)]
    Unreachable(TransportError),
    /// A reply this build cannot read.
    #[error("the node's answer to {method} cannot be read")]
    Reply {
        /// The method.
        method: &'static str,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// Time is up.
    #[error("gave up after {:.1} s", .after.as_secs_f32())]
    TimedOut {
        /// How long it was waited.
        after: Duration,
        /// What was in the way, where something was.
        source: Option<TransportError>,
    },
    /// What became of a program in a guest will never be known.
    #[error("the program's end is not known: {0}")]
    Lost(String),
    /// A guest does what no guest in order does.
    #[error("{0}")]
    Guest(String),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// What a failure left open: nothing, unless said.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Pending {
    /// The key of a change that was sent, and of which it is not known whether it was accepted.
    pub(crate) change: Option<IdempotencyKey>,
    /// Accepted operations, which go on.
    pub(crate) operations: Vec<OperationId>,
    /// A program that runs on in a guest.
    pub(crate) program: Option<Program>,
}

/// A program in a guest that nobody follows any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Program {
    /// Where it runs.
    pub(crate) instance: InstanceId,
    /// Its process id there.
    pub(crate) pid: i64,
    /// The key it was asked for under.
    pub(crate) key: IdempotencyKey,
}

/// What went wrong, and what it left open.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What went wrong.
    pub(crate) cause: Cause,
    /// What it left open.
    pub(crate) pending: Pending,
}

impl<C: Into<Cause>> From<C> for Failure {
    fn from(cause: C) -> Self {
        Self { cause: cause.into(), pending: Pending::default() }
    }
}

impl From<Fault> for Cause {
    fn from(fault: Fault) -> Self {
        Self::Refused(Box::new(fault))
    }
}

impl Cause {
    /// A wrong command line, and what to do instead.
    pub(crate) fn usage(message: impl Into<String>, next: impl Into<Option<String>>) -> Self {
        Self::Usage { message: message.into(), next: next.into() }
    }

    /// This cause, with a change of unknown fate.
    pub(crate) fn leaving_change(self, key: IdempotencyKey) -> Failure {
        Failure { cause: self, pending: Pending { change: Some(key), ..Pending::default() } }
    }

    /// This cause, with an operation that goes on.
    pub(crate) fn leaving_operation(self, id: OperationId) -> Failure {
        Failure { cause: self, pending: Pending { operations: vec![id], ..Pending::default() } }
    }

    /// The exit code, as documented in `--help`.
    pub(crate) fn exit(&self) -> u8 {
        match self {
            Self::NotDone(_) | Self::NotCancelled(_) => 1,
            Self::Usage { .. } | Self::Target(_) | Self::Local { .. } => 2,
            Self::Password(PasswordError::Declined) => 130,
            Self::Password(_) => 2,
            Self::Refused(_) => 3,
            Self::Unreachable(_) | Self::Reply { .. } => 4,
            Self::Guest(_) => 3,
            Self::TimedOut { .. } | Self::Lost(_) => 5,
            Self::Interrupted => 130,
        }
    }

    /// The stable word: the node's, or one for what went wrong on this side.
    fn reason(&self) -> String {
        match self {
            Self::Refused(fault) => reason_word(fault.data.reason),
            Self::NotDone(operation) => {
                operation.reason().unwrap_or_else(|| operation.state.to_string())
            }
            Self::NotCancelled(_) => "conflict".to_owned(),
            Self::Password(PasswordError::Declined) => "interrupted".to_owned(),
            Self::Usage { .. } | Self::Target(_) | Self::Password(_) => "usage".to_owned(),
            Self::Local { .. } => "local".to_owned(),
            Self::Unreachable(_) | Self::Reply { .. } => "unreachable".to_owned(),
            Self::TimedOut { .. } => "timed_out".to_owned(),
            Self::Lost(_) => "lost".to_owned(),
            Self::Guest(_) => "guest_failed".to_owned(),
            Self::Interrupted => "interrupted".to_owned(),
        }
    }

    /// The operation, where one is over.
    fn over(&self) -> Option<&Operation> {
        match self {
            Self::NotDone(operation) | Self::NotCancelled(operation) => Some(operation),
            Self::Usage { .. }
            | Self::Target(_)
            | Self::Password(_)
            | Self::Local { .. }
            | Self::Refused(_)
            | Self::Unreachable(_)
            | Self::Reply { .. }
            | Self::TimedOut { .. }
            | Self::Lost(_)
            | Self::Guest(_)
            | Self::Interrupted => None,
        }
    }

    fn fault(&self) -> Option<&Fault> {
        match self {
            Self::Refused(fault) => Some(fault),
            Self::NotDone(operation) => operation.fault(),
            Self::NotCancelled(_)
            | Self::Usage { .. }
            | Self::Target(_)
            | Self::Password(_)
            | Self::Local { .. }
            | Self::Unreachable(_)
            | Self::Reply { .. }
            | Self::TimedOut { .. }
            | Self::Lost(_)
            | Self::Guest(_)
            | Self::Interrupted => None,
        }
    }

    fn next(&self) -> Option<String> {
        match self {
            Self::Usage { next, .. } => next.clone(),
            Self::Target(error) => error.next().map(str::to_owned),
            Self::Password(PasswordError::NoTerminal) => {
                Some("give it with --password-stdin".to_owned())
            }
            Self::Unreachable(error) => error.next().map(str::to_owned),
            Self::Reply { .. } => {
                Some("compare the versions: ostler --version and ostler host ping".to_owned())
            }
            Self::TimedOut { source, .. } => source.as_ref().and_then(|e| e.next()).map(Into::into),
            Self::Refused(_) | Self::NotDone(_) => {
                self.fault().and_then(|fault| fault.data.next.clone())
            }
            Self::Lost(_) => Some("check in the guest what the program did".to_owned()),
            Self::NotCancelled(_)
            | Self::Password(_)
            | Self::Local { .. }
            | Self::Guest(_)
            | Self::Interrupted => None,
        }
    }
}

/// A failure in full, as it is printed: as text, or as JSON in the shape of a fault.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    /// The node's error number, where the node said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<i64>,
    /// What went wrong, in a sentence.
    pub(crate) message: String,
    /// The rest.
    pub(crate) data: Details,
    /// The operation, or those, that this is about.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) operations: Vec<OperationId>,
    /// How the operation ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<MaybeNewer<State>>,
    /// The exit code.
    pub(crate) exit: u8,
}

/// What an explanation says besides its sentence.
#[derive(Debug, Serialize)]
pub(crate) struct Details {
    /// The stable word.
    pub(crate) reason: String,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
    /// The step of the operation that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) step: Option<String>,
    /// What lies below the message, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) next: Option<String>,
}

impl Failure {
    /// Say it in full.
    pub(crate) fn explain(&self) -> Explanation {
        let cause = &self.cause;
        let fault = cause.fault();
        let over = cause.over();
        let message = match (fault, over) {
            (Some(fault), _) => fault.message.clone(),
            (None, Some(over)) if matches!(cause, Cause::NotDone(_)) => {
                format!("{} of {} is {}", over.kind, over.about(), over.state)
            }
            (None, _) => cause.to_string(),
        };
        let mut next: Vec<String> = cause.next().into_iter().collect();
        let mut operations: Vec<OperationId> = over.iter().map(|operation| operation.id).collect();
        if let Some(key) = &self.pending.change {
            next.push(format!(
                "it is not known whether the change was accepted; the same command with --key {key} \
                 takes it up and never runs it twice"
            ));
        }
        for id in &self.pending.operations {
            operations.push(*id);
            next.push(format!(
                "operation {id} goes on: ostler operation wait {id}, or cancel {id}"
            ));
        }
        if let Some(Program { instance, pid, key }) = &self.pending.program {
            next.push(format!(
                "the program goes on in the guest: the same command with --key {key} follows it \
                 again; ostler guest exec {instance} -- kill {pid} ends it"
            ));
        }
        Explanation {
            code: fault.map(|fault| fault.code),
            message,
            data: Details {
                reason: cause.reason(),
                subject: fault.and_then(|fault| fault.data.subject.clone()),
                step: fault.and_then(|fault| fault.data.step.clone()),
                causes: fault.map_or_else(|| sources(cause), |fault| fault.data.causes.clone()),
                next: (!next.is_empty()).then(|| next.join("; ")),
            },
            operations,
            state: over.map(|operation| operation.state.clone()),
            exit: cause.exit(),
        }
    }
}

/// The sources of an error, leaving out those that the one above already says.
fn sources(error: &dyn std::error::Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut above = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !above.contains(&text) {
            causes.push(text.clone());
            above = text;
        }
        source = error.source();
    }
    causes
}

/// The word for a reason, as on the wire.
pub(crate) fn reason_word(reason: Reason) -> String {
    match serde_json::to_value(reason) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(_) | Err(_) => "unknown".to_owned(),
    }
}

/// The word for an operation's state.
pub(crate) const fn word(state: State) -> &'static str {
    match state {
        State::Queued => "queued",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
        State::Undone => "undone",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_failure_has_its_exit_code() {
        let cases: [(Cause, u8); 7] = [
            (Cause::usage("no", None), 2),
            (TargetError::NoHost.into(), 2),
            (PasswordError::Declined.into(), 130),
            (Fault::new(Reason::NotFound, "no").into(), 3),
            (Cause::Unreachable(TransportError::TooLarge), 4),
            (Cause::TimedOut { after: Duration::from_secs(1), source: None }, 5),
            (Cause::Interrupted, 130),
        ];
        for (cause, exit) in cases {
            assert_eq!(cause.exit(), exit, "{cause}");
        }
    }

    #[test]
    fn a_refusal_keeps_the_nodes_words() {
        let fault = Fault::new(Reason::NoCapacity, "no room").about("instance x").next("wait");
        let explanation = Failure::from(Cause::from(fault)).explain();
        let json = serde_json::to_value(&explanation).unwrap();
        assert_eq!(json["code"], -32004);
        assert_eq!(json["message"], "no room");
        assert_eq!(json["data"]["reason"], "no_capacity");
        assert_eq!(json["data"]["subject"], "instance x");
        assert_eq!(json["data"]["next"], "wait");
        // A fault's readers can read it.
        let fault: Fault = serde_json::from_value(json).unwrap();
        assert_eq!(fault.data.reason, Reason::NoCapacity);
    }

    #[test]
    fn a_change_of_unknown_fate_tells_its_key() {
        let key: IdempotencyKey = "k-1".parse().unwrap();
        let failure = Cause::Interrupted.leaving_change(key);
        assert!(failure.explain().data.next.unwrap().contains("--key k-1"));
    }

    #[test]
    fn a_cause_is_not_said_twice() {
        let source = lapin::Error::from(std::io::Error::other("connection refused"));
        let cause = Cause::Unreachable(TransportError::Broker { address: "b:1".into(), source });
        assert_eq!(sources(&cause), ["IO error: connection refused"]);
    }
}
