//! Instances: what is asked for, and what is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::guest::GuestSummary;
use super::values::{Bytes, InstanceId, MacAddress, Name, OperationId, PortId, Secret, Timestamp};

/// The stable state: what the user should expect. The words are nova's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmState {
    /// Being made.
    Building,
    /// In service.
    Active,
    /// Off; disks and place are kept.
    Stopped,
    /// Needs an operator; the instance's fault says why.
    Error,
    /// Gone.
    Deleted,
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

/// What an operator sees, from [`VmState`] and [`TaskState`]. The words are nova's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[expect(missing_docs, reason = "the words explain themselves")]
pub enum Status {
    Build,
    Active,
    Shutoff,
    Reboot,
    HardReboot,
    Password,
    Error,
    Deleted,
}

impl Status {
    /// The status of an instance in these states.
    pub const fn of(vm: VmState, task: Option<TaskState>) -> Self {
        match (vm, task) {
            (VmState::Building, _) => Self::Build,
            (VmState::Deleted, _) => Self::Deleted,
            (VmState::Error, _) => Self::Error,
            (_, Some(TaskState::Rebooting)) => Self::Reboot,
            (_, Some(TaskState::RebootingHard)) => Self::HardReboot,
            (VmState::Active, Some(TaskState::UpdatingPassword)) => Self::Password,
            (VmState::Active, _) => Self::Active,
            (VmState::Stopped, _) => Self::Shutoff,
        }
    }

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "BUILD",
            Self::Active => "ACTIVE",
            Self::Shutoff => "SHUTOFF",
            Self::Reboot => "REBOOT",
            Self::HardReboot => "HARD_REBOOT",
            Self::Password => "PASSWORD",
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
    /// The image of its root disk.
    pub image: Name,
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
    /// One NIC for each, in this order.
    #[serde(default)]
    pub networks: Vec<Nic>,
}

/// A NIC asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Nic {
    /// The network it is on.
    pub network: Name,
    /// Its MAC; made from the port's id if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
}

/// Parameters of `instance.show`, `.start`, `.delete`.
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
    /// Only those of this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Only those of this status. Deleted ones are listed only when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
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
    /// The operation in flight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<OperationId>,
    /// The node.
    pub host: String,
    /// The libvirt domain's name.
    pub domain: String,
    /// The image of its root disk.
    pub image: Name,
    /// The flavor it was booted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<Name>,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory, bytes.
    pub memory: Bytes,
    /// Size of the root disk, bytes.
    pub disk: Bytes,
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
            (VmState::Deleted, None, "DELETED"),
        ];
        for (vm, task, word) in table {
            let status = Status::of(vm, task);
            assert_eq!(status.as_str(), word);
            assert_eq!(serde_json::to_value(status).unwrap(), word);
        }
    }
}
