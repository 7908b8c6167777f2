//! Importing, exporting and removing images.

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::image::{Format, State as ImageState};
use ostler_protocol::rpc::operation::{Progress, Subject, Unit};
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name, Sha256, UploadId};
use tokio::sync::watch;

use super::error::missing;
use super::{Engine, StepError};
use crate::compute::operations::image_export::ImageExport;
use crate::compute::operations::image_import::ImageImport;
use crate::compute::outside::Outside;
use crate::compute::registry::{Known, LiveOperation};
use crate::image::Images;
use crate::image::{Export, ExportError, Exported, ImportSpec, Imported, Source};
use crate::journal::records::ImageRecord;

impl<O: Outside> Engine<O> {
    pub(super) async fn fetch_image(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.image_of(operation)?.ok_or_else(|| missing(&operation.subject))?;
        let Some(ImageImport { sha256, sha512, compression, partial_source }) =
            operation.change.downcast()
        else {
            return Err(missing(&operation.subject));
        };
        if *partial_source && operation.volatile.source.is_none() {
            let text = "the agent was stopped, and does not keep the query of a URL";
            return Err(StepError::failed(
                Refusal::new(Reason::Interrupted, text).next("import it again"),
            ));
        }
        let source = source_of(operation, &record)?;
        let spec = ImportSpec {
            name: record.name.clone(),
            source,
            format: record.format,
            compression: *compression,
            sha256: sha256.clone(),
            sha512: sha512.clone(),
            size_cap: None,
        };
        let (progress, mut seen) = watch::channel(crate::image::Progress::default());
        let import = self.node.images.import(&spec, &progress, |imported| {
            self.claim(&record.name, imported);
        });
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
        imported?;
        Ok(())
    }

    /// An import that failed has removed its own file, or keeps it for whoever tries again; one
    /// that was cancelled is not wanted. Bytes another image shares stay.
    pub(super) async fn drop_partial_image(
        &self,
        operation: &LiveOperation,
    ) -> Result<(), StepError> {
        let Some(record) = self.image_of(operation)? else { return Ok(()) };
        if operation.cancel.is_cancelled() {
            let images = &self.node.images;
            let import = operation.change.downcast::<ImageImport>();
            let is_partial = import.is_some_and(|import| import.partial_source);
            if is_partial && operation.volatile.source.is_none() {
                images.forget_image(&record.name).await?;
            } else {
                images.forget(&source_of(operation, &record)?).await?;
            }
        }
        self.drop_image(&record).await
    }

    pub(super) async fn export_image(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let record = self.image_of(operation)?;
        let Some((sha256, format)) = record.and_then(|image| Some((image.sha256?, image.format)))
        else {
            return Err(missing(&operation.subject));
        };
        let change = operation.change.downcast::<ImageExport>();
        if change.is_some_and(|change| change.partial) && operation.volatile.to.is_none() {
            let text = "the agent was stopped, and does not keep the query of a URL";
            return Err(StepError::failed(
                Refusal::new(Reason::Interrupted, text).next("export it again"),
            ));
        }
        let export = export_of(operation)?;
        let stop = operation.cancel.child_token();
        let (progress, mut seen) = watch::channel((Bytes(0), Bytes(0)));
        let ended = self.node.images.export(&sha256, format, &export, &progress, &stop);
        tokio::pin!(ended);
        let ended = loop {
            tokio::select! {
                ended = &mut ended => break ended,
                // The sender lives beside this loop.
                _ = seen.changed() => {
                    let (done, total) = *seen.borrow_and_update();
                    self.show_job(operation, done.0, Some(total.0));
                }
                () = self.shutdown.cancelled(), if !stop.is_cancelled() => stop.cancel(),
            }
        };
        match ended {
            Err(ExportError::Cancelled) if !operation.cancel.is_cancelled() => {
                Err(StepError::Suspended)
            }
            ended => Ok(ended?),
        }
    }

