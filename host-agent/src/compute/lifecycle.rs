//! Which command is legal in which state, and which state follows: plain functions over nova's
//! three kinds of state, with no lock and no I/O.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{DeleteMode, Manner, PowerState, Status, TaskState, VmState};
use ostler_protocol::rpc::operation::State;
use ostler_protocol::rpc::values::Timestamp;

use crate::journal::records::{Change, InstanceRecord, Running};

/// A command on an instance that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Stop,
    Reboot(Manner),
    Pause,
    Unpause,
    Suspend,
    Resume,
    Rebuild,
    Reset,
    Rescue,
    Unrescue,
    Resize,
    ConfirmResize,
    RevertResize,
    Adjust,
    Snapshot,
    Shelve,
    Offload,
    Unshelve,
    Update,
    Lock,
    Unlock,
    Delete(DeleteMode),
    Restore,
    Password,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Reboot(_) => "rebooted",
            Self::Pause => "paused",
            Self::Unpause => "unpaused",
            Self::Suspend => "suspended",
            Self::Resume => "resumed",
            Self::Rebuild => "rebuilt",
            Self::Reset => "reset",
            Self::Rescue => "rescued",
            Self::Unrescue => "unrescued",
            Self::Resize => "resized",
            Self::ConfirmResize => "confirmed in its new size",
            Self::RevertResize => "put back to its old size",
            Self::Adjust => "adjusted",
            Self::Snapshot => "copied to an image",
            Self::Shelve => "shelved",
            Self::Offload => "offloaded",
            Self::Unshelve => "unshelved",
            Self::Update => "updated",
            Self::Lock => "locked",
            Self::Unlock => "unlocked",
            Self::Delete(_) => "deleted",
            Self::Restore => "restored",
            Self::Password => "given a password",
        }
    }

    /// The task an instance is in while this is done.
    pub(super) const fn task(self) -> TaskState {
        match self {
            Self::Start => TaskState::PoweringOn,
            Self::Stop => TaskState::PoweringOff,
            Self::Reboot(Manner::Soft) => TaskState::Rebooting,
            Self::Reboot(Manner::Hard) => TaskState::RebootingHard,
            Self::Pause => TaskState::Pausing,
            Self::Unpause => TaskState::Unpausing,
            Self::Suspend => TaskState::Suspending,
            Self::Resume => TaskState::Resuming,
            Self::Rebuild | Self::Reset => TaskState::Rebuilding,
            Self::Rescue => TaskState::Rescuing,
            Self::Unrescue => TaskState::Unrescuing,
            Self::Resize => TaskState::Resizing,
            Self::ConfirmResize => TaskState::ConfirmingResize,
            Self::RevertResize => TaskState::RevertingResize,
            Self::Adjust => TaskState::Adjusting,
            Self::Snapshot => TaskState::Snapshotting,
            Self::Shelve => TaskState::Shelving,
            Self::Offload => TaskState::Offloading,
            Self::Unshelve => TaskState::Unshelving,
            Self::Update | Self::Lock | Self::Unlock => TaskState::Updating,
            Self::Delete(DeleteMode::Soft) => TaskState::SoftDeleting,
            Self::Delete(DeleteMode::Hard) => TaskState::Deleting,
            Self::Restore => TaskState::Restoring,
            Self::Password => TaskState::UpdatingPassword,
        }
    }

    /// The states it is legal in: nova's gates, save that what is so already is accepted and does
    /// nothing, for callers repeat themselves.
    const fn from(self) -> &'static [VmState] {
        use VmState::{
            Active, Building, Deleted, Error, Paused, Rescued, Resized, Shelved, ShelvedOffloaded,
            SoftDeleted, Stopped, Suspended,
        };
        match self {
            Self::Start => &[Active, Stopped],
            Self::Stop => &[Active, Stopped, Error],
            Self::Reboot(Manner::Soft) | Self::Password => &[Active],
            Self::Reboot(Manner::Hard) => &[Active, Stopped, Paused, Suspended, Error],
            Self::Pause => &[Active, Paused],
            // Not nova's: what QEMU paused because its disk failed is to go on.
            Self::Unpause => &[Active, Paused, Rescued, Resized],
            Self::Suspend | Self::Resume => &[Active, Suspended],
            Self::Rebuild | Self::Reset | Self::Rescue => &[Active, Stopped, Error],
            Self::Unrescue => &[Rescued],
            Self::Resize | Self::Adjust => &[Active, Stopped],
            Self::ConfirmResize | Self::RevertResize => &[Resized],
            Self::Snapshot | Self::Shelve => &[Active, Stopped, Paused, Suspended],
            Self::Offload => &[Shelved],
            Self::Unshelve => &[Shelved, ShelvedOffloaded],
            Self::Update | Self::Lock | Self::Unlock => &[
                Active,
                Paused,
                Suspended,
                Stopped,
                Rescued,
                Resized,
                Shelved,
                ShelvedOffloaded,
                Error,
            ],
            Self::Delete(DeleteMode::Soft) => &[
                Active,
                Paused,
                Suspended,
                Stopped,
                Rescued,
                Resized,
                Shelved,
                ShelvedOffloaded,
                SoftDeleted,
                Error,
                Deleted,
            ],
            Self::Delete(DeleteMode::Hard) => &[
                Building,
                Active,
                Paused,
                Suspended,
                Stopped,
                Rescued,
                Resized,
                Shelved,
                ShelvedOffloaded,
                SoftDeleted,
                Error,
                Deleted,
            ],
            Self::Restore => &[SoftDeleted],
        }
    }

    /// Whether a lock keeps it from being done.
    const fn heeds_lock(self) -> bool {
        match self {
            Self::Lock | Self::Unlock | Self::Snapshot => false,
            Self::Start
            | Self::Stop
            | Self::Reboot(_)
            | Self::Pause
            | Self::Unpause
            | Self::Suspend
            | Self::Resume
            | Self::Rebuild
            | Self::Reset
            | Self::Rescue
            | Self::Unrescue
            | Self::Resize
            | Self::ConfirmResize
            | Self::RevertResize
            | Self::Adjust
            | Self::Shelve
            | Self::Offload
            | Self::Unshelve
            | Self::Update
            | Self::Delete(_)
            | Self::Restore
            | Self::Password => true,
        }
    }
}

