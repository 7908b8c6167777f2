//! Setting a password in the guest. The word is only ever in memory: an operation whose word a
//! crash lost ends as interrupted.

use ostler_protocol::rpc::fault::{Fault, Reason};

use super::{Engine, StepError};
use crate::compute::operations::password::Password;
use crate::compute::outside::Outside;
use crate::compute::refusal::guest_fault;
use crate::compute::registry::LiveOperation;

impl<O: Outside> Engine<O> {
    pub(super) async fn set_password(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        let (Some(Password { user }), Some(password)) =
            (operation.change.downcast(), &operation.volatile.password)
        else {
            let text = "the agent was stopped before the password was set, and does not keep it";
            return Err(StepError::failed(
                Fault::new(Reason::Interrupted, text)
                    .next("set it again: ostler instance password"),
            ));
        };
        let set = self.node.guests.set_password(id, user, password).await;
        set.map_err(|error| StepError::failed(guest_fault(&error)))
    }
}
