//! Volume update: change the name, the owner or the metadata of a volume.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume;

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::size;
use crate::journal::VolumeEntry;
use crate::journal::records::VolumeRecord;

/// Change what is noted about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeUpdate {
    /// Which.
    pub(in crate::compute) volume: VolumeId,
    /// The name it shall have.
    pub(in crate::compute) name: Name,
    /// The owner it shall have.
    pub(in crate::compute) owner: Option<String>,
    /// The metadata it shall have.
    pub(in crate::compute) metadata: BTreeMap<String, String>,
}

pub(super) fn ask(update: volume::Update, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let record = gate.idle_volume(update.id)?;
    let volume::Update { id, name, owner, metadata: changes } = update;
    let owner = match owner {
        None => record.owner,
        Some(owner) if owner.is_empty() => None,
        Some(owner) => Some(owner),
    };
    let mut metadata = record.metadata;
    for (key, value) in changes {
        match value {
            Some(value) => metadata.insert(key, value),
            None => metadata.remove(&key),
        };
    }
    size::notes(owner.as_deref(), &metadata)?;
    let change = VolumeUpdate { volume: id, name: name.unwrap_or(record.name), owner, metadata };
    Ok(Admitted::of(Subject::Volume(id), change))
}

pub(super) fn samples() -> Vec<Change> {
    let volume = sample::volume_id();
    let (name, owner, metadata) = (sample::name("new"), None, BTreeMap::new());
    vec![VolumeUpdate { volume, name, owner, metadata }.into()]
}

impl Describe for VolumeUpdate {
    fn plan(&self, _: Running) -> Plan {
        Plan::default()
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn volumes(&self) -> Vec<VolumeId> {
        vec![self.volume]
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        _: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        if outcome != State::Succeeded {
            return Vec::new();
        }
        changed(known, self.volume, |record| {
            record.name = self.name.clone();
            record.owner.clone_from(&self.owner);
            record.metadata.clone_from(&self.metadata);
        })
    }
}
