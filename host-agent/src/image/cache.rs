//! The cache: what an import goes through, and the files it ends as.
//!
//! ```text
//!   <cache>/<sha256>.<format>       an image: whole, checked, synced, read-only
//!   <cache>/parts/<key>.part|note   one on its way; the key is a hash of its source
//!                 <key>.made        what is being made of it
//!   <cache>/uploads/<id>            what was sent to be imported
//! ```
//!
//! A file gets its name by a link made after everything else is done, so a name in the cache
//! always stands for a good image, whenever the agent or the node stopped.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};
use std::time::{Duration, SystemTime};

use ostler_protocol::rpc::image::{Compression, Format};
use ostler_protocol::rpc::values::{Bytes, Name, Sha256, Sha512, Timestamp, UploadId};
use tokio::sync::{OwnedMutexGuard, watch};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::convert::Convert;
use super::fetch::Fetch;
use super::local::{self, Copy};
use super::pace::Pace;
use super::part::{Part, Written};
use super::source::Kind;
use super::unpack::{Unpack, unpack};
use super::{
    Cached, Export, ExportError, Exported, ImageError, Images, ImportSpec, Imported, Limits, Phase,
    Progress, Removed, Source, Stored, Swept, qemu_img, verify,
};
use crate::durable::{self, remove_if_there};
use crate::qcow2;
use crate::threads::Threads;
use crate::turns::Turns;

/// QEMU may open a file whose name it was given; nobody else may look around.
const CACHE_MODE: u32 = 0o711;
pub(super) const PARTS_MODE: u32 = 0o700;

/// Short calls at once, beside the writing of images.
const THREADS: usize = 4;

/// Exports at once, beside what `limits.copies` says.
const EXPORTS: usize = 16;

/// An interrupted download nobody came back for is removed after this long.
const KEEP_PARTS: Duration = Duration::from_secs(24 * 3600);

/// The thread of an import that was dropped leaves its file within a chunk.
const FORGET_PATIENCE: Duration = Duration::from_secs(5);

/// So many imports are remembered by what became of them.
const REMEMBERED: usize = 1024;

type Lock = tokio::sync::Mutex<()>;

/// The images on this node.
#[derive(Debug)]
pub struct Cache {
    pub(super) folder: PathBuf,
    pub(super) parts: PathBuf,
    pub(super) uploads: PathBuf,
    limits: RwLock<Arc<Limits>>,
    pace: Pace,
    pub(super) turns: Turns,
    /// Threads that write images, for as long as that takes.
    pub(super) writers: Threads,
    /// Threads that read images to be exported: a server that takes its time keeps no import waiting.
    pub(super) exporters: Threads,
    /// Threads for what takes no time.
    pub(super) threads: Threads,
    /// One import at a time of each source, by its key; one at a time at each file, by its path.
    locks: Mutex<HashMap<String, Weak<Lock>>>,
    /// What became of what was asked for, where that has another digest.
    became: Mutex<HashMap<Asked, Sha256>>,
}

/// What an import asks for, wherever it comes from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Asked {
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
    compression: Option<Compression>,
    format: Format,
}

impl Asked {
    /// What is asked for by its digest.
    fn of(spec: &ImportSpec) -> Option<Self> {
        let (sha256, sha512) = (spec.sha256.clone(), spec.sha512.clone());
        let (compression, format) = (spec.compression, spec.format);
        spec.is_proved().then_some(Self { sha256, sha512, compression, format })
    }
}

impl Images for Cache {
    async fn import(
        &self,
        spec: &ImportSpec,
        progress: &watch::Sender<Progress>,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        progress.send_replace(Progress::default());
        let key = spec.source.key();
        let lock = self.lock(&key).lock_owned().await;
        if let Some(sha256) = self.known(spec) {
            let _nobody_removes_it = self.hold(&sha256, spec.format.kept()).await;
            if let Some(found) = self.find(spec, &sha256).await? {
                claim(&found);
                return Ok(found);
            }
        }
        let _turn = self.turns.take().await;
        let mut part = Part::new(&self.parts, &key, lock);
        part.sha512 = spec.sha512.is_some();
        let imported = self.bring(spec, &part, progress, claim).await;
        if imported.as_ref().is_err_and(|error| !worth_resuming(error)) {
            let part = part.clone();
            self.run("clear", &self.parts, move || part.discard()).await?;
        }
        imported
    }

