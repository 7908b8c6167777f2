//! What the journal keeps of each thing: enough to find it in the world again, and to make it
//! again where it is lost.

use std::collections::BTreeMap;

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::image::{Format, Properties, State as ImageState};
use ostler_protocol::rpc::instance::{Manner, Quiesce, Size, TaskState, VmState};
use ostler_protocol::rpc::operation::Operation;
use ostler_protocol::rpc::values::{
    Bytes, InstanceId, MacAddress, Name, OperationId, PortId, Sha256, Timestamp,
};
use serde::{Deserialize, Serialize};

/// An instance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its id.
    pub id: InstanceId,
    /// What people call it.
    pub name: Name,
    /// The image it was made from, by name.
    pub image: Name,
    /// The bytes it was made from.
    pub base: Base,
    /// Kernel and ramdisk, where it boots without firmware.
    pub direct: Option<DirectBoot>,
    /// The flavor it was booted with.
    pub flavor: Option<Name>,
    /// vCPUs.
    pub vcpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// Size of the root disk.
    pub disk: Bytes,
    /// The most vCPUs it can be given while it runs.
    #[serde(default)]
    pub max_vcpus: u32,
    /// The most memory it can be given while it runs.
    #[serde(default)]
    pub max_memory: Bytes,
    /// Its NICs, in order.
    pub ports: Vec<PortRecord>,
    /// Whose it is.
    #[serde(default)]
    pub owner: Option<String>,
    /// What its owner notes about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
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
    pub fault: Option<Fault>,
    /// When it was accepted.
    pub created: Timestamp,
    /// When its states last changed.
    pub updated: Timestamp,
    /// Grows with every change, so that writes that overtake each other leave the newest.
    pub revision: u64,
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

/// A port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortRecord {
    /// Its id.
    pub id: PortId,
    /// The network it is on.
    pub network: Name,
    /// Its MAC.
    pub mac: MacAddress,
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
    /// The NIC that joins it.
    pub uplink: Option<String>,
    /// The largest packet, bytes.
    pub mtu: u32,
    /// When it was first ensured.
    pub created: Timestamp,
}

/// What an operation is to do, as far as it can be taken up again after a crash: without secrets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Make the instance and start it.
    Boot,
    /// Switch it on.
    Start,
    /// Switch it off.
    Stop {
        /// Ask, or force at once.
        manner: Manner,
        /// How long it may take before it is forced, milliseconds.
        timeout: u32,
    },
    /// Restart it.
    Reboot {
        /// Ask, or force at once.
        manner: Manner,
        /// How long it may take before it is forced, milliseconds.
        timeout: u32,
    },
    /// Stop its vCPUs.
    Pause,
    /// Let its vCPUs run.
    Unpause,
    /// Save its memory and switch it off.
    Suspend,
    /// Switch it on with the memory that was saved.
    Resume,
    /// Give it a new root disk.
    Rebuild {
        /// What the disk is made from.
        from: Source,
    },
    /// Boot it from a rescue image.
    Rescue {
        /// What it boots from.
        from: Source,
    },
    /// Boot it from its own disk again.
    Unrescue,
    /// Give it another size.
    Resize {
        /// The size it shall have.
        to: Size,
        /// How long the guest may take to shut down, milliseconds.
        timeout: u32,
    },
    /// Keep the new size.
    ConfirmResize,
    /// Go back to the old size.
    RevertResize {
        /// Whether it ran before the resize, and so shall now.
        start: Running,
    },
    /// Change vCPUs and memory in place.
    Adjust {
        /// vCPUs.
        vcpus: Option<u32>,
        /// Memory.
        memory: Option<Bytes>,
    },
    /// Make an image of the root disk.
    Snapshot {
        /// What to call it.
        image: Name,
        /// Whether the guest is frozen for it.
        quiesce: Quiesce,
    },
    /// Switch it off and keep it as an image.
    Shelve {
        /// What to call the image.
        image: Name,
        /// Whether only the image is left.
        offload: bool,
        /// How long the guest may take to shut down, milliseconds.
        timeout: u32,
    },
    /// Leave only the image.
    Offload,
    /// Bring it back from its image.
    Unshelve {
        /// The image.
        image: Name,
        /// The bytes of the image, where only that is left.
        base: Option<Base>,
    },
    /// Change what is noted about it.
    Update {
        /// The name it shall have.
        name: Name,
        /// The owner it shall have.
        owner: Option<String>,
        /// The metadata it shall have.
        metadata: BTreeMap<String, String>,
    },
    /// Refuse changes.
    Lock {
        /// Why.
        reason: String,
    },
    /// Allow changes.
    Unlock,
    /// Switch it off; it can be restored.
    SoftDelete {
        /// How long the guest may take to shut down, milliseconds.
        timeout: u32,
    },
    /// Take back a soft delete.
    Restore {
        /// The state it had, and shall have.
        to: VmState,
    },
    /// Remove it.
    Delete,
    /// Set a password; the word itself is only in memory.
    Password {
        /// The account.
        user: String,
    },
    /// Fetch the image its record describes.
    ImageImport {
        /// What its bytes must hash to.
        sha256: Option<Sha256>,
        /// The URL has a part that may be a secret and is only in memory.
        partial_source: bool,
    },
    /// Remove the image.
    ImageRemove,
    /// Make the network's bridge as described.
    NetworkEnsure {
        /// As it shall be.
        network: NetworkRecord,
    },
    /// Forget a network, and remove its bridge if it is ours.
    NetworkRemove {
        /// As it was.
        network: NetworkRecord,
    },
}

/// An operation: what the caller sees, and what is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// What the caller sees.
    pub operation: Operation,
    /// What is to be done.
    pub change: Change,
    /// Whether the instance ran when the operation was accepted.
    pub was: Running,
}
