//! Having a running guest let go of a disk or a NIC.

use std::time::Duration;

use ostler_protocol::rpc::values::InstanceId;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::already::is_off;
use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::{Change, Error, Hypervisor, HypervisorEvent, Plug};

/// How long a guest has to answer before it is asked again.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// What came of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LetGo {
    /// It is gone.
    Gone,
    /// The time is over: whether it is gone is to be looked at.
    Late {
        /// Whether the guest said that it keeps it.
        refused: bool,
    },
}

impl<O: Outside> Engine<O> {
    /// Have a running guest let go of the device of this alias: ask, wait until it says so, and ask
    /// again as long as there is time and no `cancel`. An attach that is undone has been cancelled
    /// already, and waits for the guest all the same.
    pub(super) async fn let_go(
        &self,
        operation: &LiveOperation,
        id: InstanceId,
        alias: &str,
        cancel: &CancellationToken,
    ) -> Result<LetGo, StepError> {
        let patience = operation.change.patience().unwrap_or_default();
        let deadline = Instant::now() + Duration::from_millis(patience.into());
        let mut refused = false;
        loop {
            // Before it is asked, so that no answer is missed.
            let mut events = self.node.hypervisor.events();
            match self.node.hypervisor.unplug(id, alias).await {
                Ok(Change::AlreadySo) | Err(Error::NotFound { .. }) => return Ok(LetGo::Gone),
                Ok(Change::Made) => {}
                // It went off meanwhile, and everything with it.
                Err(Error::Refused { .. }) if is_off(self.power_of(id).await?) => {
                    return Ok(LetGo::Gone);
                }
                Err(error) => return Err(error.into()),
            }
            let again = deadline.min(Instant::now() + ASK_AGAIN);
            loop {
                tokio::select! {
                    biased;
                    () = cancel.cancelled() => return Err(StepError::Cancelled),
                    () = self.shutdown.cancelled() => return Err(StepError::Suspended),
                    event = events.next() => match event {
                        Some(HypervisorEvent::Kept { id: of, alias: which })
                            if of == id && which == alias => refused = true,
                        // Whatever else happens to it: it is looked at again.
                        Some(HypervisorEvent::Unplugged { id: of, .. }
                            | HypervisorEvent::Lifecycle { id: of, .. }
                            | HypervisorEvent::Removed { id: of }) if of == id => break,
                        Some(HypervisorEvent::LinkUp | HypervisorEvent::Lagged { .. }) | None => {
                            break;
                        }
                        Some(HypervisorEvent::Kept { .. }
                            | HypervisorEvent::Unplugged { .. }
                            | HypervisorEvent::Lifecycle { .. }
                            | HypervisorEvent::Removed { .. }
                            | HypervisorEvent::Rebooted { .. }
                            | HypervisorEvent::AgentConnected { .. }
                            | HypervisorEvent::LinkDown) => {}
                    },
                    () = tokio::time::sleep_until(again) => break,
                }
            }
            if Instant::now() >= deadline {
                return Ok(LetGo::Late { refused });
            }
        }
    }
}
