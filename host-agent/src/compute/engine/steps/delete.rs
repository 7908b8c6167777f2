//! Deleting: what an instance had on the node is removed, whatever of it there is.

use std::io::ErrorKind;

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;

use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::wires::Wires;
use crate::disk::Disks;
use crate::hypervisor::{Error, Hypervisor};
use crate::journal::records::InstanceRecord;

impl<O: Outside> Engine<O> {
    pub(in crate::compute) async fn undefine_domain(
        &self,
        id: InstanceId,
    ) -> Result<(), StepError> {
        match self.node.hypervisor.undefine(id).await {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(Error::NotOurs { .. }) if !self.was_built(id) => {}
            Err(error) => return Err(error.into()),
        }
        self.power_seen(id, PowerState::None).await;
        Ok(())
    }

    /// Leave no links of an instance, nor the socket of its guest's port.
    pub(in crate::compute) async fn remove_links(
        &self,
        record: &InstanceRecord,
    ) -> Result<(), StepError> {
        self.node.wires.release(&record.ports).await?;
        let socket = self.guest_socket(record.id);
        match tokio::fs::remove_file(&socket).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StepError::failed(Refusal::new(
                Reason::Internal,
                format!("cannot remove {}: {error}", socket.display()),
            ))),
        }
    }

    pub(in crate::compute) async fn remove_files(&self, id: InstanceId) -> Result<(), StepError> {
        self.node.disks.remove_instance(id).await?;
        self.node.guests.forget(id);
        Ok(())
    }
}
