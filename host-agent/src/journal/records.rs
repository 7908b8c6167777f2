//! What the journal keeps of each thing: enough to find it in the world again, and to make it
//! again where it is lost.

mod connection;

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::refusal::{Operation, Refusal};
use ostler_protocol::rpc::hardware::{FirmwareType, Hardware, MachineType};
use ostler_protocol::rpc::image::{Format, Properties, State as ImageState};
use ostler_protocol::rpc::instance::{DriveLayout, Size, TaskState, VmState};
use ostler_protocol::rpc::network::Vxlan;
use ostler_protocol::rpc::port::AddressPair;
use ostler_protocol::rpc::values::{
    Bytes, InstanceId, MacAddress, Name, OperationId, PortId, Secret, Sha256, Timestamp, VolumeId,
};
use ostler_protocol::rpc::volume;
use serde::{Deserialize, Serialize};

pub use connection::{ConnectionRecord, DeviceIdentity, Host, NbdServer};

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// What people call it.
    pub name: Name,
    /// The image it was made from, by name; none if it boots from a volume that was made from
    /// none.
    pub image: Option<Name>,
    /// The bytes its root disk was made from; none if it boots from a volume.
    pub base: Option<Base>,
    /// Kernel and ramdisk, where it boots without firmware.
    pub direct: Option<DirectBoot>,
    /// The flavor it was booted with.
    pub flavor: Option<Name>,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// Size of the root disk; nothing if it boots from a volume.
    pub disk: Bytes,
    /// The most vCPUs it can be given while it runs.
    #[serde(default)]
    pub max_vcpus: u32,
    /// The most memory it can be given while it runs.
    #[serde(default)]
    pub max_memory: Bytes,
    /// What it is made with.
    #[serde(default)]
    pub hardware: Hardware,
    /// What its boot asked for of that, whatever the image wants.
    #[serde(default)]
    pub options: BoardOptions,
    /// Its NICs, in order.
    pub ports: Vec<InterfaceRecord>,
    /// Its volumes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AttachmentRecord>,
    /// Whose it is.
    #[serde(default)]
    pub owner: Option<String>,
    /// What its owner notes about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// What its config drive is made from, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<ConfigDriveRecord>,
    /// Why changes to it are refused, if they are.
    #[serde(default)]
    pub locked: Option<String>,
    /// What it is rescued with, while it is.
    #[serde(default)]
    pub rescue: Option<Source>,
    /// What it was before a resize that waits to be confirmed.
    #[serde(default)]
    pub resized: Option<Resized>,
    /// The image it is shelved as, while it is.
    #[serde(default)]
    pub shelved: Option<Shelved>,
    /// The state a restore brings back, while it is soft-deleted.
    #[serde(default)]
    pub deleted_from: Option<VmState>,
    /// The hypervisor's digest of the definition the agent last made.
    #[serde(default)]
    pub fingerprint: Option<String>,
    /// Whether it was ever up: one whose boot was undone has nothing that could be started.
    pub built: bool,
    /// What the user should expect.
    pub vm_state: VmState,
    /// The action in flight.
    pub task_state: Option<TaskState>,
    /// The operation in flight.
    pub operation: Option<OperationId>,
    /// Why it is in ERROR, or the last thing that failed.
    pub fault: Option<Refusal>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When its states last changed.
    pub updated: Timestamp,
    /// Grows with every change, so that writes that overtake each other leave the newest.
    pub revision: u64,
}

/// What a boot asks for of an instance's hardware, whatever the image wants.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BoardOptions {
    /// The board.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineType>,
    /// What it starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwareType>,
    /// Whether that starts signed code only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Whether it has a TPM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<bool>,
}

/// What a config drive is made from, besides what else the instance's record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigDriveRecord {
    /// How its files are laid out.
    pub layout: DriveLayout,
    /// The guest's host name.
    pub hostname: String,
    /// Public SSH keys.
    pub ssh_keys: Vec<String>,
    /// User data, base64: passwords are common in it.
    pub user_data: Option<Secret>,
    /// Vendor data, base64.
    pub vendor_data: Option<Secret>,
}

/// What a root disk is made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// The image, by name.
    pub image: Name,
    /// Its bytes.
    pub base: Base,
    /// Kernel and ramdisk, where it boots without firmware.
    pub direct: Option<DirectBoot>,
}

/// An instance before a resize.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resized {
    /// The size it had.
    pub from: Size,
    /// Whether it ran.
    pub was: Running,
}

/// Whether an instance ran before an operation, and so shall run after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Running {
    /// It ran.
    Yes,
    /// It was off.
    No,
}

/// The image an instance is shelved as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shelved {
    /// Its name.
    pub image: Name,
}

/// A disk image's bytes in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Base {
    /// What they hash to.
    pub sha256: Sha256,
    /// What they are.
    pub format: Format,
    /// The size of the disk inside.
    pub virtual_size: Bytes,
}

/// A kernel booted without firmware.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectBoot {
    /// The kernel's bytes in the cache.
    pub kernel: Sha256,
    /// The ramdisk's.
    pub ramdisk: Option<Sha256>,
    /// The kernel's command line.
    pub command_line: String,
}

/// That an instance has a port. Network and MAC are the port's, which do not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterfaceRecord {
    /// The port.
    pub id: PortId,
    /// The network it is on.
    pub network: Name,
    /// Its MAC.
    pub mac: MacAddress,
    /// Whether the port outlives the instance.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub kept: bool,
}

