//! Volumes: disks that outlive instances, and can be given to one and taken away again. The words
//! are cinder's.

pub mod connection;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::values::{Bytes, InstanceId, Name, OperationId, Secret, Timestamp, VolumeId};
pub use connection::Connection;

/// How a volume is. The words are cinder's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeStatus")]
pub enum Status {
    /// It is being made.
    #[serde(rename = "creating")]
    Creating,
    /// It can be attached.
    #[serde(rename = "available")]
    Available,
    /// An instance is being given it.
    #[serde(rename = "attaching")]
    Attaching,
    /// An instance has it.
    #[serde(rename = "in-use")]
    InUse,
    /// It is being taken from an instance.
    #[serde(rename = "detaching")]
    Detaching,
    /// It is being made larger.
    #[serde(rename = "extending")]
    Extending,
    /// It is going back to a snapshot.
    #[serde(rename = "reverting")]
    Reverting,
    /// It is being deleted.
    #[serde(rename = "deleting")]
    Deleting,
    /// It could not be made; its fault says why.
    #[serde(rename = "error")]
    Error,
    /// It could not be deleted; its fault says why.
    #[serde(rename = "error_deleting")]
    ErrorDeleting,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Creating,
        Self::Available,
        Self::Attaching,
        Self::InUse,
        Self::Detaching,
        Self::Extending,
        Self::Reverting,
        Self::Deleting,
        Self::Error,
        Self::ErrorDeleting,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::Attaching => "attaching",
            Self::InUse => "in-use",
            Self::Detaching => "detaching",
            Self::Extending => "extending",
            Self::Reverting => "reverting",
            Self::Deleting => "deleting",
            Self::Error => "error",
            Self::ErrorDeleting => "error_deleting",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// How a volume's file is laid out, in pools that keep files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "VolumeFormat")]
pub enum Format {
    /// QEMU's own: takes room as it is written.
    Qcow2,
    /// Byte for byte, with holes.
    Raw,
    /// The same, encrypted by QEMU with a key that a passphrase opens: LUKS.
    Luks,
}

/// A limit of what a guest does with a volume. The words are libvirt's, and cinder's for limits that
/// the hypervisor keeps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[schemars(rename = "VolumeLimit")]
pub enum Limit {
    /// All bytes a second.
    #[serde(rename = "total_bytes_sec")]
    TotalBytes,
    /// The same in a burst.
    #[serde(rename = "total_bytes_sec_max")]
    TotalBytesMax,
    /// How long a burst may last, seconds.
    #[serde(rename = "total_bytes_sec_max_length")]
    TotalBytesMaxLength,
    /// Read bytes a second.
    #[serde(rename = "read_bytes_sec")]
    ReadBytes,
    /// The same in a burst.
    #[serde(rename = "read_bytes_sec_max")]
    ReadBytesMax,
    /// How long a burst may last, seconds.
    #[serde(rename = "read_bytes_sec_max_length")]
    ReadBytesMaxLength,
    /// Written bytes a second.
    #[serde(rename = "write_bytes_sec")]
    WriteBytes,
    /// The same in a burst.
    #[serde(rename = "write_bytes_sec_max")]
    WriteBytesMax,
    /// How long a burst may last, seconds.
    #[serde(rename = "write_bytes_sec_max_length")]
    WriteBytesMaxLength,
    /// All requests a second.
    #[serde(rename = "total_iops_sec")]
    TotalIops,
    /// The same in a burst.
    #[serde(rename = "total_iops_sec_max")]
    TotalIopsMax,
    /// How long a burst may last, seconds.
    #[serde(rename = "total_iops_sec_max_length")]
    TotalIopsMaxLength,
    /// Read requests a second.
    #[serde(rename = "read_iops_sec")]
    ReadIops,
    /// The same in a burst.
    #[serde(rename = "read_iops_sec_max")]
    ReadIopsMax,
    /// How long a burst may last, seconds.
    #[serde(rename = "read_iops_sec_max_length")]
    ReadIopsMaxLength,
    /// Written requests a second.
    #[serde(rename = "write_iops_sec")]
    WriteIops,
    /// The same in a burst.
    #[serde(rename = "write_iops_sec_max")]
    WriteIopsMax,
    /// How long a burst may last, seconds.
    #[serde(rename = "write_iops_sec_max_length")]
    WriteIopsMaxLength,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::TotalBytes,
        Self::TotalBytesMax,
        Self::TotalBytesMaxLength,
        Self::ReadBytes,
        Self::ReadBytesMax,
        Self::ReadBytesMaxLength,
        Self::WriteBytes,
        Self::WriteBytesMax,
        Self::WriteBytesMaxLength,
        Self::TotalIops,
        Self::TotalIopsMax,
        Self::TotalIopsMaxLength,
        Self::ReadIops,
        Self::ReadIopsMax,
        Self::ReadIopsMaxLength,
        Self::WriteIops,
        Self::WriteIopsMax,
        Self::WriteIopsMaxLength,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::TotalBytes => "total_bytes_sec",
            Self::TotalBytesMax => "total_bytes_sec_max",
            Self::TotalBytesMaxLength => "total_bytes_sec_max_length",
            Self::ReadBytes => "read_bytes_sec",
            Self::ReadBytesMax => "read_bytes_sec_max",
            Self::ReadBytesMaxLength => "read_bytes_sec_max_length",
            Self::WriteBytes => "write_bytes_sec",
            Self::WriteBytesMax => "write_bytes_sec_max",
            Self::WriteBytesMaxLength => "write_bytes_sec_max_length",
            Self::TotalIops => "total_iops_sec",
            Self::TotalIopsMax => "total_iops_sec_max",
            Self::TotalIopsMaxLength => "total_iops_sec_max_length",
            Self::ReadIops => "read_iops_sec",
            Self::ReadIopsMax => "read_iops_sec_max",
            Self::ReadIopsMaxLength => "read_iops_sec_max_length",
            Self::WriteIops => "write_iops_sec",
            Self::WriteIopsMax => "write_iops_sec_max",
            Self::WriteIopsMaxLength => "write_iops_sec_max_length",
        }
    }
}

