//! Going forward: the steps of an operation, in order. The intent is on disk before each.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use ostler_protocol::rpc::operation::{self, Kind, StepState, Subject};

use super::Engine;
use super::steps::{Flow, StepError};
use crate::compute::faults::{self, Moment};
use crate::compute::outside::Outside;
use crate::compute::plan::{Planned, planned, too_late};
use crate::compute::registry::LiveOperation;
use crate::compute::step::Step;
use crate::hypervisor::{Hypervisor, Link};
use crate::refusal::{Reason, Refusal};

/// How long a step that is waiting may go on after a cancellation.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);
/// The pause before a step that can only go on is tried again: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// How an operation's steps ended.
pub(super) enum End {
    Done,
    Failed(Refusal),
    Cancelled,
    /// The agent is stopping; the journal has all that is needed to go on.
    Suspended,
}

/// What ended a pause before the next try.
enum Pause {
    Over,
    /// A delete waits, and will see to it.
    Superseded(Refusal),
    /// The agent is stopping.
    Suspended,
}

impl<O: Outside> Engine<O> {
    pub(super) async fn steps(&self, operation: &Arc<LiveOperation>, kind: Kind) -> End {
        let before = operation.operation();
        let plan: Vec<_> = before.steps.iter().map(planned).collect();
        let undoing =
            |s: &operation::Step| matches!(s.state, StepState::Failed | StepState::Undone);
        if before.steps.iter().any(undoing) {
            return match (before.error, before.cancel_asked) {
                (Some(fault), _) => End::Failed(fault),
                (None, Some(_)) => End::Cancelled,
                (None, None) => End::Failed(interrupted("it had failed, and was being undone")),
            };
        }
        for (n, planned) in plan.iter().enumerate() {
            if self.state_of(operation, n) == Some(StepState::Done) {
                continue;
            }
            let Some(planned) = planned else {
                tracing::warn!(%kind, step = n, "this version does not have this step: skipping it");
                self.mark(operation, n, StepState::Done);
                continue;
            };
            let step = planned.step;
            loop {
                if self.shutdown.is_cancelled() {
                    // Between two steps is the safest place to stop: the next start goes on.
                    let _ = self.write_progress(operation).await;
                    return End::Suspended;
                }
                let before = self.state_of(operation, n);
                let committed = {
                    let mut steps = operation.now.borrow().steps.clone();
                    // What a crash, or a failure, cut off may have been done.
                    let cut_off = steps.get_mut(n).filter(|s| s.state == StepState::Running);
                    if let Some(cut_off) = cut_off {
                        cut_off.state = StepState::Done;
                    }
                    too_late(operation.change.can_undo(), &steps)
                };
                if operation.cancel.is_cancelled() && !committed {
                    return End::Cancelled;
                }
                let failed = |fault: Refusal| {
                    let fault = fault.at(step.name()).about(operation.subject.to_string());
                    // With what it is undone for, should a crash come before the end of that.
                    operation.now.send_modify(|o| o.error = Some(fault.clone()));
                    // One that was not begun has nothing that could be taken back.
                    let state = match self.state_of(operation, n) {
                        Some(StepState::Running) => StepState::Failed,
                        Some(_) | None => StepState::Undone,
                    };
                    self.mark(operation, n, state);
                    End::Failed(fault)
                };
                let again = before == Some(StepState::Running);
                let failures = operation.now.borrow().steps.get(n).map_or(0, |s| s.failures);
                if again && failures == 0 && !step.may_repeat() {
                    return failed(interrupted("whether it took effect is not known"));
                }
                let goes_on = step.destroys() || operation.change.goes_on();
                match guarded(self.attempt(operation, kind, n, planned, committed)).await {
                    Ok(Flow::Next) => {
                        operation.now.send_modify(|o| o.error = None);
                        self.mark(operation, n, StepState::Done);
                        break;
                    }
                    Ok(Flow::Finish) => {
                        self.mark(operation, n, StepState::Done);
                        operation.now.send_modify(|o| o.steps.truncate(n + 1));
                        return End::Done;
                    }
                    Err(StepError::Suspended) => return End::Suspended,
                    Err(StepError::Cancelled) => {
                        self.mark(operation, n, StepState::Failed);
                        return End::Cancelled;
                    }
                    Err(StepError::NotBegun(fault)) => {
                        tracing::warn!(%kind, step = step.name(), %fault, "step cannot be done");
                        // Nothing of it is there to commit to.
                        self.mark(operation, n, StepState::Pending);
                        return failed(*fault);
                    }
                    Err(StepError::Failed(fault)) if goes_on => {
                        let fault = fault.at(step.name()).about(operation.subject.to_string());
                        let steps = operation.operation().steps;
                        let may_end = !too_late(operation.change.can_undo(), &steps);
                        match self.wait_to_retry(operation, n, fault, may_end).await {
                            Pause::Over => {}
                            Pause::Superseded(fault) => return failed(fault),
                            Pause::Suspended => return End::Suspended,
                        }
                    }
                    Err(
                        StepError::Failed(fault)
                        | StepError::Refused(fault)
                        | StepError::Unreachable(fault),
                    ) => {
                        tracing::warn!(%kind, step = step.name(), %fault, "step failed");
                        return failed(*fault);
                    }
                }
            }
        }
        End::Done
    }