impl InterfaceRecord {
    /// What QEMU calls the NIC: libvirt leaves names alone that begin so.
    pub fn alias(&self) -> String {
        format!("ua-{}", self.id)
    }
}

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Its id.
    pub id: PortId,
    /// What people call it.
    pub name: Name,
    /// The network it is on.
    pub network: Name,
    /// Its MAC.
    pub mac: MacAddress,
    /// The addresses its guest has, where they are known.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fixed_ips: Vec<IpAddr>,
    /// Addresses its guest may send from besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_address_pairs: Vec<AddressPair>,
    /// Whether its guest is held to what it may send.
    pub port_security: bool,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

impl PortRecord {
    /// One that was made with an instance, of which no more is known than that has of it.
    pub fn of(interface: &InterfaceRecord, owner: Option<String>, made: Timestamp) -> Self {
        Self {
            id: interface.id,
            name: interface.id.into(),
            network: interface.network.clone(),
            mac: interface.mac,
            fixed_ips: Vec::new(),
            allowed_address_pairs: Vec::new(),
            port_security: true,
            owner,
            created: made,
            updated: made,
        }
    }
}

/// That an instance has a volume, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentRecord {
    /// The volume.
    pub volume: VolumeId,
    /// Its device by libvirt's name: it stays as long as the volume does.
    pub device: String,
    /// The bus.
    pub bus: volume::Bus,
    /// Whether the guest can only read it.
    #[serde(default)]
    pub read_only: bool,
    /// Whether the instance boots from it.
    #[serde(default)]
    pub root: bool,
    /// Whether the volume is deleted with the instance.
    #[serde(default)]
    pub delete_on_termination: bool,
    /// How the node caches it; chosen at each start if none.
    #[serde(default)]
    pub cache: Option<volume::Cache>,
    /// What becomes of the guest's discards.
    #[serde(default)]
    pub discard: Option<volume::Discard>,
    /// How QEMU reads and writes it; chosen at each start if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub io: Option<volume::Io>,
    /// Its turn when the firmware looks for a system, after the root disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_index: Option<u8>,
    /// The volume in whose place it is: the guest knows the disk by that one's id, until it is
    /// detached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<VolumeId>,
}

impl AttachmentRecord {
    /// The id that the guest and QEMU know the disk by.
    pub fn known_as(&self) -> VolumeId {
        self.known_as.unwrap_or(self.volume)
    }

    /// What QEMU calls the disk: libvirt leaves names alone that begin so.
    pub fn alias(&self) -> String {
        format!("ua-{}", self.known_as())
    }
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeRecord {
    /// Its id.
    pub id: VolumeId,
    /// What people call it.
    pub name: Name,
    /// The pool it is kept in; none if it is kept elsewhere.
    pub pool: Option<Name>,
    /// How it is reached, if it is kept elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection: Option<ConnectionRecord>,
    /// How its file is laid out; as the pool does it, if none.
    pub format: Option<volume::Format>,
    /// Its size.
    pub size: Bytes,
    /// How it is, what instances do with it aside.
    pub state: VolumeState,
    /// Whether an instance can boot from it.
    pub bootable: bool,
    /// Whether several instances may have it at once.
    pub multiattach: bool,
    /// What its guests may do with it at most.
    #[serde(default)]
    pub qos: volume::Qos,
    /// What it was made from.
    pub source: Option<volume::Source>,
    /// The image's bytes it lies on, or was made from.
    pub base: Option<Base>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<volume::Snapshot>,
    /// Whose it is.
    pub owner: Option<String>,
    /// What its owner notes about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// Why it is in error, or the last thing that failed.
    pub fault: Option<Refusal>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When it last changed.
    pub updated: Timestamp,
}

/// How a volume is, what instances do with it aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VolumeState {
    /// It is being made.
    Creating,
    /// It is there.
    Available,
    /// It could not be made.
    Error,
    /// It could not be deleted.
    ErrorDeleting,
}

/// An image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    /// What it is called.
    pub name: Name,
    /// Where it is.
    pub state: ImageState,
    /// What its bytes are.
    pub format: Format,
    /// Where it came from, without credentials.
    pub source: String,
    /// What its bytes hash to; none until they are here.
    pub sha256: Option<Sha256>,
    /// Bytes of the file.
    pub size: Bytes,
    /// Bytes of the disk inside.
    pub virtual_size: Bytes,
    /// What instances made from it need.
    pub properties: Properties,
    /// When its import was accepted.
    pub created: Timestamp,
}

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRecord {
    /// What it is called.
    pub name: Name,
    /// The bridge.
    pub bridge: String,
    /// The NIC that joins it, or that of its VLAN or VXLAN.
    pub uplink: Option<String>,
    /// The VLAN that joins it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vlan: Option<u16>,
    /// The tunnel that joins it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vxlan: Option<Vxlan>,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// When it was first ensured.
    pub created: Timestamp,
}

impl NetworkRecord {
    /// The NIC that is on the bridge itself.
    pub fn nic(&self) -> Option<&str> {
        let is_plain = self.vlan.is_none() && self.vxlan.is_none();
        self.uplink.as_deref().filter(|_| is_plain)
    }
}

/// An operation: what the caller sees, and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// What the caller sees.
    pub operation: Operation,
    /// What is to be done, in the words of whoever does it: without secrets.
    pub change: serde_json::Value,
    /// Whether the instance ran when the operation was accepted.
    pub was: Running,
}
