//! Which disks a domain has, and where. Pure.
//!
//! The disk an instance boots from is the first: its own, or a volume. During a rescue the rescue
//! disk takes that place, and it has the next that is free. Volumes stay where they were put.

use crate::compute::record::{ROOT_DISK, config_drive, own_bus, root_serial};
use crate::disk::Files;
use crate::hypervisor::spec::{
    Discard, Disk, DiskAccess, DiskCache, DiskFormat, DiskSource, DiskTarget, Sharing,
};
use crate::journal::records::InstanceRecord;

/// The guest's serial number of a rescue disk.
const RESCUE_SERIAL: &str = "rescue";
/// That of the config drive.
const CONFIG_DRIVE_SERIAL: &str = "config";

/// The disks of an instance: its own, which are in these files, and its volumes, of which the first
/// is the one it boots from, if it does.
pub(super) fn of(
    record: &InstanceRecord,
    files: Files,
    (root_volume, volumes): (Option<Disk>, Vec<Disk>),
) -> Vec<Disk> {
    let bus = own_bus(record);
    let config_drive = config_drive(bus);
    let own = |file, serial: &str| Disk {
        source: DiskSource::File(file),
        format: DiskFormat::Qcow2,
        bus,
        target: ROOT_DISK,
        alias: String::new(),
        serial: serial.to_owned(),
        access: DiskAccess::ReadWrite,
        sharing: Sharing::Exclusive,
        limits: Default::default(),
        cache: DiskCache::Writeback,
        discard: Discard::Unmap,
        io: None,
        boot_order: None,
        key: None,
    };
    let rescue = record.rescue.as_ref().map(|_| own(files.rescue, RESCUE_SERIAL));
    let root = root_volume.unwrap_or_else(|| own(files.root, &root_serial(record.id)));
    let is_free = |target: &DiskTarget| {
        let device = target.on(bus);
        *target != config_drive && !volumes.iter().any(|disk| disk.device() == device)
    };
    let places: Vec<_> = (ROOT_DISK.0..=u16::MAX).map(DiskTarget).filter(is_free).take(2).collect();
    let first = rescue.into_iter().chain([root]).zip(places);
    let mut disks: Vec<Disk> = first.map(|(disk, target)| Disk { bus, target, ..disk }).collect();
    if let Some(boots) = disks.first_mut() {
        boots.boot_order = Some(1);
    }
    disks.extend(record.config_drive.as_ref().map(|_| Disk {
        format: DiskFormat::Raw,
        target: config_drive,
        access: DiskAccess::ReadOnly,
        discard: Discard::Ignore,
        ..own(files.config_drive, CONFIG_DRIVE_SERIAL)
    }));
    disks.extend(volumes);
    disks
}
