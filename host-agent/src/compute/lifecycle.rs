//! Which command is legal in which state, and which state follows: plain functions over nova's
//! three kinds of state, with no lock and no I/O.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::{Manner, PowerState, Status, TaskState, VmState};
use ostler_protocol::rpc::operation::{Kind, State};
use ostler_protocol::rpc::values::Timestamp;

/// A command on an instance that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Start,
    Stop,
    Reboot(Manner),
    Delete,
    Password,
}

impl Action {
    const fn word(self) -> &'static str {
        match self {
            Self::Start => "started",
            Self::Stop => "stopped",
            Self::Reboot(_) => "rebooted",
            Self::Delete => "deleted",
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
            Self::Delete => TaskState::Deleting,
            Self::Password => TaskState::UpdatingPassword,
        }
    }
}

/// Whether `action` may be done to an instance in this state: nova's gates, save that starting
/// what runs and stopping what is off are accepted and do nothing, for callers repeat themselves.
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
    if let (Some(task), false) = (task, matches!(action, Action::Delete)) {
        let text = format!(
            "conflict: the instance is {} since {} s",
            doing(task),
            now.since(since) / 1000
        );
        return Err(Fault::new(Reason::Conflict, text)
            .next("wait for the operation in flight: ostler operation list"));
    }
    let legal = match (action, vm) {
        (Action::Delete, _)
        | (Action::Start, VmState::Active | VmState::Stopped)
        | (Action::Stop, VmState::Active | VmState::Stopped | VmState::Error)
        | (Action::Reboot(Manner::Soft) | Action::Password, VmState::Active)
        | (Action::Reboot(Manner::Hard), VmState::Active | VmState::Stopped | VmState::Error) => {
            true
        }
        (Action::Start, VmState::Building | VmState::Error | VmState::Deleted)
        | (Action::Stop | Action::Reboot(Manner::Hard), VmState::Building | VmState::Deleted)
        | (
            Action::Reboot(Manner::Soft) | Action::Password,
            VmState::Building | VmState::Stopped | VmState::Error | VmState::Deleted,
        ) => false,
    };
    if legal {
        return Ok(());
    }
    let status = Status::of(vm, None);
    let fault = Fault::new(
        Reason::Conflict,
        format!("conflict: an instance that is {status} cannot be {}", action.word()),
    );
    Err(match (action, vm) {
        (_, VmState::Stopped) => fault.next("start it first: ostler instance start"),
        (_, VmState::Error) => {
            fault.next("see why with ostler instance show; reboot it --hard, or delete it")
        }
        (_, VmState::Building | VmState::Active | VmState::Deleted) => fault,
    })
}

/// Whether there is anything the action could be done to: what a boot that failed had made is
/// undone, and the record is only kept to tell why.
///
/// # Errors
/// `conflict`.
pub(super) fn is_built(action: Action, built: bool) -> Result<(), Fault> {
    if built || matches!(action, Action::Delete) {
        return Ok(());
    }
    let text = format!("conflict: the instance was never up, so it cannot be {}", action.word());
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
        TaskState::Deleting => "being deleted",
    }
}

/// The stable state after an operation is over. `before` is the state it started from.
pub(super) const fn settled(kind: Kind, outcome: State, before: VmState) -> VmState {
    match (kind, outcome) {
        (Kind::Boot | Kind::Start | Kind::Reboot, State::Succeeded) => VmState::Active,
        (Kind::Stop, State::Succeeded) => VmState::Stopped,
        (Kind::Delete, State::Succeeded) | (Kind::Boot, State::Cancelled) => VmState::Deleted,
        (Kind::Boot | Kind::Delete, State::Failed | State::Undone)
        | (Kind::Delete, State::Cancelled) => VmState::Error,
        (
            Kind::Password | Kind::ImageImport | Kind::ImageRemove | Kind::NetworkEnsure,
            State::Succeeded,
        )
        | (
            Kind::Start
            | Kind::Stop
            | Kind::Reboot
            | Kind::Password
            | Kind::ImageImport
            | Kind::ImageRemove
            | Kind::NetworkEnsure,
            State::Failed | State::Cancelled | State::Undone,
        )
        | (_, State::Queued | State::Running) => before,
    }
}

/// The stable state that an observed power state calls for, in an instance with no task in
/// flight: what is seen is believed, and nothing is done to the guest for it. `None` leaves it.
pub(super) const fn observed(vm: VmState, power: PowerState) -> Option<VmState> {
    match (vm, power) {
        (VmState::Active, PowerState::Shutdown | PowerState::Crashed) => Some(VmState::Stopped),
        (VmState::Stopped, PowerState::Running) => Some(VmState::Active),
        // UNKNOWN is not OFF, a missing domain is for an operator to judge, and a paused or
        // suspended guest is still in service.
        (
            VmState::Active,
            PowerState::Unknown
            | PowerState::None
            | PowerState::Running
            | PowerState::Paused
            | PowerState::Suspended,
        )
        | (
            VmState::Stopped,
            PowerState::Unknown
            | PowerState::None
            | PowerState::Shutdown
            | PowerState::Crashed
            | PowerState::Paused
            | PowerState::Suspended,
        )
        | (VmState::Building | VmState::Error | VmState::Deleted, _) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATES: [VmState; 5] =
        [VmState::Building, VmState::Active, VmState::Stopped, VmState::Error, VmState::Deleted];

    #[test]
    fn the_gates_are_novas() {
        use VmState::{Active, Building, Deleted, Error, Stopped};
        let table: [(Action, &[VmState]); 6] = [
            (Action::Start, &[Active, Stopped]),
            (Action::Stop, &[Active, Stopped, Error]),
            (Action::Reboot(Manner::Soft), &[Active]),
            (Action::Reboot(Manner::Hard), &[Active, Stopped, Error]),
            (Action::Password, &[Active]),
            (Action::Delete, &[Building, Active, Stopped, Error, Deleted]),
        ];
        for (action, from) in table {
            for vm in STATES {
                let legal = may(action, vm, None, Timestamp(0), Timestamp(0)).is_ok();
                assert_eq!(legal, from.contains(&vm), "{action:?} from {vm:?}");
            }
        }
    }

    #[test]
    fn a_task_in_flight_refuses_all_but_delete() {
        for action in [Action::Start, Action::Stop, Action::Reboot(Manner::Hard), Action::Password]
        {
            let refused = may(
                action,
                VmState::Active,
                Some(TaskState::Rebooting),
                Timestamp(1_000),
                Timestamp(6_000),
            );
            let fault = refused.unwrap_err();
            assert_eq!(fault.data.reason, Reason::Conflict);
            assert!(fault.message.contains("rebooting since 5 s"), "{fault}");
        }
        let task = Some(TaskState::Spawning);
        assert!(may(Action::Delete, VmState::Building, task, Timestamp(0), Timestamp(0)).is_ok());
    }

    #[test]
    fn unknown_is_not_off() {
        for vm in STATES {
            assert_eq!(observed(vm, PowerState::Unknown), None);
            assert_eq!(observed(vm, PowerState::None), None);
        }
        assert_eq!(observed(VmState::Active, PowerState::Shutdown), Some(VmState::Stopped));
    }

    #[test]
    fn no_operation_leaves_an_instance_building() {
        for outcome in [State::Succeeded, State::Failed, State::Cancelled, State::Undone] {
            assert_ne!(settled(Kind::Boot, outcome, VmState::Building), VmState::Building);
            assert_ne!(settled(Kind::Delete, outcome, VmState::Building), VmState::Building);
        }
    }
}
