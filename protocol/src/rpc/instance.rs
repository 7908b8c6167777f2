//! Instances: what is asked for, and what is.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::guest::GuestSummary;
use super::hardware::{FirmwareType, Hardware, MachineType};
use super::values::{
    Bytes, InstanceId, MacAddress, Name, OperationId, PortId, Secret, Timestamp, VolumeId,
};
use super::volume::AttachedVolume;

/// The stable state: what the user should expect. The words are nova's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being made.
    Building,
    /// In service.
    Active,
    /// vCPUs stand still; its memory is in QEMU.
    Paused,
    /// Off; its memory is on disk.
    Suspended,
    /// Off; disks and place are kept.
    Stopped,
    /// Runs a rescue image; its own disk is the second.
    Rescued,
    /// Has a new size; waits for the confirmation, or the way back.
    Resized,
    /// Off, and kept as an image too.
    Shelved,
    /// Only the image is left.
    ShelvedOffloaded,
    /// Deleted, and restorable until it is reclaimed.
    #[serde(rename = "soft-delete")]
    SoftDeleted,
    /// Needs an operator; the instance's fault says why.
    Error,
    /// Gone.
    Deleted,
}

impl VmState {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Building,
        Self::Active,
        Self::Paused,
        Self::Suspended,
        Self::Stopped,
        Self::Rescued,
        Self::Resized,
        Self::Shelved,
        Self::ShelvedOffloaded,
        Self::SoftDeleted,
        Self::Error,
        Self::Deleted,
    ];
}

/// The action in flight. The words are nova's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum TaskState {
    /// Boot.
    #[serde(rename = "spawning")]
    Spawning,
    /// Start.
    #[serde(rename = "powering-on")]
    PoweringOn,
    /// Stop.
    #[serde(rename = "powering-off")]
    PoweringOff,
    /// Soft reboot.
    #[serde(rename = "rebooting")]
    Rebooting,
    /// Hard reboot.
    #[serde(rename = "rebooting_hard")]
    RebootingHard,
    /// Password change.
    #[serde(rename = "updating_password")]
    UpdatingPassword,
    /// Pause.
    #[serde(rename = "pausing")]
    Pausing,
    /// Unpause.
    #[serde(rename = "unpausing")]
    Unpausing,
    /// Suspend.
    #[serde(rename = "suspending")]
    Suspending,
    /// Resume.
    #[serde(rename = "resuming")]
    Resuming,
    /// Rebuild, and reset.
    #[serde(rename = "rebuilding")]
    Rebuilding,
    /// Rescue.
    #[serde(rename = "rescuing")]
    Rescuing,
    /// Unrescue.
    #[serde(rename = "unrescuing")]
    Unrescuing,
    /// Resize.
    #[serde(rename = "resize_migrating")]
    Resizing,
    /// The way back from a resize.
    #[serde(rename = "resize_reverting")]
    RevertingResize,
    /// The confirmation of a resize; nova has no word for it.
    #[serde(rename = "resize_confirming")]
    ConfirmingResize,
    /// Snapshot.
    #[serde(rename = "image_snapshot")]
    Snapshotting,
    /// Shelve.
    #[serde(rename = "shelving")]
    Shelving,
    /// Offload.
    #[serde(rename = "shelving_offloading")]
    Offloading,
    /// Unshelve.
    #[serde(rename = "unshelving")]
    Unshelving,
    /// Change of name, owner, metadata or lock; nova has no word for it.
    #[serde(rename = "updating")]
    Updating,
    /// Change of vCPUs or memory in place; nova has no word for it.
    #[serde(rename = "adjusting")]
    Adjusting,
    /// A volume is attached; nova has no word for it.
    #[serde(rename = "attaching_volume")]
    AttachingVolume,
    /// A volume is detached; nova has no word for it.
    #[serde(rename = "detaching_volume")]
    DetachingVolume,
    /// An attached volume is extended or snapshotted; nova has no word for it.
    #[serde(rename = "changing_volume")]
    ChangingVolume,
    /// A port is attached; nova has no word for it.
    #[serde(rename = "attaching_interface")]
    AttachingInterface,
    /// A port is detached; nova has no word for it.
    #[serde(rename = "detaching_interface")]
    DetachingInterface,
    /// Soft delete.
    #[serde(rename = "soft-deleting")]
    SoftDeleting,
    /// Restore.
    #[serde(rename = "restoring")]
    Restoring,
    /// Delete.
    #[serde(rename = "deleting")]
    Deleting,
}

