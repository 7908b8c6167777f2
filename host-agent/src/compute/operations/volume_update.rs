//! Volume update: change what is noted about a volume, and its limits.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume;

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::notes;
use crate::compute::admission::volume::{self as rules, WITH_VOLUMES};
use crate::journal::VolumeEntry;
use crate::journal::records::VolumeRecord;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("limited in what it does with a volume", TaskState::ChangingVolume, WITH_VOLUMES);

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
    /// The limits it shall have, where they change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::compute) qos: Option<volume::Qos>,
    /// Whether an instance can boot from it, where that changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::compute) bootable: Option<bool>,
    /// Whether an instance has it whose guest is to be held to them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) attached: bool,
}

pub(super) fn ask(update: volume::Update, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let id = update.id;
    if update.qos.is_empty() {
        let record = gate.idle_volume(id)?;
        return Ok(Admitted::of(Subject::Volume(id), whole(update, record, false)?));
    }
    gate.act_on_volume(id, &LEGAL, |record, instance, _| {
        whole(update, record.clone(), instance.is_some()).map(Change::from)
    })
}

/// An update that names all there shall be.
fn whole(
    update: volume::Update,
    record: VolumeRecord,
    attached: bool,
) -> Result<VolumeUpdate, Refusal> {
    let volume::Update { id, name, owner, metadata: changes, qos: limits, bootable } = update;
    if bootable == Some(true) {
        rules::is_here(&record)?;
    }
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
    notes::notes(owner.as_deref(), &metadata)?;
    let qos = match limits.is_empty() {
        true => None,
        false => {
            let mut qos = record.qos;
            qos.extend(limits);
            qos.retain(|_, most| *most > 0);
            rules::limits(&qos)?;
            Some(qos)
        }
    };
    let name = name.unwrap_or(record.name);
    Ok(VolumeUpdate { volume: id, name, owner, metadata, qos, bootable, attached })
}

pub(super) fn samples() -> Vec<Change> {
    let volume = sample::volume_id();
    let of = |qos: Option<volume::Qos>, attached| {
        let (name, owner, metadata) = (sample::name("new"), None, BTreeMap::new());
        VolumeUpdate { volume, name, owner, metadata, qos, bootable: None, attached }.into()
    };
    vec![of(None, false), of(Some(BTreeMap::new()), false), of(Some(BTreeMap::new()), true)]
}

impl Describe for VolumeUpdate {
    fn plan(&self, _: Running) -> Plan {
        match self.attached {
            // The next start defines the domain with them.
            true => Plan::default().then_about(Step::LimitVolume, Subject::Volume(self.volume)),
            false => Plan::default(),
        }
    }

    fn can_cancel(&self) -> bool {
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
            if let Some(qos) = &self.qos {
                record.qos.clone_from(qos);
            }
            record.bootable = self.bootable.unwrap_or(record.bootable);
        })
    }
}
