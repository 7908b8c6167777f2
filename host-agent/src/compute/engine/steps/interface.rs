//! NICs of running guests: plugged in, and taken away once the guest has let go.

use ostler_protocol::rpc::operation::{State, Subject};
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
use crate::journal::Entry;
use crate::journal::records::{InstanceRecord, InterfaceRecord};
use crate::refusal::{Action, Reason, Refusal};

/// Which of a port's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rules {
    /// Those it shall have.
    New,
    /// Those it has.
    Old,
}

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
        let port = [self.port_of(&interface)];
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

    /// A port, with what is known of it.
    pub(super) fn port_of(&self, interface: &InterfaceRecord) -> Port {
        let known = self.registry.lock();
        Port {
            interface: interface.clone(),
            record: known.ports.get(&interface.id).cloned(),
            network: known.networks.get(&interface.network).cloned(),
        }
    }

    /// Hold the guest that has a port to what that says.
    pub(super) async fn guard_port(
        &self,
        operation: &LiveOperation,
        rules: Rules,
    ) -> Result<(), StepError> {
        let port = {
            let known = self.registry.lock();
            let Some(id) = operation.change.port() else { return Ok(()) };
            let Some((_, interface)) = known.user_of_port(id) else { return Ok(()) };
            let now = known.ports.get(&id);
            let record = match (rules, operation.change.port_after(now, State::Succeeded)) {
                (Rules::New, Some(Entry::Put(new))) => Some(new),
                (Rules::New, Some(Entry::Gone(_)) | None) | (Rules::Old, _) => now.cloned(),
            };
            let network = known.networks.get(&interface.network).cloned();
            Port { interface: interface.clone(), record, network }
        };
        self.node.wires.guard(&[port]).await?;
        Ok(())
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