    /// Have an export be over: its file stays, or goes.
    pub(super) async fn end_export(
        &self,
        operation: &LiveOperation,
        exported: Exported,
    ) -> Result<(), StepError> {
        Ok(self.node.images.end_export(&export_of(operation)?, exported).await?)
    }

    pub(super) async fn remove_image(&self, operation: &LiveOperation) -> Result<(), StepError> {
        match self.image_of(operation)? {
            Some(record) => self.drop_image(&record).await,
            // Done by an earlier try, and what failed came after it.
            None => Ok(()),
        }
    }

    /// Give up an image's name, and with it its file unless something else needs that. From the
    /// instant that is decided, nobody finds the name.
    async fn drop_image(&self, record: &ImageRecord) -> Result<(), StepError> {
        let Some(sha256) = &record.sha256 else { return Ok(()) };
        let give_up = |known: &mut Known| known.images.remove(&record.name);
        let dropped = self.drop_bytes(sha256, record.format, None, give_up).await;
        if dropped.is_err() {
            self.registry.lock().images.insert(record.name.clone(), record.clone());
        }
        dropped
    }

    /// Note that an image's file is there, while nobody can remove that.
    pub(super) fn claim(&self, name: &Name, imported: &Imported) -> Option<ImageRecord> {
        let mut registry = self.registry.lock();
        let image = registry.images.get_mut(name)?;
        image.state = ImageState::Ready;
        image.format = imported.format;
        image.sha256 = Some(imported.sha256.clone());
        image.size = imported.size;
        image.virtual_size = imported.virtual_size;
        Some(image.clone())
    }

    /// Remove an image file unless something needs it, an instance as it is now left out: the one
    /// place where that is decided. Whoever comes to need a file is in the registry first (an
    /// import by its [claim](Self::claim), an instance by its admission), and names that are given
    /// up are out of it.
    pub(in crate::compute) async fn drop_bytes<T>(
        &self,
        sha256: &Sha256,
        format: Format,
        but: Option<InstanceId>,
        give_up: impl FnOnce(&mut Known) -> T + Send,
    ) -> Result<(), StepError> {
        let is_needed = || {
            let mut known = self.registry.lock();
            give_up(&mut known);
            known.needs(sha256, format, but)
        };
        self.node.images.remove(sha256, format, is_needed).await?;
        Ok(())
    }

    /// What is known of an operation's image; `None` once its name is given up.
    fn image_of(&self, operation: &LiveOperation) -> Result<Option<ImageRecord>, StepError> {
        let Subject::Image(name) = &operation.subject else {
            return Err(missing(&operation.subject));
        };
        Ok(self.registry.lock().images.get(name).cloned())
    }
}

/// What was sent to the agent that an image is imported from.
pub(in crate::compute) fn upload_of(record: &ImageRecord) -> Option<UploadId> {
    record.source.parse::<Source>().ok()?.upload()
}

/// Where an image is exported to, with the query of its URL where that is still known.
fn export_of(operation: &LiveOperation) -> Result<Export, StepError> {
    let Some(ImageExport { to, .. }) = operation.change.downcast() else {
        return Err(missing(&operation.subject));
    };
    let to = operation.volatile.to.as_ref().unwrap_or(to).parse().map_err(|error| {
        let fault = Refusal::of(Reason::InvalidParams, &error);
        StepError::failed(fault.about("parameter to"))
    })?;
    Ok(Export { mark: operation.id.to_string(), to })
}

/// Where an image is imported from, with the query of its URL where that is still known.
fn source_of(operation: &LiveOperation, record: &ImageRecord) -> Result<Source, StepError> {
    let source = operation.volatile.source.as_deref().unwrap_or(&record.source);
    source.parse().map_err(|error| {
        let fault = Refusal::of(Reason::InvalidParams, &error);
        StepError::failed(fault.about("parameter source"))
    })
}
