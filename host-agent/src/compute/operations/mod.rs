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
//! the change itself, which is journaled, with its [`Describe`]; [`Traits`] as `TRAITS`; and
//! `samples`, one of each form the change can have.

pub(super) mod adjust;
pub(super) mod boot;
pub(super) mod confirm_resize;
pub(super) mod delete;
pub(super) mod image_import;
pub(super) mod image_remove;
pub(super) mod lock;
pub(super) mod network_ensure;
pub(super) mod network_remove;
pub(super) mod offload;
pub(super) mod password;
pub(super) mod pause;
mod plans;
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
pub(super) mod unlock;
pub(super) mod unpause;
pub(super) mod unrescue;
pub(super) mod unshelve;
pub(super) mod update;

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, PowerState, TaskState, VmState};
use ostler_protocol::rpc::operation::{Kind, State, Subject};
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name};
use ostler_protocol::rpc::{image, network};
use serde::de::Error as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

pub use self::plans::plans;
use super::digest::Digested;
use super::gate::{Admitted, Gate};
use super::registry::Registry;
use super::steps::Step;
use crate::journal::Write;
use crate::journal::records::{InstanceRecord, Running};

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
            pub(super) fn ask(self, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
                match self { $(Self::$kind(params) => $file::ask(params, gate),)* }
            }
        }

        /// What an operation is to do, as far as it can be taken up again after a crash: without
        /// secrets.
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub(in crate::compute) enum Change {
            $($($change($file::$change),)*)*
        }

        $($(
            impl From<$file::$change> for Change {
                fn from(change: $file::$change) -> Self {
                    Self::$change(change)
                }
            }
        )*)*

        impl Change {
            /// What it comes down to, and what follows from it.
            pub(in crate::compute) fn described(&self) -> &dyn Describe {
                match self { $($(Self::$change(change) => change,)*)* }
            }
        }

        /// What is so of a kind, whatever is asked of it.
        pub(super) const fn traits(kind: Kind) -> Traits {
            match kind { $(Kind::$kind => $file::TRAITS,)* }
        }

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
    /// Fetch an image.
    ImageImport(image::Import) in image_import => ImageImport;
    /// Remove an image.
    ImageRemove(Name) in image_remove => ImageRemove;
    /// Make a network's bridge.
    NetworkEnsure(network::Ensure) in network_ensure => NetworkEnsure;
    /// Forget a network, and remove its bridge.
    NetworkRemove(Name) in network_remove => NetworkRemove;
}

/// What is so of a kind, whatever is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Traits {
    /// Whose turn it waits for.
    pub(super) permit: Permit,
    /// Whether it can be stopped on request.
    pub(super) can_cancel: bool,
}

/// The few that may do something at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// It waits for nobody: mostly it waits for its guest, and must not keep others from booting.
    None,
    /// Those that start a guest (`limits.boots`).
    Boot,
    /// Those that copy a disk (`limits.copies`).
    Copy,
    /// Those that fetch an image (`limits.downloads`).
    Download,
}

/// When something may be asked of an instance that exists, and what that is doing then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Legal {
    /// What is done to it, as in "it cannot be paused".
    pub(super) word: &'static str,
    /// The task it is in meanwhile.
    pub(super) task: TaskState,
    /// The states it is legal in: nova's gates, save that what is so already is accepted and does
    /// nothing, for callers repeat themselves.
    pub(super) from: &'static [VmState],
    /// Whether a lock keeps it from being done.
    pub(super) heeds_lock: bool,
    /// Whether it is legal for what was never up: what a boot that failed had made is undone, and
    /// the record is only kept to tell why.
    pub(super) unbuilt: bool,
    /// Whether it takes the place of what is under way.
    pub(super) overrides: bool,
}

impl Legal {
    /// What is asked of an instance that was built, one thing at a time, unless it is locked.
    pub(super) const fn new(word: &'static str, task: TaskState, from: &'static [VmState]) -> Self {
        Self { word, task, from, heeds_lock: true, unbuilt: false, overrides: false }
    }
}

/// What a change comes down to, and what follows from it. Pure. What most of them have in common
/// is here; an operation says what is different.
pub(super) trait Describe {
    /// The steps, in order, for an instance that ran, or did not, when it was accepted.
    fn plan(&self, was: Running) -> Vec<Step>;

    /// Whether things are as they were when it fails. What was asked of a guest cannot be taken
    /// back, and a removal goes on when asked again.
    fn can_undo(&self) -> bool {
        true
    }

    /// Whether what it brings about is so already, as the record says and as it is seen. What is
    /// not known is not so.
    fn is_so(&self, _vm: VmState, _power: PowerState) -> bool {
        false
    }