/// The limits of a volume: those that are not there are not limited.
pub type Qos = BTreeMap<Limit, u64>;

/// What a volume is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "VolumeSource")]
pub enum Source {
    /// An image in the node's cache.
    Image(Name),
    /// Another volume, that no instance has.
    Volume(VolumeId),
    /// A snapshot of another volume.
    Snapshot {
        /// The volume.
        volume: VolumeId,
        /// The snapshot.
        name: Name,
    },
}

/// Parameters of `volume.create`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeCreate")]
pub struct Create {
    /// The volume's id; made here if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<VolumeId>,
    /// What people call it.
    pub name: Name,
    /// Its size, bytes: whole sectors. If absent, that of what it is made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Bytes>,
    /// What it is made from; empty if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// The pool it is kept in; the node's first if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// How its file is laid out; the pool's setting if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// Whether several instances may have it at once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub multiattach: bool,
    /// What its guests may do with it at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qos: Qos,
    /// Whose it is, as in a tenant's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What the owner notes about it: 128 items at most, keys and values of 255 bytes at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// What opens a volume that is made with the format `luks`. The node's libvirt keeps it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(flag: &bool) -> bool {
    !*flag
}

/// Parameters of `volume.show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeSelect")]
pub struct Select {
    /// The volume.
    pub id: VolumeId,
}

/// Parameters of `volume.list`: by name, then id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeList")]
pub struct List {
    /// Only those of this name; `*` in it stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those of this status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Only those of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// At most this many; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// Only those that follow this one: the last of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<VolumeId>,
}

/// Parameters of `volume.update`; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeUpdate")]
pub struct Update {
    /// The volume.
    pub id: VolumeId,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whose it is; an empty text: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Items to set, or, where null, to remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Option<String>>,
    /// Limits to set, or, where 0, to remove; a guest that has the volume is held to them at once.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qos: Qos,
    /// Whether an instance can boot from it: true if a system was installed on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootable: Option<bool>,
}

/// Parameters of `volume.extend`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeExtend")]
pub struct Extend {
    /// The volume.
    pub id: VolumeId,
    /// Its new size, bytes: whole sectors, and more than it has.
    pub size: Bytes,
}

/// Parameters of `volume.snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeTakeSnapshot")]
pub struct TakeSnapshot {
    /// The volume.
    pub id: VolumeId,
    /// What to call the snapshot: no other of the volume's is called so.
    pub name: Name,
}

/// Parameters of `volume.revert` and `volume.delete_snapshot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeSelectSnapshot")]
pub struct SelectSnapshot {
    /// The volume.
    pub id: VolumeId,
    /// The snapshot.
    pub name: Name,
}

/// Parameters of `volume.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeDelete")]
pub struct Delete {
    /// The volume.
    pub id: VolumeId,
    /// Delete it though it is in error, which is refused else: somebody may want to look first.
    #[serde(default, skip_serializing_if = "is_false")]
    pub force: bool,
}

/// Parameters of `instance.attach_volume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeAttach")]
pub struct Attach {
    /// The instance.
    pub id: InstanceId,
    /// The volume.
    pub volume: VolumeId,
    /// How the guest has it.
    #[serde(default, skip_serializing_if = "How::is_default")]
    pub how: How,
    /// How it is reached, if it is kept elsewhere: `volume` is then the id that its control plane
    /// knows it by.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "Connection::sent"
    )]
    #[schemars(with = "Option<Connection>")]
    pub connection: Option<Connection>,
    /// What opens a volume that is kept elsewhere and is encrypted: LUKS. The node's libvirt keeps
    /// it as long as the instance has the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase: Option<Secret>,
}