/// What the hypervisor says. `unknown` means it could not be asked: it is not `shutdown`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PowerState {
    /// The hypervisor cannot be asked, or has no word for it.
    Unknown,
    /// There is no domain.
    None,
    /// vCPUs run.
    Running,
    /// vCPUs stand still, memory is kept.
    Paused,
    /// Off.
    Shutdown,
    /// The guest or its QEMU crashed.
    Crashed,
    /// The guest suspended itself.
    Suspended,
}

/// That QEMU itself stopped an instance's vCPUs, because its disk failed. The guest has lost
/// nothing: what failed is tried again when it goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stalled {
    /// Why.
    pub reason: StallReason,
    /// The same for people, with what becomes of it.
    pub message: String,
}

/// Why QEMU stopped the vCPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StallReason {
    /// A write failed: no space is left on the node.
    NoSpace,
    /// Reading or writing failed otherwise.
    IoError,
}

/// What an operator sees, from [`VmState`] and [`TaskState`]. The words are nova's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the words explain themselves")]
pub enum Status {
    Build,
    Active,
    Shutoff,
    Paused,
    Suspended,
    Reboot,
    HardReboot,
    Password,
    Rebuild,
    Rescue,
    Resize,
    VerifyResize,
    RevertResize,
    Shelved,
    ShelvedOffloaded,
    SoftDeleted,
    Error,
    Deleted,
}

impl Status {
    /// All of them.
    pub const ALL: [Self; 18] = [
        Self::Build,
        Self::Active,
        Self::Shutoff,
        Self::Paused,
        Self::Suspended,
        Self::Reboot,
        Self::HardReboot,
        Self::Password,
        Self::Rebuild,
        Self::Rescue,
        Self::Resize,
        Self::VerifyResize,
        Self::RevertResize,
        Self::Shelved,
        Self::ShelvedOffloaded,
        Self::SoftDeleted,
        Self::Error,
        Self::Deleted,
    ];

