//! Carrying an operation out: step by step, the intent on disk before each, the outcome after it;
//! on failure, undoing what was done, in reverse; and taking up again what a crash cut off.
//!
//! ```text
//!            ┌─ next step ─┐                         steps marked done are not done again;
//!   running ─┴─> do ───────┴──> all done: succeeded  each step may be done twice, for its
//!                │ failed, or cancelled              driver tells "made" from "already so"
//!                v
//!              undo, newest first ──> undone | cancelled   that it is undone, and why, is on
//!                └ an undo failed ──> failed               disk before anything is
//! ```
//!
//! What a step has committed is not undone: from there the operation goes on, and a crash in it is
//! taken up. A step that fails there is tried again, with growing pauses, over restarts too, until
//! it is done or a delete of the instance takes its place. An undo leaves what a step had found so
//! before it began. A cancellation gives a step a moment to end by itself, then leaves it where it waits
//! for the hypervisor.
//!
//! While libvirt cannot be reached a step waits, and is tried again when it is back: its outcome
//! is unknown, and doing it again is safe.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use crate::refusal::{Action, Operation, Reason, Refusal};
use futures_util::FutureExt;
use ostler_protocol::rpc::operation::{self, Kind, State, StepState, Subject};
use ostler_protocol::rpc::values::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::Engine;
use super::steps::{Flow, StepError};
use crate::compute::causes::journal_fault;
use crate::compute::describe::Permit;
use crate::compute::faults::{self, Moment};
use crate::compute::outside::Outside;
use crate::compute::plan::{Planned, committed, planned, too_late};
use crate::compute::registry::LiveOperation;
use crate::compute::step::Step;
use crate::hypervisor::{Hypervisor, Link};
use crate::journal::{Entry, Write};

/// How long a step that is waiting may go on after a cancellation.
const CANCEL_PATIENCE: Duration = Duration::from_secs(2);
/// The pause before a step that can only go on is tried again: the first, and the longest.
const AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));

/// How an operation's steps ended.
enum End {
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
    /// Have a worker at a subject whose queue had none.
    pub(in crate::compute) fn have_a_worker(self: &Arc<Self>, subject: Subject) {
        let engine = Arc::clone(self);
        self.tasks.spawn(async move { engine.work(subject).await });
    }

    /// One subject's worker: does what is queued, in order, and ends when there is no more.
    async fn work(self: Arc<Self>, subject: Subject) {
        loop {
            let next = {
                let mut registry = self.registry.lock();
                let next = registry.queues.get(&subject).and_then(|queue| queue.front().cloned());
                if next.is_none() {
                    registry.queues.remove(&subject);
                }
                next
            };
            let Some(operation) = next else { return };
            // One that could not be written down is nothing.
            if operation.is_accepted().await
                && AssertUnwindSafe(self.carry_out(&operation)).catch_unwind().await.is_err()
            {
                // How far it is, is on disk; who starts the agent again takes it up from there.
                self.give_up("the carrying out of an operation");
                return;
            }
            if let Some(queue) = self.registry.lock().queues.get_mut(&subject) {
                queue.pop_front();
            }
            if self.shutdown.is_cancelled() {
                return;
            }
        }
    }

    #[tracing::instrument(name = "operation", skip_all, fields(id = %operation.id, subject = %operation.subject))]
    async fn carry_out(&self, operation: &Arc<LiveOperation>) {
        let kind = operation.now.borrow().kind;
        let resumed = operation.now.borrow().state != State::Queued;
        let end = match self.permit(operation).await {
            Err(end) => end,
            Ok(_permit) if resumed => {
                tracing::info!(%kind, "taken up again after a restart");
                self.steps(operation, kind).await
            }
            Ok(_permit) => match operation.operation().deadline {
                Some(deadline) if Timestamp::now() > deadline => End::Failed(Refusal::new(
                    Reason::Expired,
                    "the deadline passed before the operation's turn came",
                )),
                Some(_) | None => self.steps(operation, kind).await,
            },
        };
        let (state, error) = match end {
            End::Suspended => return,
            End::Done => (State::Succeeded, None),
            End::Failed(fault) => match self.undo(operation, kind).await {
                Err(()) => return,
                Ok(Undoing { left, .. }) if !left.is_empty() => {
                    (State::Failed, Some(with_left(fault, left)))
                }
                Ok(Undoing { whole: true, .. }) => (State::Undone, Some(fault)),
                Ok(_) => (State::Failed, Some(fault)),
            },
            End::Cancelled => match self.undo(operation, kind).await {
                Err(()) => return,
                Ok(Undoing { left, .. }) => match self.cancelled(operation).await {
                    Ok(()) => {
                        done_all_the_same(operation);
                        (State::Succeeded, None)
                    }
                    Err(fault) => {
                        let state = if left.is_empty() { State::Cancelled } else { State::Failed };
                        (state, Some(with_left(fault, left)))
                    }
                },
            },
        };
        match (&error, state) {
            (Some(fault), State::Cancelled) => tracing::info!(%kind, %fault, "cancelled"),
            (Some(fault), _) => tracing::error!(
                %kind, %fault, step = fault.step.as_deref().unwrap_or("-"), "not done"
            ),
            (None, _) => tracing::info!(%kind, "done"),
        }
        self.settle(operation, state, error).await;
    }

