//! Setting a password in the guest. The word is only ever in memory: an operation whose word a
//! crash lost ends as interrupted.

use crate::refusal::{Action, Reason, Refusal};

use super::{Engine, StepError};
use crate::compute::causes::guest_fault;
use crate::compute::operations::password::Password;
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;

impl<O: Outside> Engine<O> {
    pub(super) async fn set_password(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        let (Some(Password { user }), Some(password)) =
            (operation.change.downcast(), &operation.volatile.password)
        else {
            let text = "the agent was stopped before the password was set, and does not keep it";
            return Err(StepError::failed(
                Refusal::new(Reason::Interrupted, text)
                    .next("set it again")
                    .by(Action::InstancePassword),
            ));
        };
        let set = self.node.guests.set_password(id, user, password).await;
        set.map_err(|error| StepError::failed(guest_fault(&error)))
    }
}