    /// The status of an instance in these states.
    pub const fn of(vm: VmState, task: Option<TaskState>) -> Self {
        match (vm, task) {
            (VmState::Building, _) => Self::Build,
            (VmState::Deleted, _) => Self::Deleted,
            (_, Some(TaskState::Rebuilding)) => Self::Rebuild,
            (VmState::Error, _) => Self::Error,
            (_, Some(TaskState::Rebooting)) => Self::Reboot,
            (_, Some(TaskState::RebootingHard)) => Self::HardReboot,
            (_, Some(TaskState::Resizing)) => Self::Resize,
            (_, Some(TaskState::RevertingResize)) => Self::RevertResize,
            (VmState::Active, Some(TaskState::UpdatingPassword)) => Self::Password,
            (VmState::Active, _) => Self::Active,
            (VmState::Stopped, _) => Self::Shutoff,
            (VmState::Paused, _) => Self::Paused,
            (VmState::Suspended, _) => Self::Suspended,
            (VmState::Rescued, _) => Self::Rescue,
            (VmState::Resized, _) => Self::VerifyResize,
            (VmState::Shelved, _) => Self::Shelved,
            (VmState::ShelvedOffloaded, _) => Self::ShelvedOffloaded,
            (VmState::SoftDeleted, _) => Self::SoftDeleted,
        }
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "BUILD",
            Self::Active => "ACTIVE",
            Self::Shutoff => "SHUTOFF",
            Self::Paused => "PAUSED",
            Self::Suspended => "SUSPENDED",
            Self::Reboot => "REBOOT",
            Self::HardReboot => "HARD_REBOOT",
            Self::Password => "PASSWORD",
            Self::Rebuild => "REBUILD",
            Self::Rescue => "RESCUE",
            Self::Resize => "RESIZE",
            Self::VerifyResize => "VERIFY_RESIZE",
            Self::RevertResize => "REVERT_RESIZE",
            Self::Shelved => "SHELVED",
            Self::ShelvedOffloaded => "SHELVED_OFFLOADED",
            Self::SoftDeleted => "SOFT_DELETED",
            Self::Error => "ERROR",
            Self::Deleted => "DELETED",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Parameters of `instance.boot`. The size is a flavor, or vCPUs and memory; single values
/// override the flavor's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// The instance's id; made here if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<InstanceId>,
    /// What people call it.
    pub name: Name,
    /// The image of its root disk, or of the volume that is made for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// The volume it boots from, in place of a root disk from an image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume: Option<VolumeId>,
    /// Boot from a new volume of this size, bytes, made from the image; it has the instance's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_size: Option<Bytes>,
    /// The pool of that volume; the node's first if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub volume_pool: Option<Name>,
    /// Whether the volume it boots from is deleted with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub delete_on_termination: bool,
    /// A flavor of the node's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Size of the root disk, bytes; the image's own size if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
    /// The most vCPUs it can be given while it runs; `vcpus` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_vcpus: Option<u32>,
    /// The most memory it can be given while it runs, bytes; `memory` if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<Bytes>,
    /// One NIC for each, in this order.
    #[serde(default)]
    pub networks: Vec<Nic>,
    /// The board; the image's, or `q35`, if absent. So too the three below.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineType>,
    /// What the board starts with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwareType>,
    /// Whether UEFI starts signed code only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secure_boot: Option<bool>,
    /// Whether it has a TPM 2.0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tpm: Option<bool>,
    /// Whose it is, as in a tenant's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What the owner notes about it: 128 items at most, keys and values of 255 bytes at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// A config drive: what cloud-init and its like read at the first boot. Each of the fields
    /// below has one made, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<WantedDrive>,
    /// User data, base64: 65535 bytes of it at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_data: Option<Secret>,
    /// Vendor data, base64, text: 65535 bytes of it at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vendor_data: Option<Secret>,
    /// Public SSH keys of the guest's first account, as OpenSSH has them: 16 at most.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ssh_keys: Vec<String>,
    /// The guest's host name; its name made fit if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
}

/// How the files of a config drive are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DriveLayout {
    /// As OpenStack does: `openstack/latest/meta_data.json` and its like, on `config-2`.
    Openstack,
    /// cloud-init's own: `meta-data`, `user-data` and its like, on `cidata`.
    Nocloud,
}

impl DriveLayout {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Openstack => "openstack",
            Self::Nocloud => "nocloud",
        }
    }
}

/// The config drive asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WantedDrive {
    /// In the node's own layout.
    #[default]
    Default,
    /// As OpenStack does.
    Openstack,
    /// cloud-init's own.
    Nocloud,
}

/// A NIC asked for: a port that is there, or a network, on which one is made that goes with the
/// instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The network to make a port on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Name>,
    /// The MAC of that port; made from the port's id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// The port that is there. It is nobody's afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortId>,
}

/// Parameters of the methods that need no more than to be told which instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The instance.
    pub id: InstanceId,
}

/// Parameters of `instance.list`: by name, then id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Only those of this name; `*` in it stands for any characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those of this status. Deleted ones are listed only when asked for, soft-deleted ones
    /// too.
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
    pub marker: Option<InstanceId>,
}

