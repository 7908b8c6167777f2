//! Stopping and rebooting: asking the guest, and forcing it when it does not comply in time.

use std::time::Duration;

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::qga::commands::power::ShutdownMode as GuestMode;
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::operation::{self, Progress, StepState, Subject, Unit};
use ostler_protocol::rpc::values::InstanceId;
use tokio::time::Instant;

use super::{Engine, Flow, StepError};
use crate::compute::operations::stop::Stop;
use crate::compute::outside::Outside;
use crate::compute::registry::{LiveOperation, Observed};
use crate::compute::step::Step;
use crate::hypervisor::{Change as Made, Error, Hypervisor};

/// How long somebody who cancelled is kept waiting for a last look at the instance.
const AT_ONCE: Duration = Duration::from_secs(2);

/// What the guest is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wish {
    Shutdown,
    Reboot,
}

impl<O: Outside> Engine<O> {
    /// Ask the guest to shut down: its agent first, and after half the time the power button.
    /// That it did not comply is no failure; the next step sees to it.
    pub(super) async fn ask_shutdown(&self, operation: &LiveOperation) -> Result<Flow, StepError> {
        let id = self.record_of(operation)?.id;
        let off = |seen: &Observed| {
            matches!(seen.power, PowerState::Shutdown | PowerState::Crashed | PowerState::None)
        };
        self.ask(operation, id, Wish::Shutdown, off).await?;
        Ok(Flow::Next)
    }

    /// Ask the guest to reboot. If it does, nothing more is to be done.
    pub(super) async fn ask_reboot(&self, operation: &LiveOperation) -> Result<Flow, StepError> {
        let id = self.record_of(operation)?.id;
        let before = self.registry.lock().observed(id).reboots;
        let rebooted = |seen: &Observed| seen.reboots > before;
        let complied = self.ask(operation, id, Wish::Reboot, rebooted).await?;
        Ok(if complied { Flow::Finish } else { Flow::Next })
    }

