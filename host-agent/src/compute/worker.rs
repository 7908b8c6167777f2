//! Carrying an operation out: step by step, the intent on disk before each, the outcome after it;
//! on failure, undoing what was done, in reverse; and taking up again what a crash cut off.
//!
//! ```text
//!            ┌─ next step ─┐                         steps marked done are not done again;
//!   running ─┴─> do ───────┴──> all done: succeeded  each step may be done twice, for its
//!                │ failed, or cancelled              driver tells "made" from "already so"
//!                v
//!              undo, newest first ──> undone | cancelled
//!                └ an undo failed ──> failed
//! ```
//!
//! While libvirt cannot be reached a step waits, and is tried again when it is back: its outcome
//! is unknown, and doing it again is safe.

use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::operation::{Kind, Operation, State, StepState, Subject};
use ostler_protocol::rpc::values::Timestamp;
use tokio::sync::SemaphorePermit;

use super::lifecycle;
use super::manager::Compute;
use super::operations::{Flow, Step, StepError, can_undo, plan};
use super::registry::LiveOperation;
use crate::hypervisor::{Hypervisor, Link};
use crate::journal::{Entry, Write};
use crate::network::Network;

/// How an operation's steps ended.
enum End {
    Done,
    Failed(Fault),
    Cancelled,
    /// The agent is stopping; the journal has all that is needed to go on.
    Suspended,
}

