//! Going back: what was done of an operation is taken back, newest first.

use std::sync::Arc;

use ostler_protocol::rpc::operation::{self, Kind, StepState};

use super::Engine;
use super::forward::guarded;
use super::steps::StepError;
use crate::compute::faults::{self, Moment};
use crate::compute::outside::Outside;
use crate::compute::plan::{committed, planned};
use crate::compute::registry::LiveOperation;
use crate::refusal::{Reason, Refusal};

/// What undoing came to.
pub(super) struct Undoing {
    /// Whether all that was done could be undone, as far as its kind goes.
    pub(super) whole: bool,
    /// What could not.
    pub(super) left: Vec<Refusal>,
}

impl<O: Outside> Engine<O> {
    /// Undo the steps that were begun, newest first; before that, write down that they are undone,
    /// so that a crash does not make the operation go forward again. `Err` means that the agent is
    /// stopping, and will go on when it is back.
    pub(super) async fn undo(
        &self,
        operation: &Arc<LiveOperation>,
        kind: Kind,
    ) -> Result<Undoing, ()> {
        let mut left = Vec::new();
        let steps = operation.operation().steps;
        if !operation.change.can_undo() || committed(&steps) {
            return Ok(Undoing { whole: false, left });
        }
        if let Err(fault) = self.write_progress(operation).await {
            // On a full disk: what is undone may be what fills it.
            tracing::warn!(%fault, "cannot write to the journal that an operation is being undone");
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
                    Err(StepError::Cancelled) => {
                        let fault = Refusal::new(Reason::Cancelled, "it was cut off");
                        left.push(fault.at(format!("undo {}", step.name())));
                        break;
                    }
                    Err(
                        StepError::Failed(fault)
                        | StepError::Refused(fault)
                        | StepError::NotBegun(fault),
                    ) => {
                        left.push(fault.at(format!("undo {}", step.name())));
                        break;
                    }
                }
            }
            let _ = faults::reach(Moment::UndoAfter, kind, step.name());
            if let Err(fault) = self.write_progress(operation).await {
                // Undoing goes on: what is undone need not be known to be undone again.
                tracing::warn!(%fault, "cannot write an undone step to the journal");
            }
        }
        Ok(Undoing { whole: true, left })
    }
}