    fn state_of(&self, operation: &LiveOperation, n: usize) -> Option<StepState> {
        operation.now.borrow().steps.get(n).map(|step| step.state)
    }

    /// See how things are, write down what is about to be done, and do it.
    async fn attempt(
        &self,
        operation: &Arc<LiveOperation>,
        kind: Kind,
        n: usize,
        planned: &Planned,
        committed: bool,
    ) -> Result<Flow, StepError> {
        let before = self.state_of(operation, n);
        if before != Some(StepState::Running) && operation.change.can_undo() {
            let looked = self.reaching(operation, planned.step, committed, || {
                self.is_so_already(operation, planned)
            });
            let already = looked.await?;
            operation.now.send_modify(|o| {
                if let Some(step) = o.steps.get_mut(n) {
                    step.already = already;
                }
            });
        }
        self.mark(operation, n, StepState::Running);
        if let Err(fault) = self.write_progress(operation).await {
            if before != Some(StepState::Running) {
                self.mark(operation, n, StepState::Pending);
            }
            return Err(StepError::failed(fault));
        }
        self.persevere(operation, kind, planned, committed).await
    }

    /// A step failed of an operation that can only go on: show that, and wait, longer each time.
    async fn wait_to_retry(
        &self,
        operation: &LiveOperation,
        n: usize,
        fault: Refusal,
        may_end: bool,
    ) -> Pause {
        let mut failures = 0;
        operation.now.send_modify(|o| {
            o.error = Some(fault.clone());
            o.revision += 1;
            if let Some(step) = o.steps.get_mut(n) {
                step.failures = step.failures.saturating_add(1);
                failures = step.failures;
            }
        });
        if let Subject::Instance(id) = operation.subject {
            let shown = fault.clone();
            self.registry.lock().update(id, |instance| instance.fault = Some(shown));
        }
        let pause = AGAIN.0.saturating_mul(1 << failures.min(16).saturating_sub(1)).min(AGAIN.1);
        let seconds = pause.as_secs_f32();
        tracing::warn!(%fault, failures, seconds, "a step failed that has to be completed; trying again");
        if let Err(error) = self.write_progress(operation).await {
            tracing::warn!(%error, "cannot write a failed step to the journal");
        }
        self.registry.tell_operation(operation);
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Pause::Suspended,
            () = operation.superseded.cancelled() => Pause::Superseded(fault),
            () = operation.cancel.cancelled(), if may_end => Pause::Over,
            () = tokio::time::sleep(pause) => Pause::Over,
        }
    }

    /// Do what needs the hypervisor, as often as it takes while that comes and goes.
    async fn reaching<T, F: Future<Output = Result<T, StepError>> + Send>(
        &self,
        operation: &LiveOperation,
        step: Step,
        committed: bool,
        mut act: impl FnMut() -> F + Send,
    ) -> Result<T, StepError> {
        loop {
            match act().await {
                Err(StepError::Unreachable(fault)) => {
                    tracing::warn!(step = step.name(), %fault, "waiting for the hypervisor");
                    tokio::select! {
                        () = self.link_up() => {}
                        () = operation.cancel.cancelled(), if !committed => {
                            return Err(StepError::Cancelled);
                        }
                        () = self.shutdown.cancelled() => return Err(StepError::Suspended),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Do a step, as often as it takes while libvirt comes and goes.
    async fn persevere(
        &self,
        operation: &Arc<LiveOperation>,
        kind: Kind,
        planned: &Planned,
        committed: bool,
    ) -> Result<Flow, StepError> {
        let step = planned.step;
        let doing = self.reaching(operation, step, committed, async || {
            if let Some(fault) = faults::reach(Moment::Before, kind, step.name()) {
                return Err(StepError::failed(fault));
            }
            let doing = self.perform(operation, planned);
            if committed || !step.may_be_left() {
                return doing.await;
            }
            tokio::select! {
                biased;
                outcome = doing => outcome,
                () = left_behind(operation) => Err(StepError::Cancelled),
            }
        });
        let outcome = doing.await;
        let fault = faults::reach(Moment::After, kind, step.name());
        fault.map_or(outcome, |fault| Err(StepError::failed(fault)))
    }

    /// Wait until libvirt can be reached, a moment at least: a link that broke during a call may
    /// not be known to be down yet.
    pub(super) async fn link_up(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut link = self.node.hypervisor.link();
        // The driver lives as long as we do: an error means that everything is ending.
        let _ = link.wait_for(|link| *link == Link::Up).await;
    }
}

/// A step's work: a panic in it is the step's failure, and nobody else's.
pub(super) async fn guarded<T>(
    work: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        let text = "the agent made a mistake (a panic), which its log has";
        let fault = Refusal::new(Reason::Internal, text);
        Err(StepError::failed(
            fault.next("report it, with the log: journalctl -u ostler-host-agent"),
        ))
    })
}

/// Some time after a cancellation: the step had its chance to end by itself.
async fn left_behind(operation: &LiveOperation) {
    operation.cancel.cancelled().await;
    tokio::time::sleep(CANCEL_PATIENCE).await;
}

fn interrupted(what: &str) -> Refusal {
    Refusal::new(Reason::Interrupted, format!("the agent was stopped during the operation: {what}"))
        .next("see how things are, and ask again if it is still wanted")
}
