//! The whole table: every action in every state, with and without a task in flight.

use ostler_protocol::rpc::operation::State;

use super::*;
use crate::compute::operations::sample;

const ACTIONS: [Action; 27] = [
    Action::Start,
    Action::Stop,
    Action::Reboot(Manner::Soft),
    Action::Reboot(Manner::Hard),
    Action::Pause,
    Action::Unpause,
    Action::Suspend,
    Action::Resume,
    Action::Rebuild,
    Action::Reset,
    Action::Rescue,
    Action::Unrescue,
    Action::Resize,
    Action::ConfirmResize,
    Action::RevertResize,
    Action::Adjust,
    Action::Snapshot,
    Action::Shelve,
    Action::Offload,
    Action::Unshelve,
    Action::Update,
    Action::Lock,
    Action::Unlock,
    Action::Delete(DeleteMode::Soft),
    Action::Delete(DeleteMode::Hard),
    Action::Restore,
    Action::Password,
];

/// Rows are actions, columns the states of [`VmState::ALL`]: `+` is legal.
///
/// ```text
///   building active paused suspended stopped rescued resized shelved offloaded soft error deleted
/// ```
const TABLE: [&str; 27] = [
    // B A P S T R Z H O D E X
    ". + . . + . . . . . . .", // start
    ". + . . + . . . . . + .", // stop
    ". + . . . . . . . . . .", // reboot
    ". + + + + . . . . . + .", // reboot, hard
    ". + + . . . . . . . . .", // pause
    ". + + . . + + . . . . .", // unpause
    ". + . + . . . . . . . .", // suspend
    ". + . + . . . . . . . .", // resume
    ". + . . + . . . . . + .", // rebuild
    ". + . . + . . . . . + .", // reset
    ". + . . + . . . . . + .", // rescue
    ". . . . . + . . . . . .", // unrescue
    ". + . . + . . . . . . .", // resize
    ". . . . . . + . . . . .", // confirm resize
    ". . . . . . + . . . . .", // revert resize
    ". + . . + . . . . . . .", // adjust
    ". + + + + . . . . . . .", // snapshot
    ". + + + + . . . . . . .", // shelve
    ". . . . . . . + . . . .", // offload
    ". . . . . . . + + . . .", // unshelve
    ". + + + + + + + + . + .", // update
    ". + + + + + + + + . + .", // lock
    ". + + + + + + + + . + .", // unlock
    ". + + + + + + + + + + +", // delete, soft
    "+ + + + + + + + + + + +", // delete, hard
    ". . . . . . . . . + . .", // restore
    ". + . . . . . . . . . .", // password
];

#[test]
fn the_gates_are_novas() {
    for (action, row) in ACTIONS.into_iter().zip(TABLE) {
        for (vm, mark) in VmState::ALL.into_iter().zip(row.split(' ')) {
            let legal = may(action, vm, None, Timestamp(0), Timestamp(0));
            assert_eq!(legal.is_ok(), mark == "+", "{action:?} from {vm:?}");
            if let Err(fault) = legal {
                assert_eq!(fault.data.reason, Reason::Conflict);
                let status = Status::of(vm, None).as_str();
                assert!(fault.message.contains(status), "{fault} lacks {status}");
            }
        }
    }
}

#[test]
fn a_task_in_flight_refuses_all_but_a_hard_delete() {
    for action in ACTIONS {
        for vm in VmState::ALL {
            for task in ACTIONS.map(Action::task) {
                let asked = may(action, vm, Some(task), Timestamp(1_000), Timestamp(6_000));
                if action == Action::Delete(DeleteMode::Hard) {
                    assert!(asked.is_ok());
                } else {
                    let fault = asked.unwrap_err();
                    let told = format!("{}; that began 5 s ago", doing(task));
                    assert!(fault.message.contains(&told), "{fault} lacks {told}");
                }
            }
        }
    }
}

#[test]
fn a_lock_refuses_all_but_unlocking_and_what_changes_nothing() {
    let free = [Action::Lock, Action::Unlock, Action::Snapshot];
    for action in ACTIONS {
        assert!(is_unlocked(action, None).is_ok());
        let asked = is_unlocked(action, Some("audit"));
        assert_eq!(asked.is_ok(), free.contains(&action), "{action:?}");
        if let Err(fault) = asked {
            assert!(fault.message.contains("audit"), "{fault}");
        }
    }
}

#[test]
fn an_error_is_looked_at_before_it_is_deleted() {
    for vm in VmState::ALL {
        assert_eq!(is_known_error(vm, false).is_ok(), vm != VmState::Error);
        assert!(is_known_error(vm, true).is_ok());
    }
}

#[test]
fn unknown_is_not_off_and_no_drift() {
    for vm in VmState::ALL {
        assert_eq!(observed(vm, PowerState::Unknown), None);
        assert_eq!(observed(vm, PowerState::None), None);
        assert_eq!(power_drift(vm, PowerState::Unknown), None);
    }
    assert_eq!(observed(VmState::Active, PowerState::Shutdown), Some(VmState::Stopped));
    assert_eq!(observed(VmState::Suspended, PowerState::Shutdown), None);
}

#[test]
fn what_follows_from_what_is_seen_is_no_drift() {
    let powers = [
        PowerState::Unknown,
        PowerState::None,
        PowerState::Running,
        PowerState::Paused,
        PowerState::Shutdown,
        PowerState::Crashed,
        PowerState::Suspended,
    ];
    for vm in VmState::ALL {
        for power in powers {
            if let Some(next) = observed(vm, power) {
                assert_eq!(power_drift(next, power), None, "{vm:?} {power:?}");
                assert_eq!(observed(next, power), None, "{vm:?} {power:?}");
            }
        }
    }
}

#[test]
fn every_operation_ends_in_a_stable_state() {
    let over = [State::Succeeded, State::Failed, State::Cancelled, State::Undone];
    for change in sample::changes() {
        for vm in VmState::ALL {
            for was in [Running::Yes, Running::No] {
                for outcome in over {
                    let before = InstanceRecord { vm_state: vm, ..sample::record() };
                    let after = settled(&change, outcome, &before, was);
                    let made = matches!(change, Change::Boot | Change::Delete);
                    if made {
                        assert_ne!(after, VmState::Building, "{change:?} {outcome:?}");
                    }
                    if outcome == State::Undone && !made {
                        assert_eq!(after, vm, "{change:?} was undone");
                    }
                }
            }
        }
    }
}
