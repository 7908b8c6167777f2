//! Importing and removing images.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::image::State as ImageState;
use ostler_protocol::rpc::operation::{Progress, Subject, Unit};
use tokio::sync::watch;

use super::error::{image_fault, missing};
use super::{Change, StepError};
use crate::compute::manager::Compute;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::Hypervisor;
use crate::image::{ImportSpec, Source};
use crate::journal::records::ImageRecord;
use crate::network::Network;

impl<H: Hypervisor, N: Network> Compute<H, N> {
    pub(super) async fn fetch_image(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.image_of(operation)?;
        let Change::ImageImport { sha256, partial_source } = &operation.change else {
            return Err(missing(&operation.subject));
        };
        if *partial_source && operation.volatile.source.is_none() {
            let text = "the agent was stopped, and does not keep the query of a URL";
            return Err(StepError::failed(
                Fault::new(Reason::Interrupted, text).next("import it again"),
            ));
        }
        let source = source_of(operation, &record)?;
        let spec = ImportSpec {
            name: record.name.clone(),
            source,
            format: record.format,
            sha256: sha256.clone(),
            size_cap: None,
        };
        let (progress, mut seen) = watch::channel(crate::image::Progress::default());
        let import = self.node.images.import(&spec, &progress);
        tokio::pin!(import);
        let imported = loop {
            tokio::select! {
                imported = &mut import => break imported,
                // The sender lives beside this loop.
                _ = seen.changed() => {
                    let now = *seen.borrow_and_update();
                    self.show_progress(operation, Progress {
                        done: now.received.0,
                        total: now.total.map(|total| total.0),
                        unit: Unit::Bytes,
                    });
                }
                () = operation.cancel.cancelled() => return Err(StepError::Cancelled),
                () = self.shutdown.cancelled() => return Err(StepError::Suspended),
            }
        };
        let imported = imported.map_err(|error| StepError::failed(image_fault(&error)))?;
        if let Some(image) = self.registry.lock().images.get_mut(&record.name) {
            image.state = ImageState::Ready;
            image.sha256 = Some(imported.sha256);
            image.size = imported.size;
            image.virtual_size = imported.virtual_size;
        }
        Ok(())
    }

    /// An import that failed has removed its own file, or keeps it for whoever tries again; one
    /// that was cancelled is not wanted. Bytes another image shares stay.
    pub(super) async fn drop_partial_image(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), StepError> {
        let record = self.image_of(operation)?;
        if operation.cancel.is_cancelled() {
            let images = &self.node.images;
            let forgotten = match (&operation.change, &operation.volatile.source) {
                (Change::ImageImport { partial_source: true, .. }, None) => {
                    images.forget_image(&record.name).await
                }
                (_, _) => images.forget(&source_of(operation, &record)?).await,
            };
            forgotten.map_err(|error| StepError::failed(image_fault(&error)))?;
        }
        self.drop_file(&record).await
    }

    pub(super) async fn remove_image(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.image_of(operation)?;
        self.drop_file(&record).await
    }

    /// Remove an image's file, unless another image has the same bytes.
    async fn drop_file(&self, record: &ImageRecord) -> Result<(), StepError> {
        let Some(sha256) = &record.sha256 else { return Ok(()) };
        let shared = self.registry.lock().images.values().any(|other| {
            other.name != record.name
                && other.format == record.format
                && other.sha256.as_ref() == Some(sha256)
        });
        if shared {
            return Ok(());
        }
        let removed = self.node.images.remove(sha256, record.format).await;
        removed.map(|_| ()).map_err(|error| StepError::failed(image_fault(&error)))
    }

    fn image_of(&self, operation: &LiveOperation) -> Result<ImageRecord, StepError> {
        let Subject::Image(name) = &operation.subject else {
            return Err(missing(&operation.subject));
        };
        let record = self.registry.lock().images.get(name).cloned();
        record.ok_or_else(|| missing(&operation.subject))
    }
}

/// Where an image is imported from, with the query of its URL where that is still known.
fn source_of(operation: &LiveOperation, record: &ImageRecord) -> Result<Source, StepError> {
    let source = operation.volatile.source.as_deref().unwrap_or(&record.source);
    source.parse().map_err(|error| {
        let fault = Fault::of(Reason::InvalidParams, &error);
        StepError::failed(fault.about("parameter source"))
    })
}
