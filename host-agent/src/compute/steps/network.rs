//! Making and removing a network's bridge.

use ostler_protocol::rpc::fault::{Fault, Reason};

use super::StepError;
use crate::compute::manager::Compute;
use crate::compute::operations::Change;
use crate::compute::operations::network_ensure::NetworkEnsure;
use crate::compute::operations::network_remove::{NetworkRemove, is_unused};
use crate::compute::registry::LiveOperation;
use crate::hypervisor::Hypervisor;
use crate::journal::records::NetworkRecord;
use crate::network::{BridgeSpec, LinkName, Mtu, Network, Uplink};

/// A network's bridge in the driver's terms.
pub(in crate::compute) fn bridge_spec(network: &NetworkRecord) -> Result<BridgeSpec, StepError> {
    let wrong = |parameter: &str, error: &dyn std::error::Error| {
        let fault = Fault::of(Reason::InvalidParams, error);
        StepError::failed(fault.about(format!("parameter {parameter}")))
    };
    let link = |parameter: &str, name: &str| -> Result<LinkName, StepError> {
        name.parse().map_err(|e| wrong(parameter, &e))
    };
    Ok(BridgeSpec {
        bridge: link("bridge", &network.bridge)?,
        network: network.name.clone(),
        uplink: match &network.uplink {
            None => Uplink::None,
            Some(nic) => Uplink::Nic(link("uplink", nic)?),
        },
        mtu: Mtu::new(network.mtu).map_err(|e| wrong("mtu", &e))?,
    })
}

impl<H: Hypervisor, N: Network> Compute<H, N> {
    pub(super) async fn ensure_bridge(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Change::NetworkEnsure(NetworkEnsure { network }) = &operation.change else {
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
        let Change::NetworkEnsure(NetworkEnsure { network }) = &operation.change else {
            return Ok(());
        };
        if self.registry.lock().networks.contains_key(&network.name) {
            return Ok(());
        }
        self.node.network.remove_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }

    /// Give up a network's name, and with it its bridge if that is ours. From the instant that is
    /// decided, nobody finds the name.
    pub(super) async fn remove_bridge(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Change::NetworkRemove(NetworkRemove { network }) = &operation.change else {
            return Ok(());
        };
        {
            // What is being admitted may not be in the registry whole.
            let _nothing_new = self.gate.lock().await;
            let mut registry = self.registry.lock();
            is_unused(&registry, &network.name).map_err(StepError::failed)?;
            registry.networks.remove(&network.name);
        }
        self.node.network.remove_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }

    /// Take back a removal: the network is known, and its bridge is there.
    pub(super) async fn keep_network(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let Change::NetworkRemove(NetworkRemove { network }) = &operation.change else {
            return Ok(());
        };
        self.registry.lock().networks.insert(network.name.clone(), network.clone());
        self.node.network.ensure_bridge(&bridge_spec(network)?).await?;
        Ok(())
    }
}
