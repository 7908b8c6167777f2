//! Mounted file systems and the disks below them.

use serde::{Deserialize, Serialize};

use super::{Command, Nothing};

/// Lists the mounted file systems that lie on disks.
#[derive(Debug)]
pub enum GuestGetFsinfo {}

impl Command for GuestGetFsinfo {
    const NAME: &'static str = "guest-get-fsinfo";
    type Arguments = Nothing;
    type Reply = Vec<FilesystemInfo>;
}

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesystemInfo {
    /// The kernel's name of its device: `vda1`, `dm-0`.
    pub name: String,
    /// Where it is mounted.
    pub mountpoint: String,
    /// Its type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Bytes in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_bytes: Option<u64>,
    /// Bytes in use, and those free to any user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// Bytes in use, and all that are free.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes_privileged: Option<u64>,
    /// The disks it lies on.
    pub disk: Vec<DiskAddress>,
}

/// Where a disk is plugged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DiskAddress {
    /// The controller; all -1 when it is not known.
    pub pci_controller: PciAddress,
    /// The kind of bus.
    pub bus_type: DiskBusType,
    /// Which bus of the controller.
    pub bus: i64,
    /// Which target on the bus.
    pub target: i64,
    /// Which unit of the target.
    pub unit: i64,
    /// Its serial number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// Its device node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dev: Option<String>,
    /// Its channel, on mainframes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ccw_address: Option<CcwAddress>,
}

/// A function on a PCI bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PciAddress {
    /// Domain.
    pub domain: i64,
    /// Bus.
    pub bus: i64,
    /// Slot.
    pub slot: i64,
    /// Function.
    pub function: i64,
}

impl PciAddress {
    /// The address of something that is not on a PCI bus, or that cannot be told.
    pub const UNKNOWN: Self = Self { domain: -1, bus: -1, slot: -1, function: -1 };
}

/// A channel device of a mainframe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CcwAddress {
    /// Channel subsystem image.
    pub cssid: i64,
    /// Subchannel set.
    pub ssid: i64,
    /// Subchannel.
    pub subchno: i64,
    /// Device number.
    pub devno: i64,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBusType {
    /// IDE.
    Ide,
    /// Floppy.
    Fdc,
    /// SCSI.
    Scsi,
    /// Virtio block.
    Virtio,
    /// Xen.
    Xen,
    /// USB.
    Usb,
    /// User mode Linux.
    Uml,
    /// SATA.
    Sata,
    /// SD card.
    Sd,
    /// FireWire.
    Ieee1394,
    /// SSA.
    Ssa,
    /// Fibre channel.
    Fibre,
    /// RAID.
    Raid,
    /// iSCSI.
    Iscsi,
    /// SAS.
    Sas,
    /// Multimedia card.
    Mmc,
    /// Virtual.
    Virtual,
    /// Virtual, on a file.
    FileBackedVirtual,
    /// NVMe.
    Nvme,
    /// None that is known: the schema's own word, and any a later agent has.
    #[serde(other)]
    Unknown,
}
