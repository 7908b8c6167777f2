//! Reboot: restart a guest through itself; or, where it does not and where that is asked for, by
//! force, starting it afresh.

use ostler_protocol::rpc::instance::{Halt, Manner};

use super::prelude::*;

pub(in crate::compute) const SOFT: Legal =
    Legal::new("rebooted", TaskState::Rebooting, &[VmState::Active]);
pub(in crate::compute) const HARD: Legal = Legal::new(
    "rebooted",
    TaskState::RebootingHard,
    &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended, VmState::Error],
);

/// Restart it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Reboot {
    /// Ask, or force at once.
    pub(in crate::compute) manner: Manner,
    /// How long it may take before it is forced, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(halt: Halt, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let (manner, timeout) = (halt.manner, gate.patience(halt.timeout));
    let legal = match manner {
        Manner::Soft => &SOFT,
        Manner::Hard => &HARD,
    };
    gate.act(halt.id, legal, |_, _| Ok(Reboot { manner, timeout }.into()))
}

pub(super) fn samples() -> Vec<Change> {
    [Manner::Soft, Manner::Hard].map(|manner| Reboot { manner, timeout: 1000 }.into()).into()
}

impl Describe for Reboot {
    fn plan(&self, _: Running) -> Plan {
        let ask: &[Step] = match self.manner {
            Manner::Soft => &[Step::AskReboot],
            Manner::Hard => &[],
        };
        Plan::of(ask).then(&[Step::PowerOff, Step::DiscardMemory]).then(&START)
    }

    // What was asked of a guest cannot be taken back.
    fn can_undo(&self) -> bool {
        false
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }

    fn failed(&self, before: &InstanceRecord) -> VmState {
        // Its memory may be gone, and then it is not suspended any more.
        match before.vm_state == VmState::Suspended {
            true => VmState::Error,
            false => before.vm_state,
        }
    }
}
