//! What QEMU itself pauses because a disk of theirs failed. Pure.

use ostler_protocol::rpc::instance::{PowerState, StallReason, Stalled, VmState};

use crate::hypervisor::{DomainState, PowerReason};
use crate::journal::records::InstanceRecord;

/// What is told of an instance that QEMU paused for this reason.
pub(super) fn stalled(
    record: &InstanceRecord,
    reason: Option<StallReason>,
    resumes: bool,
) -> Option<Stalled> {
    let reason = reason.filter(|_| runs(record))?;
    let message = match reason {
        StallReason::NoSpace if resumes => {
            "paused by QEMU: a write to its disk failed, no space left on the node; it goes on by \
             itself when there is room, or if you unpause it"
        }
        StallReason::NoSpace => {
            "paused by QEMU: a write to its disk failed, no space left on the node; free some, then \
             unpause it"
        }
        StallReason::IoError => {
            "paused by QEMU: its disk failed; see the node's kernel log and storage, then unpause it"
        }
    };
    Some(Stalled { reason, message: message.to_owned() })
}

/// Whether an instance is to run. One that was paused on request stays so, whatever its disk does.
pub(super) const fn runs(record: &InstanceRecord) -> bool {
    match record.vm_state {
        VmState::Active | VmState::Rescued | VmState::Resized => true,
        VmState::Building
        | VmState::Paused
        | VmState::Suspended
        | VmState::Stopped
        | VmState::Shelved
        | VmState::ShelvedOffloaded
        | VmState::SoftDeleted
        | VmState::Error
        | VmState::Deleted => false,
    }
}

/// Why QEMU paused a domain that is like this, if it did.
pub(super) const fn reason(state: DomainState) -> Option<StallReason> {
    if !matches!(state.power, PowerState::Paused) {
        return None;
    }
    match state.reason {
        PowerReason::NoSpace => Some(StallReason::NoSpace),
        PowerReason::IoError => Some(StallReason::IoError),
        PowerReason::Booted
        | PowerReason::Migrated
        | PowerReason::Restored
        | PowerReason::Resumed
        | PowerReason::PauseRequested
        | PowerReason::StartingUp
        | PowerReason::Watchdog
        | PowerReason::Saving
        | PowerReason::ShuttingDown
        | PowerReason::ShutDown
        | PowerReason::Destroyed
        | PowerReason::Crashed
        | PowerReason::Saved
        | PowerReason::StartFailed
        | PowerReason::GuestSuspended
        | PowerReason::Unstated => None,
    }
}