    async fn forget(&self, source: &Source) -> Result<(), ImageError> {
        let key = source.key();
        let lock = tokio::time::timeout(FORGET_PATIENCE, self.lock(&key).lock_owned());
        let Ok(lock) = lock.await else { return Ok(()) };
        let part = Part::new(&self.parts, &key, lock);
        self.run("clear", &self.parts, move || part.discard()).await
    }

    async fn forget_image(&self, image: &Name) -> Result<(), ImageError> {
        for key in self.keys().await? {
            let Ok(lock) = self.lock(&key).try_lock_owned() else { continue };
            let part = Part::new(&self.parts, &key, lock);
            let image = image.clone();
            let forget = move || if part.is_for(&image) { part.discard() } else { Ok(()) };
            self.run("clear", &self.parts, forget).await?;
        }
        Ok(())
    }

    async fn remove(
        &self,
        sha256: &Sha256,
        format: Format,
        is_needed: impl FnOnce() -> bool + Send,
    ) -> Result<Removed, ImageError> {
        let path = self.path(sha256, format);
        let _nobody_finds_it = self.hold(sha256, format).await;
        if is_needed() {
            self.note_use(sha256, format).await?;
            return Ok(Removed::Needed);
        }
        let file = path.clone();
        let remove = move || durable::remove(&file);
        let removed = match self.run("remove", &path, remove).await? {
            true => Removed::Removed,
            false => Removed::AlreadyGone,
        };
        info!(image = %path.display(), ?removed, "image removed from the cache");
        Ok(removed)
    }

    async fn note_use(&self, sha256: &Sha256, format: Format) -> Result<(), ImageError> {
        let path = self.path(sha256, format);
        let file = path.clone();
        let touch = move || match File::open(file) {
            Ok(file) => file.set_modified(SystemTime::now()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        self.run("note a use of", &path, touch).await
    }

    fn path(&self, sha256: &Sha256, format: Format) -> PathBuf {
        self.folder.join(format!("{sha256}.{}", format.as_str()))
    }

    async fn list(&self) -> Result<Vec<Cached>, ImageError> {
        let folder = self.folder.clone();
        let list = move || {
            let mut cached = Vec::new();
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                if let Some((sha256, format)) = name(&entry.file_name()) {
                    let meta = entry.metadata()?;
                    let used = meta.modified()?.duration_since(SystemTime::UNIX_EPOCH);
                    let used = Timestamp(used.unwrap_or_default().as_millis() as u64);
                    let size = Bytes(meta.len());
                    cached.push(Cached { sha256, format, path: entry.path(), size, used });
                }
            }
            Ok(cached)
        };
        self.run("list", &self.folder, list).await
    }

    async fn upload(&self, id: UploadId, offset: u64, data: Vec<u8>) -> Result<Bytes, ImageError> {
        self.take_piece(id, offset, data).await
    }

    async fn drop_upload(&self, id: UploadId) -> Result<(), ImageError> {
        let path = self.upload_path(id);
        let file = path.clone();
        self.run("remove", &path, move || remove_if_there(&file).map(drop)).await
    }

    async fn sweep_uploads(
        &self,
        is_needed: impl Fn(UploadId) -> bool + Send + 'static,
    ) -> Result<usize, ImageError> {
        self.sweep_old_uploads(None, is_needed).await
    }

    async fn adopt(
        &self,
        file: &Path,
        name: &Name,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        self.take_over(file, name, progress, cancel, claim).await
    }

    async fn export(
        &self,
        sha256: &Sha256,
        format: Format,
        export: &Export,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), ExportError> {
        let image = self.path(sha256, format);
        self.export_file(image, export, progress, cancel).await
    }

    async fn end_export(&self, export: &Export, exported: Exported) -> Result<(), ExportError> {
        self.settle_export(export, exported).await
    }
}

impl Cache {
    /// The cache in this directory, which is made if missing and swept if not.
    pub async fn open(folder: &Path, limits: Limits) -> Result<Self, ImageError> {
        let this = Self {
            folder: folder.to_owned(),
            parts: folder.join("parts"),
            uploads: folder.join("uploads"),
            pace: Pace::new(limits.bandwidth),
            turns: Turns::new(limits.concurrent),
            writers: Threads::new("image", limits.concurrent),
            exporters: Threads::new("image-export", EXPORTS),
            threads: Threads::new("image-file", THREADS),
            locks: Mutex::default(),
            became: Mutex::default(),
            limits: RwLock::new(Arc::new(limits)),
        };
        let (folder, parts) = (this.folder.clone(), this.parts.clone());
        let make = move || {
            durable::folder(&folder, CACHE_MODE)?;
            durable::folder(&parts, PARTS_MODE)?;
            durable::sync_folder(&folder)
        };
        this.run("open", &this.folder, make).await?;
        let swept = this.sweep().await?;
        if swept != Swept::default() {
            info!(removed = swept.removed, kept = swept.kept, "interrupted imports swept");
        }
        Ok(this)
    }