    /// Whether each step is tried until it is done: nobody wants half of it, or what was before.
    fn goes_on(&self) -> bool {
        false
    }

    /// Whether it takes the place of what is under way on the instance.
    fn overrides(&self) -> bool {
        false
    }

    /// Whether nothing of the instance is there before: an undo removes what was made.
    fn is_fresh(&self) -> bool {
        false
    }

    /// Whether the instance shall run after it exactly if it ran before.
    fn gives_back_power(&self) -> bool {
        false
    }

    /// How long the guest may take to do as it is asked, milliseconds; the setting's if none.
    fn patience(&self) -> Option<u32> {
        None
    }

    /// What it needs of the disk while it is under way: a copy of what the instance has, or another
    /// beside it.
    fn beside(&self, _record: &InstanceRecord) -> Bytes {
        Bytes(0)
    }

    /// The image it makes of an instance.
    fn makes(&self) -> Option<&Name> {
        None
    }

    /// What it makes of the record; its state aside.
    fn apply(&self, _record: &mut InstanceRecord, _was: Running) {}

    /// The stable state after it was done.
    fn done(&self, before: &InstanceRecord, _was: Running) -> VmState {
        before.vm_state
    }

    /// The stable state after it was taken back, or was stopped and taken back.
    fn taken_back(&self, _outcome: State, before: &InstanceRecord) -> VmState {
        before.vm_state
    }

    /// The stable state after it failed and could not be taken back. What was asked of a guest, or
    /// of QEMU, and did not happen changes nothing: what is seen decides.
    fn failed(&self, before: &InstanceRecord) -> VmState {
        before.vm_state
    }

    /// What becomes of an image or a network it is about.
    fn settle(
        &self,
        _subject: &Subject,
        _state: State,
        _registry: &mut Registry,
        _write: &mut Write,
    ) {
    }
}

impl Change {
    /// As the journal keeps it: a word, or a word with what belongs to it.
    pub(super) fn written(&self) -> Value {
        // It always serializes: its maps have text keys.
        let written = serde_json::to_value(self).unwrap_or_default();
        let bare = written.as_object().and_then(|members| {
            let (word, inner) = members.iter().next()?;
            inner.as_object()?.is_empty().then(|| Value::from(word.as_str()))
        });
        bare.unwrap_or(written)
    }

    /// From what the journal keeps.
    ///
    /// # Errors
    /// It is not of this version's, or an earlier one's.
    pub(super) fn read(written: Value) -> Result<Self, serde_json::Error> {
        match written {
            Value::String(word) => {
                serde_json::from_value(Value::Object(Map::from_iter([(word, Map::new().into())])))
            }
            Value::Object(members) => serde_json::from_value(Value::Object(members)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {
                Err(serde_json::Error::custom("a change is a word, or an object"))
            }
        }
    }

    /// The record as it shall be once the change is made; its state is settled elsewhere.
    pub(super) fn applied(&self, before: &InstanceRecord, was: Running) -> InstanceRecord {
        let mut record = before.clone();
        self.described().apply(&mut record, was);
        record
    }

    /// The stable state after an operation is over. `before` is the record it started from, `was`
    /// whether the instance ran then.
    pub(super) fn settled(&self, outcome: State, before: &InstanceRecord, was: Running) -> VmState {
        match outcome {
            State::Queued | State::Running => before.vm_state,
            State::Succeeded => self.described().done(before, was),
            State::Cancelled | State::Undone => self.described().taken_back(outcome, before),
            State::Failed => self.described().failed(before),
        }
    }
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

/// Steps for an instance that ran, none for another.
fn if_running(was: Running, steps: &[Step]) -> Vec<Step> {
    match was {
        Running::Yes => steps.to_vec(),
        Running::No => Vec::new(),
    }
}

/// The steps that start a guest.
const START: [Step; 3] = [Step::EnsureBridges, Step::DefineDomain, Step::StartDomain];
/// The steps that shut a guest down, by force in the end.
const SHUT_DOWN: [Step; 2] = [Step::AskShutdown, Step::PowerOff];
/// The steps that leave nothing of an instance on the node.
const REMOVE: [Step; 4] =
    [Step::UndefineDomain, Step::RemoveLinks, Step::RemoveFiles, Step::DropBase];
/// An operation that waits for nobody, and can be stopped.
const CANCELLABLE: Traits = Traits { permit: Permit::None, can_cancel: true };
/// An operation that waits for nobody, and is too short, or too far, to be stopped.
const BRIEF: Traits = Traits { permit: Permit::None, can_cancel: false };

#[cfg(test)]
mod tests;
