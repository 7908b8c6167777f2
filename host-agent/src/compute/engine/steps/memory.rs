//! An instance's memory and vCPUs: held, let go, saved to disk, thrown away.

use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::operation::{Progress, Unit};
use ostler_protocol::rpc::values::InstanceId;
use std::time::Duration;

use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::jobs::Jobs;
use crate::hypervisor::{Error, Hypervisor, Job};
use crate::journal::records::Running;

/// How often the hypervisor is asked how far a job is.
const LOOK: Duration = Duration::from_millis(250);

impl<O: Outside> Engine<O> {
    pub(super) async fn pause(&self, id: InstanceId) -> Result<(), StepError> {
        self.node.hypervisor.pause(id).await?;
        self.power_seen(id, PowerState::Paused).await;
        Ok(())
    }

    pub(super) async fn unpause(&self, id: InstanceId) -> Result<(), StepError> {
        let before = self.registry.lock().sightings.get(&id).copied();
        self.node.hypervisor.unpause(id).await?;
        // Where its disk is still full it has stopped again already, and that was told.
        self.power_found(id, PowerState::Running, before).await;
        Ok(())
    }

    /// While its vCPUs stood still, its clock did. That a guest cannot be told is no failure.
    pub(super) async fn sync_clock(&self, id: InstanceId) {
        if let Err(error) = self.node.guests.sync_time(id).await {
            tracing::info!(instance = %id, %error, "cannot set the guest's clock");
        }
    }

    pub(super) async fn save_memory(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        let saving = self.node.hypervisor.save(id);
        tokio::pin!(saving);
        loop {
            tokio::select! {
                saved = &mut saving => {
                    saved?;
                    break;
                }
                () = tokio::time::sleep(LOOK) => {
                    if let Ok(Job::Running { done, total }) = self.node.hypervisor.job(id).await {
                        self.show_job(operation, done.0, total.map(|total| total.0));
                    }
                }
            }
        }
        self.power_seen(id, PowerState::Shutdown).await;
        Ok(())
    }

    /// Take back a save: one under way is ended, and one that was through is started from.
    pub(super) async fn unsave_memory(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.record_of(operation)?;
        self.node.hypervisor.abort_job(record.id).await?;
        let state = self.node.hypervisor.state(record.id).await?;
        match state.power {
            PowerState::Shutdown | PowerState::Crashed if operation.was == Running::Yes => {
                self.ensure_bridges(&record).await?;
                self.run_domain(&record).await
            }
            PowerState::Unknown
            | PowerState::None
            | PowerState::Running
            | PowerState::Paused
            | PowerState::Shutdown
            | PowerState::Crashed
            | PowerState::Suspended => Ok(()),
        }
    }

    pub(super) async fn discard_memory(&self, id: InstanceId) -> Result<(), StepError> {
        match self.node.hypervisor.discard_save(id).await {
            Ok(_) | Err(Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn show_job(&self, operation: &LiveOperation, done: u64, total: Option<u64>) {
        self.show_progress(operation, Progress { done, total, unit: Unit::Bytes });
    }
}
