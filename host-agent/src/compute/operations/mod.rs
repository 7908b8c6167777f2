//! The operations: each described whole in one file. When it may be asked for, what it comes down
//! to, whether it is taken back, and what becomes of what it is about.
//!
//! ```text
//!   Command ── ask (in the gate, pure) ──> Change, written down ── plan ──> steps
//!                                            │
//!                                            └── over: what the record is then
//! ```
//!
//! Here they are listed, once; the gate, the worker, the plans that `rpc.discover` tells and the
//! fault bench go by this list. A file has `ask`, which makes a request a [`Change`] or refuses it;
//! the change itself, which is journaled, with its [`Describe`](super::describe::Describe); and
//! `samples`, one of each form the change can have.

pub(super) mod adjust;
pub(super) mod attach_interface;
pub(super) mod attach_volume;
pub(super) mod boot;
pub(super) mod confirm_resize;
pub(super) mod delete;
pub(super) mod detach_interface;
pub(super) mod detach_volume;
mod digest;
pub(super) mod image_export;
pub(super) mod image_import;
pub(super) mod image_remove;
pub(super) mod lock;
pub(super) mod network_ensure;
pub(super) mod network_remove;
pub(super) mod offload;
pub(super) mod password;
pub(super) mod pause;
mod plans;
pub(super) mod port_create;
pub(super) mod port_delete;
pub(super) mod port_update;
pub(super) mod reboot;
pub(super) mod rebuild;
pub(super) mod rescue;
pub(super) mod reset;
pub(super) mod resize;
pub(super) mod restore;
pub(super) mod resume;
pub(super) mod revert_resize;
pub(super) mod sample;
pub(super) mod shelve;
pub(super) mod snapshot;
pub(super) mod start;
pub(super) mod stop;
pub(super) mod suspend;
pub(super) mod swap_volume;
pub(super) mod unlock;
pub(super) mod unpause;
pub(super) mod unrescue;
pub(super) mod unshelve;
pub(super) mod update;
pub(super) mod volume_create;
pub(super) mod volume_delete;
pub(super) mod volume_delete_snapshot;
pub(super) mod volume_extend;
pub(super) mod volume_revert;
pub(super) mod volume_snapshot;
pub(super) mod volume_update;

use crate::refusal::Refusal;
use ostler_protocol::rpc::instance::{self, VmState};
use ostler_protocol::rpc::operation::Kind;
use ostler_protocol::rpc::values::{InstanceId, Name, PortId};
use ostler_protocol::rpc::{image, network, port, volume};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use self::digest::Digested;
pub use self::plans::plans;
use super::admission::{Admission, Admitted};
use super::describe::Change;
use super::step::Step;
use crate::journal::records::{InstanceRecord, Running};

/// What most files here need.
mod prelude {
    pub(super) use crate::refusal::{Action, Reason, Refusal};
    pub(super) use ostler_protocol::rpc::instance::{self, PowerState, TaskState, VmState};
    pub(super) use ostler_protocol::rpc::operation::{State, Subject};
    pub(super) use ostler_protocol::rpc::values::{Bytes, InstanceId, Name};
    pub(super) use serde::{Deserialize, Serialize};

    pub(super) use super::{REMOVE, SHUT_DOWN, START, as_it_was, config_drive, running_again};
    pub(super) use crate::compute::admission::{Admission, Admitted};
    pub(super) use crate::compute::describe::{Change, Describe, Legal, Permit};
    pub(super) use crate::compute::plan::Plan;
    pub(super) use crate::compute::step::Step;
    pub(super) use crate::journal::records::{InstanceRecord, Running};
}

