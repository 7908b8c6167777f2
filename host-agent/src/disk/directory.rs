//! Disks as files below one directory.
//!
//! Calls block, so each runs on a thread of this driver's own. Copies, which may take an hour,
//! have places of their own: two at once, so that they neither keep boots waiting nor make each
//! other slower than one after the other.

use std::fs;
use std::io;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::aside::{self, Copy};
use super::{DiskError, Disks, Ensured, FOLDER_MODE, Files, Moved, Removed, RootDisk, overlay};
use crate::durable;
use crate::threads::Threads;
use crate::turns::Turns;

/// As many file system calls at once; removing a large disk may take seconds.
const THREADS: usize = 8;

/// As many copies at once, unless told.
const COPIES: usize = 2;

/// The instances' folders below a state directory.
#[derive(Debug, Clone)]
pub struct Directory {
    instances: PathBuf,
    pub(super) threads: Threads,
    turns: Turns,
    pub(super) copiers: Threads,
    keep_free: Arc<AtomicU64>,
    pub(super) qemu_img: PathBuf,
}

impl Directory {
    /// The folders in `<state>/instances`, which is made if missing.
    pub async fn open(state: &Path) -> Result<Self, DiskError> {
        let instances = state.join("instances");
        let this = Self {
            instances: instances.clone(),
            threads: Threads::new("disk", THREADS),
            turns: Turns::new(COPIES),
            copiers: Threads::new("disk-copy", 2 * COPIES),
            keep_free: Arc::default(),
            qemu_img: PathBuf::from("qemu-img"),
        };
        let make = move || {
            durable::folder(&instances, FOLDER_MODE)?;
            // To see now, rather than at the first boot, that it can be used.
            fs::read_dir(&instances).map(drop)
        };
        this.run("open", this.instances.clone(), make).await?;
        Ok(this)
    }

    /// Make so many copies at once from now on.
    pub fn copies(&self, limit: usize) {
        self.turns.resize(limit);
        // Each may have a look at it under way.
        self.copiers.resize(limit.saturating_mul(2));
    }

    /// Leave so much of the file system free when disks are copied: a copy that fills it would
    /// stop every guest that writes. Nothing is kept free unless this is said.
    pub fn keep_free(&self, bytes: Bytes) {
        self.keep_free.store(bytes.0, Ordering::Relaxed);
    }

    pub(super) fn kept_free(&self) -> Bytes {
        Bytes(self.keep_free.load(Ordering::Relaxed))
    }

    async fn run<T: Send + 'static>(
        &self,
        step: &'static str,
        path: PathBuf,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        self.threads.run(call).await.flatten().map_err(DiskError::io(step, &path))
    }

    pub(super) async fn spawn<T: Send + 'static>(
        &self,
        path: &Path,
        call: impl FnOnce() -> Result<T, DiskError> + Send + 'static,
    ) -> Result<T, DiskError> {
        self.threads.run(call).await.map_err(DiskError::io("start a thread for", path))?
    }

    /// A copy's turn, waited for until it is called off.
    pub(super) async fn turn(
        &self,
        path: &Path,
        cancel: &CancellationToken,
    ) -> Result<OwnedSemaphorePermit, DiskError> {
        let cancelled = || DiskError::Cancelled { path: path.to_owned() };
        let turn = cancel.run_until_cancelled(self.turns.take()).await;
        turn.flatten().ok_or_else(cancelled)
    }

    async fn remove_file(&self, instance: InstanceId, file: PathBuf) -> Result<Removed, DiskError> {
        let path = file.clone();
        let removed = self.run("remove", path, move || durable::remove(&file)).await?;
        let removed = if removed { Removed::Removed } else { Removed::AlreadyGone };
        info!(%instance, ?removed, "disk removed");
        Ok(removed)
    }
}

impl Disks for Directory {
    async fn create_root(&self, root: &RootDisk) -> Result<Ensured, DiskError> {
        let path = self.files(root.instance).root;
        let bytes = overlay::plan(root)?;
        let root = root.clone();
        self.spawn(&path.clone(), move || overlay::create(&root, &path, &bytes)).await
    }

    async fn create_folder(&self, instance: InstanceId) -> Result<Ensured, DiskError> {
        let folder = self.files(instance).folder;
        let path = folder.clone();
        let make = move || {
            let made = durable::folder(&folder, FOLDER_MODE)?;
            durable::sync_folder_of(&folder)?;
            Ok(made)
        };
        let made = self.run("make", path, make).await?;
        Ok(if made { Ensured::Created } else { Ensured::AlreadyThere })
    }

    async fn create_rescue(&self, root: &RootDisk) -> Result<Ensured, DiskError> {
        let path = self.files(root.instance).rescue;
        let bytes = overlay::plan(root)?;
        let root = root.clone();
        self.spawn(&path.clone(), move || overlay::create(&root, &path, &bytes)).await
    }

    async fn write_config_drive(
        &self,
        instance: InstanceId,
        bytes: Vec<u8>,
    ) -> Result<(), DiskError> {
        let path = self.files(instance).config_drive;
        let write = {
            let path = path.clone();
            move || {
                let mut unfinished = durable::Unfinished::begin(&path)?;
                unfinished.file.write_all(&bytes)?;
                unfinished.replace()
            }
        };
        self.run("write", path, write).await?;
        info!(%instance, "config drive written");
        Ok(())
    }