/// Whether `action` may be done to an instance in this state.
///
/// # Errors
/// `conflict`, with what the instance is doing or what would be legal.
pub(super) fn may(
    action: Action,
    vm: VmState,
    task: Option<TaskState>,
    since: Timestamp,
    now: Timestamp,
) -> Result<(), Fault> {
    if let (Some(task), false) = (task, matches!(action, Action::Delete(DeleteMode::Hard))) {
        let text = format!(
            "conflict: the instance is {}; that began {} s ago",
            doing(task),
            now.since(since) / 1000
        );
        return Err(Fault::new(Reason::Conflict, text)
            .next("wait for the operation in flight: ostler operation list"));
    }
    if action.from().contains(&vm) {
        return Ok(());
    }
    let status = Status::of(vm, None);
    let text = format!("conflict: an instance that is {status} cannot be {}", action.word());
    let fault = Fault::new(Reason::Conflict, text);
    Err(match way_out(vm) {
        Some(next) => fault.next(next),
        None => fault,
    })
}

/// What brings an instance from a state that allows little to one that allows more.
const fn way_out(vm: VmState) -> Option<&'static str> {
    match vm {
        VmState::Stopped => Some("start it first: ostler instance start"),
        VmState::Paused => Some("unpause it first: ostler instance unpause"),
        VmState::Suspended => Some("resume it first: ostler instance resume"),
        VmState::Rescued => Some("unrescue it first: ostler instance unrescue"),
        VmState::Resized => {
            Some("confirm or revert the resize first: ostler instance resize --confirm, --revert")
        }
        VmState::Shelved | VmState::ShelvedOffloaded => {
            Some("unshelve it first: ostler instance unshelve")
        }
        VmState::SoftDeleted => Some("restore it first: ostler instance restore"),
        VmState::Error => {
            Some("see why with ostler instance show; reboot it --hard, rebuild it, or delete it")
        }
        VmState::Building | VmState::Active | VmState::Deleted => None,
    }
}