    /// Ask, and wait until `done` or the time is over; whether it was done.
    async fn ask(
        &self,
        operation: &LiveOperation,
        id: InstanceId,
        wish: Wish,
        done: impl Fn(&Observed) -> bool + Send + Sync,
    ) -> Result<bool, StepError> {
        let timeout = match operation.change.patience() {
            Some(timeout) => Duration::from_millis(u64::from(timeout)),
            None => self.registry.settings().shutdown_timeout,
        };
        let state = self.node.hypervisor.state(id).await;
        match state.map(|s| s.power) {
            Ok(PowerState::Running) => {}
            // Nobody is there to be asked.
            Ok(
                PowerState::Unknown
                | PowerState::None
                | PowerState::Paused
                | PowerState::Shutdown
                | PowerState::Crashed
                | PowerState::Suspended,
            )
            | Err(Error::NotFound { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let begun = Instant::now();
        if self.ask_agent(id, wish).await
            && self.wait_observed(operation, id, begun, timeout / 2, timeout, &done).await?
        {
            return Ok(true);
        }
        let pressed = match wish {
            Wish::Shutdown => self.node.hypervisor.shutdown(id).await.map(|_: Made| ()),
            Wish::Reboot => self.node.hypervisor.reboot(id).await,
        };
        match pressed {
            Err(error @ Error::Unreachable { .. }) => Err(error.into()),
            Err(error) => {
                tracing::info!(instance = %id, %error, "cannot press the power button");
                Ok(false)
            }
            Ok(()) => self.wait_observed(operation, id, begun, timeout, timeout, &done).await,
        }
    }

    async fn ask_agent(&self, id: InstanceId, wish: Wish) -> bool {
        let mode = match wish {
            Wish::Shutdown => GuestMode::Powerdown,
            Wish::Reboot => GuestMode::Reboot,
        };
        match self.node.guests.shutdown(id, mode).await {
            Ok(()) => true,
            Err(error) => {
                tracing::info!(instance = %id, %error, "cannot ask the guest's agent");
                false
            }
        }
    }

    /// Wait until what is observed of an instance satisfies `done`, until `begun + limit` at the
    /// latest; whether it does. Progress is shown against the whole time.
    async fn wait_observed(
        &self,
        operation: &LiveOperation,
        id: InstanceId,
        begun: Instant,
        limit: Duration,
        whole: Duration,
        done: &(impl Fn(&Observed) -> bool + Sync),
    ) -> Result<bool, StepError> {
        let mut changed = self.registry.observed_changed.subscribe();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        loop {
            if done(&self.registry.lock().observed(id)) {
                return Ok(true);
            }
            tokio::select! {
                // The sender lives in `self`.
                _ = changed.changed() => {}
                _ = tick.tick() => self.show_progress(operation, Progress {
                    done: begun.elapsed().as_millis() as u64,
                    total: Some(whole.as_millis() as u64),
                    unit: Unit::Milliseconds,
                }),
                () = tokio::time::sleep_until(begun + limit) => return Ok(false),
                () = operation.cancel.cancelled() => return Err(StepError::Cancelled),
                () = self.shutdown.cancelled() => return Err(StepError::Suspended),
            }
        }
    }

    /// What a cancellation came to. What was asked of a guest, or of libvirt, cannot be taken
    /// back, so libvirt is asked how the instance is.
    ///
    /// # Errors
    /// How it is cancelled, and what may come yet. None if it is done all the same.
    pub(in crate::compute) async fn cancelled(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), Refusal> {
        let fault = |more: &str| {
            Refusal::new(Reason::Cancelled, format!("cancelled on request{more}"))
                .about(operation.subject.to_string())
        };
        let steps = operation.operation().steps;
        let begun = |now: &&operation::Step| now.state != StepState::Pending;
        let last = steps.iter().filter(begun).filter_map(|now| Step::named(&now.name)).next_back();
        // Where the plug was pulled and can be put back in, it was.
        let asked = match last {
            Some(Step::AskShutdown) => "the guest was asked to shut down already",
            Some(Step::AskReboot) => "the guest was asked to reboot already",
            Some(Step::PowerOff) if !operation.change.can_undo() => {
                "libvirt was told to switch it off already"
            }
            Some(Step::UnplugVolume) => {
                let asked = ": the guest was asked to let go of the volume already, and may still";
                return Err(fault(asked));
            }
            Some(_) | None => return Err(fault("")),
        };
        let id = match operation.subject {
            Subject::Instance(id) => id,
            Subject::Image(_) | Subject::Network(_) | Subject::Volume(_) | Subject::Port(_) => {
                return Err(fault(""));
            }
        };
        match self.power_now(id).await {
            PowerState::None | PowerState::Shutdown | PowerState::Crashed => {
                if operation.change.is::<Stop>() {
                    return Ok(());
                }
                Err(fault(&format!("; {asked}, and it is off"))
                    .next("start it")
                    .by(Action::InstanceStart(Some(id))))
            }
            PowerState::Unknown
            | PowerState::Running
            | PowerState::Paused
            | PowerState::Suspended => Err(fault(&format!("; {asked}, and that may still happen"))
                .next("see how it is in a moment")
                .by(Action::InstanceShow(Some(id)))),
        }
    }

    /// How an instance is now, as far as libvirt tells at once.
    async fn power_now(&self, id: InstanceId) -> PowerState {
        let before = self.registry.lock().sightings.get(&id).copied();
        let state = tokio::time::timeout(AT_ONCE, self.node.hypervisor.state(id)).await;
        let now = match state {
            Ok(Ok(state)) => state,
            Ok(Err(Error::NotFound { .. })) => PowerState::None.into(),
            Ok(Err(_)) | Err(_) => return PowerState::Unknown,
        };
        self.power_found(id, now, before).await;
        now.power
    }

    /// Whether an instance was ever up. Where it was not, a domain of its id is not its own.
    pub(super) fn was_built(&self, id: InstanceId) -> bool {
        self.registry.lock().instances.get(&id).is_some_and(|instance| instance.built)
    }

    /// Pull the plug.
    pub(in crate::compute) async fn power_off(&self, id: InstanceId) -> Result<(), StepError> {
        self.node.guests.stopped(id);
        match self.node.hypervisor.destroy(id).await {
            Ok(Made::Made | Made::AlreadySo) | Err(Error::NotFound { .. }) => {}
            Err(Error::NotOurs { .. }) if !self.was_built(id) => {}
            Err(error) => return Err(error.into()),
        }
        self.power_seen(id, PowerState::Shutdown).await;
        Ok(())
    }
}