    /// Put up with this from now on; imports under way go on as they began, but for the bandwidth.
    pub fn put_up_with(&self, limits: Limits) {
        self.pace.set(limits.bandwidth);
        self.turns.resize(limits.concurrent);
        self.writers.resize(limits.concurrent);
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
    }

    pub(super) fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn bring(
        &self,
        spec: &ImportSpec,
        part: &Part,
        progress: &watch::Sender<Progress>,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        let written = self.receive(spec, part, progress).await?;
        let total = Some(written.size);
        let received = written.size;
        progress.send_replace(Progress { phase: Phase::Checking, received, total });
        compare(spec, &written)?;
        let written = match spec.compression {
            Some(compression) => self.unpack(spec, part, compression).await?,
            None => written,
        };
        let format = spec.format.kept();
        let written =
            if format == spec.format { written } else { self.convert(spec, part).await? };
        let virtual_size = self.judge(spec, &part.data, written.size).await?;
        if format == Format::Qcow2 {
            self.second_opinion(spec, &part.data, virtual_size).await?;
        }
        let Written { size, sha256, .. } = written;
        let path = self.path(&sha256, format);
        let _nobody_removes_it = self.hold(&sha256, format).await;
        let stored = self.store(part, &path).await?;
        self.note(spec, &sha256);
        info!(image = %spec.name, source = %spec.source, %sha256, %size, ?stored, "image imported");
        let imported = Imported { sha256, path, format, size, virtual_size, stored };
        claim(&imported);
        Ok(imported)
    }

    async fn receive(
        &self,
        spec: &ImportSpec,
        part: &Part,
        progress: &watch::Sender<Progress>,
    ) -> Result<Written, ImageError> {
        let limits = &*self.limits();
        let cap = spec.cap(limits);
        match spec.source.kind() {
            Kind::Local(path) => {
                self.copy(path.clone(), limits.directories.clone(), cap, part, progress).await
            }
            Kind::Upload(id) => {
                let folder = vec![self.uploads.clone()];
                self.copy(self.upload_path(*id), folder, cap, part, progress).await
            }
            Kind::Remote(url) => {
                let (image, threads) = (&spec.name, &self.writers);
                let proved = spec.is_proved();
                let (pace, kept) = (&self.pace, AtomicU64::new(0));
                let fetch =
                    Fetch { image, url, part, cap, proved, limits, threads, progress, pace, kept };
                fetch.run().await
            }
        }
    }

    /// Copy a file of this node that is below one of the directories.
    async fn copy(
        &self,
        path: PathBuf,
        directories: Vec<PathBuf>,
        cap: Bytes,
        part: &Part,
        progress: &watch::Sender<Progress>,
    ) -> Result<Written, ImageError> {
        let (part, keep_free) = (part.clone(), self.limits().keep_free);
        let copy = Copy { path, part, directories, cap, keep_free };
        local::copy(&self.writers, copy, progress).await
    }

