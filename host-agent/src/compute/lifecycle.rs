//! What is legal in which state, and what follows from what is seen: plain functions over nova's
//! three kinds of state, with no lock and no I/O.

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::rpc::instance::{PowerState, Status, TaskState, VmState};
use ostler_protocol::rpc::values::Timestamp;

use super::describe::Legal;
use crate::journal::records::{InstanceRecord, Running};

/// Whether something may be done to an instance.
///
/// # Errors
/// `conflict`, with the reason of a lock, with what the instance is doing, or with what would be
/// legal.
pub(super) fn is_legal(
    legal: &Legal,
    record: &InstanceRecord,
    now: Timestamp,
) -> Result<(), Refusal> {
    let conflict = |text: String| Refusal::new(Reason::Conflict, text);
    if let Some(why) = record.locked.as_deref().filter(|_| legal.heeds_lock) {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        return Err(conflict(format!("conflict: the instance is locked{why}"))
            .next("unlock it first")
            .by(Action::InstanceUnlock));
    }
    if let (Some(task), false) = (record.task_state, legal.overrides) {
        let (doing, since) = (doing(task), now.since(record.updated) / 1000);
        let text = format!("conflict: the instance is {doing}; that began {since} s ago");
        return Err(conflict(text)
            .next("wait for the operation in flight")
            .by(Action::OperationList));
    }
    if !legal.from.contains(&record.vm_state) {
        let status = Status::of(record.vm_state, None);
        let text = format!("conflict: an instance that is {status} cannot be {}", legal.word);
        return Err(match way_out(record) {
            Some((next, action)) => conflict(text).next(next).by(action),
            None => conflict(text),
        });
    }
    if !record.built && !legal.unbuilt {
        let text = format!("conflict: the instance never ran, so it cannot be {}", legal.word);
        return Err(conflict(text)
            .next("see why, delete it, and boot again")
            .by(Action::InstanceShow(Some(record.id))));
    }
    Ok(())
}

/// What brings an instance from a state that allows little to one that allows more.
const fn way_out(record: &InstanceRecord) -> Option<(&'static str, Action)> {
    match record.vm_state {
        VmState::Stopped => Some(("start it first", Action::InstanceStart(None))),
        VmState::Paused => Some(("unpause it first", Action::InstanceUnpause)),
        VmState::Suspended => Some(("resume it first", Action::InstanceResume)),
        VmState::Rescued => Some(("unrescue it first", Action::InstanceUnrescue)),
        VmState::Resized => Some(("confirm or revert the resize first", Action::InstanceResizeEnd)),
        VmState::Shelved | VmState::ShelvedOffloaded => {
            Some(("unshelve it first", Action::InstanceUnshelve))
        }
        VmState::SoftDeleted => Some(("restore it first", Action::InstanceRestore)),
        VmState::Error => Some((
            "see why, then reboot it hard, rebuild it, or delete it",
            Action::InstanceShow(Some(record.id)),
        )),
        VmState::Building | VmState::Active | VmState::Deleted => None,
    }
}

/// What a task does, in words.
pub(super) const fn doing(task: TaskState) -> &'static str {
    match task {
        TaskState::Spawning => "booting",
        TaskState::PoweringOn => "starting",
        TaskState::PoweringOff => "stopping",
        TaskState::Rebooting | TaskState::RebootingHard => "rebooting",
        TaskState::UpdatingPassword => "being given a password",
        TaskState::Pausing => "being paused",
        TaskState::Unpausing => "being unpaused",
        TaskState::Suspending => "being suspended",
        TaskState::Resuming => "resuming",
        TaskState::Rebuilding => "being rebuilt",
        TaskState::Rescuing => "being rescued",
        TaskState::Unrescuing => "being unrescued",
        TaskState::Resizing => "being resized",
        TaskState::RevertingResize => "going back to its old size",
        TaskState::ConfirmingResize => "being confirmed in its new size",
        TaskState::Snapshotting => "being copied to an image",
        TaskState::Shelving => "being shelved",
        TaskState::Offloading => "being offloaded",
        TaskState::Unshelving => "being unshelved",
        TaskState::Updating => "being updated",
        TaskState::Adjusting => "being adjusted",
        TaskState::AttachingVolume => "being given a volume",
        TaskState::DetachingVolume => "giving a volume back",
        TaskState::ChangingVolume => "having one of its volumes changed",
        TaskState::AttachingInterface => "being given a port",
        TaskState::DetachingInterface => "giving a port back",
        TaskState::SoftDeleting | TaskState::Deleting => "being deleted",
        TaskState::Restoring => "being restored",
    }
}

