//! How far an operation is in its plan. Pure.
//!
//! The plan of an operation is the one it was accepted with, as the journal has it by the names of
//! its steps: an older version's journal is carried out as that version planned it, whatever the
//! plan is now.

use ostler_protocol::rpc::operation::{self, StepState};

use super::operations::Change;
use super::registry::LiveOperation;
use super::steps::Step;

/// A plan; a step that this version does not know is none.
pub(super) type Plan = Vec<Option<Step>>;

/// The plan of an operation; no steps where there was nothing to do when it was accepted.
pub(super) fn plan_of(operation: &LiveOperation) -> Plan {
    of(&operation.now.borrow().steps)
}

fn of(steps: &[operation::Step]) -> Plan {
    steps.iter().map(|step| Step::named(&step.name)).collect()
}

/// The steps of a new plan as the caller sees them, none begun.
pub(super) fn pending(plan: &[Step]) -> Vec<operation::Step> {
    let pending = |step: &Step| operation::Step {
        name: step.name().to_owned(),
        state: StepState::Pending,
        already: false,
        failures: 0,
        progress: None,
        started: None,
        finished: None,
    };
    plan.iter().map(pending).collect()
}

/// Whether the operation has come so far that it can only go on.
pub(super) fn committed(plan: &Plan, steps: &[operation::Step]) -> bool {
    plan.iter().zip(steps).any(|(step, now)| step.is_some_and(|step| step.commits(now.state)))
}

/// Whether it is too late to cancel: it can only go on, or stopping would leave what was on off
/// for good, since a change of this kind is not undone.
pub(super) fn too_late(change: &Change, plan: &Plan, steps: &[operation::Step]) -> bool {
    let off = |(step, now): (&Option<Step>, &operation::Step)| {
        *step == Some(Step::PowerOff) && now.state == StepState::Done
    };
    committed(plan, steps) || (!change.described().can_undo() && plan.iter().zip(steps).any(off))
}

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::instance::Manner;

    use super::*;
    use crate::compute::operations::reboot::Reboot;
    use crate::compute::operations::sample;
    use crate::journal::records::Running;

    #[test]
    fn nothing_is_destroyed_before_the_last_step_that_can_be_undone() {
        for change in sample::changes() {
            for was in [Running::Yes, Running::No] {
                let plan = change.described().plan(was);
                let first = plan.iter().position(|step| step.destroys());
                let Some(first) = first.filter(|_| change.described().can_undo()) else { continue };
                if matches!(change, Change::RevertResize(_)) {
                    continue; // it puts back what the undo of a resize would
                }
                assert!(plan[first..].iter().all(|step| step.destroys()), "{change:?}: {plan:?}");
            }
        }
    }

    #[test]
    fn a_reboot_that_has_switched_off_is_not_cancelled() {
        let change = Change::from(Reboot { manner: Manner::Hard, timeout: 1 });
        let mut steps = pending(&change.described().plan(Running::Yes));
        let plan = of(&steps);
        steps[0].state = StepState::Running;
        assert!(!too_late(&change, &plan, &steps));
        steps[0].state = StepState::Done;
        assert!(too_late(&change, &plan, &steps));
    }

    #[test]
    fn a_step_is_known_by_its_name_wherever_it_stands() {
        let mut steps = pending(&[Step::PowerOff, Step::DropAside]);
        steps[0].name = "a step of another version".to_owned();
        steps[1].state = StepState::Running;
        assert_eq!(of(&steps), [None, Some(Step::DropAside)]);
        assert!(committed(&of(&steps), &steps));
    }
}