    async fn unpack(
        &self,
        spec: &ImportSpec,
        part: &Part,
        compression: Compression,
    ) -> Result<Written, ImageError> {
        let limits = self.limits();
        let (cap, keep_free) = (spec.cap(&limits), limits.keep_free);
        let (part, source_shown) = (part.clone(), spec.source.to_string());
        unpack(&self.writers, Unpack { part, compression, cap, keep_free, source_shown }).await
    }

    async fn convert(&self, spec: &ImportSpec, part: &Part) -> Result<Written, ImageError> {
        let (limits, threads) = (&*self.limits(), &self.writers);
        let converted = Convert { part, format: spec.format, limits, threads }.run().await?;
        let converted = converted.map_err(|source| ImageError::Unfit {
            source_shown: spec.source.to_string(),
            source,
        })?;
        info!(image = %spec.name, from = spec.format.as_str(), "image converted to qcow2");
        Ok(converted)
    }

    /// The digest of the file that an import would end as, if it can be told before.
    fn known(&self, spec: &ImportSpec) -> Option<Sha256> {
        let asked = Asked::of(spec)?;
        match asked {
            Asked { sha256: Some(sha256), sha512: None, compression: None, format }
                if format == format.kept() =>
            {
                Some(sha256)
            }
            asked => self.became().get(&asked).cloned(),
        }
    }

    /// Remember what an import ended as: whoever waits to import the same needs no second download.
    fn note(&self, spec: &ImportSpec, sha256: &Sha256) {
        let Some(asked) = Asked::of(spec) else { return };
        let mut became = self.became();
        if became.len() >= REMEMBERED {
            became.clear();
        }
        became.insert(asked, sha256.clone());
    }

    fn became(&self) -> MutexGuard<'_, HashMap<Asked, Sha256>> {
        self.became.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Judge a file by its beginning: its virtual size if it passes.
    async fn judge(
        &self,
        spec: &ImportSpec,
        path: &Path,
        size: Bytes,
    ) -> Result<Bytes, ImageError> {
        let file = path.to_owned();
        let read = move || {
            let mut beginning = Vec::new();
            File::open(file)?.take(qcow2::HEADER_READ as u64).read_to_end(&mut beginning)?;
            Ok(beginning)
        };
        let beginning = self.run("read", path, read).await?;
        verify::beginning(spec.format.kept(), &beginning, size, self.limits().virtual_size)
            .map_err(|source| ImageError::Unfit { source_shown: spec.source.to_string(), source })
    }

    async fn second_opinion(
        &self,
        spec: &ImportSpec,
        path: &Path,
        virtual_size: Bytes,
    ) -> Result<(), ImageError> {
        let said = qemu_img::judge(&self.limits().qemu_img, path, virtual_size).await?;
        said.map_err(|source| ImageError::Unfit { source_shown: spec.source.to_string(), source })
    }

    /// Give the file its name.
    pub(super) async fn store(&self, part: &Part, path: &Path) -> Result<Stored, ImageError> {
        let (part, name, folder) = (part.clone(), path.to_owned(), self.folder.clone());
        let link = move || {
            let stored = match fs::hard_link(&part.data, name) {
                Ok(()) => Stored::New,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Stored::AlreadyThere,
                Err(error) => return Err(error),
            };
            durable::sync_folder(&folder)?;
            part.discard()?;
            Ok(stored)
        };
        self.run("store", path, link).await
    }