/// Whether what a change brings about is so already: as its record says, and as it is seen. What is
/// not known is not so.
pub(super) const fn is_so(change: &Change, vm: VmState, power: PowerState) -> bool {
    match change {
        Change::Start | Change::Resume => {
            matches!((vm, power), (VmState::Active, PowerState::Running))
        }
        Change::Unpause => matches!(
            (vm, power),
            (VmState::Active | VmState::Rescued | VmState::Resized, PowerState::Running)
        ),
        Change::Stop { .. } => {
            matches!((vm, power), (VmState::Stopped, PowerState::Shutdown | PowerState::Crashed))
        }
        Change::Pause => matches!((vm, power), (VmState::Paused, PowerState::Paused)),
        Change::Suspend => matches!((vm, power), (VmState::Suspended, PowerState::Shutdown)),
        Change::SoftDelete { .. } => matches!(
            (vm, power),
            (VmState::SoftDeleted, PowerState::Shutdown | PowerState::Crashed | PowerState::None)
        ),
        // A reboot of what runs, a snapshot of what has one: these are done each time.
        Change::Boot
        | Change::Reboot { .. }
        | Change::Rebuild { .. }
        | Change::Rescue { .. }
        | Change::Unrescue
        | Change::Resize { .. }
        | Change::ConfirmResize
        | Change::RevertResize { .. }
        | Change::Adjust { .. }
        | Change::Snapshot { .. }
        | Change::Shelve { .. }
        | Change::Offload
        | Change::Unshelve { .. }
        | Change::Update { .. }
        | Change::Lock { .. }
        | Change::Unlock
        | Change::Restore { .. }
        | Change::Delete
        | Change::Password { .. }
        | Change::ImageImport { .. }
        | Change::ImageRemove
        | Change::NetworkEnsure { .. }
        | Change::NetworkRemove { .. } => false,
    }
}

/// Whether nobody has locked the instance against `action`.
///
/// # Errors
/// `conflict`, with the reason of the lock.
pub(super) fn is_unlocked(action: Action, locked: Option<&str>) -> Result<(), Fault> {
    let Some(why) = locked.filter(|_| action.heeds_lock()) else { return Ok(()) };
    let why = if why.is_empty() { String::new() } else { format!(": {why}") };
    let text = format!("conflict: the instance is locked{why}");
    Err(Fault::new(Reason::Conflict, text).next("unlock it first: ostler instance unlock"))
}

/// Whether an instance may be deleted though it is in ERROR.
///
/// # Errors
/// `conflict`, unless the caller says that the error is known.
pub(super) fn is_known_error(vm: VmState, ignore_error: bool) -> Result<(), Fault> {
    if vm != VmState::Error || ignore_error {
        return Ok(());
    }
    Err(Fault::new(
        Reason::Conflict,
        "conflict: the instance is in ERROR, and is kept until somebody has looked at it",
    )
    .next("see why: ostler instance show; then delete it with --ignore"))
}

/// Whether there is anything the action could be done to: what a boot that failed had made is
/// undone, and the record is only kept to tell why.
///
/// # Errors
/// `conflict`.
pub(super) fn is_built(action: Action, built: bool) -> Result<(), Fault> {
    if built || matches!(action, Action::Delete(_)) {
        return Ok(());
    }
    let text = format!("conflict: the instance never ran, so it cannot be {}", action.word());
    Err(Fault::new(Reason::Conflict, text)
        .next("see why with ostler instance show, delete it, and boot again"))
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
        TaskState::SoftDeleting | TaskState::Deleting => "being deleted",
        TaskState::Restoring => "being restored",
    }
}

