//! Volume: make one, empty, or from an image, a snapshot or another volume. One that could not be
//! made leaves its record, in error, to tell why.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume::{self, Source};

use super::prelude::*;
use super::sample;
use crate::compute::admission::{Reservation, new_volume};
use crate::compute::registry::Volatile;
use crate::journal::records::{VolumeRecord, VolumeState};
use crate::journal::{Entry, VolumeEntry, Write};

/// Make the volume its record describes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeCreate {
    /// Which.
    pub(in crate::compute) volume: VolumeId,
    /// What it is made from.
    pub(in crate::compute) source: Option<Source>,
}

pub(super) fn ask(create: volume::Create, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let passphrase = create.passphrase.clone();
    let record = new_volume::admit(create, gate)?;
    let change = VolumeCreate { volume: record.id, source: record.source.clone() };
    gate.known.volumes.insert(record.id, record.clone());
    Ok(Admitted {
        reserved: Reservation { new_volume: Some(record.id), ..Reservation::default() },
        write: Write { volumes: vec![Entry::Put(record.clone())], ..Write::default() },
        volatile: Volatile { passphrase, ..Volatile::default() },
        ..Admitted::of(Subject::Volume(record.id), change)
    })
}

pub(super) fn samples() -> Vec<Change> {
    let volume = sample::volume_id();
    let source = Source::Snapshot { volume, name: sample::name("before") };
    [None, Some(source)].map(|source| VolumeCreate { volume, source }.into()).into()
}

/// The record after a change of it.
pub(in crate::compute) fn changed(
    known: &BTreeMap<VolumeId, VolumeRecord>,
    id: VolumeId,
    change: impl FnOnce(&mut VolumeRecord),
) -> Vec<VolumeEntry> {
    let Some(mut record) = known.get(&id).cloned() else { return Vec::new() };
    change(&mut record);
    record.updated = ostler_protocol::rpc::values::Timestamp::now();
    vec![Entry::Put(record)]
}

impl Describe for VolumeCreate {
    fn plan(&self, _: Running) -> Plan {
        Plan::default().then_about(Step::CreateVolume, Subject::Volume(self.volume))
    }

    fn permit(&self) -> Permit {
        match self.source {
            Some(Source::Volume(_) | Source::Snapshot { .. }) => Permit::Copy,
            Some(Source::Image(_)) | None => Permit::None,
        }
    }

    fn volumes(&self) -> Vec<VolumeId> {
        let from = match &self.source {
            Some(Source::Volume(from) | Source::Snapshot { volume: from, .. }) => Some(*from),
            Some(Source::Image(_)) | None => None,
        };
        [self.volume].into_iter().chain(from).collect()
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        match outcome {
            State::Queued | State::Running => Vec::new(),
            State::Cancelled => vec![Entry::Gone(self.volume)],
            State::Succeeded => {
                changed(known, self.volume, |record| record.state = VolumeState::Available)
            }
            // What is there is somebody's: with no record of it, nobody deletes it by this id.
            State::Failed | State::Undone if why.is_some_and(is_anothers) => {
                vec![Entry::Gone(self.volume)]
            }
            State::Failed | State::Undone => changed(known, self.volume, |record| {
                (record.state, record.fault) = (VolumeState::Error, why.cloned());
            }),
        }
    }
}

/// Whether a volume was not begun, since one that the journal does not know lies in its place.
fn is_anothers(why: &Refusal) -> bool {
    why.reason == Reason::Conflict
}
