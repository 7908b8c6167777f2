//! Setting a password in the guest. The word is only ever in memory: an operation whose word a
//! crash lost ends as interrupted.

use ostler_protocol::rpc::fault::{Fault, Reason};

use super::{StepError, guest_fault};
use crate::compute::manager::Compute;
use crate::compute::operations::Change;
use crate::compute::operations::password::Password;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::Hypervisor;
use crate::network::Network;

impl<H: Hypervisor, N: Network> Compute<H, N> {
    pub(super) async fn set_password(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        let (Change::Password(Password { user }), Some(word)) =
            (&operation.change, &operation.volatile.word)
        else {
            let text = "the agent was stopped before the password was set, and does not keep it";
            return Err(StepError::failed(
                Fault::new(Reason::Interrupted, text)
                    .next("set it again: ostler instance password"),
            ));
        };
        let set = self.node.guests.set_password(id, user, word).await;
        set.map_err(|error| StepError::failed(guest_fault(&error)))
    }
}