macro_rules! operations {
    ($($(#[$doc:meta])* $kind:ident($params:ty) in $file:ident => $($change:ident),*;)*) => {
        /// A change that is asked for.
        #[derive(Debug, Clone, PartialEq)]
        pub enum Command {
            $($(#[$doc])* $kind($params),)*
        }

        impl Command {
            /// The kind of operation it becomes.
            pub const fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// A digest that tells a repeated request from a different one under the same key. It
            /// is kept in the journal, so no secret goes into it: a repeated key with another
            /// password is the same request.
            pub fn fingerprint(&self) -> String {
                let mut digest = Sha256::new();
                digest.update(self.kind().method());
                digest.update([0]);
                match self { $(Self::$kind(params) => digest.update(params.digested()),)* }
                digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
            }

            /// What it becomes, as things are.
            ///
            /// # Errors
            /// Why it is refused.
            pub(super) fn ask(self, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
                match self { $(Self::$kind(params) => $file::ask(params, gate),)* }
            }
        }

        /// A change as the journal keeps it.
        #[derive(Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Written {
            $($($change($file::$change),)*)*
        }

        impl From<Written> for Change {
            fn from(written: Written) -> Self {
                let kept = kept(&written);
                match written {
                    $($(Written::$change(change) => {
                        Self { described: Box::new(change), written: kept }
                    })*)*
                }
            }
        }

        $($(
            impl From<$file::$change> for Change {
                fn from(change: $file::$change) -> Self {
                    Written::$change(change).into()
                }
            }
        )*)*

        /// One of each form that a kind's change can have.
        fn samples(kind: Kind) -> Vec<Change> {
            match kind { $(Kind::$kind => $file::samples(),)* }
        }
    };
}

operations! {
    /// Make an instance and start it.
    Boot(instance::Boot) in boot => Boot;
    /// Switch it on.
    Start(InstanceId) in start => Start;
    /// Switch it off.
    Stop(instance::Halt) in stop => Stop;
    /// Restart it.
    Reboot(instance::Halt) in reboot => Reboot;
    /// Stop its vCPUs.
    Pause(InstanceId) in pause => Pause;
    /// Let its vCPUs run.
    Unpause(InstanceId) in unpause => Unpause;
    /// Save its memory and switch it off.
    Suspend(InstanceId) in suspend => Suspend;
    /// Switch it on with the memory that was saved.
    Resume(InstanceId) in resume => Resume;
    /// Give it a new root disk.
    Rebuild(instance::Rebuild) in rebuild => Rebuild;
    /// Put its root disk back to its image.
    Reset(instance::Reset) in reset => ;
    /// Boot it from a rescue image.
    Rescue(instance::Rescue) in rescue => Rescue;
    /// Boot it from its own disk again.
    Unrescue(InstanceId) in unrescue => Unrescue;
    /// Give it another size.
    Resize(instance::Resize) in resize => Resize;
    /// Keep the new size.
    ConfirmResize(InstanceId) in confirm_resize => ConfirmResize;
    /// Go back to the old size.
    RevertResize(InstanceId) in revert_resize => RevertResize;
    /// Change vCPUs and memory in place.
    Adjust(instance::Adjust) in adjust => Adjust;
    /// Make an image of its root disk.
    Snapshot(instance::Snapshot) in snapshot => Snapshot;
    /// Switch it off and keep it as an image.
    Shelve(instance::Shelve) in shelve => Shelve;
    /// Leave only the image.
    Offload(InstanceId) in offload => Offload;
    /// Bring it back.
    Unshelve(InstanceId) in unshelve => Unshelve;
    /// Change its name, owner or metadata.
    Update(instance::Update) in update => Update;
    /// Refuse changes to it.
    Lock(instance::Lock) in lock => Lock;
    /// Allow changes again.
    Unlock(InstanceId) in unlock => Unlock;
    /// Delete it.
    Delete(instance::Delete) in delete => Delete, SoftDelete;
    /// Take back a soft delete.
    Restore(InstanceId) in restore => Restore;
    /// Set a password in the guest.
    Password(instance::Password) in password => Password;
    /// Give it a volume.
    AttachVolume(volume::Attach) in attach_volume => AttachVolume;
    /// Take a volume from it.
    DetachVolume(volume::Detach) in detach_volume => DetachVolume;
    /// Put another volume in the place of one it has.
    SwapVolume(volume::Swap) in swap_volume => SwapVolume;
    /// Give it a port.
    AttachInterface(port::Attach) in attach_interface => AttachInterface;
    /// Take a port from it.
    DetachInterface(port::Detach) in detach_interface => DetachInterface;
    /// Fetch an image.
    ImageImport(image::Import) in image_import => ImageImport;
    /// Write an image to a file of the node, or send it to a server.
    ImageExport(image::Export) in image_export => ImageExport;
    /// Remove an image.
    ImageRemove(Name) in image_remove => ImageRemove;
    /// Make a network's bridge.
    NetworkEnsure(network::Ensure) in network_ensure => NetworkEnsure;
    /// Forget a network, and remove its bridge.
    NetworkRemove(Name) in network_remove => NetworkRemove;
    /// Make a port on a network.
    PortCreate(port::Create) in port_create => PortCreate;
    /// Change what is noted about a port, or its addresses.
    PortUpdate(port::Update) in port_update => PortUpdate;
    /// Delete a port.
    PortDelete(PortId) in port_delete => PortDelete;
    /// Make a volume.
    VolumeCreate(volume::Create) in volume_create => VolumeCreate;
    /// Change what is noted about a volume.
    VolumeUpdate(volume::Update) in volume_update => VolumeUpdate;
    /// Make a volume larger.
    VolumeExtend(volume::Extend) in volume_extend => VolumeExtend;
    /// Keep what a volume holds.
    VolumeSnapshot(volume::TakeSnapshot) in volume_snapshot => VolumeSnapshot;
    /// Forget a snapshot.
    VolumeDeleteSnapshot(volume::SelectSnapshot) in volume_delete_snapshot => VolumeDeleteSnapshot;
    /// Have a volume go back to a snapshot.
    VolumeRevert(volume::SelectSnapshot) in volume_revert => VolumeRevert;
    /// Delete a volume.
    VolumeDelete(volume::Delete) in volume_delete => VolumeDelete;
}

/// A change as the journal keeps it: a word, or a word with what belongs to it.
fn kept(written: &Written) -> Value {
    // It always serializes: its maps have text keys.
    let kept = serde_json::to_value(written).unwrap_or_default();
    let bare = kept.as_object().and_then(|members| {
        let (word, inner) = members.iter().next()?;
        inner.as_object()?.is_empty().then(|| Value::from(word.as_str()))
    });
    bare.unwrap_or(kept)
}

/// A change from what the journal keeps.
///
/// # Errors
/// It is not of this version's, or an earlier one's.
pub(super) fn read(kept: Value) -> Result<Change, serde_json::Error> {
    let written: Written = match kept {
        Value::String(word) => {
            serde_json::from_value(Value::Object(Map::from_iter([(word, Map::new().into())])))
        }
        Value::Object(members) => serde_json::from_value(Value::Object(members)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
            Err(serde_json::Error::custom("a change is a word, or an object"))
        }
    }?;
    Ok(written.into())
}

/// The state an instance is in that ran, or did not.
pub(super) const fn as_it_was(was: Running) -> VmState {
    match was {
        Running::Yes => VmState::Active,
        Running::No => VmState::Stopped,
    }
}

/// The state of an instance that runs again: one that was rescued, or waits for a word about its
/// resize, still does.
fn running_again(before: &InstanceRecord) -> VmState {
    match matches!(before.vm_state, VmState::Rescued | VmState::Resized) {
        true => before.vm_state,
        false => VmState::Active,
    }
}

/// The steps that make what an instance has of a config drive.
const fn config_drive(has: bool) -> &'static [Step] {
    match has {
        true => &[Step::WriteConfigDrive],
        false => &[],
    }
}

/// The steps that start a guest.
const START: [Step; 3] = [Step::EnsureBridges, Step::DefineDomain, Step::StartDomain];
/// The steps that shut a guest down, by force in the end.
const SHUT_DOWN: [Step; 2] = [Step::AskShutdown, Step::PowerOff];
/// The steps that leave nothing of an instance on the node.
const REMOVE: [Step; 4] =
    [Step::UndefineDomain, Step::RemoveLinks, Step::RemoveFiles, Step::DropBase];
#[cfg(test)]
mod tests;
