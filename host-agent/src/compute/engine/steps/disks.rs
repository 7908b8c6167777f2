//! Which disks a domain has, and where. Pure.
//!
//! The disk an instance boots from is the first: its own, or a volume. During a rescue the rescue
//! disk takes that place, and it has the next that is free. Volumes stay where they were put.
//! One made from an ISO image is a CD-ROM.

use crate::compute::record::{ROOT_DISK, bus_of, config_drive, own_bus, root_serial};
use crate::disk::Files;
use crate::hypervisor::spec::{
    Discard, Disk, DiskAccess, DiskCache, DiskFormat, DiskSource, DiskTarget, Sharing,
};
use crate::journal::records::{Base, InstanceRecord};

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
    let made_from = |base: Option<&Base>, disk: Disk| {
        let bus = bus_of(base, &record.hardware);
        match base.is_some_and(|base| base.format.is_cdrom()) {
            true => Disk { bus, access: DiskAccess::CdRom, discard: Discard::Ignore, ..disk },
            false => Disk { bus, ..disk },
        }
    };
    let rescue = record
        .rescue
        .as_ref()
        .map(|rescue| made_from(Some(&rescue.base), own(files.rescue, RESCUE_SERIAL)));
    let root = root_volume.unwrap_or_else(|| {
        made_from(record.base.as_ref(), own(files.root, &root_serial(record.id)))
    });
    let mut taken: Vec<String> = volumes.iter().map(Disk::device).collect();
    taken.push(config_drive.on(bus));
    let mut disks = Vec::with_capacity(volumes.len() + 3);
    for disk in rescue.into_iter().chain([root]) {
        let is_free = |target: &DiskTarget| !taken.contains(&target.on(disk.bus));
        let places = (ROOT_DISK.0..=u16::MAX).map(DiskTarget);
        let disk = Disk { target: places.into_iter().find(is_free).unwrap_or(ROOT_DISK), ..disk };
        taken.push(disk.device());
        disks.push(disk);
    }
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

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::hardware::{MachineType, RootBus};
    use ostler_protocol::rpc::image::Format;

    use super::*;
    use crate::compute::operations::sample;
    use crate::disk::{Directory, Disks};

    fn iso() -> Base {
        Base { format: Format::Iso, ..sample::source("installer").base }
    }

    /// Each disk's device, and what it is to the guest.
    async fn disks(record: &InstanceRecord) -> Vec<(String, DiskAccess)> {
        let folder = tempfile::tempdir().unwrap();
        let files = Directory::open(folder.path()).await.unwrap().files(record.id);
        let all = of(record, files, (None, Vec::new()));
        assert!(all.iter().enumerate().all(|(n, disk)| disk.boot_order.is_some() == (n == 0)));
        all.into_iter().map(|disk| (disk.device(), disk.access)).collect()
    }

    #[tokio::test]
    async fn an_iso_is_a_cd_rom_on_a_bus_that_has_them() {
        let mut record = sample::record();
        record.base = Some(iso());
        for (machine, bus, device) in [
            (MachineType::Q35, RootBus::Virtio, "sda"),
            (MachineType::Pc, RootBus::Virtio, "hda"),
            (MachineType::Pc, RootBus::Sata, "sda"),
            (MachineType::Q35, RootBus::Scsi, "sda"),
        ] {
            (record.hardware.machine, record.hardware.disk_bus) = (machine, bus);
            assert_eq!(disks(&record).await, [(device.to_owned(), DiskAccess::CdRom)]);
        }
    }

    #[tokio::test]
    async fn an_instance_is_rescued_from_an_iso_and_one_that_boots_from_an_iso_from_a_disk() {
        let (cd, disk) = (iso(), sample::source("other"));
        let at = |device: &str, access| (device.to_owned(), access);
        let mut record = sample::record();
        record.rescue = Some(crate::journal::records::Source { base: cd.clone(), ..disk.clone() });
        let own = at("vda", DiskAccess::ReadWrite);
        assert_eq!(disks(&record).await, [at("sda", DiskAccess::CdRom), own.clone()]);
        (record.base, record.rescue) = (Some(cd), Some(disk));
        assert_eq!(disks(&record).await, [own, at("sda", DiskAccess::CdRom)]);
    }
}