    /// An image that is in the cache already.
    async fn find(
        &self,
        spec: &ImportSpec,
        sha256: &Sha256,
    ) -> Result<Option<Imported>, ImageError> {
        let format = spec.format.kept();
        let path = self.path(sha256, format);
        let file = path.clone();
        let size = move || match fs::symlink_metadata(file) {
            Ok(meta) => Ok(Some(Bytes(meta.len()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        let Some(size) = self.run("look for", &path, size).await? else { return Ok(None) };
        let virtual_size = self.judge(spec, &path, size).await?;
        let (sha256, stored) = (sha256.clone(), Stored::AlreadyThere);
        Ok(Some(Imported { sha256, path, format, size, virtual_size, stored }))
    }

    /// Clear away what interrupted imports left and cannot be, or was not, resumed.
    /// Imports under way are not touched.
    pub async fn sweep(&self) -> Result<Swept, ImageError> {
        let mut swept = Swept::default();
        for key in self.keys().await? {
            let Ok(lock) = self.lock(&key).try_lock_owned() else { continue };
            let part = Part::new(&self.parts, &key, lock);
            let sweep = move || {
                let recent =
                    fs::metadata(&part.data).and_then(|meta| meta.modified()).is_ok_and(|at| {
                        SystemTime::now().duration_since(at).is_ok_and(|age| age < KEEP_PARTS)
                    });
                if recent && part.resumable().is_some() {
                    remove_if_there(&part.made)?;
                    return Ok(false);
                }
                part.discard().map(|()| true)
            };
            match self.run("clear", &self.parts, sweep).await? {
                true => swept.removed += 1,
                false => swept.kept += 1,
            }
        }
        Ok(swept)
    }

    /// The keys of what is on its way, or was.
    async fn keys(&self) -> Result<Vec<String>, ImageError> {
        let parts = self.parts.clone();
        let keys = move || {
            let mut keys = Vec::new();
            for entry in fs::read_dir(parts)? {
                let path = entry?.path();
                keys.extend(path.file_stem().and_then(OsStr::to_str).map(str::to_owned));
            }
            keys.sort();
            keys.dedup();
            Ok(keys)
        };
        self.run("list", &self.parts, keys).await
    }

    /// The right to name a file, to find it or to remove it.
    pub(super) async fn hold(&self, sha256: &Sha256, format: Format) -> OwnedMutexGuard<()> {
        let name = self.path(sha256, format);
        self.lock(&name.to_string_lossy()).lock_owned().await
    }

    pub(super) fn lock(&self, key: &str) -> Arc<Lock> {
        let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
        locks.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::new(Lock::default());
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }

    pub(super) async fn run<T: Send + 'static>(
        &self,
        step: &'static str,
        path: &Path,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, ImageError> {
        self.threads.run(call).await.flatten().map_err(ImageError::io(step, path))
    }
}

/// Whether what came is what was asked for.
fn compare(spec: &ImportSpec, written: &Written) -> Result<(), ImageError> {
    let wrong = |kind, wanted: &str, found: &str| ImageError::Digest {
        source_shown: spec.source.to_string(),
        kind,
        wanted: wanted.to_owned(),
        found: found.to_owned(),
    };
    if let Some(wanted) = spec.sha256.as_ref().filter(|wanted| **wanted != written.sha256) {
        return Err(wrong("SHA-256", wanted.as_str(), written.sha256.as_str()));
    }
    match &spec.sha512 {
        Some(wanted) if written.sha512.as_ref() != Some(wanted) => {
            let found = written.sha512.as_ref().map_or("unknown", Sha512::as_str);
            Err(wrong("SHA-512", wanted.as_str(), found))
        }
        Some(_) | None => Ok(()),
    }
}

/// Digest and format, of a file named as an image in the cache is.
fn name(file: &OsStr) -> Option<(Sha256, Format)> {
    let (digest, word) = file.to_str()?.split_once('.')?;
    let mut formats = Format::ALL.into_iter().filter(|format| *format == format.kept());
    let format = formats.find(|format| format.as_str() == word)?;
    let sha256: Sha256 = digest.parse().ok()?;
    (sha256.as_str() == digest).then_some((sha256, format))
}

/// Whether what there is of an import is of use to its repeat.
fn worth_resuming(error: &ImageError) -> bool {
    matches!(
        error,
        ImageError::Transfer { .. }
            | ImageError::Stalled { .. }
            | ImageError::TooSlow { .. }
            | ImageError::Status { .. }
    )
}