/// Parameters of `instance.delete`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Delete {
    /// The instance.
    pub id: InstanceId,
    /// How; soft unless told.
    #[serde(default)]
    pub mode: DeleteMode,
    /// Delete it even if it is in ERROR, which is refused else: somebody may want to look first.
    #[serde(default)]
    pub ignore_error: bool,
}

/// How an instance is deleted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeleteMode {
    /// It is switched off and kept for some time, in which it can be restored.
    #[default]
    Soft,
    /// At once, with all it has.
    Hard,
}

/// Parameters of `instance.rebuild`: a new root disk under the same identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rebuild {
    /// The instance.
    pub id: InstanceId,
    /// The image of the new root disk.
    pub image: Name,
}

/// Parameters of `instance.reset`: the root disk as it was when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Reset {
    /// The instance.
    pub id: InstanceId,
    /// The root device, by its target (`vda`) or its serial, so that nobody resets by mistake.
    pub root_device: String,
}

/// Parameters of `instance.rescue`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rescue {
    /// The instance.
    pub id: InstanceId,
    /// The image to boot; the instance's own if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
}

/// Parameters of `instance.resize`: a flavor, or single values; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// The instance.
    pub id: InstanceId,
    /// A flavor of the node's configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory, bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
    /// Size of the root disk, bytes; a disk never shrinks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk: Option<Bytes>,
}

/// Parameters of `instance.adjust`: vCPUs and memory now, without a restart, within the maximum
/// the instance was booted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Adjust {
    /// The instance.
    pub id: InstanceId,
    /// vCPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vcpus: Option<u32>,
    /// Memory, bytes: the balloon's target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// Parameters of `instance.shelve`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shelve {
    /// The instance.
    pub id: InstanceId,
    /// Whether only the image is left of it.
    #[serde(default)]
    pub offload: bool,
    /// How long the guest may take before it is forced, milliseconds; the node's setting if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// Parameters of `instance.snapshot`: the root disk as an image in the node's cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Snapshot {
    /// The instance.
    pub id: InstanceId,
    /// What to call the image.
    pub name: Name,
    /// Whether the guest's filesystems are frozen for the instant it shows.
    #[serde(default)]
    pub quiesce: Quiesce,
}

/// Whether the guest's filesystems are frozen for a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Quiesce {
    /// If the guest can; the result says whether it was.
    #[default]
    Auto,
    /// They must be, or there is no snapshot.
    Require,
    /// They are not.
    Never,
}

/// Parameters of `instance.update`; what is absent stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// The instance.
    pub id: InstanceId,
    /// What people call it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Whose it is; an empty text: nobody's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Items to set, or, where null, to remove.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, Option<String>>,
}

/// Parameters of `instance.lock`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Lock {
    /// The instance.
    pub id: InstanceId,
    /// Why, for whoever is refused; 255 bytes at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How a stop or a reboot is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Manner {
    /// Ask the guest first; by force only when it does not comply in time.
    #[default]
    Soft,
    /// At once.
    Hard,
}

/// Parameters of `instance.stop` and `instance.reboot`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Halt {
    /// The instance.
    pub id: InstanceId,
    /// How; soft unless told.
    #[serde(default)]
    pub manner: Manner,
    /// How long the guest may take before it is forced, milliseconds; the node's setting if
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}

/// Parameters of `instance.password`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Password {
    /// The instance.
    pub id: InstanceId,
    /// The account in the guest.
    pub user: String,
    /// The new password.
    pub password: Word,
}

/// A password: hashed, or as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// A crypt(5) hash, as in `$6$...`.
    Crypted(Secret),
    /// The plain word, for guests that need it.
    Plain(Secret),
}

/// How large an instance is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Size {
    /// The flavor, where it came from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, bytes.
    pub memory: Bytes,
    /// Size of the root disk, bytes.
    pub disk: Bytes,
    /// The most vCPUs it can be given while it runs.
    pub max_vcpus: u32,
    /// The most memory it can be given while it runs, bytes.
    pub max_memory: Bytes,
}

