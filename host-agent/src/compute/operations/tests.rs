//! What is so of all operations.

mod legal;

use ostler_protocol::rpc::instance::Manner;
use serde_json::json;

use super::boot::Boot;
use super::delete::Delete;
use super::delete::SoftDelete;
use super::pause::Pause;
use super::prelude::*;
use super::rebuild::Rebuild;
use super::rescue::Rescue;
use super::resize::Resize;
use super::revert_resize::RevertResize;
use super::sample::{changes, record};
use super::shelve::Shelve;
use super::snapshot::Snapshot;
use super::stop::Stop;
use super::*;
use crate::compute::claims::Claimed;

#[test]
fn every_operation_ends_in_a_stable_state() {
    let over = [State::Succeeded, State::Failed, State::Cancelled, State::Undone];
    for change in changes() {
        for vm in VmState::ALL {
            for was in [Running::Yes, Running::No] {
                for outcome in over {
                    let before = InstanceRecord { vm_state: vm, ..record() };
                    let after = change.settled(outcome, &before, was);
                    let made = change.is::<Boot>() || change.is::<Delete>();
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

#[test]
fn a_resize_and_its_way_back_leave_what_was() {
    let before = record();
    let to = instance::Size { vcpus: 7, ..before.size() };
    let resize = Change::from(Resize { to, timeout: 1, on_volume: false });
    let resized = resize.applied(&before, Running::Yes);
    assert_eq!(resized.vcpus, 7);
    let back = Change::from(RevertResize { start: Running::Yes });
    assert_eq!(back.applied(&resized, Running::Yes), before);
}

#[test]
fn a_change_made_twice_is_the_change() {
    for change in changes() {
        if change.is::<Resize>() {
            continue; // not legal twice: it remembers what it came from
        }
        let once = change.applied(&record(), Running::Yes);
        assert_eq!(change.applied(&once, Running::Yes), once, "{change:?}");
    }
}

#[test]
fn a_soft_stop_ends_by_force() {
    let stop = Stop { manner: Manner::Soft, timeout: 1 };
    assert_eq!(stop.plan(Running::Yes).steps().last(), Some(&Step::PowerOff));
}

#[test]
fn a_change_is_read_as_it_was_written() {
    for change in changes() {
        let again = read(change.written.clone()).unwrap();
        assert_eq!(again.written, change.written);
        assert_eq!(format!("{:?}", again.described), format!("{:?}", change.described));
    }
    // As versions before this one wrote them.
    assert_eq!(Change::from(Pause {}).written, json!("pause"));
    let stop = Stop { manner: Manner::Hard, timeout: 5 };
    let written = json!({"stop": {"manner": "hard", "timeout": 5}});
    assert_eq!(Change::from(stop).written, written);
    assert_eq!(
        Change::from(SoftDelete { timeout: 5 }).written,
        json!({"soft_delete": {"timeout": 5}})
    );
    assert!(read(json!("juggle")).is_err());
    assert!(read(json!(7)).is_err());
}

#[test]
fn copies_count_while_they_are_made() {
    for change in changes() {
        let beside = change.beside(&record()).0;
        let after = change.applied(&record(), Running::Yes);
        let more = Claimed::of([&after]).disk + beside > Claimed::of([&record()]).disk;
        let copies = change.is::<Rebuild>()
            || change.is::<Rescue>()
            || change.is::<Resize>()
            || change.is::<Snapshot>()
            || change.is::<Shelve>();
        assert_eq!(more, copies, "{change:?}");
    }
}
