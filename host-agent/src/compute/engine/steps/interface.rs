//! NICs of running guests: plugged in, and taken away once the guest has let go.

use ostler_protocol::rpc::operation::Subject;
use ostler_protocol::rpc::values::InstanceId;
use tokio_util::sync::CancellationToken;

use super::already::is_off;
use super::let_go::LetGo;
use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::compute::wires::{Port, Wires};
use crate::hypervisor::Plug;
use crate::hypervisor::plug::LiveNic;
use crate::journal::records::{InstanceRecord, InterfaceRecord};
use crate::refusal::{Action, Reason, Refusal};

impl<O: Outside> Engine<O> {
    /// The port an operation is about, the instance that has it or shall have it, and how.
    fn wired(
        &self,
        operation: &LiveOperation,
    ) -> Result<(InstanceRecord, InterfaceRecord), StepError> {
        let missing = || super::missing(&operation.subject);
        let port = operation.change.port().ok_or_else(missing)?;
        let (now, target) = (self.record_of(operation)?, self.target(operation)?);
        let interface = target.interface(port).or_else(|| now.interface(port)).cloned();
        let interface = interface.ok_or_else(|| super::missing(&Subject::Port(port)))?;
        Ok((target, interface))
    }

    /// The NIC of a running guest that is on a port; none if it has none.
    async fn live_nic(
        &self,
        id: InstanceId,
        interface: &InterfaceRecord,
    ) -> Result<Option<LiveNic>, StepError> {
        if is_off(self.power_of(id).await?) {
            return Ok(None);
        }
        let nics = self.node.hypervisor.nics(id).await?;
        Ok(nics.into_iter().find(|nic| nic.mac == interface.mac))
    }

    /// Whether a running guest has a NIC on the port.
    pub(super) async fn is_wired(&self, operation: &LiveOperation) -> Result<bool, StepError> {
        let (record, interface) = self.wired(operation)?;
        Ok(self.live_nic(record.id, &interface).await?.is_some())
    }

    pub(super) async fn plug_interface(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let (record, interface) = self.wired(operation)?;
        // It went off meanwhile: the next start has it.
        if is_off(self.power_of(record.id).await?) {
            return Ok(());
        }
        let network = self.registry.lock().networks.get(&interface.network).cloned();
        let port = [Port { interface, network }];
        for nic in self.node.wires.describe(&port)? {
            self.node.hypervisor.plug_nic(record.id, &nic, record.hardware.vif_model).await?;
        }
        Ok(())
    }

    /// Have a running guest let go of the NIC on the port.
    pub(super) async fn unplug_interface(
        &self,
        operation: &LiveOperation,
        cancel: &CancellationToken,
    ) -> Result<(), StepError> {
        let (record, interface) = self.wired(operation)?;
        // One that was started by an earlier version of the agent has a name of libvirt's.
        let Some(nic) = self.live_nic(record.id, &interface).await? else { return Ok(()) };
        match self.let_go(operation, record.id, &nic.alias, cancel).await? {
            LetGo::Gone => Ok(()),
            LetGo::Late { refused } => match self.live_nic(record.id, &interface).await? {
                None => Ok(()),
                Some(_) => Err(keeps(&record, &interface, refused)),
            },
        }
    }

    /// Leave nothing of a port's link, once no guest has it.
    pub(super) async fn remove_link(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let (_, interface) = self.wired(operation)?;
        self.node.wires.release(&[interface]).await?;
        Ok(())
    }
}

/// The guest did not let go of a NIC.
fn keeps(record: &InstanceRecord, interface: &InterfaceRecord, refused: bool) -> StepError {
    let what = if refused { "refuses to let go" } else { "does not let go" };
    let text = format!("the guest {what} of port {}", interface.id);
    let next = "ask again, or stop the instance; the guest may still let go of it later";
    let refusal = Refusal::new(Reason::GuestFailed, text).next(next);
    StepError::Refused(Box::new(refusal.by(Action::InstanceShow(Some(record.id)))))
}
