//! Volume deletion: a volume that no instance has goes, with its snapshots.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume;

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::volume::is_here;
use crate::journal::records::{VolumeRecord, VolumeState};
use crate::journal::{Entry, VolumeEntry};

/// Delete it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeDelete {
    /// Which.
    pub(in crate::compute) volume: VolumeId,
}

pub(super) fn ask(delete: volume::Delete, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let volume::Delete { id, force } = delete;
    let record = gate.idle_volume(id)?;
    is_here(&record)?;
    gate.nobody_has(&record, "deleted")?;
    if record.state != VolumeState::Available && !force {
        let text = format!(
            "conflict: volume {} is in error, and is kept until somebody has looked at it",
            record.name
        );
        return Err(Refusal::new(Reason::Conflict, text)
            .about(format!("volume {id}"))
            .next("see why, then delete it all the same")
            .by(Action::VolumeShow(Some(id)))
            .by(Action::VolumeDeleteForced));
    }
    Ok(Admitted::of(Subject::Volume(id), VolumeDelete { volume: id }))
}

pub(super) fn samples() -> Vec<Change> {
    vec![VolumeDelete { volume: sample::volume_id() }.into()]
}

/// What becomes of a volume that was to be deleted.
pub(super) fn deleted(
    known: &BTreeMap<VolumeId, VolumeRecord>,
    id: VolumeId,
    outcome: State,
    why: Option<&Refusal>,
) -> Vec<VolumeEntry> {
    match outcome {
        State::Queued | State::Running => Vec::new(),
        State::Succeeded => vec![Entry::Gone(id)],
        State::Failed | State::Undone | State::Cancelled => changed(known, id, |record| {
            (record.state, record.fault) = (VolumeState::ErrorDeleting, why.cloned());
        }),
    }
}

impl Describe for VolumeDelete {
    fn plan(&self, _: Running) -> Plan {
        Plan::default().then_about(Step::DeleteVolume, Subject::Volume(self.volume))
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
        deleted(known, self.volume, outcome, why)
    }
}
