//! What follows from what is seen, in every state.

use super::*;

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
