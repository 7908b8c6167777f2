//! Making an image of an instance's disk.
//!
//! ```text
//!   runs:  freeze the guest ── begin the copy ── thaw ── wait for the copy   (QEMU's own job)
//!   off:   copy the disk with its base                                       (qemu-img)
//!   then:  check, hash, and move into the image cache
//! ```
//!
//! The freeze has a lease: a guest that does not hear the thaw thaws itself. Whether it held until
//! the instant was taken is told in the operation's result.

use std::path::Path;
use std::time::Duration;

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::instance::{PowerState, Quiesce};
use ostler_protocol::rpc::operation::Outcome;
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name, Timestamp};
use tokio::sync::watch;

use super::{Engine, StepError};
use crate::compute::causes::guest_fault;
use crate::compute::causes::journal_fault;
use crate::compute::describe::Describe;
use crate::compute::operations::snapshot::Snapshot;
use crate::compute::outside::Outside;
use crate::compute::plan::Planned;
use crate::compute::record::root_device;
use crate::compute::registry::LiveOperation;
use crate::disk::Disks;
use crate::hypervisor::jobs::Jobs;
use crate::hypervisor::{Error, Hypervisor, Job};
use crate::image::Images;
use crate::image::Imported;
use crate::journal::records::{ImageRecord, InstanceRecord};
use crate::journal::{Entry, Write};

/// How long a guest stays frozen when nobody thaws it.
const LEASE: Duration = Duration::from_secs(30);
/// How often the hypervisor is asked how far the copy is.
const LOOK: Duration = Duration::from_millis(200);

/// Whether the guest's filesystems were frozen at the instant the image shows.
type Quiesced = Result<(), String>;

impl<O: Outside> Engine<O> {
    pub(super) async fn copy_disk(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.record_of(operation)?;
        let image = made_by(&*operation.change)?;
        // What an agent that died in the middle has left.
        self.drop_copy(operation).await?;
        let to = self.node.disks.snapshot_file(record.id);
        let power = self.node.hypervisor.state(record.id).await.map(|state| state.power);
        let quiesced = match power {
            Ok(power @ (PowerState::Running | PowerState::Paused | PowerState::Suspended)) => {
                let wish = match (operation.change.downcast::<Snapshot>(), power) {
                    (Some(snapshot), PowerState::Running) => snapshot.quiesce,
                    (Some(Snapshot { quiesce: Quiesce::Require, .. }), _) => {
                        let text = "the guest's vCPUs stand still, so it cannot be frozen";
                        return Err(StepError::failed(
                            Refusal::new(Reason::GuestUnavailable, text)
                                .next("unpause it, or ask without quiesce"),
                        ));
                    }
                    (_, _) => Quiesce::Never,
                };
                let quiesced = self.begin_copy(&record, wish, &to).await?;
                self.follow_copy(operation, record.id).await?;
                quiesced
            }
            Ok(PowerState::Shutdown | PowerState::Crashed | PowerState::None)
            | Err(Error::NotFound { .. }) => {
                let (progress, seen) = watch::channel((Bytes(0), Bytes(0)));
                let export = self.node.disks.export(record.id, &to, &progress, &operation.cancel);
                self.copied(operation, seen, export).await?;
                Ok(())
            }
            Ok(PowerState::Unknown) => {
                let text = "whether the instance runs is not known";
                return Err(StepError::failed(Refusal::new(Reason::HypervisorUnavailable, text)));
            }
            Err(error) => return Err(error.into()),
        };
        let why = quiesced.err();
        operation.now.send_modify(|o| {
            o.result = Some(Outcome::Snapshot { image, quiesced: why.is_none(), why });
        });
        Ok(())
    }

    /// Freeze, begin, thaw. The copy shows the instant between.
    async fn begin_copy(
        &self,
        record: &InstanceRecord,
        wish: Quiesce,
        to: &Path,
    ) -> Result<Quiesced, StepError> {
        let (id, begun) = (record.id, Timestamp::now());
        let frozen = match wish {
            Quiesce::Never => Err("it was not asked for".to_owned()),
            Quiesce::Auto | Quiesce::Require => match self.node.guests.freeze(id, LEASE).await {
                Ok(filesystems) => {
                    tracing::info!(instance = %id, filesystems, "the guest is frozen");
                    Ok(())
                }
                Err(error) if wish == Quiesce::Require => {
                    return Err(StepError::failed(guest_fault(&error)));
                }
                Err(error) => Err(error.to_string()),
            },
        };
        let copying = self.node.hypervisor.begin_copy(id, &root_device(record), to).await;
        if frozen.is_err() {
            copying?;
            return Ok(frozen);
        }
        let held = !self.node.guests.thawed_since(id, begun);
        // Whatever became of the copy: the lease is a net, not a plan.
        let thawed = self.node.guests.thaw(id).await;
        copying?;
        let quiesced = match thawed {
            Ok(_) if held => Ok(()),
            Ok(_) => Err("the guest thawed itself before the copy began".to_owned()),
            Err(error) => {
                tracing::warn!(instance = %id, %error, "the guest did not answer the thaw");
                Ok(())
            }
        };
        if quiesced.is_err() && wish == Quiesce::Require {
            let text = "the guest thawed itself before the copy began";
            return Err(StepError::failed(Refusal::new(Reason::GuestFailed, text)));
        }
        Ok(quiesced)
    }

