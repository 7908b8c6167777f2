//! Snapshots of a volume: layers that keep what it held, put on one another and folded.

use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::{Name, Timestamp, VolumeId};
use ostler_protocol::rpc::volume::Format;
use tracing::info;

use super::Directory;
use super::files::{drop_layers, nobody_has, note, succeeded, write};
use crate::disk::{Ensured, Removed};
use crate::durable;
use crate::qcow2;
use crate::qemu_img::convert::bounds;
use crate::qemu_img::{self, Job, Output, late};
use crate::volume::manifest::{Below, DEEPEST, Manifest, Snapshot, file_name, word};
use crate::volume::{At, Opened, VolumeError};

/// Folding copies what a layer holds.
const FOLD_WALL: std::time::Duration = std::time::Duration::from_secs(6 * 3600);

impl Directory {
    pub(in crate::volume) async fn snapshot(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<Ensured, VolumeError> {
        let (folder, mut manifest) = self.manifest(id).await?;
        if manifest.snapshot(name).is_some() {
            return Ok(Ensured::AlreadyThere);
        }
        let layer = manifest.top;
        manifest.size = self.true_size(&folder, &manifest).await?;
        let (size, created) = (manifest.size, Timestamp::now());
        manifest.snapshots.push(Snapshot { name: name.clone(), layer, size, created });
        self.put_on_top(folder, manifest, layer).await?;
        info!(volume = %id, snapshot = %name, "volume snapshotted");
        Ok(Ensured::Created)
    }

    /// Have an empty layer over this one, and note it as the top.
    async fn put_on_top(
        &self,
        folder: PathBuf,
        mut manifest: Manifest,
        layer: u32,
    ) -> Result<(), VolumeError> {
        let id = manifest.id;
        if manifest.layers.len() >= DEEPEST {
            return Err(VolumeError::TooDeep { id, most: DEEPEST });
        }
        let format = manifest.layers[&layer].format;
        let below = file_name(layer, format);
        let overlay = qcow2::overlay(manifest.size, &below, word(format))
            .map_err(|source| VolumeError::Impossible { id, source })?;
        let number = manifest.grow_from(layer);
        let path = folder.join(file_name(number, Format::Qcow2));
        self.run(folder.clone(), move || {
            // One that is there was never noted: nobody has written to it.
            durable::remove_if_there(&path).map_err(VolumeError::io("remove", &path))?;
            write(&path, Some(&overlay), manifest.size)?;
            let pruned = manifest.prune();
            note(&folder, &manifest)?;
            drop_layers(&folder, &pruned);
            Ok(())
        })
        .await
    }

    pub(in crate::volume) async fn undo_snapshot(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<(), VolumeError> {
        let (folder, mut manifest) = self.manifest(id).await?;
        let Some(snapshot) = manifest.snapshot(name).cloned() else { return Ok(()) };
        manifest.snapshots.retain(|snapshot| snapshot.name != *name);
        manifest.top = snapshot.layer;
        self.run(folder.clone(), move || {
            let pruned = manifest.prune();
            let files: Vec<PathBuf> =
                pruned.iter().map(|(n, format)| folder.join(file_name(*n, *format))).collect();
            nobody_has(id, &files, &folder)?;
            note(&folder, &manifest)?;
            drop_layers(&folder, &pruned);
            Ok(())
        })
        .await
    }

    pub(in crate::volume) async fn delete_snapshot(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<Removed, VolumeError> {
        let (folder, mut manifest) = self.manifest(id).await?;
        let removed = match manifest.snapshot(name) {
            None => Removed::AlreadyGone,
            Some(_) => {
                manifest.snapshots.retain(|snapshot| snapshot.name != *name);
                let (into, mut noted) = (folder.clone(), manifest.clone());
                manifest = self
                    .run(folder.clone(), move || {
                        let pruned = noted.prune();
                        note(&into, &noted)?;
                        drop_layers(&into, &pruned);
                        Ok(noted)
                    })
                    .await?;
                info!(volume = %id, snapshot = %name, "snapshot forgotten");
                Removed::Removed
            }
        };
        // What QEMU has open cannot be folded under it: that waits for a time when it has not.
        while let Some((layer, into)) = manifest.foldable() {
            if self.is_free(id, &folder, &manifest).await.is_err() {
                break;
            }
            manifest = match self.fold(&folder, manifest, layer, into).await {
                Ok(folded) => folded,
                // The snapshot is gone all the same: its layer only takes room, until the next.
                Err(error) => {
                    tracing::warn!(volume = %id, layer, %error, "cannot fold a layer");
                    break;
                }
            };
        }
        Ok(removed)
    }

    /// Put what a layer holds into the one on it, and remove it.
    async fn fold(
        &self,
        folder: &Path,
        mut manifest: Manifest,
        layer: u32,
        into: u32,
    ) -> Result<Manifest, VolumeError> {
        let path = |number: u32| folder.join(file_name(number, manifest.layers[&number].format));
        let target = path(into);
        let (below, format) = match &manifest.layers[&layer].below {
            Below::Nothing => (std::ffi::OsString::new(), "raw"),
            Below::Layer(below) => {
                let format = manifest.layers[below].format;
                (file_name(*below, format).into(), word(format))
            }
            Below::Image(path, format) => (path.clone().into_os_string(), word(*format)),
        };
        let words = ["rebase", "-q", "-f", "qcow2", "-F", format, "-b"].map(std::ffi::OsStr::new);
        let rest = [below.as_os_str(), target.as_os_str()];
        let arguments = words.into_iter().chain(rest).collect();
        let bounds = bounds(manifest.size);
        let job = Job { program: &self.qemu_img, arguments, bounds, stdin: None };
        let ran = qemu_img::run(job, Output::Answer, late(FOLD_WALL)).await;
        succeeded("fold a layer into", &target, ran)?;
        let folder = folder.to_owned();
        self.run(folder.clone(), move || {
            let Some(format) = manifest.fold(layer, into) else { return Ok(manifest) };
            note(&folder, &manifest)?;
            drop_layers(&folder, &[(layer, format)]);
            Ok(manifest)
        })
        .await
    }

    pub(in crate::volume) async fn revert(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<(), VolumeError> {
        let (folder, mut manifest) = self.manifest(id).await?;
        let no = || VolumeError::NoSnapshot { id, name: name.clone() };
        let layer = manifest.snapshot(name).ok_or_else(no)?.layer;
        self.is_free(id, &folder, &manifest).await?;
        manifest.size = self.true_size(&folder, &manifest).await?;
        self.put_on_top(folder, manifest, layer).await?;
        info!(volume = %id, snapshot = %name, "volume reverted");
        Ok(())
    }

    /// Where a volume's content at a snapshot is.
    pub(in crate::volume) async fn open_snapshot(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<Opened, VolumeError> {
        let (folder, manifest) = self.manifest(id).await?;
        let no = || VolumeError::NoSnapshot { id, name: name.clone() };
        let snapshot = manifest.snapshot(name).ok_or_else(no)?;
        let format = manifest.layers[&snapshot.layer].format;
        let path = folder.join(file_name(snapshot.layer, format));
        Ok(Opened { at: At::File(path), format, size: snapshot.size, direct: false })
    }
}
