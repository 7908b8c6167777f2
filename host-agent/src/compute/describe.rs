//! What there is to say of an operation: the form that each file in
//! [`operations`](super::operations) fills in. Pure.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Deref;

use ostler_protocol::rpc::instance::{PowerState, TaskState, VmState};
use ostler_protocol::rpc::operation::State;
use ostler_protocol::rpc::values::{Bytes, Name, PortId, VolumeId};
use serde_json::Value;

use super::plan::Plan;
use crate::journal::records::{
    ImageRecord, InstanceRecord, NetworkRecord, PortRecord, Running, VolumeRecord,
};
use crate::journal::{Entry, PortEntry, VolumeEntry};
use crate::refusal::Refusal;

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
pub struct Legal {
    /// What is done to it, as in "it cannot be paused".
    pub word: &'static str,
    /// The task it is in meanwhile.
    pub task: TaskState,
    /// The states it is legal in: nova's gates, save that what is so already is accepted and does
    /// nothing, for callers repeat themselves.
    pub from: &'static [VmState],
    /// Whether a lock keeps it from being done.
    pub heeds_lock: bool,
    /// Whether it is legal for what was never up: what a boot that failed had made is undone, and
    /// the record is only kept to tell why.
    pub unbuilt: bool,
    /// Whether it takes the place of what is under way.
    pub overrides: bool,
}

impl Legal {
    /// What is asked of an instance that was built, one thing at a time, unless it is locked.
    pub(super) const fn new(word: &'static str, task: TaskState, from: &'static [VmState]) -> Self {
        Self { word, task, from, heeds_lock: true, unbuilt: false, overrides: false }
    }
}

/// A change, what it comes down to, and what follows from it. What most of them have in common is
/// here; an operation says what is different.
pub(super) trait Describe: Any + fmt::Debug + Send + Sync {
    /// The steps, in order, for an instance that ran, or did not, when it was accepted.
    fn plan(&self, was: Running) -> Plan;

    /// Whose turn it waits for.
    fn permit(&self) -> Permit {
        Permit::None
    }

    /// Whether it can be stopped on request. What is short, or destroys, cannot.
    fn can_cancel(&self) -> bool {
        true
    }

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

    /// The volumes it works on, or reads: it alone does, until it is over.
    fn volumes(&self) -> Vec<VolumeId> {
        Vec::new()
    }

    /// The port it works on: it alone does, until it is over.
    fn port(&self) -> Option<PortId> {
        None
    }

    /// The port that is made with it, and goes if it is not done.
    fn new_port(&self) -> Option<PortId> {
        None
    }

    /// The size it gives the volume it works on.
    fn extends_to(&self) -> Option<Bytes> {
        None
    }

    /// What it makes of the record; its state aside.
    fn apply(&self, _record: &mut InstanceRecord, _was: Running) {}

    /// What the record is if it was not done: `whole` tells whether all was taken back.
    fn not_done(&self, _record: &mut InstanceRecord, _whole: bool) {}

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

    /// What becomes of the image it is about, of which `known` is what is known.
    fn image_after(
        &self,
        _image: &Name,
        _known: Option<&ImageRecord>,
        _outcome: State,
    ) -> Option<Entry<ImageRecord>> {
        None
    }

    /// What becomes of the volumes it works on, of which `known` is what is known, and why it was
    /// not done, if it was not.
    fn volumes_after(
        &self,
        _known: &BTreeMap<VolumeId, VolumeRecord>,
        _outcome: State,
        _why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        Vec::new()
    }

    /// What becomes of the port it is about, of which `known` is what is known.
    fn port_after(&self, _known: Option<&PortRecord>, _outcome: State) -> Option<PortEntry> {
        None
    }

    /// What becomes of the network it is about.
    fn network_after(&self, _outcome: State) -> Option<Entry<NetworkRecord>> {
        None
    }
}

impl dyn Describe {
    /// The change as what it is; none if it is another.
    pub(super) fn downcast<T: Describe>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }

    /// Whether it is such a change.
    pub(super) fn is<T: Describe>(&self) -> bool {
        self.downcast::<T>().is_some()
    }

    /// The record as it shall be once the change is made; its state is settled elsewhere.
    pub(super) fn applied(&self, before: &InstanceRecord, was: Running) -> InstanceRecord {
        let mut record = before.clone();
        self.apply(&mut record, was);
        record
    }

    /// The stable state after an operation is over. `before` is the record it started from, `was`
    /// whether the instance ran then.
    pub(super) fn settled(&self, outcome: State, before: &InstanceRecord, was: Running) -> VmState {
        match outcome {
            State::Queued | State::Running => before.vm_state,
            State::Succeeded => self.done(before, was),
            State::Cancelled | State::Undone => self.taken_back(outcome, before),
            State::Failed => self.failed(before),
        }
    }
}

/// What an operation is to do, as far as it can be taken up again after a crash: without secrets.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) described: Box<dyn Describe>,
    /// As the journal keeps it.
    pub(super) written: Value,
}

impl Deref for Change {
    type Target = dyn Describe;

    fn deref(&self) -> &Self::Target {
        &*self.described
    }
}