    async fn remove_rescue(&self, instance: InstanceId) -> Result<Removed, DiskError> {
        self.remove_file(instance, self.files(instance).rescue).await
    }

    async fn set_aside(&self, instance: InstanceId) -> Result<Moved, DiskError> {
        let files = self.files(instance);
        let set = self.spawn(&files.root.clone(), move || aside::set(instance, &files)).await?;
        info!(%instance, moved = ?set, "root disk set aside");
        Ok(set)
    }

    async fn copy_aside(
        &self,
        instance: InstanceId,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<Ensured, DiskError> {
        let files = self.files(instance);
        let root = files.root.clone();
        let _turn = self.turn(&root, cancel).await?;
        // A copy goes on until its thread hears of it: also when nobody waits for it any more.
        let cancel = cancel.child_token();
        let _ends_with_us = cancel.clone().drop_guard();
        let progress = progress.clone();
        let copy = Copy { instance, files, keep_free: self.kept_free(), progress, cancel };
        let copied = self.copiers.run(move || copy.run()).await;
        let copied = copied.map_err(DiskError::io("start a thread for", &root))??;
        info!(%instance, ?copied, "root disk copied aside");
        Ok(copied)
    }

    async fn put_back(&self, instance: InstanceId) -> Result<Moved, DiskError> {
        let files = self.files(instance);
        let back = self.spawn(&files.root.clone(), move || aside::put_back(&files)).await?;
        info!(%instance, moved = ?back, "root disk put back");
        Ok(back)
    }

    async fn drop_aside(&self, instance: InstanceId) -> Result<Removed, DiskError> {
        self.remove_file(instance, self.files(instance).aside).await
    }

    async fn grow_root(&self, instance: InstanceId, size: Bytes) -> Result<Ensured, DiskError> {
        self.grow(instance, size).await
    }

    async fn export(
        &self,
        instance: InstanceId,
        to: &Path,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<Ensured, DiskError> {
        self.flatten(instance, to, progress, cancel).await
    }

    fn snapshot_file(&self, instance: InstanceId) -> PathBuf {
        self.files(instance).folder.join("snapshot.qcow2")
    }

    async fn remove_snapshot_file(&self, instance: InstanceId) -> Result<Removed, DiskError> {
        self.remove_file(instance, self.snapshot_file(instance)).await
    }

    async fn remove_instance(&self, instance: InstanceId) -> Result<Removed, DiskError> {
        let folder = self.files(instance).folder;
        let path = folder.clone();
        let parent = self.instances.clone();
        // An id is made of hexadecimal digits and hyphens, so the path cannot lead elsewhere, and
        // the standard library removes trees by descriptor: a link put in the way of it is
        // removed, not followed.
        let remove = move || match fs::remove_dir_all(&folder) {
            Ok(()) => durable::sync_folder(&parent).map(|()| Removed::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::AlreadyGone),
            Err(error) => Err(error),
        };
        let removed = self.run("remove", path, remove).await?;
        info!(%instance, ?removed, "instance folder removed");
        Ok(removed)
    }

    async fn allocated(&self) -> Result<Bytes, DiskError> {
        let path = self.instances.clone();
        let add_up = move || {
            let mut blocks = 0;
            for folder in fs::read_dir(path)?.flatten() {
                // what goes while it is looked at takes nothing
                for file in fs::read_dir(folder.path()).into_iter().flatten().flatten() {
                    blocks += file.metadata().map_or(0, |meta| meta.blocks());
                }
            }
            Ok(Bytes(blocks * 512))
        };
        self.run("add up", self.instances.clone(), add_up).await
    }

    async fn list(&self) -> Result<Vec<InstanceId>, DiskError> {
        let path = self.instances.clone();
        let list = move || {
            let mut ids = Vec::new();
            for entry in fs::read_dir(path)? {
                let name = entry?.file_name();
                let id = name.to_str().and_then(|name| name.parse::<InstanceId>().ok());
                ids.extend(id);
            }
            Ok(ids)
        };
        self.run("list", self.instances.clone(), list).await
    }

    fn files(&self, instance: InstanceId) -> Files {
        let folder = self.instances.join(instance.to_string());
        Files {
            root: folder.join("disk.qcow2"),
            rescue: folder.join("disk.rescue.qcow2"),
            config_drive: folder.join("config.img"),
            aside: folder.join("disk.aside.qcow2"),
            console_log: folder.join("console.log"),
            uefi: folder.join("uefi.fd"),
            secure_uefi: folder.join("uefi-secure.fd"),
            folder,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn as_many_copies_are_made_at_once_as_was_said() {
        let state = tempfile::tempdir().unwrap();
        let disks = Directory::open(state.path()).await.unwrap();
        disks.copies(3);
        let cancel = CancellationToken::new();
        let turn = || disks.turn(state.path(), &cancel).now_or_never().transpose().unwrap();
        let turns: Vec<_> = std::iter::from_fn(turn).take(4).collect();
        assert_eq!(turns.len(), 3);
    }
}
