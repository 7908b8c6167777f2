//! A volume to be made: its record, and what its source asks of it. Pure.

use ostler_protocol::rpc::values::{Bytes, Name, Secret, VolumeId};
use ostler_protocol::rpc::volume::{self, Format, Source};

use super::notes::notes;
use super::volume::{self as rules, limits, size as volume_size, snapshot_of};
use super::{Admission, image};
use crate::journal::records::{Base, VolumeRecord, VolumeState};
use crate::refusal::{Reason, Refusal};

/// The record of a volume to be made.
///
/// # Errors
/// Why it cannot be.
pub(in crate::compute) fn admit(
    create: volume::Create,
    gate: &Admission<'_>,
) -> Result<VolumeRecord, Refusal> {
    let volume::Create {
        id,
        name,
        size,
        source,
        pool,
        format,
        multiattach,
        qos,
        owner,
        metadata,
        passphrase,
    } = create;
    let id = id.unwrap_or_else(VolumeId::random);
    if gate.known.volumes.contains_key(&id) {
        return Err(Refusal::new(Reason::Conflict, format!("conflict: volume {id} exists"))
            .about(format!("volume {id}"))
            .next("leave out the id to have one made, or repeat the request under its own key"));
    }
    let pool = pool_of(pool, gate)?;
    notes(owner.as_deref(), &metadata)?;
    let (least, base, bootable) = content(source.as_ref(), gate)?;
    let size = match (size, least) {
        (Some(size), _) => size,
        (None, Some(least)) => Bytes(least.0.next_multiple_of(512)),
        (None, None) => {
            let text = "an empty volume needs a size";
            return Err(Refusal::new(Reason::InvalidParams, text).about("parameter size"));
        }
    };
    volume_size(size)?;
    limits(&qos)?;
    let format = encrypted(format, passphrase.as_ref(), source.as_ref())?;
    let format = match (multiattach, format) {
        // QEMU keeps a qcow2's tables in memory: two of them would not see each other's.
        (true, None) => Some(Format::Raw),
        (true, Some(Format::Qcow2 | Format::Luks)) => {
            let text = "a volume for several instances cannot be qcow2 or encrypted";
            return Err(Refusal::new(Reason::InvalidParams, text)
                .about("parameter format")
                .next("leave it out, or make it raw"));
        }
        (true, Some(Format::Raw)) | (false, _) => format,
    };
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

/// The format of a volume, encrypted if it has a passphrase.
fn encrypted(
    format: Option<Format>,
    passphrase: Option<&Secret>,
    source: Option<&Source>,
) -> Result<Option<Format>, Refusal> {
    rules::passphrase(passphrase)?;
    let wrong = |text: &str| Err(Refusal::new(Reason::InvalidParams, text));
    match (format, passphrase, source) {
        (None | Some(Format::Qcow2 | Format::Raw), None, _) => Ok(format),
        (Some(Format::Luks), None, _) => wrong("an encrypted volume needs a passphrase")
            .map_err(|fault| fault.about("parameter passphrase")),
        (Some(Format::Qcow2 | Format::Raw), Some(_), _) => {
            wrong("a volume with a passphrase has the format luks")
                .map_err(|fault| fault.about("parameter format"))
        }
        (None | Some(Format::Luks), Some(_), None) => Ok(Some(Format::Luks)),
        (None | Some(Format::Luks), Some(_), Some(_)) => wrong("an encrypted volume is made empty")
            .map_err(|fault| fault.about("parameter source")),
    }
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
        Some(Source::Image(name)) => {
            let base = image::source(name, &gate.known.images)?.base;
            if base.format.is_cdrom() {
                let text = format!("image {name} is an iso, and a volume is no CD-ROM");
                return Err(Refusal::new(Reason::InvalidParams, text)
                    .about("parameter source")
                    .next("boot an instance from the image, with an empty volume to install on"));
            }
            Ok((Some(base.virtual_size), Some(base), true))
        }
        Some(Source::Volume(id)) => {
            let from = gate.free_volume(*id, "copied").map_err(|fault| {
                let in_use = fault.reason == Reason::InUse;
                let next = "snapshot it, and make the volume from the snapshot";
                if in_use { fault.next(next) } else { fault }
            })?;
            if from.format == Some(Format::Luks) {
                let text = format!(
                    "conflict: volume {} is encrypted, and only its guest can read it",
                    from.name
                );
                return Err(Refusal::new(Reason::Conflict, text).about("parameter source"));
            }
            Ok((Some(from.size), None, from.bootable))
        }
        Some(Source::Snapshot { volume, name }) => {
            let from = gate.whole_volume(*volume)?;
            let snapshot = snapshot_of(&from, name)?;
            Ok((Some(snapshot.size), None, from.bootable))
        }
    }
}