/// The stable state after an operation is over. `before` is the record it started from, `was`
/// whether the instance ran then.
pub(super) const fn settled(
    change: &Change,
    outcome: State,
    before: &InstanceRecord,
    was: Running,
) -> VmState {
    match outcome {
        State::Succeeded => succeeded(change, before, was),
        State::Queued | State::Running => before.vm_state,
        State::Cancelled if matches!(change, Change::Boot) => VmState::Deleted,
        State::Undone if matches!(change, Change::Boot) => VmState::Error,
        State::Cancelled | State::Undone if matches!(change, Change::Delete) => VmState::Error,
        State::Cancelled | State::Undone => before.vm_state,
        State::Failed => match change {
            // Its memory may be gone, and then it is not suspended any more.
            Change::Reboot { .. } if matches!(before.vm_state, VmState::Suspended) => {
                VmState::Error
            }
            // Something of it stays that is neither as before nor as wanted.
            Change::Boot
            | Change::Delete
            | Change::Rebuild { .. }
            | Change::Rescue { .. }
            | Change::Unrescue
            | Change::Resize { .. }
            | Change::RevertResize { .. }
            | Change::Shelve { .. }
            | Change::Unshelve { .. } => VmState::Error,
            // What was asked of a guest, or of QEMU, did not happen; what is seen decides.
            Change::Start
            | Change::Stop { .. }
            | Change::Reboot { .. }
            | Change::Pause
            | Change::Unpause
            | Change::Suspend
            | Change::Resume
            | Change::ConfirmResize
            | Change::Adjust { .. }
            | Change::Snapshot { .. }
            | Change::Offload
            | Change::Update { .. }
            | Change::Lock { .. }
            | Change::Unlock
            | Change::SoftDelete { .. }
            | Change::Restore { .. }
            | Change::Password { .. }
            | Change::ImageImport { .. }
            | Change::ImageRemove
            | Change::NetworkEnsure { .. }
            | Change::NetworkRemove { .. } => before.vm_state,
        },
    }
}

const fn succeeded(change: &Change, before: &InstanceRecord, was: Running) -> VmState {
    let as_it_was = match was {
        Running::Yes => VmState::Active,
        Running::No => VmState::Stopped,
    };
    match change {
        // A start by the agent itself, after the node's: what it was is what it is.
        Change::Start | Change::Unpause
            if matches!(before.vm_state, VmState::Rescued | VmState::Resized) =>
        {
            before.vm_state
        }
        Change::Start => VmState::Active,
        Change::Boot
        | Change::Reboot { .. }
        | Change::Unpause
        | Change::Resume
        | Change::Unrescue
        | Change::Unshelve { .. } => VmState::Active,
        Change::Stop { .. } => VmState::Stopped,
        Change::Pause => VmState::Paused,
        Change::Suspend => VmState::Suspended,
        Change::Rebuild { .. } | Change::ConfirmResize => as_it_was,
        Change::Rescue { .. } => VmState::Rescued,
        Change::Resize { .. } => VmState::Resized,
        Change::RevertResize { start: Running::Yes } => VmState::Active,
        Change::RevertResize { start: Running::No } => VmState::Stopped,
        Change::Shelve { offload: false, .. } => VmState::Shelved,
        Change::Shelve { offload: true, .. } | Change::Offload => VmState::ShelvedOffloaded,
        Change::SoftDelete { .. } => VmState::SoftDeleted,
        Change::Restore { to } => *to,
        Change::Delete => VmState::Deleted,
        Change::Adjust { .. }
        | Change::Snapshot { .. }
        | Change::Update { .. }
        | Change::Lock { .. }
        | Change::Unlock
        | Change::Password { .. }
        | Change::ImageImport { .. }
        | Change::ImageRemove
        | Change::NetworkEnsure { .. }
        | Change::NetworkRemove { .. } => before.vm_state,
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
