//! Operations: every change of state, from accepted to over.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::fault::Fault;
use super::values::{IdempotencyKey, InstanceId, Name, OperationId, PortId, Timestamp, VolumeId};

macro_rules! kinds {
    ($($kind:ident = $method:literal),* $(,)?) => {
        /// What an operation does.
        #[derive(
            Debug,
            Clone,
            Copy,
            PartialEq,
            Eq,
            Hash,
            PartialOrd,
            Ord,
            Serialize,
            Deserialize,
            JsonSchema,
        )]
        pub enum Kind {
            $(
                #[doc = concat!("`", $method, "`")]
                #[serde(rename = $method)]
                $kind,
            )*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The method that asks for it.
            pub const fn method(self) -> &'static str {
                match self { $(Self::$kind => $method,)* }
            }
        }
    };
}

kinds! {
    Boot = "instance.boot",
    Start = "instance.start",
    Stop = "instance.stop",
    Reboot = "instance.reboot",
    Pause = "instance.pause",
    Unpause = "instance.unpause",
    Suspend = "instance.suspend",
    Resume = "instance.resume",
    Rebuild = "instance.rebuild",
    Reset = "instance.reset",
    Rescue = "instance.rescue",
    Unrescue = "instance.unrescue",
    Resize = "instance.resize",
    ConfirmResize = "instance.confirm_resize",
    RevertResize = "instance.revert_resize",
    Adjust = "instance.adjust",
    Snapshot = "instance.snapshot",
    Shelve = "instance.shelve",
    Offload = "instance.offload",
    Unshelve = "instance.unshelve",
    Update = "instance.update",
    Lock = "instance.lock",
    Unlock = "instance.unlock",
    Delete = "instance.delete",
    Restore = "instance.restore",
    Password = "instance.password",
    AttachVolume = "instance.attach_volume",
    DetachVolume = "instance.detach_volume",
    SwapVolume = "instance.swap_volume",
    AttachInterface = "instance.attach_interface",
    DetachInterface = "instance.detach_interface",
    ImageImport = "image.import",
    ImageExport = "image.export",
    ImageRemove = "image.remove",
    NetworkEnsure = "network.ensure",
    NetworkRemove = "network.remove",
    PortCreate = "port.create",
    PortUpdate = "port.update",
    PortDelete = "port.delete",
    VolumeCreate = "volume.create",
    VolumeUpdate = "volume.update",
    VolumeExtend = "volume.extend",
    VolumeSnapshot = "volume.snapshot",
    VolumeDeleteSnapshot = "volume.delete_snapshot",
    VolumeRevert = "volume.revert",
    VolumeDelete = "volume.delete",
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.method())
    }
}

/// What an operation is about. One subject does one thing at a time.
#[derive(
    Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    /// An instance.
    Instance(InstanceId),
    /// An image in the node's cache.
    Image(Name),
    /// A network on the node.
    Network(Name),
    /// A volume. While it is attached, what is done to it is about its instance.
    Volume(VolumeId),
    /// A port.
    Port(PortId),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Instance(id) => write!(f, "instance {id}"),
            Self::Image(name) => write!(f, "image {name}"),
            Self::Network(name) => write!(f, "network {name}"),
            Self::Volume(id) => write!(f, "volume {id}"),
            Self::Port(id) => write!(f, "port {id}"),
        }
    }
}

/// Where an operation is.
///
/// ```text
///   queued ──> running ──> succeeded
///     │           ├──────> undone      failed, and all it had done is undone
///     │           └──────> failed      failed, and something it did stays (`error` says what)
///     └──────────────────> cancelled   on request; all it had done is undone
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OperationState")]
pub enum State {
    /// Accepted, waiting for its turn.
    Queued,
    /// At work.
    Running,
    /// Done.
    Succeeded,
    /// Not done, and not wholly undone, or there was nothing that could be undone.
    Failed,
    /// Cancelled on request, and undone.
    Cancelled,
    /// Not done, and undone: things are as they were before.
    Undone,
}

impl State {
    /// Whether it is over: nothing about the operation changes any more.
    pub const fn is_over(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Failed | Self::Cancelled | Self::Undone => true,
        }
    }
}

