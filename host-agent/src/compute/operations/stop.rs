//! Stop: ask a guest to shut down, and switch it off.

use ostler_protocol::rpc::instance::{Halt, Manner};

use super::prelude::*;

pub(in crate::compute) const LEGAL: Legal = Legal::new(
    "stopped",
    TaskState::PoweringOff,
    &[VmState::Active, VmState::Stopped, VmState::Error],
);

/// Switch it off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Stop {
    /// Ask, or force at once.
    pub(in crate::compute) manner: Manner,
    /// How long it may take before it is forced, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(halt: Halt, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let (manner, timeout) = (halt.manner, gate.patience(halt.timeout));
    gate.act(halt.id, &LEGAL, |_, _| Ok(Stop { manner, timeout }.into()))
}

pub(super) fn samples() -> Vec<Change> {
    [Manner::Soft, Manner::Hard].map(|manner| Stop { manner, timeout: 1000 }.into()).into()
}

impl Describe for Stop {
    fn plan(&self, _: Running) -> Plan {
        match self.manner {
            Manner::Soft => Plan::of(&SHUT_DOWN),
            Manner::Hard => Plan::of(&[Step::PowerOff]),
        }
    }

    // What was asked of a guest cannot be taken back.
    fn can_undo(&self) -> bool {
        false
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        vm == VmState::Stopped && matches!(power, PowerState::Shutdown | PowerState::Crashed)
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Stopped
    }
}
