//! Volume: make one, empty, or from an image, a snapshot or another volume. One that could not be
//! made leaves its record, in error, to tell why.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume::{self, Source};

use super::prelude::*;
use super::sample;
use crate::compute::admission::{Reservation, size, volume as rules};
use crate::journal::records::{Base, VolumeRecord, VolumeState};
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
    let record = admit(create, gate)?;
    let change = VolumeCreate { volume: record.id, source: record.source.clone() };
    gate.known.volumes.insert(record.id, record.clone());
    Ok(Admitted {
        reserved: Reservation { new_volume: Some(record.id), ..Reservation::default() },
        write: Write { volumes: vec![Entry::Put(record.clone())], ..Write::default() },
        ..Admitted::of(Subject::Volume(record.id), change)
    })
}

/// The record of a volume to be made.
///
/// # Errors
/// Why it cannot be.
pub(in crate::compute) fn admit(
    create: volume::Create,
    gate: &Admission<'_>,
) -> Result<VolumeRecord, Refusal> {
    let volume::Create { id, name, size, source, pool, format, multiattach, qos, owner, metadata } =
        create;
    let id = id.unwrap_or_else(VolumeId::random);
    if gate.known.volumes.contains_key(&id) {
        return Err(Refusal::new(Reason::Conflict, format!("conflict: volume {id} exists"))
            .about(format!("volume {id}"))
            .next("leave out the id to have one made, or repeat the request under its own key"));
    }
    let pool = pool_of(pool, gate)?;
    size::notes(owner.as_deref(), &metadata)?;
    let (least, base, bootable) = content(source.as_ref(), gate)?;
    let size = match (size, least) {
        (Some(size), _) => size,
        (None, Some(least)) => Bytes(least.0.next_multiple_of(512)),
        (None, None) => {
            let text = "an empty volume needs a size";
            return Err(Refusal::new(Reason::InvalidParams, text).about("parameter size"));
        }
    };
    rules::size(size)?;
    rules::limits(&qos)?;
    if let Some(least) = least.filter(|least| *least > size) {
        let text = format!("a volume of {size} cannot hold its source, which needs {least}");
        return Err(Refusal::new(Reason::InvalidParams, text).about("parameter size"));
    }
    gate.room_in(&pool, size)?;
    Ok(VolumeRecord {
        id,
        name,
        pool: Some(pool),
        connection: None,
        format,
        size,
        state: VolumeState::Creating,
        bootable,
        multiattach,
        qos: qos.into_iter().filter(|(_, most)| *most > 0).collect(),
        source,
        base,
        snapshots: Vec::new(),
        owner: owner.filter(|owner| !owner.is_empty()),
        metadata,
        fault: None,
        created: gate.now,
        updated: gate.now,
    })
}

fn pool_of(pool: Option<Name>, gate: &Admission<'_>) -> Result<Name, Refusal> {
    let pools = &gate.settings.pools;
    let Some(pool) = pool else {
        let none = || Refusal::new(Reason::NotFound, "the node has no pool for volumes");
        return pools.first().map(|pool| pool.name.clone()).ok_or_else(none);
    };
    if pools.iter().any(|known| known.name == pool) {
        return Ok(pool);
    }
    let known: Vec<&str> = pools.iter().map(|pool| pool.name.as_str()).collect();
    Err(Refusal::new(Reason::NotFound, format!("there is no pool {pool} on this node"))
        .about("parameter pool")
        .next(format!("use one of: {}", known.join(", "))))
}

/// What a volume's source needs of it: its size, the image's bytes, and whether it can be booted.
fn content(
    source: Option<&Source>,
    gate: &Admission<'_>,
) -> Result<(Option<Bytes>, Option<Base>, bool), Refusal> {
    match source {
        None => Ok((None, None, false)),
        Some(Source::Image(image)) => {
            let base = size::source(image, &gate.known.images)?.base;
            Ok((Some(base.virtual_size), Some(base), true))
        }
        Some(Source::Volume(id)) => {
            let from = gate.free_volume(*id, "copied").map_err(|fault| {
                let in_use = fault.reason == Reason::InUse;
                let next = "snapshot it, and make the volume from the snapshot";
                if in_use { fault.next(next) } else { fault }
            })?;
            Ok((Some(from.size), None, from.bootable))
        }
        Some(Source::Snapshot { volume, name }) => {
            let from = gate.whole_volume(*volume)?;
            let snapshot = snapshot_of(&from, name)?;
            Ok((Some(snapshot.size), None, from.bootable))
        }
    }
}

/// A volume's snapshot.
///
/// # Errors
/// `not_found`.
pub(super) fn snapshot_of<'a>(
    record: &'a VolumeRecord,
    name: &Name,
) -> Result<&'a volume::Snapshot, Refusal> {
    record.snapshots.iter().find(|snapshot| snapshot.name == *name).ok_or_else(|| {
        let text = format!("volume {} has no snapshot {name}", record.name);
        Refusal::new(Reason::NotFound, text)
            .about(format!("volume {}", record.id))
            .next("see which it has")
            .by(Action::VolumeShow(Some(record.id)))
    })
}

pub(super) fn samples() -> Vec<Change> {
    let volume = sample::volume_id();
    let source = Source::Snapshot { volume, name: sample::name("before") };
    [None, Some(source)].map(|source| VolumeCreate { volume, source }.into()).into()
}

/// The record after a change of it.
pub(super) fn changed(
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
            State::Failed | State::Undone => changed(known, self.volume, |record| {
                (record.state, record.fault) = (VolumeState::Error, why.cloned());
            }),
        }
    }
}