/// Parameters of `instance.swap_volume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeSwap")]
pub struct Swap {
    /// The instance.
    pub id: InstanceId,
    /// A volume that it has.
    pub volume: VolumeId,
    /// The volume that takes its place: this node's own, nobody's, and as large; or larger, if the
    /// instance is off. What it holds is overwritten.
    pub new: VolumeId,
}

/// How a guest has a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeHow")]
pub struct How {
    /// The bus; virtio-blk if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// The device by libvirt's name, as in `vdb`; the first that is free if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Whether the guest can only read it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Whether the volume is deleted with the instance.
    #[serde(default, skip_serializing_if = "is_false")]
    pub delete_on_termination: bool,
    /// How the node caches it; `none` where the pool's file system can do that, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
    /// Whether what the guest discards frees room in the pool; it does, if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub discard: Option<Discard>,
    /// How QEMU reads and writes it; `native` for a block device that is not cached, else `threads`,
    /// if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<Io>,
    /// Its turn when the firmware looks for a system, from 1: the root disk has 0, which is the
    /// first. It is not tried if absent. nova's `boot_index`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_index: Option<u8>,
}

impl How {
    /// Whether nothing is asked for in particular.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// What a disk is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Bus {
    /// virtio-blk: a PCI device for each disk.
    Virtio,
    /// virtio-scsi: many disks on one PCI device.
    Scsi,
}

/// How the node caches a disk. What a guest flushes reaches the disk in both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Not at all.
    None,
    /// In the node's page cache.
    Writeback,
}

/// What becomes of a guest's discards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Discard {
    /// They free room in the pool.
    Unmap,
    /// Nothing.
    Ignore,
}

/// How QEMU reads and writes a disk. The words are libvirt's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Io {
    /// In threads of its own.
    Threads,
    /// By Linux's asynchronous calls; only what is not cached.
    Native,
    /// By io_uring.
    IoUring,
}

/// Parameters of `instance.detach_volume`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VolumeDetach")]
pub struct Detach {
    /// The instance.
    pub id: InstanceId,
    /// The volume.
    pub volume: VolumeId,
    /// How long the guest may take to let go of it, milliseconds; a minute if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// A volume that an instance has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AttachedVolume {
    /// The volume.
    pub volume: VolumeId,
    /// What it is called.
    pub name: Name,
    /// Its size, bytes.
    pub size: Bytes,
    /// Its device by libvirt's name, as in `vdb`. The guest's own name may be another: there it is
    /// found by its serial number, in `/dev/disk/by-id`.
    pub device: String,
    /// What the guest sees as its serial number; 20 bytes of it on virtio-blk.
    pub serial: String,
    /// The bus.
    pub bus: Bus,
    /// Whether the guest can only read it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
    /// Whether the instance boots from it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub root: bool,
    /// Whether the volume is deleted with the instance.
    #[serde(default, skip_serializing_if = "is_false")]
    pub delete_on_termination: bool,
}

/// Who has a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeAttachment")]
pub struct Attachment {
    /// The instance.
    pub instance: InstanceId,
    /// What it is called.
    pub name: Name,
    /// The volume's device there.
    pub device: String,
    /// Whether the guest can only read it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub read_only: bool,
}

/// A snapshot of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumeSnapshot")]
pub struct Snapshot {
    /// What it is called.
    pub name: Name,
    /// The volume's size then, bytes.
    pub size: Bytes,
    /// When it was taken.
    pub created: Timestamp,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Volume {
    /// Its id.
    pub id: VolumeId,
    /// What people call it.
    pub name: Name,
    /// How it is.
    pub status: Status,
    /// Its size, bytes; 0 while it is not known, of one that is kept elsewhere.
    pub size: Bytes,
    /// The pool it is kept in; none if it is kept elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<Name>,
    /// Where it is, if it is kept elsewhere, as in `iscsi 10.0.0.7:3260 iqn.2010-10.org.x:1/0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elsewhere: Option<String>,
    /// How its file is laid out, where it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<Format>,
    /// What it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Whether an instance can boot from it: made from an image, or from a volume that is bootable, or
    /// said so by an update.
    pub bootable: bool,
    /// Whether several instances may have it at once.
    #[serde(default, skip_serializing_if = "is_false")]
    pub multiattach: bool,
    /// What its guests may do with it at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub qos: Qos,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What its owner notes about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Who has it.
    pub attachments: Vec<Attachment>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<Snapshot>,
    /// The operation in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// In what its pool differs from what the agent made: somebody changed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// Why it is in error, or the last thing that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// When its creation was accepted.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// Where volumes are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "VolumePool")]
pub struct Pool {
    /// What it is called.
    pub name: Name,
    /// What kind it is, as in `directory`.
    pub driver: String,
    /// Its room, bytes, if it can be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<Bytes>,
    /// What of that is free, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub free: Option<Bytes>,
    /// The sizes of its volumes, bytes in all.
    pub promised: Bytes,
    /// How many volumes there are.
    pub volumes: u32,
    /// Why it cannot be used, if it cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}
