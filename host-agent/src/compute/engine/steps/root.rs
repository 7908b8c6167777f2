//! Disks that take each other's place: a new root beside the old one, a copy to come back to, a
//! rescue disk before them.

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::values::Bytes;
use tokio::sync::watch;

use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::disk::{Base, Disks, RootDisk};
use crate::image::Images;
use crate::journal::records::{Base as BaseRecord, InstanceRecord};

impl<O: Outside> Engine<O> {
    pub(super) async fn create_root_disk(&self, record: &InstanceRecord) -> Result<(), StepError> {
        match &record.base {
            Some(base) => {
                let root = self.root_disk(record, base, record.disk);
                self.node.disks.create_root(&root).await?;
            }
            // It boots from a volume, and has its console's log here.
            None => drop(self.node.disks.create_folder(record.id).await?),
        }
        Ok(())
    }

    pub(super) async fn set_root_aside(&self, operation: &LiveOperation) -> Result<(), StepError> {
        self.node.disks.set_aside(self.record_of(operation)?.id).await?;
        Ok(())
    }

    pub(super) async fn copy_root_aside(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let id = self.record_of(operation)?.id;
        let (progress, seen) = watch::channel((Bytes(0), Bytes(0)));
        let copy = self.node.disks.copy_aside(id, &progress, &operation.cancel);
        self.copied(operation, seen, copy).await
    }

    pub(super) async fn grow_root(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let target = self.target(operation)?;
        self.node.disks.grow_root(target.id, target.disk).await?;
        Ok(())
    }

    pub(super) async fn put_root_back(&self, operation: &LiveOperation) -> Result<(), StepError> {
        self.node.disks.put_back(self.record_of(operation)?.id).await?;
        Ok(())
    }

    pub(super) async fn drop_aside(&self, operation: &LiveOperation) -> Result<(), StepError> {
        self.node.disks.drop_aside(self.record_of(operation)?.id).await?;
        Ok(())
    }

    pub(super) async fn create_rescue_disk(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), StepError> {
        let target = self.target(operation)?;
        let Some(rescue) = &target.rescue else {
            let text = "what to rescue the instance with is not known any more";
            return Err(StepError::failed(Refusal::new(Reason::Internal, text)));
        };
        let disk = self.root_disk(&target, &rescue.base, rescue.base.virtual_size);
        self.node.disks.create_rescue(&disk).await?;
        Ok(())
    }

    pub(super) async fn drop_rescue_disk(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), StepError> {
        self.node.disks.remove_rescue(self.record_of(operation)?.id).await?;
        Ok(())
    }

    /// Remove the files of images that no image has the name of, and that only this instance, as
    /// it was, had a disk on.
    pub(super) async fn drop_base(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.record_of(operation)?;
        let rescue = record.rescue.as_ref().map(|rescue| &rescue.base);
        for base in record.base.iter().chain(rescue) {
            self.drop_bytes(&base.sha256, base.format, Some(record.id), |_| ()).await?;
        }
        Ok(())
    }

    fn root_disk(&self, record: &InstanceRecord, base: &BaseRecord, size: Bytes) -> RootDisk {
        let base = Base {
            path: self.node.images.path(&base.sha256, base.format),
            format: base.format,
            virtual_size: base.virtual_size,
        };
        RootDisk { instance: record.id, base, size }
    }

    /// Wait for a copy of a disk, showing how far it is. It sees to a cancellation itself.
    pub(super) async fn copied<T, E>(
        &self,
        operation: &LiveOperation,
        mut seen: watch::Receiver<(Bytes, Bytes)>,
        copy: impl Future<Output = Result<T, E>>,
    ) -> Result<(), StepError>
    where
        StepError: From<E>,
    {
        tokio::pin!(copy);
        loop {
            tokio::select! {
                copied = &mut copy => {
                    copied?;
                    return Ok(());
                }
                // The sender lives as long as the copy.
                Ok(()) = seen.changed() => {
                    let (done, total) = *seen.borrow_and_update();
                    self.show_job(operation, done.0, Some(total.0));
                }
            }
        }
    }
}