/// Where a step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepState {
    /// Its turn has not come.
    Pending,
    /// Begun; written down before the work starts.
    Running,
    /// Done; written down after the work.
    Done,
    /// Failed.
    Failed,
    /// Its effect was taken back.
    Undone,
}

/// How far a long step is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// Units done.
    pub done: u64,
    /// Units in all, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total: Option<u64>,
    /// What is counted.
    pub unit: Unit,
}

/// What progress counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Milliseconds waited.
    Milliseconds,
}

/// One step of an operation's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Step {
    /// Its name, as in `create root disk`.
    pub name: String,
    /// What it is about, where that is not what the operation is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Subject>,
    /// Where it is.
    pub state: StepState,
    /// Whether it found so what it is to bring about: then it has made nothing, and an undo of the
    /// operation leaves that as it is.
    #[serde(default, skip_serializing_if = "is_false")]
    pub already: bool,
    /// How often it has failed and is tried again, with growing pauses, because the operation can
    /// only go on; the operation's `error` is the last of them.
    #[serde(default, skip_serializing_if = "is_none")]
    pub failures: u32,
    /// How far it is, for the ones that take long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// When it began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(already: &bool) -> bool {
    !*already
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_none(failures: &u32) -> bool {
    *failures == 0
}

/// An operation, as the node sees it now. Its error is a fault on the wire; whoever carries
/// operations out has another type for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Operation")]
pub struct Operation<E = Fault> {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: Kind,
    /// What it is about.
    pub subject: Subject,
    /// The key it was asked for with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// Where it is.
    pub state: State,
    /// Its plan.
    pub steps: Vec<Step>,
    /// Why it did not succeed; while it is still running, why it is being undone.
    #[serde(default = "none::<E>", skip_serializing_if = "Option::is_none")]
    pub error: Option<E>,
    /// What it came to, where that is more than done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Outcome>,
    /// Not to be begun after this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// When somebody asked for it to stop. It stops unless it has come too far for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancel_asked: Option<Timestamp>,
    /// Grows with every change; give it to `operation.wait` to be told of the next one.
    pub revision: u64,
    /// When it was accepted.
    pub accepted: Timestamp,
    /// When work began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started: Option<Timestamp>,
    /// When it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished: Option<Timestamp>,
}

const fn none<E>() -> Option<E> {
    None
}

impl<E> Operation<E> {
    /// The same operation with its error in other words.
    pub fn map_error<F>(self, words: impl FnOnce(E) -> F) -> Operation<F> {
        let Self {
            id,
            kind,
            subject,
            key,
            state,
            steps,
            error,
            result,
            deadline,
            cancel_asked,
            revision,
            accepted,
            started,
            finished,
        } = self;
        Operation {
            id,
            kind,
            subject,
            key,
            state,
            steps,
            error: error.map(words),
            result,
            deadline,
            cancel_asked,
            revision,
            accepted,
            started,
            finished,
        }
    }
}

/// What an operation came to, where that is more than done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// An image was made.
    Snapshot {
        /// The image.
        image: Name,
        /// Whether the guest's filesystems were frozen for the instant it shows.
        quiesced: bool,
        /// Why not, where they were not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
    },
    /// A volume was attached.
    Attached {
        /// The volume.
        volume: VolumeId,
        /// Its device by libvirt's name, as in `vdb`. The guest's own name may be another.
        device: String,
        /// What the guest sees as its serial number: `/dev/disk/by-id/virtio-` and the first 20
        /// bytes of it, for a disk on virtio-blk.
        serial: String,
    },
}

/// Parameters of `operation.get` and `operation.cancel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Select {
    /// The operation.
    pub id: OperationId,
}

/// Parameters of `operation.list`: newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct List {
    /// Only those about this instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance: Option<InstanceId>,
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// At most this many; 100 unless told, 1000 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}

/// Parameters of `operation.wait`: answers when the operation has changed since `revision`, or,
/// without one, when it is over; at the latest after `timeout`, with the operation as it is then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// The operation.
    pub id: OperationId,
    /// The last revision seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// Milliseconds; 30,000 unless told, 60,000 at most. Ask again to wait longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u32>,
}
