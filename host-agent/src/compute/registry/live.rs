//! An operation that is not over.

use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::operation::{State, Subject};
use ostler_protocol::rpc::values::{OperationId, Secret, Timestamp};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::compute::describe::Change;
use crate::journal::records::{OperationRecord, Running};
use crate::refusal::Operation;

/// An operation that is not over.
#[derive(Debug)]
pub(in crate::compute) struct LiveOperation {
    pub(in crate::compute) id: OperationId,
    pub(in crate::compute) subject: Subject,
    pub(in crate::compute) change: Change,
    /// Whether it was begun before the agent started.
    pub(in crate::compute) resumed: bool,
    /// What must not be written down.
    pub(in crate::compute) volatile: Volatile,
    /// Whether the instance ran when it was accepted.
    pub(in crate::compute) was: Running,
    /// Set when somebody asks for it to stop.
    pub(in crate::compute) cancel: CancellationToken,
    /// Set when a delete waits behind it: what still fails then is left to that.
    pub(in crate::compute) superseded: CancellationToken,
    /// As the caller sees it; changes are told to whoever waits.
    pub(in crate::compute) now: watch::Sender<Operation>,
    /// Whether it is on disk: nothing is done before that.
    acceptance: watch::Sender<Acceptance>,
}

/// Whether an operation is accepted: it is, once it is on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::compute) enum Acceptance {
    /// It is being written.
    Pending,
    /// It is on disk.
    Accepted,
    /// It could not be written, and is nothing.
    Refused,
}

/// What an operation knows that the journal does not.
#[derive(Debug, Default)]
pub(in crate::compute) struct Volatile {
    /// The password to set.
    pub(in crate::compute) password: Option<Word>,
    /// The secret of a volume that is kept elsewhere.
    pub(in crate::compute) secret: Option<Secret>,
    /// What opens an encrypted volume.
    pub(in crate::compute) passphrase: Option<Secret>,
    /// The image's source with its query.
    pub(in crate::compute) source: Option<String>,
    /// Where an image is exported to, with the query.
    pub(in crate::compute) to: Option<String>,
}

impl LiveOperation {
    pub(in crate::compute) fn new(
        operation: Operation,
        change: Change,
        was: Running,
        volatile: Volatile,
        acceptance: Acceptance,
    ) -> Arc<Self> {
        let cancel = CancellationToken::new();
        if operation.cancel_asked.is_some() {
            cancel.cancel();
        }
        Arc::new(Self {
            id: operation.id,
            subject: operation.subject.clone(),
            change,
            was,
            resumed: operation.state != State::Queued,
            volatile,
            cancel,
            superseded: CancellationToken::new(),
            now: watch::Sender::new(operation),
            acceptance: watch::Sender::new(acceptance),
        })
    }

    /// Say whether it could be written down.
    pub(in crate::compute) fn decide(&self, acceptance: Acceptance) {
        self.acceptance.send_replace(acceptance);
    }

    /// Wait until it is decided; whether it is accepted.
    pub(in crate::compute) async fn is_accepted(&self) -> bool {
        let mut decided = self.acceptance.subscribe();
        // The sender is in `self`.
        let decided = decided.wait_for(|now| *now != Acceptance::Pending).await;
        decided.is_ok_and(|now| *now == Acceptance::Accepted)
    }

    /// Ask it to stop. The next write to the journal has that.
    pub(in crate::compute) fn ask_to_stop(&self) {
        self.now.send_modify(|o| {
            o.cancel_asked.get_or_insert_with(Timestamp::now);
            o.revision += 1;
        });
        self.cancel.cancel();
    }

    /// As it is now.
    pub(in crate::compute) fn operation(&self) -> Operation {
        self.now.borrow().clone()
    }

    /// As the journal keeps it.
    pub(in crate::compute) fn record(&self) -> OperationRecord {
        OperationRecord {
            operation: self.operation(),
            change: self.change.written.clone(),
            was: self.was,
        }
    }
}
