//! Volume snapshot: keep what a volume holds now under a name, while its guest runs on.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::{Timestamp, VolumeId};
use ostler_protocol::rpc::volume::{self, Format};

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::volume::WITH_VOLUMES;
use crate::journal::VolumeEntry;
use crate::journal::records::VolumeRecord;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("snapshotted", TaskState::ChangingVolume, WITH_VOLUMES);

/// Keep what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeSnapshot {
    /// Which.
    pub(in crate::compute) volume: VolumeId,
    /// What to call the snapshot.
    pub(in crate::compute) name: Name,
    /// Whether an instance has the volume: its domain is to find it in its new place.
    pub(in crate::compute) attached: bool,
}

pub(super) fn ask(
    asked: volume::TakeSnapshot,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    let volume::TakeSnapshot { id, name } = asked;
    gate.act_on_volume(id, &LEGAL, |record, instance, _| {
        if record.snapshots.iter().any(|snapshot| snapshot.name == name) {
            let text = format!("conflict: volume {} has a snapshot {name} already", record.name);
            return Err(Refusal::new(Reason::Conflict, text)
                .about("parameter name")
                .next("choose another name, or delete the snapshot"));
        }
        if record.multiattach || record.format == Some(Format::Luks) {
            let is = if record.multiattach { "is for several instances" } else { "is encrypted" };
            let text = format!(
                "conflict: volume {} {is}, and a snapshot would leave a qcow2 layer on it",
                record.name
            );
            return Err(Refusal::new(Reason::Conflict, text)
                .next("copy it while nobody has it: volume clone"));
        }
        Ok(VolumeSnapshot { volume: id, name, attached: instance.is_some() }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    let (volume, name) = (sample::volume_id(), sample::name("before"));
    let of = |attached| VolumeSnapshot { volume, name: name.clone(), attached }.into();
    [true, false].map(of).into()
}

impl Describe for VolumeSnapshot {
    fn plan(&self, _: Running) -> Plan {
        let define: &[Step] = if self.attached { &[Step::DefineDomain] } else { &[] };
        Plan::default().then_about(Step::SnapshotVolume, Subject::Volume(self.volume)).then(define)
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
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        changed(known, self.volume, |record| {
            record.fault = why.cloned();
            // One that could not be taken back is there, for somebody to delete.
            let there = matches!(outcome, State::Succeeded | State::Failed);
            if there && record.snapshots.iter().all(|snapshot| snapshot.name != self.name) {
                let (name, size, created) = (self.name.clone(), record.size, Timestamp::now());
                record.snapshots.push(volume::Snapshot { name, size, created });
            }
        })
    }
}
