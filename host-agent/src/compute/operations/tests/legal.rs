//! The whole table: every action in every state, with and without a task in flight.

use crate::refusal::Reason;
use ostler_protocol::rpc::instance::{Status, TaskState, VmState};
use ostler_protocol::rpc::values::Timestamp;

use crate::compute::describe::Legal;
use crate::compute::lifecycle::{doing, is_legal};
use crate::compute::operations::sample::record;
use crate::compute::operations::*;

const ACTIONS: [Legal; 32] = [
    start::LEGAL,
    stop::LEGAL,
    reboot::SOFT,
    reboot::HARD,
    pause::LEGAL,
    unpause::LEGAL,
    suspend::LEGAL,
    resume::LEGAL,
    rebuild::LEGAL,
    reset::LEGAL,
    rescue::LEGAL,
    unrescue::LEGAL,
    resize::LEGAL,
    confirm_resize::LEGAL,
    revert_resize::LEGAL,
    adjust::LEGAL,
    snapshot::LEGAL,
    shelve::LEGAL,
    offload::LEGAL,
    unshelve::LEGAL,
    update::LEGAL,
    lock::LEGAL,
    unlock::LEGAL,
    delete::SOFT,
    delete::HARD,
    restore::LEGAL,
    password::LEGAL,
    attach_volume::LEGAL,
    detach_volume::LEGAL,
    swap_volume::LEGAL,
    volume_snapshot::LEGAL,
    volume_revert::LEGAL,
];

fn is(vm_state: VmState, task_state: Option<TaskState>) -> InstanceRecord {
    InstanceRecord { vm_state, task_state, updated: Timestamp(1_000), ..record() }
}

/// Rows are actions, columns the states of [`VmState::ALL`]: `+` is legal.
///
/// ```text
///   building active paused suspended stopped rescued resized shelved offloaded soft error deleted
/// ```
const TABLE: [&str; 32] = [
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
    ". + + . + . + . . . . .", // attach a volume
    ". + + . + . + . . . . .", // detach a volume
    ". + + . + . + . . . . .", // put a volume in the place of another
    ". + + . + . + . . . . .", // snapshot a volume, and extend it
    ". . . . + . . . . . . .", // revert a volume
];

#[test]
fn the_gates_are_novas() {
    for (action, row) in ACTIONS.into_iter().zip(TABLE) {
        for (vm, mark) in VmState::ALL.into_iter().zip(row.split(' ')) {
            let legal = is_legal(&action, &is(vm, None), Timestamp(1_000));
            assert_eq!(legal.is_ok(), mark == "+", "{action:?} from {vm:?}");
            if let Err(fault) = legal {
                assert_eq!(fault.reason, Reason::Conflict);
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
            for task in ACTIONS.map(|action| action.task) {
                let asked = is_legal(&action, &is(vm, Some(task)), Timestamp(6_000));
                if action == delete::HARD {
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
    let free = [lock::LEGAL, unlock::LEGAL, snapshot::LEGAL];
    for action in ACTIONS {
        let free = free.contains(&action);
        let locked = InstanceRecord { locked: Some("audit".into()), ..is(action.from[0], None) };
        let asked = is_legal(&action, &locked, Timestamp(1_000));
        assert_eq!(asked.is_ok(), free, "{action:?}");
        if let Err(fault) = asked {
            assert!(fault.message.contains("audit"), "{fault}");
        }
    }
}

#[test]
fn what_was_never_up_can_only_be_deleted() {
    for action in ACTIONS {
        let unbuilt = InstanceRecord { built: false, ..is(action.from[0], None) };
        let asked = is_legal(&action, &unbuilt, Timestamp(1_000));
        assert_eq!(asked.is_ok(), [delete::SOFT, delete::HARD].contains(&action), "{action:?}");
    }
}
