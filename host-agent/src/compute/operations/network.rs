//! Making a network's bridge.

use ostler_protocol::rpc::fault::{Fault, Reason};

use super::{Change, StepError};
use crate::compute::catalog::bridge_spec;
use crate::compute::manager::Compute;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::Hypervisor;
use crate::network::Network;

impl<H: Hypervisor, N: Network> Compute<H, N> {
    pub(super) async fn ensure_bridge(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Change::NetworkEnsure { network } = &operation.change else {
            let text = format!("{} is not known any more", operation.subject);
            return Err(StepError::failed(Fault::new(Reason::NotFound, text)));
        };
        self.node.network.ensure_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }

    /// Remove the bridge of a network that is not to be after all; one of a network that was
    /// there before stays.
    pub(super) async fn remove_new_bridge(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), StepError> {
        let Change::NetworkEnsure { network } = &operation.change else { return Ok(()) };
        if self.registry.lock().networks.contains_key(&network.name) {
            return Ok(());
        }
        self.node.network.remove_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }
}
