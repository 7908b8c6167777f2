//! Making and removing a network's bridge.

use crate::refusal::{Reason, Refusal};

use super::{Engine, StepError};
use crate::compute::operations::network_ensure::NetworkEnsure;
use crate::compute::operations::network_remove::{NetworkRemove, is_unused};
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::compute::wires::bridge_spec;
use crate::network::{Network, NetworkError};

impl<O: Outside> Engine<O> {
    pub(super) async fn ensure_bridge(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Some(NetworkEnsure { network }) = operation.change.downcast() else {
            let text = format!("{} is not known any more", operation.subject);
            return Err(StepError::failed(Refusal::new(Reason::NotFound, text)));
        };
        self.node.network.ensure_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }

    /// Remove the bridge of a network that is not to be after all; that of a network that was there
    /// before is as it was again.
    pub(super) async fn remove_new_bridge(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), StepError> {
        let Some(NetworkEnsure { network }) = operation.change.downcast() else {
            return Ok(());
        };
        let before = self.registry.lock().networks.get(&network.name).cloned();
        if let Some(before) = before {
            return match self.node.network.ensure_bridge(&bridge_spec(&before)?).await {
                // It was not as it should be before either: there is nothing to go back to.
                Ok(_) | Err(NetworkError::Refused(_)) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        self.node.network.remove_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }

    /// Give up a network's name, and with it its bridge if that is ours. From the instant that is
    /// decided, nobody finds the name.
    pub(super) async fn remove_bridge(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Some(NetworkRemove { network }) = operation.change.downcast() else {
            return Ok(());
        };
        {
            let mut registry = self.registry.lock();
            is_unused(&registry, &network.name).map_err(StepError::failed)?;
            registry.networks.remove(&network.name);
        }
        self.node.network.remove_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }

    /// Take back a removal: the network is known, and its bridge is there.
    pub(super) async fn keep_network(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Some(NetworkRemove { network }) = operation.change.downcast() else {
            return Ok(());
        };
        self.registry.lock().networks.insert(network.name.clone(), network.clone());
        self.node.network.ensure_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }
}
