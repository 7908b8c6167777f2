//! Plans: the steps of an operation, in order, and how far it is in them. Pure.
//!
//! An operation is carried out by the plan it was accepted with, which the journal has by the names
//! and subjects of its steps: whatever this version's plan is, an older version's journal goes on
//! as that version planned it.

use ostler_protocol::rpc::operation::{self, StepState, Subject};
use ostler_protocol::rpc::values::{Name, VolumeId};

use super::step::Step;
use crate::journal::records::Running;

/// A step of a plan, with what it is about where that is not what the operation is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) step: Step,
    pub(super) subject: Option<Subject>,
}

impl Planned {
    /// The image it is about.
    pub(super) const fn image(&self) -> Option<&Name> {
        match &self.subject {
            Some(Subject::Image(name)) => Some(name),
            Some(
                Subject::Instance(_) | Subject::Network(_) | Subject::Volume(_) | Subject::Port(_),
            )
            | None => None,
        }
    }

    /// The volume it is about.
    pub(super) const fn volume(&self) -> Option<VolumeId> {
        match &self.subject {
            Some(Subject::Volume(id)) => Some(*id),
            Some(
                Subject::Instance(_) | Subject::Network(_) | Subject::Image(_) | Subject::Port(_),
            )
            | None => None,
        }
    }
}

/// The steps of an operation, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Plan(Vec<Planned>);

impl Plan {
    /// A plan of these steps.
    pub(super) fn of(steps: &[Step]) -> Self {
        Self::default().then(steps)
    }

    /// These steps follow.
    #[must_use]
    pub(super) fn then(mut self, steps: &[Step]) -> Self {
        self.0.extend(steps.iter().map(|step| Planned { step: *step, subject: None }));
        self
    }

    /// These steps follow, for an instance that ran.
    #[must_use]
    pub(super) fn then_if(self, was: Running, steps: &[Step]) -> Self {
        match was {
            Running::Yes => self.then(steps),
            Running::No => self,
        }
    }

    /// A step follows that is about something else than the operation.
    #[must_use]
    pub(super) fn then_about(mut self, step: Step, subject: Subject) -> Self {
        self.0.push(Planned { step, subject: Some(subject) });
        self
    }

    /// The steps, without what they are about.
    pub(super) fn steps(&self) -> Vec<Step> {
        self.0.iter().map(|planned| planned.step).collect()
    }

    /// The steps as the caller sees them and the journal keeps them, none begun.
    pub(super) fn pending(&self) -> Vec<operation::Step> {
        let pending = |planned: &Planned| operation::Step {
            name: planned.step.name().to_owned(),
            subject: planned.subject.clone(),
            state: StepState::Pending,
            already: false,
            failures: 0,
            progress: None,
            started: None,
            finished: None,
        };
        self.0.iter().map(pending).collect()
    }
}

/// A step that the journal has; none if this version does not know it.
pub(super) fn planned(step: &operation::Step) -> Option<Planned> {
    Some(Planned { step: Step::named(&step.name)?, subject: step.subject.clone() })
}

/// Whether an operation has come so far that it can only go on.
pub(super) fn committed(steps: &[operation::Step]) -> bool {
    steps.iter().any(|now| Step::named(&now.name).is_some_and(|step| step.commits(now.state)))
}

/// Whether it is too late to cancel: it can only go on, or stopping would leave what was on off
/// for good, since a change of this kind is not undone.
pub(super) fn too_late(can_undo: bool, steps: &[operation::Step]) -> bool {
    let off = |now: &operation::Step| {
        Step::named(&now.name) == Some(Step::PowerOff) && now.state == StepState::Done
    };
    committed(steps) || (!can_undo && steps.iter().any(off))
}

#[cfg(test)]
mod tests {
    use ostler_protocol::rpc::instance::Manner;

    use super::*;
    use crate::compute::describe::Describe;
    use crate::compute::operations::reboot::Reboot;
    use crate::compute::operations::revert_resize::RevertResize;
    use crate::compute::operations::sample;

    #[test]
    fn nothing_is_destroyed_before_the_last_step_that_can_be_undone() {
        for change in sample::changes() {
            for was in [Running::Yes, Running::No] {
                let plan = change.plan(was).steps();
                let first = plan.iter().position(|step| step.destroys());
                let Some(first) = first.filter(|_| change.can_undo()) else { continue };
                if change.is::<RevertResize>() {
                    continue; // it puts back what the undo of a resize would
                }
                assert!(plan[first..].iter().all(|step| step.destroys()), "{change:?}: {plan:?}");
            }
        }
    }

    #[test]
    fn a_reboot_that_has_switched_off_is_not_cancelled() {
        let change = Reboot { manner: Manner::Hard, timeout: 1 };
        let mut steps = change.plan(Running::Yes).pending();
        steps[0].state = StepState::Running;
        assert!(!too_late(change.can_undo(), &steps));
        steps[0].state = StepState::Done;
        assert!(too_late(change.can_undo(), &steps));
    }

    #[test]
    fn a_step_is_known_by_its_name_and_subject_wherever_it_stands() {
        let image = Subject::Image(sample::name("shot"));
        let plan = Plan::of(&[Step::PowerOff]).then_about(Step::DropAside, image.clone());
        let mut steps = plan.pending();
        steps[0].name = "a step of another version".to_owned();
        steps[1].state = StepState::Running;
        let kept: Vec<_> = steps.iter().map(planned).collect();
        let aside = Planned { step: Step::DropAside, subject: Some(image) };
        assert_eq!(kept, [None, Some(aside)]);
        assert!(committed(&steps));
    }
}
