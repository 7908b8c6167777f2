//! Changes to a domain that stays as it is else: vCPUs, memory, metadata.

use ostler_protocol::rpc::values::Name;

use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::hypervisor::adjust::Adjust;
use crate::hypervisor::{Error, Metadata};
use crate::journal::records::InstanceRecord;

impl<O: Outside> Engine<O> {
    pub(super) async fn adjust_vcpus(&self, record: &InstanceRecord) -> Result<(), StepError> {
        self.node.hypervisor.set_vcpus(record.id, record.vcpus).await?;
        self.note_definition(record.id).await;
        Ok(())
    }

    pub(super) async fn adjust_memory(&self, record: &InstanceRecord) -> Result<(), StepError> {
        self.node.hypervisor.set_memory(record.id, record.memory).await?;
        self.note_definition(record.id).await;
        Ok(())
    }

    /// An instance without a domain, shelved or never up, is only noted.
    pub(super) async fn write_metadata(&self, record: &InstanceRecord) -> Result<(), StepError> {
        match self
            .node
            .hypervisor
            .set_metadata(&metadata(&self.registry.settings().host, record))
            .await
        {
            Ok(()) => {}
            Err(Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        self.note_definition(record.id).await;
        Ok(())
    }
}

/// What is written into the domain, so that it is known again should the journal be lost.
pub(super) fn metadata(node: &Name, record: &InstanceRecord) -> Metadata {
    // Whoever may read the domain may not read what its config drive has.
    let described =
        InstanceRecord { fault: None, fingerprint: None, config_drive: None, ..record.clone() };
    Metadata {
        id: record.id,
        name: record.name.to_string(),
        owner: record.owner.clone().unwrap_or_default(),
        generation: record.revision,
        node: node.to_string(),
        // Records always serialize: their maps have text keys.
        record: serde_json::to_string(&described).unwrap_or_default(),
    }
}