impl<H: Hypervisor, N: Network> Compute<H, N> {
    /// Put an operation in its subject's queue, with a worker at it.
    pub(super) fn enqueue(self: &Arc<Self>, operation: Arc<LiveOperation>) {
        let subject = operation.subject.clone();
        let mut registry = self.registry.lock();
        registry.live.insert(operation.id, Arc::clone(&operation));
        let idle = !registry.queues.contains_key(&subject);
        registry.queues.entry(subject.clone()).or_default().push_back(operation);
        drop(registry);
        if idle {
            let compute = Arc::clone(self);
            self.tasks.spawn(async move { compute.work(subject).await });
        }
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
            self.carry_out(&operation).await;
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
        let end = match self.permit(operation, kind).await {
            Err(end) => end,
            Ok(_permit) if resumed => {
                tracing::info!(%kind, "taken up again after a restart");
                self.steps(operation, kind).await
            }
            Ok(_permit) => match operation.deadline {
                Some(deadline) if Timestamp::now() > deadline => End::Failed(Fault::new(
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
                Ok(left) if left.is_empty() && can_undo(kind) => (State::Undone, Some(fault)),
                Ok(left) => (State::Failed, Some(with_left(fault, left))),
            },
            End::Cancelled => match self.undo(operation, kind).await {
                Err(()) => return,
                Ok(left) => {
                    let fault = Fault::new(Reason::Cancelled, "cancelled on request");
                    let state = if left.is_empty() { State::Cancelled } else { State::Failed };
                    (state, Some(with_left(fault, left)))
                }
            },
        };
        match (&error, state) {
            (Some(fault), State::Cancelled) => tracing::info!(%kind, %fault, "cancelled"),
            (Some(fault), _) => tracing::error!(
                %kind, %fault, step = fault.data.step.as_deref().unwrap_or("-"), "not done"
            ),
            (None, _) => tracing::info!(%kind, "done"),
        }
        self.settle(operation, state, error).await;
    }

    /// Wait for a place among the few that may do this at a time.
    async fn permit(
        &self,
        operation: &LiveOperation,
        kind: Kind,
    ) -> Result<Option<SemaphorePermit<'_>>, End> {
        let places = match kind {
            Kind::Boot | Kind::Start => &self.boots,
            Kind::ImageImport => &self.downloads,
            // A reboot mostly waits for its guest; it must not keep others from booting.
            Kind::Reboot
            | Kind::Stop
            | Kind::Delete
            | Kind::Password
            | Kind::ImageRemove
            | Kind::NetworkEnsure => return Ok(None),
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => Err(End::Suspended),
            () = operation.cancel.cancelled() => Err(End::Cancelled),
            permit = places.acquire() => match permit {
                Ok(permit) => Ok(Some(permit)),
                // The semaphore is never closed.
                Err(_) => Err(End::Suspended),
            },
        }
    }

    async fn steps(&self, operation: &Arc<LiveOperation>, kind: Kind) -> End {
        let plan = plan(&operation.change);
        let undoing = operation
            .now
            .borrow()
            .steps
            .iter()
            .any(|s| matches!(s.state, StepState::Failed | StepState::Undone));
        if undoing {
            return End::Failed(interrupted("it had failed, and was being undone"));
        }
        for (n, &step) in plan.iter().enumerate() {
            let before = operation.now.borrow().steps.get(n).map(|s| s.state);
            if before == Some(StepState::Done) {
                continue;
            }
            if operation.cancel.is_cancelled() {
                return End::Cancelled;
            }
            if before == Some(StepState::Running) && !step.may_repeat() {
                self.mark(operation, n, StepState::Failed);
                return End::Failed(
                    interrupted("whether it took effect is not known").at(step.name()),
                );
            }
            self.mark(operation, n, StepState::Running);
            if let Err(error) = self.write_progress(operation).await {
                self.mark(operation, n, StepState::Failed);
                return End::Failed(error.at(step.name()));
            }
            match self.persevere(operation, step).await {
                Ok(Flow::Next) => self.mark(operation, n, StepState::Done),
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
                Err(StepError::Failed(fault) | StepError::Unreachable(fault)) => {
                    self.mark(operation, n, StepState::Failed);
                    let fault = fault.at(step.name()).about(operation.subject.to_string());
                    tracing::warn!(%kind, step = step.name(), %fault, "step failed");
                    return End::Failed(fault);
                }
            }
        }
        End::Done
    }

    /// Do a step, as often as it takes while libvirt comes and goes.
    async fn persevere(
        &self,
        operation: &Arc<LiveOperation>,
        step: Step,
    ) -> Result<Flow, StepError> {
        loop {
            match self.perform(operation, step).await {
                Err(StepError::Unreachable(fault)) => {
                    tracing::warn!(step = step.name(), %fault, "waiting for the hypervisor");
                    tokio::select! {
                        () = self.link_up() => {}
                        () = operation.cancel.cancelled() => return Err(StepError::Cancelled),
                        () = self.shutdown.cancelled() => return Err(StepError::Suspended),
                    }
                }
                outcome => return outcome,
            }
        }
    }

    /// Wait until libvirt can be reached, a moment at least: a link that broke during a call may
    /// not be known to be down yet.
    async fn link_up(&self) {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let mut link = self.node.hypervisor.link();
        // The driver lives as long as we do: an error means that everything is ending.
        let _ = link.wait_for(|link| *link == Link::Up).await;
    }

    /// Undo the steps that were begun, newest first. What could not be undone is returned;
    /// `Err` means that the agent is stopping, and will go on when it is back.
    async fn undo(&self, operation: &Arc<LiveOperation>, kind: Kind) -> Result<Vec<Fault>, ()> {
        let mut left = Vec::new();
        if !can_undo(kind) {
            return Ok(left);
        }
        let plan = plan(&operation.change);
        for (n, &step) in plan.iter().enumerate().rev() {
            let state = operation.now.borrow().steps.get(n).map(|s| s.state);
            if !matches!(state, Some(StepState::Done | StepState::Failed | StepState::Running)) {
                continue;
            }
            loop {
                match self.take_back(operation, kind, step).await {
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
                    Err(StepError::Failed(fault)) => {
                        left.push(fault.at(format!("undo {}", step.name())));
                        break;
                    }
                }
            }
            if let Err(fault) = self.write_progress(operation).await {
                // Undoing goes on: what is undone need not be known to be undone again.
                tracing::warn!(%fault, "an undone step could not be written down");
            }
        }
        Ok(left)
    }

    /// Set a step's state, for all to see; on disk with the next write.
    fn mark(&self, operation: &LiveOperation, n: usize, state: StepState) {
        operation.now.send_modify(|o| {
            let now = Timestamp::now();
            if let Some(step) = o.steps.get_mut(n) {
                step.state = state;
                match state {
                    StepState::Running => step.started = Some(now),
                    StepState::Pending
                    | StepState::Done
                    | StepState::Failed
                    | StepState::Undone => step.finished = Some(now),
                }
            }
            o.state = State::Running;
            o.started.get_or_insert(now);
            o.revision += 1;
        });
        self.tell_operation(operation);
    }

    async fn write_progress(&self, operation: &LiveOperation) -> Result<(), Fault> {
        let write = Write { operation: Some(operation.record()), ..Write::default() };
        self.journal.write(write).await.map_err(|e| super::manager::journal_fault(&e))
    }

    /// The operation is over: write it down together with what follows for its subject, then tell.
    async fn settle(&self, operation: &Arc<LiveOperation>, state: State, error: Option<Fault>) {
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
            let mut registry = self.registry.lock();
            match &operation.subject {
                Subject::Instance(id) => {
                    write.instance = registry.update(*id, |instance| {
                        instance.vm_state = lifecycle::settled(over.kind, state, instance.vm_state);
                        instance.built |= over.kind == Kind::Boot && state == State::Succeeded;
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
                    write.image = match (over.kind, state) {
                        // An import that failed leaves nothing; one that succeeded has set the
                        // record itself.
                        (Kind::ImageImport, State::Succeeded) => {
                            registry.images.get(name).cloned().map(Entry::Put)
                        }
                        (Kind::ImageImport, _) | (Kind::ImageRemove, State::Succeeded) => {
                            registry.images.remove(name);
                            Some(Entry::Gone(name.clone()))
                        }
                        (_, _) => None,
                    };
                }
                Subject::Network(_) => {
                    if let (
                        super::operations::Change::NetworkEnsure { network },
                        State::Succeeded,
                    ) = (&operation.change, state)
                    {
                        registry.networks.insert(network.name.clone(), network.clone());
                        write.network = Some(network.clone());
                    }
                }
            }
        }
        // The outcome must not be lost, so this is tried until it is on disk.
        while let Err(error) = self.journal.write(write.clone()).await {
            tracing::error!(%error, "an operation's outcome cannot be written down; trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
        self.registry.lock().live.remove(&operation.id);
        operation.now.send_replace(over);
        self.tell_operation(operation);
        if let Subject::Instance(id) = operation.subject {
            self.after_task(id).await;
        }
    }
}

fn interrupted(what: &str) -> Fault {
    Fault::new(Reason::Interrupted, format!("the agent was stopped during the operation: {what}"))
        .next("see how things are, and ask again if it is still wanted")
}

fn with_left(mut fault: Fault, left: Vec<Fault>) -> Fault {
    for undo in &left {
        let step = undo.data.step.as_deref().unwrap_or("undo");
        fault.data.causes.push(format!("{step} failed too: {undo}"));
    }
    if !left.is_empty() {
        fault.data.next = Some("remove what is left with ostler instance delete".to_owned());
    }
    fault
}
