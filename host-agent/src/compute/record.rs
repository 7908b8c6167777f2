//! What follows from the record of an instance. Pure.

use std::time::Duration;

use ostler_protocol::rpc::hardware::{Hardware, MachineType, RootBus};
use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::{Size, VmState};
use ostler_protocol::rpc::values::{InstanceId, PortId, Sha256, Timestamp, VolumeId};
use ostler_protocol::rpc::volume::Bus;

use crate::hypervisor::spec::{DiskBus, DiskTarget};
use crate::journal::records::{Base, DirectBoot, InstanceRecord, InterfaceRecord, Source};

impl InstanceRecord {
    /// How large it is.
    pub(super) fn size(&self) -> Size {
        Size {
            flavor: self.flavor.clone(),
            vcpus: self.vcpus,
            memory: self.memory,
            disk: self.disk,
            max_vcpus: self.max_vcpus.max(self.vcpus),
            max_memory: self.max_memory.max(self.memory),
        }
    }

    pub(super) fn set_size(&mut self, size: &Size) {
        self.flavor.clone_from(&size.flavor);
        self.vcpus = size.vcpus;
        self.memory = size.memory;
        self.disk = size.disk;
        self.max_vcpus = size.max_vcpus;
        self.max_memory = size.max_memory;
    }

    /// What its root disk was made from; none if it boots from a volume.
    pub(super) fn source(&self) -> Option<Source> {
        let Self { image, base, direct, .. } = self.clone();
        Some(Source { image: image?, base: base?, direct })
    }

    /// Whether it boots from a CD-ROM, of which nothing can be written.
    pub(super) fn is_on_cdrom(&self) -> bool {
        self.base.as_ref().is_some_and(|base| base.format.is_cdrom())
    }

    /// How it has a port.
    pub(super) fn interface(&self, port: PortId) -> Option<&InterfaceRecord> {
        self.ports.iter().find(|there| there.id == port)
    }

    /// The volume it boots from; none if it has a root disk.
    pub(super) fn root_volume(&self) -> Option<VolumeId> {
        self.volumes.iter().find(|there| there.root).map(|there| there.volume)
    }

    /// When a soft-deleted instance is deleted for good, if those are kept for so long; none if
    /// nothing is about to do that.
    pub(super) fn reclaimed_at(&self, keep: Option<Duration>) -> Option<Timestamp> {
        let waits = self.vm_state == VmState::SoftDeleted && self.locked.is_none();
        keep.filter(|_| waits)
            .map(|keep| Timestamp(self.updated.0.saturating_add(keep.as_millis() as u64)))
    }

    /// Whether the instance needs an image's file: as a disk's base, as kernel or ramdisk.
    pub(super) fn needs(&self, sha256: &Sha256, format: Format) -> bool {
        let base = |base: &Base| base.format == format && base.sha256 == *sha256;
        let direct = |direct: &DirectBoot| match format {
            Format::Kernel => direct.kernel == *sha256,
            Format::Ramdisk => direct.ramdisk.as_ref() == Some(sha256),
            Format::Qcow2
            | Format::Raw
            | Format::Vmdk
            | Format::Vhdx
            | Format::Vdi
            | Format::Iso => false,
        };
        let rescue =
            |rescue: &Source| base(&rescue.base) || rescue.direct.as_ref().is_some_and(direct);
        match self.vm_state {
            VmState::Deleted => false,
            // Its disk is gone; what it boots with is needed again.
            VmState::ShelvedOffloaded => self.direct.as_ref().is_some_and(direct),
            VmState::Building
            | VmState::Active
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved
            | VmState::SoftDeleted
            | VmState::Error => {
                self.base.as_ref().is_some_and(base)
                    || self.direct.as_ref().is_some_and(direct)
                    || self.rescue.as_ref().is_some_and(rescue)
            }
        }
    }
}

/// The name of a bus's nth disk.
pub(super) fn device(bus: Bus, n: u16) -> String {
    DiskTarget(n).on(match bus {
        Bus::Virtio => DiskBus::Virtio,
        Bus::Scsi => DiskBus::Scsi,
    })
}

/// The devices of an instance that are not free: its own disks' and its volumes'.
pub(super) fn reserved_devices(record: &InstanceRecord) -> Vec<String> {
    let volumes = record.volumes.iter().map(|there| there.device.clone());
    volumes.chain(own_devices(record.base.as_ref(), &record.hardware)).collect()
}

/// The devices of an instance's own disks, if its root disk is made from this.
pub(super) fn own_devices(base: Option<&Base>, hardware: &Hardware) -> [String; 2] {
    let bus = disk_bus(hardware.disk_bus);
    [ROOT_DISK.on(bus_of(base, hardware)), config_drive(bus).on(bus)]
}

/// What a disk made from this is plugged into: as other disks, but that no CD-ROM is on virtio.
pub(super) fn bus_of(base: Option<&Base>, hardware: &Hardware) -> DiskBus {
    let is_cdrom = base.is_some_and(|base| base.format.is_cdrom());
    match (disk_bus(hardware.disk_bus), hardware.machine) {
        (DiskBus::Virtio, MachineType::Q35) if is_cdrom => DiskBus::Sata,
        (DiskBus::Virtio, MachineType::Pc) if is_cdrom => DiskBus::Ide,
        (bus, _) => bus,
    }
}

/// What an instance's own disks are plugged into.
pub(super) fn own_bus(record: &InstanceRecord) -> DiskBus {
    disk_bus(record.hardware.disk_bus)
}

const fn disk_bus(bus: RootBus) -> DiskBus {
    match bus {
        RootBus::Virtio => DiskBus::Virtio,
        RootBus::Scsi => DiskBus::Scsi,
        RootBus::Sata => DiskBus::Sata,
    }
}

/// The device of the disk an instance boots from.
pub(super) fn root_device(record: &InstanceRecord) -> String {
    ROOT_DISK.on(bus_of(record.base.as_ref(), &record.hardware))
}

/// The place of the disk an instance boots from.
pub(super) const ROOT_DISK: DiskTarget = DiskTarget(0);

/// The place of its config drive, so that disks before it come and go: the last that has a letter
/// of its own, or the last on the first controller.
pub(super) const fn config_drive(bus: DiskBus) -> DiskTarget {
    match bus {
        DiskBus::Virtio => DiskTarget(25),
        DiskBus::Scsi | DiskBus::Sata | DiskBus::Ide => DiskTarget(5),
    }
}

/// The guest's serial number of the root disk: an id that is as long as virtio-blk allows.
pub(super) fn root_serial(id: InstanceId) -> String {
    id.0.simple().to_string().chars().take(20).collect()
}
