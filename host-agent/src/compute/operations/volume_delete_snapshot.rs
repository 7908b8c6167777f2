//! Volume snapshot deletion: forget a snapshot. What the volume holds stays.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume;

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::volume::snapshot_of;
use crate::journal::VolumeEntry;
use crate::journal::records::VolumeRecord;

/// Forget it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeDeleteSnapshot {
    /// Of which volume.
    pub(in crate::compute) volume: VolumeId,
    /// Which.
    pub(in crate::compute) name: Name,
}

pub(super) fn ask(
    asked: volume::SelectSnapshot,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    let volume::SelectSnapshot { id, name } = asked;
    let change = |record: &VolumeRecord| -> Result<Change, Refusal> {
        snapshot_of(record, &name)?;
        Ok(VolumeDeleteSnapshot { volume: id, name: name.clone() }.into())
    };
    gate.act_on_volume(id, &super::volume_snapshot::LEGAL, |record, _, _| change(record))
}

pub(super) fn samples() -> Vec<Change> {
    let (volume, name) = (sample::volume_id(), sample::name("before"));
    vec![VolumeDeleteSnapshot { volume, name }.into()]
}

impl Describe for VolumeDeleteSnapshot {
    fn plan(&self, _: Running) -> Plan {
        Plan::default().then_about(Step::DropVolumeSnapshot, Subject::Volume(self.volume))
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
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        changed(known, self.volume, |record| {
            record.fault = why.cloned();
            if outcome == State::Succeeded {
                record.snapshots.retain(|snapshot| snapshot.name != self.name);
            }
        })
    }
}
