//! What an instance boots from: a disk of its own made from an image, a new volume made from one, or
//! a volume that is there. Pure.

use ostler_protocol::rpc::hardware::RootBus;
use ostler_protocol::rpc::image::Properties;
use ostler_protocol::rpc::instance::Boot;
use ostler_protocol::rpc::values::{Bytes, Name, VolumeId};
use ostler_protocol::rpc::volume::{Bus, Create, Source};

use super::image::{direct_boot, source};
use super::notes::invalid;
use super::{Admission, new_volume};
use crate::compute::record::ROOT_DISK;
use crate::hypervisor::spec::DiskBus;
use crate::journal::records::{AttachmentRecord, Base, DirectBoot, VolumeRecord};
use crate::refusal::{Action, Reason, Refusal};

/// What an instance boots from.
pub(super) struct Root {
    /// The image, by name, and what it asks for.
    pub(super) image: Option<(Name, Properties)>,
    /// The bytes its own disk is made from.
    pub(super) base: Option<Base>,
    /// Kernel and ramdisk, where it boots without firmware.
    pub(super) direct: Option<DirectBoot>,
    /// The least size of its own disk; nothing where it boots from a volume.
    pub(super) least: Bytes,
    /// The volume it boots from.
    pub(super) volume: Option<AttachmentRecord>,
    /// The same, where it is to be made.
    pub(super) new: Option<VolumeRecord>,
}

/// What a boot is to boot from.
///
/// # Errors
/// Why it cannot.
pub(super) fn of(boot: &Boot, gate: &Admission<'_>) -> Result<Root, Refusal> {
    if (boot.volume.is_some() || boot.volume_size.is_some()) && boot.disk.is_some() {
        let text = "an instance that boots from a volume has no root disk of its own";
        return Err(invalid("disk", text.to_owned()));
    }
    if boot.volume_size.is_none() && boot.volume_pool.is_some() {
        return Err(invalid(
            "volume_pool",
            "it is for a volume to be made: give volume_size".into(),
        ));
    }
    match (&boot.image, boot.volume, boot.volume_size) {
        (Some(image), None, None) => on_disk(image, boot, gate),
        (Some(image), None, Some(size)) => on_new_volume(image, size, boot, gate),
        (None, Some(volume), None) => on_volume(volume, boot, gate),
        (None, Some(_), Some(_)) => {
            Err(invalid("volume_size", "a volume that is there has its size".to_owned()))
        }
        (Some(_), Some(_), _) => {
            Err(invalid("volume", "give an image or a volume, and not both".to_owned()))
        }
        (None, None, _) => {
            Err(invalid("image", "give an image or a volume to boot from".to_owned()))
        }
    }
}

fn on_disk(image: &Name, boot: &Boot, gate: &Admission<'_>) -> Result<Root, Refusal> {
    if boot.delete_on_termination {
        let text = "a root disk always goes with its instance; this is for volumes";
        return Err(invalid("delete_on_termination", text.to_owned()));
    }
    let from = source(image, &gate.known.images)?;
    let known = &gate.known.images[image];
    Ok(Root {
        image: Some((from.image, known.properties.clone())),
        base: Some(from.base),
        direct: from.direct,
        least: known.virtual_size,
        volume: None,
        new: None,
    })
}

fn on_new_volume(
    image: &Name,
    size: Bytes,
    boot: &Boot,
    gate: &Admission<'_>,
) -> Result<Root, Refusal> {
    let from = source(image, &gate.known.images)?;
    let properties = gate.known.images[image].properties.clone();
    let create = Create {
        id: None,
        name: boot.name.clone(),
        size: Some(size),
        source: Some(Source::Image(image.clone())),
        pool: boot.volume_pool.clone(),
        format: None,
        multiattach: false,
        passphrase: None,
        qos: Default::default(),
        owner: boot.owner.clone(),
        metadata: Default::default(),
    };
    let record = new_volume::admit(create, gate).map_err(|fault| {
        let of_size = fault.subject.as_deref() == Some("parameter size");
        if of_size { fault.about("parameter volume_size") } else { fault }
    })?;
    Ok(Root {
        image: Some((from.image, properties)),
        base: None,
        direct: from.direct,
        least: Bytes(0),
        volume: Some(attachment(record.id, boot)),
        new: Some(record),
    })
}

fn on_volume(id: VolumeId, boot: &Boot, gate: &Admission<'_>) -> Result<Root, Refusal> {
    let record = gate.free_volume(id, "booted from")?;
    if !record.bootable {
        let text = format!("volume {} is not bootable: it was made from no image", record.name);
        return Err(Refusal::new(Reason::InvalidParams, text)
            .about("parameter volume")
            .next(
                "make a volume from an image: ostler volume create --image; or, if a system was \
                 installed on this one: ostler volume update --bootable",
            )
            .by(Action::VolumeList));
    }
    // What the image asks for holds for a volume made from it, as long as the image is known.
    let image = match &record.source {
        Some(Source::Image(name)) => gate.known.images.get(name),
        Some(Source::Volume(_) | Source::Snapshot { .. }) | None => None,
    };
    let direct = match image {
        Some(image) => direct_boot(image, &gate.known.images)?,
        None => None,
    };
    Ok(Root {
        image: image.map(|image| (image.name.clone(), image.properties.clone())),
        base: None,
        direct,
        least: Bytes(0),
        volume: Some(attachment(id, boot)),
        new: None,
    })
}

fn attachment(volume: VolumeId, boot: &Boot) -> AttachmentRecord {
    AttachmentRecord {
        volume,
        device: ROOT_DISK.on(DiskBus::Virtio),
        bus: Bus::Virtio,
        read_only: false,
        root: true,
        delete_on_termination: boot.delete_on_termination,
        cache: None,
        discard: None,
        io: None,
        boot_index: None,
        known_as: None,
    }
}

/// The volume an instance boots from, on the bus that its image asks for.
///
/// # Errors
/// A volume cannot be on it.
pub(super) fn on_bus(volume: AttachmentRecord, bus: RootBus) -> Result<AttachmentRecord, Refusal> {
    let (bus, on) = match bus {
        RootBus::Virtio => (Bus::Virtio, DiskBus::Virtio),
        RootBus::Scsi => (Bus::Scsi, DiskBus::Scsi),
        RootBus::Sata => {
            let text = "the image wants its disk on sata, and a volume is on virtio or scsi";
            return Err(invalid("volume_size", text.to_owned())
                .next("boot from a root disk, or from an image whose hw_disk_bus is another"));
        }
    };
    Ok(AttachmentRecord { bus, device: ROOT_DISK.on(on), ..volume })
}
