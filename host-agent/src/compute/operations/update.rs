//! Update: change the name, the owner or the metadata of an instance.

use std::collections::BTreeMap;

use super::prelude::*;
use super::sample;
use crate::compute::admission::notes;

/// The states of an instance that was made and is not being deleted.
pub(super) const STANDING: &[VmState] = &[
    VmState::Active,
    VmState::Paused,
    VmState::Suspended,
    VmState::Stopped,
    VmState::Rescued,
    VmState::Resized,
    VmState::Shelved,
    VmState::ShelvedOffloaded,
    VmState::Error,
];

pub(in crate::compute) const LEGAL: Legal = Legal::new("updated", TaskState::Updating, STANDING);

/// Change what is noted about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Update {
    /// The name it shall have.
    pub(in crate::compute) name: Name,
    /// The owner it shall have.
    pub(in crate::compute) owner: Option<String>,
    /// The metadata it shall have.
    pub(in crate::compute) metadata: BTreeMap<String, String>,
}

pub(super) fn ask(update: instance::Update, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(update.id, &LEGAL, |record, _| whole(update, record).map(Change::from))
}

/// An update that names all there shall be.
fn whole(update: instance::Update, record: &InstanceRecord) -> Result<Update, Refusal> {
    let instance::Update { id: _, name, owner, metadata: changes } = update;
    let owner = match owner {
        None => record.owner.clone(),
        Some(owner) if owner.is_empty() => None,
        Some(owner) => Some(owner),
    };
    let mut metadata: BTreeMap<String, String> = record.metadata.clone();
    for (key, value) in changes {
        match value {
            Some(value) => metadata.insert(key, value),
            None => metadata.remove(&key),
        };
    }
    notes::notes(owner.as_deref(), &metadata)?;
    Ok(Update { name: name.unwrap_or_else(|| record.name.clone()), owner, metadata })
}

pub(super) fn samples() -> Vec<Change> {
    vec![Update { name: sample::name("new"), owner: None, metadata: BTreeMap::new() }.into()]
}

impl Describe for Update {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::WriteMetadata])
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.name = self.name.clone();
        record.owner.clone_from(&self.owner);
        record.metadata.clone_from(&self.metadata);
    }
}
