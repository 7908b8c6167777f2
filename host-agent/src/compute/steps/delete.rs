//! Deleting: what an instance had on the node is removed, whatever of it there is.

use std::io::ErrorKind;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;

use super::StepError;
use crate::compute::manager::Compute;
use crate::disk::Disks;
use crate::hypervisor::{Error, Hypervisor};
use crate::journal::records::InstanceRecord;
use crate::network::{Network, tap_name};

impl<H: Hypervisor, N: Network> Compute<H, N> {
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

    /// libvirt removes the taps with the domain; one it lost is removed here. So is the socket of
    /// the guest's port.
    pub(in crate::compute) async fn remove_links(
        &self,
        record: &InstanceRecord,
    ) -> Result<(), StepError> {
        for port in &record.ports {
            self.node.network.remove_tap(&tap_name(port.id)).await?;
        }
        let socket = self.guest_socket(record.id);
        match tokio::fs::remove_file(&socket).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            Err(error) => Err(StepError::failed(Fault::new(
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
