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

use futures_util::FutureExt;
use ostler_protocol::rpc::operation::{State, StepState, Subject};
use ostler_protocol::rpc::values::Timestamp;
use tokio::sync::OwnedSemaphorePermit;

use super::Engine;
use super::forward::End;
use super::undo::Undoing;
use crate::compute::describe::Permit;
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::refusal::{Action, Reason, Refusal};

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
                    (State::Failed, Some(with_left(operation, fault, left)))
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
                        (state, Some(with_left(operation, fault, left)))
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
}

/// The steps of an operation that came to its end though somebody cancelled it: those that were
/// begun, and no other was needed.
fn done_all_the_same(operation: &LiveOperation) {
    operation.now.send_modify(|o| {
        o.steps.retain(|step| step.state != StepState::Pending);
        o.steps.iter_mut().for_each(|step| step.state = StepState::Done);
    });
}

fn with_left(operation: &LiveOperation, mut fault: Refusal, left: Vec<Refusal>) -> Refusal {
    for undo in &left {
        let step = undo.step.as_deref().unwrap_or("undo");
        fault.causes.push(format!("{step} failed too: {undo}"));
    }
    // What was there before is not to be removed for that.
    if !left.is_empty() && operation.change.is_fresh() {
        fault = fault.next("remove what is left").by(Action::InstanceDelete);
    }
    fault
}
