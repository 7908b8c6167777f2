//! What goes with a command.

use ostler_protocol::rpc::values::{IdempotencyKey, Timestamp};

/// What goes with a command besides its parameters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    /// The same key is the same operation.
    pub key: Option<IdempotencyKey>,
    /// Not to be started after this.
    pub deadline: Option<Timestamp>,
}

impl Context {
    /// Whether the deadline has passed.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.deadline.is_some_and(|deadline| now > deadline)
    }
}