    /// Wait for QEMU's job.
    async fn follow_copy(
        &self,
        operation: &LiveOperation,
        id: InstanceId,
    ) -> Result<(), StepError> {
        loop {
            let failed = |text: String| {
                let fault = Refusal::new(Reason::HypervisorFailed, text);
                Err(StepError::failed(fault.next("see the instance's log, and ask again")))
            };
            match self.node.hypervisor.job(id).await? {
                Job::Completed => return Ok(()),
                Job::Failed { reason } => return failed(format!("the copy failed: {reason}")),
                Job::None => return failed("the copy ended unseen".to_owned()),
                Job::Running { done, total } => {
                    self.show_job(operation, done.0, total.map(|total| total.0));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = operation.cancel.cancelled() => return Err(StepError::Cancelled),
                () = self.shutdown.cancelled() => return Err(StepError::Suspended),
            }
        }
    }

    /// End a copy under way and remove what there is of it; a guest that may still be frozen for
    /// it is thawed.
    pub(super) async fn drop_copy(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        match self.node.hypervisor.abort_job(id).await {
            Ok(_) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let left = tokio::fs::try_exists(self.node.disks.snapshot_file(id)).await;
        if operation.resumed
            && let Err(error) = self.node.guests.thaw(id).await
        {
            tracing::info!(instance = %id, %error, "cannot thaw the guest: it thaws itself when its lease ends");
        }
        if !matches!(left, Ok(false)) {
            self.node.disks.remove_snapshot_file(id).await?;
        }
        Ok(())
    }

    pub(super) async fn store_image(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        let name = image_of(operation, planned)?;
        let stored = self.registry.lock().images.get(&name).is_some_and(|i| i.sha256.is_some());
        if stored {
            // All but the last of it was done before a crash.
            self.node.disks.remove_snapshot_file(id).await?;
            return Ok(());
        }
        let from = self.node.disks.snapshot_file(id);
        let (progress, mut seen) = watch::channel((Bytes(0), Bytes(0)));
        let mut record = None;
        let claim = |imported: &Imported| record = self.claim(&name, imported);
        let adopt = self.node.images.adopt(&from, &name, &progress, &operation.cancel, claim);
        let mut adopt = Box::pin(adopt);
        let stored = loop {
            tokio::select! {
                adopted = &mut adopt => break adopted,
                Ok(()) = seen.changed() => {
                    let (done, total) = *seen.borrow_and_update();
                    self.show_job(operation, done.0, Some(total.0));
                }
            }
        };
        drop(adopt);
        stored?;
        // Steps follow that destroy what the image was made of: it is on disk before them.
        self.write_image(record.map(Entry::Put)).await?;
        // The receipt for it has served.
        self.node.disks.remove_snapshot_file(id).await?;
        Ok(())
    }

    /// Remove the image an operation was making.
    pub(super) async fn drop_stored_image(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        self.forget_image(&image_of(operation, planned)?).await
    }

    /// Remove the image an instance was shelved as; its bytes stay where they have become a disk's
    /// base.
    pub(super) async fn drop_shelved_image(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let shelved = self.record_of(operation)?.shelved.map(|shelved| shelved.image);
        match planned.image().cloned().or(shelved) {
            Some(image) => self.forget_image(&image).await,
            None => Ok(()),
        }
    }

    /// Remove an image: from the journal first, so that a file without a record is all a crash can
    /// leave, which the next start sweeps.
    async fn forget_image(&self, name: &Name) -> Result<(), StepError> {
        let known: Option<ImageRecord> = self.registry.lock().images.remove(name);
        self.write_image(Some(Entry::Gone(name.clone()))).await?;
        let Some((sha256, format)) = known.and_then(|i| Some((i.sha256?, i.format))) else {
            return Ok(());
        };
        self.drop_bytes(&sha256, format, None, |_| ()).await
    }

    async fn write_image(&self, image: Option<Entry<ImageRecord>>) -> Result<(), StepError> {
        let write = Write { image, ..Write::default() };
        self.registry.journal.write(write).await.map_err(|e| StepError::failed(journal_fault(&e)))
    }
}

/// The image an operation makes.
fn made_by(change: &dyn Describe) -> Result<Name, StepError> {
    let none = || StepError::failed(Refusal::new(Reason::Internal, "this makes no image"));
    change.makes().cloned().ok_or_else(none)
}

/// The image a step is about; journals of earlier versions have that in the change only.
fn image_of(operation: &LiveOperation, planned: &Planned) -> Result<Name, StepError> {
    planned.image().cloned().map_or_else(|| made_by(&*operation.change), Ok)
}
