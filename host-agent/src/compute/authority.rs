//! Who decides whether something may be done to an instance. Pure.
//!
//! On a node by itself the node does, by nova's rules ([`ByState`]). Where a control plane decides,
//! it has asked its own records before it sends a request, and locks are its business.

use crate::refusal::Refusal;
use ostler_protocol::rpc::values::Timestamp;

use super::describe::Legal;
use super::lifecycle::is_legal;
use crate::journal::records::InstanceRecord;

/// Who decides.
pub trait Authority: Send + Sync + 'static {
    /// Whether this may be done to the instance as it is.
    ///
    /// # Errors
    /// `conflict`, with why.
    fn allows(
        &self,
        action: &Legal,
        record: &InstanceRecord,
        now: Timestamp,
    ) -> Result<(), Refusal>;
}

/// The node itself decides: by the instance's states, and its lock.
#[derive(Debug)]
pub struct ByState;

impl Authority for ByState {
    fn allows(
        &self,
        action: &Legal,
        record: &InstanceRecord,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        is_legal(action, record, now)
    }
}