    /// Wait for a place among the few that may do this at a time.
    async fn permit(&self, operation: &LiveOperation) -> Result<Option<OwnedSemaphorePermit>, End> {
        let places = match operation.change.permit() {
            Permit::None => return Ok(None),
            Permit::Boot => &self.boots,
            Permit::Copy => &self.copies,
            Permit::Download => &self.downloads,
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(End::Suspended),
            () = operation.cancel.cancelled() => Err(End::Cancelled),
            permit = places.take() => Ok(permit),
        }
    }

    async fn steps(&self, operation: &Arc<LiveOperation>, kind: Kind) -> End {
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
                tracing::warn!(%kind, step = n, "this version has no such step: it is left out");
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
                self.is_so_already(operation, planned.step)
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
        tracing::warn!(%fault, failures, seconds, "it can only go on, and is tried again");
        if let Err(error) = self.write_progress(operation).await {
            tracing::warn!(%error, "that a step failed could not be written down");
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
    async fn link_up(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut link = self.node.hypervisor.link();
        // The driver lives as long as we do: an error means that everything is ending.
        let _ = link.wait_for(|link| *link == Link::Up).await;
    }

    /// Undo the steps that were begun, newest first; before that, write down that they are undone,
    /// so that a crash does not make the operation go forward again. `Err` means that the agent is
    /// stopping, and will go on when it is back.
    async fn undo(&self, operation: &Arc<LiveOperation>, kind: Kind) -> Result<Undoing, ()> {
        let mut left = Vec::new();
        let steps = operation.operation().steps;
        if !operation.change.can_undo() || committed(&steps) {
            return Ok(Undoing { whole: false, left });
        }
        if let Err(fault) = self.write_progress(operation).await {
            // On a full disk: what is undone may be what fills it.
            tracing::warn!(%fault, "that an operation is undone could not be written down");
        }
        for (n, planned) in steps.iter().map(planned).enumerate().rev() {
            let Some(planned) = planned else { continue };
            let step = planned.step;
            let begun = |step: &operation::Step| match step.state {
                StepState::Done | StepState::Failed | StepState::Running => !step.already,
                StepState::Pending | StepState::Undone => false,
            };
            if !operation.now.borrow().steps.get(n).is_some_and(begun) {
                continue;
            }
            let _ = faults::reach(Moment::UndoBefore, kind, step.name());
            loop {
                match guarded(self.take_back(operation, &planned)).await {
                    Ok(()) => {
                        self.mark(operation, n, StepState::Undone);
                        break;
                    }
                    Err(StepError::Unreachable(_)) => tokio::select! {
                        () = self.link_up() => {}
                        () = self.shutdown.cancelled() => return Err(()),
                    },
                    Err(StepError::Suspended) => return Err(()),
                    Err(StepError::Cancelled) => break,
                    Err(StepError::Failed(fault) | StepError::Refused(fault)) => {
                        left.push(fault.at(format!("undo {}", step.name())));
                        break;
                    }
                }
            }
            let _ = faults::reach(Moment::UndoAfter, kind, step.name());
            if let Err(fault) = self.write_progress(operation).await {
                // Undoing goes on: what is undone need not be known to be undone again.
                tracing::warn!(%fault, "an undone step could not be written down");
            }
        }
        Ok(Undoing { whole: true, left })
    }

    /// Set a step's state, for all to see; on disk with the next write.
    fn mark(&self, operation: &LiveOperation, n: usize, state: StepState) {
        operation.now.send_modify(|o| {
            let now = Timestamp::now();
            if let Some(step) = o.steps.get_mut(n) {
                step.state = state;
                match state {
                    StepState::Running => drop(step.started.get_or_insert(now)),
                    StepState::Pending => step.started = None,
                    StepState::Done | StepState::Failed | StepState::Undone => {
                        step.finished = Some(now);
                    }
                }
            }
            o.state = State::Running;
            o.started.get_or_insert(now);
            o.revision += 1;
        });
        self.registry.tell_operation(operation);
    }

    /// Write down how far an operation is, and what its steps have noted of their instance: a step
    /// that is done is not done again, so it could not be noted again either.
    async fn write_progress(&self, operation: &LiveOperation) -> Result<(), Refusal> {
        let instance = match &operation.subject {
            Subject::Instance(id) => self.registry.lock().instances.get(id).cloned(),
            Subject::Image(_) | Subject::Network(_) => None,
        };
        let write = Write { operation: Some(operation.record()), instance, ..Write::default() };
        self.registry.journal.write(write).await.map_err(|e| journal_fault(&e))
    }

    /// The operation is over: write it down together with what follows for its subject, then tell.
    async fn settle(&self, operation: &Arc<LiveOperation>, state: State, error: Option<Refusal>) {
        let mut over: Operation = operation.operation();
        over.state = state;
        over.error.clone_from(&error);
        over.finished = Some(Timestamp::now());
        over.started.get_or_insert(over.accepted);
        over.revision += 1;
        let mut record = operation.record();
        record.operation = over.clone();
        let mut write = Write { operation: Some(record), ..Write::default() };
        {
            let mut known = self.registry.lock();
            match &operation.subject {
                Subject::Instance(id) => {
                    let made = state == State::Succeeded || committed(&over.steps);
                    if let (Some(image), false) = (operation.change.makes(), made) {
                        write.image = Some(Entry::Gone(image.clone()));
                    }
                    write.instance = known.update(*id, |instance| {
                        let vm_state = operation.change.settled(state, instance, operation.was);
                        if made {
                            *instance = operation.change.applied(instance, operation.was);
                        }
                        instance.vm_state = vm_state;
                        // A delete that came meanwhile owns the instance already.
                        if instance.operation == Some(operation.id) {
                            instance.task_state = None;
                            instance.operation = None;
                        }
                        if state != State::Cancelled {
                            instance.fault = error;
                        }
                    });
                }
                Subject::Image(name) => {
                    let image = known.images.get(name);
                    write.image = operation.change.image_after(name, image, state);
                }
                Subject::Network(_) => write.network = operation.change.network_after(state),
            }
            write.image.iter().for_each(|entry| known.set_image(entry));
            write.network.iter().for_each(|entry| known.set_network(entry));
        }
        let _ = faults::reach(Moment::Settling, over.kind, "");
        // The outcome must not be lost, so this is tried until it is on disk.
        while let Err(error) = self.registry.journal.write(write.clone()).await {
            tracing::error!(%error, "an operation's outcome cannot be written down; trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
        let _ = faults::reach(Moment::Settled, over.kind, "");
        self.registry.lock().live.remove(&operation.id);
        operation.now.send_replace(over);
        self.registry.tell_operation(operation);
        if let Subject::Instance(id) = operation.subject {
            self.after_task(id).await;
        }
    }
}

/// A step's work: a panic in it is the step's failure, and nobody else's.
async fn guarded<T>(work: impl Future<Output = Result<T, StepError>>) -> Result<T, StepError> {
    AssertUnwindSafe(work).catch_unwind().await.unwrap_or_else(|_| {
        let text = "the agent made a mistake (a panic), which its log has";
        let fault = Refusal::new(Reason::Internal, text);
        Err(StepError::failed(
            fault.next("report it, with the log: journalctl -u ostler-host-agent"),
        ))
    })
}

/// What undoing came to.
struct Undoing {
    /// Whether all that was done could be undone, as far as its kind goes.
    whole: bool,
    /// What could not.
    left: Vec<Refusal>,
}

/// Some time after a cancellation: the step had its chance to end by itself.
async fn left_behind(operation: &LiveOperation) {
    operation.cancel.cancelled().await;
    tokio::time::sleep(CANCEL_PATIENCE).await;
}

/// The steps of an operation that came to its end though somebody cancelled it: those that were
/// begun, and no other was needed.
fn done_all_the_same(operation: &LiveOperation) {
    operation.now.send_modify(|o| {
        o.steps.retain(|step| step.state != StepState::Pending);
        o.steps.iter_mut().for_each(|step| step.state = StepState::Done);
    });
}

fn interrupted(what: &str) -> Refusal {
    Refusal::new(Reason::Interrupted, format!("the agent was stopped during the operation: {what}"))
        .next("see how things are, and ask again if it is still wanted")
}

fn with_left(mut fault: Refusal, left: Vec<Refusal>) -> Refusal {
    for undo in &left {
        let step = undo.step.as_deref().unwrap_or("undo");
        fault.causes.push(format!("{step} failed too: {undo}"));
    }
    if !left.is_empty() {
        fault = fault.next("remove what is left").by(Action::InstanceDelete);
    }
    fault
}