/// A port: one NIC of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Port {
    /// Its id.
    pub id: PortId,
    /// The network it is on.
    pub network: Name,
    /// Its MAC.
    pub mac: MacAddress,
    /// The node's bridge.
    pub bridge: String,
    /// The node's tap, while the instance runs.
    pub tap: String,
}

/// An instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// What people call it.
    pub name: Name,
    /// What an operator sees.
    pub status: Status,
    /// What the user should expect.
    pub vm_state: VmState,
    /// The action in flight.
    pub task_state: Option<TaskState>,
    /// What the hypervisor says.
    pub power_state: PowerState,
    /// That QEMU itself has paused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<Stalled>,
    /// The operation in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// The node.
    pub host: String,
    /// The libvirt domain's name.
    pub domain: String,
    /// The image of its root disk; absent if it boots from a volume that was made from none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Name>,
    /// The flavor it was booted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, bytes.
    pub memory: Bytes,
    /// Size of the root disk, bytes; 0 if it boots from a volume.
    pub disk: Bytes,
    /// The most vCPUs it can be given while it runs.
    #[serde(default)]
    pub max_vcpus: u32,
    /// The most memory it can be given while it runs, bytes.
    #[serde(default)]
    pub max_memory: Bytes,
    /// What it is made with, besides that.
    #[serde(default)]
    pub hardware: Hardware,
    /// Whose it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// What its owner notes about it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The layout of its config drive, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config_drive: Option<DriveLayout>,
    /// The host name its config drive gives it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Whether it is locked against changes, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub locked: Option<String>,
    /// The image it is rescued with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rescue_image: Option<Name>,
    /// The image it is shelved as.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shelved_image: Option<Name>,
    /// When it can no longer be restored and is deleted for good, while it is soft-deleted; absent
    /// if the node keeps it, or a lock does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reclaimed_at: Option<Timestamp>,
    /// The size it had, while a resize waits to be confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resized_from: Option<Size>,
    /// Its volumes, in the order of their devices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<AttachedVolume>,
    /// In what the node's reality differs from what the agent made: somebody changed it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub drift: Vec<String>,
    /// Its NICs, in order.
    pub ports: Vec<Port>,
    /// What is known of its guest.
    pub guest: GuestSummary,
    /// Why it is in ERROR, or the last thing that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When its states last changed.
    pub updated: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_follows_novas_table() {
        let table = [
            (VmState::Building, Some(TaskState::Spawning), "BUILD"),
            (VmState::Active, None, "ACTIVE"),
            (VmState::Active, Some(TaskState::PoweringOff), "ACTIVE"),
            (VmState::Active, Some(TaskState::Rebooting), "REBOOT"),
            (VmState::Stopped, Some(TaskState::RebootingHard), "HARD_REBOOT"),
            (VmState::Active, Some(TaskState::UpdatingPassword), "PASSWORD"),
            (VmState::Stopped, None, "SHUTOFF"),
            (VmState::Error, Some(TaskState::Deleting), "ERROR"),
            (VmState::Error, Some(TaskState::Rebuilding), "REBUILD"),
            (VmState::Stopped, Some(TaskState::Resizing), "RESIZE"),
            (VmState::Resized, None, "VERIFY_RESIZE"),
            (VmState::Resized, Some(TaskState::RevertingResize), "REVERT_RESIZE"),
            (VmState::Suspended, Some(TaskState::Resuming), "SUSPENDED"),
            (VmState::SoftDeleted, None, "SOFT_DELETED"),
            (VmState::ShelvedOffloaded, None, "SHELVED_OFFLOADED"),
            (VmState::Deleted, None, "DELETED"),
        ];
        for (vm, task, word) in table {
            let status = Status::of(vm, task);
            assert_eq!(status.as_str(), word);
            assert_eq!(serde_json::to_value(status).unwrap(), word);
        }
    }
}