/// Whether an instance in this power state holds a place that an operation gives back to it.
pub(super) const fn running(power: PowerState) -> Running {
    match power {
        PowerState::Running | PowerState::Paused | PowerState::Suspended => Running::Yes,
        PowerState::Unknown | PowerState::None | PowerState::Shutdown | PowerState::Crashed => {
            Running::No
        }
    }
}

/// The stable state that an observed power state calls for, in an instance with no task in
/// flight: what is seen is believed, and nothing is done to the guest for it. `None` leaves it.
pub(super) const fn observed(vm: VmState, power: PowerState) -> Option<VmState> {
    match (vm, power) {
        (VmState::Active | VmState::Paused, PowerState::Shutdown | PowerState::Crashed) => {
            Some(VmState::Stopped)
        }
        (VmState::Stopped | VmState::Paused | VmState::Suspended, PowerState::Running) => {
            Some(VmState::Active)
        }
        // UNKNOWN is not OFF, and a missing domain is for an operator to judge. What else does not
        // fit together is shown as drift.
        (
            VmState::Active,
            PowerState::Unknown
            | PowerState::None
            | PowerState::Running
            | PowerState::Paused
            | PowerState::Suspended,
        )
        | (
            VmState::Paused,
            PowerState::Unknown | PowerState::None | PowerState::Paused | PowerState::Suspended,
        )
        | (
            VmState::Stopped | VmState::Suspended,
            PowerState::Unknown
            | PowerState::None
            | PowerState::Shutdown
            | PowerState::Crashed
            | PowerState::Paused
            | PowerState::Suspended,
        )
        | (
            VmState::Building
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved
            | VmState::ShelvedOffloaded
            | VmState::SoftDeleted
            | VmState::Error
            | VmState::Deleted,
            _,
        ) => None,
    }
}

/// What is wrong with the power state of an instance with no task in flight: somebody else has
/// had a hand in it. `None` if it is as it should be, or not known.
pub(super) const fn power_drift(vm: VmState, power: PowerState) -> Option<&'static str> {
    const GONE: &str = "its domain is gone from the hypervisor";
    match (vm, power) {
        (_, PowerState::Unknown)
        | (VmState::Building | VmState::Error, _)
        | (VmState::Active, PowerState::Running | PowerState::Suspended)
        | (VmState::Paused, PowerState::Paused)
        | (VmState::Rescued | VmState::Resized, PowerState::Running | PowerState::Suspended)
        | (
            VmState::Stopped
            | VmState::Suspended
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved
            | VmState::SoftDeleted,
            PowerState::Shutdown | PowerState::Crashed,
        )
        | (VmState::ShelvedOffloaded | VmState::SoftDeleted | VmState::Deleted, PowerState::None) => {
            None
        }
        (VmState::Active, PowerState::Paused) => Some("its vCPUs were paused behind the agent"),
        (
            VmState::Active
            | VmState::Paused
            | VmState::Suspended
            | VmState::Stopped
            | VmState::Rescued
            | VmState::Resized
            | VmState::Shelved,
            PowerState::None,
        ) => Some(GONE),
        (VmState::Active | VmState::Paused, PowerState::Shutdown | PowerState::Crashed) => {
            Some("it was switched off behind the agent")
        }
        (VmState::Rescued | VmState::Resized, PowerState::Paused) => {
            Some("its vCPUs were paused behind the agent")
        }
        (VmState::Paused, PowerState::Running | PowerState::Suspended)
        | (
            VmState::Stopped | VmState::Suspended | VmState::Shelved | VmState::SoftDeleted,
            PowerState::Running | PowerState::Paused | PowerState::Suspended,
        )
        | (
            VmState::ShelvedOffloaded | VmState::Deleted,
            PowerState::Running
            | PowerState::Paused
            | PowerState::Suspended
            | PowerState::Shutdown
            | PowerState::Crashed,
        ) => Some("it was switched on, or defined, behind the agent"),
    }
}

#[cfg(test)]
mod tests;
