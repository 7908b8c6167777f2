//! A pool that is a directory of this node, or one that is mounted there:
//!
//! ```text
//!   <pool>/<volume id>/
//!       volume.json     the manifest
//!       0.raw, 1.qcow2  its layers
//! ```
//!
//! Layers name each other by their bare names, so the pool can be moved. Calls block, so each runs
//! on a thread of this pool's own: one that is on a dead server holds up nobody else.

mod files;
mod snapshots;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use ostler_protocol::rpc::values::{Bytes, Name, VolumeId};
use ostler_protocol::rpc::volume::Format;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::files::{
    MANIFEST, allocated, blank, is_direct, nobody_has, note, read, remove_tree, size_of, succeeded,
    write,
};
use super::manifest::{Below, Manifest, file_name, word};
use super::{At, Content, NewVolume, Opened, VolumeError};
use crate::disk::{Base, Ensured, Removed};
use crate::durable::{self, Unfinished};
use crate::host::{self, Space};
use crate::qemu_img::convert::{Copy, Onto, bounds};
use crate::qemu_img::{self, Job, Output, STDIN, late};
use crate::threads::Threads;

/// Others may pass through to a file they know and have a right to (QEMU to its disk), but not
/// look around.
const FOLDER_MODE: u32 = 0o711;

/// As many file system calls at once.
const THREADS: usize = 8;

/// How long a call waits for others of the pool.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

/// How often a disk is encrypted anew, when qemu-img could not tell the processor's speed.
const ENCRYPT_TRIES: usize = 20;

/// What it says then: `crypto/pbkdf.c` of QEMU.
const NO_CPU_USAGE: &str = "accurate CPU usage";

/// Growing moves a table of some kilobytes.
const GROW_WALL: std::time::Duration = std::time::Duration::from_secs(120);

/// A pool in a directory.
#[derive(Debug, Clone)]
pub struct Directory {
    /// What it is called.
    pub(super) name: Name,
    path: PathBuf,
    format: Format,
    /// Whether it is on the file system of the instances' disks, with the image cache.
    pub(super) is_shared: bool,
    keep_free: Bytes,
    threads: Threads,
    pub(super) qemu_img: PathBuf,
    /// Its device and number, as it was first seen.
    seen: Arc<OnceLock<(u64, u64)>>,
}

impl Directory {
    /// The pool in this directory. Its own folder is made if it `is_shared`; any other has to be
    /// there, for an empty mount point is not the pool.
    pub async fn open(
        name: Name,
        path: &Path,
        format: Format,
        is_shared: bool,
        keep_free: Bytes,
    ) -> Result<Self, VolumeError> {
        let this = Self {
            name,
            path: path.to_owned(),
            format,
            is_shared,
            keep_free,
            threads: Threads::new("volume", THREADS),
            qemu_img: PathBuf::from("qemu-img"),
            seen: Arc::default(),
        };
        if is_shared {
            let path = this.path.clone();
            let make = move || {
                durable::folder(&path, FOLDER_MODE)
                    .map(drop)
                    .map_err(VolumeError::io("make", &path))
            };
            this.run(path_of(&this), make).await?;
        }
        Ok(this)
    }

    /// The pool, unless another folder is in its place: the empty one below a file system that is
    /// gone.
    pub(super) async fn there(&self) -> Result<&Self, VolumeError> {
        let (path, seen) = (self.path.clone(), Arc::clone(&self.seen));
        self.run(path.clone(), move || {
            let meta = fs::metadata(&path).map_err(VolumeError::io("examine", &path))?;
            let now = (meta.dev(), meta.ino());
            match *seen.get_or_init(|| now) == now {
                true => Ok(()),
                false => Err(VolumeError::NotThere { path }),
            }
        })
        .await
        .map(|()| self)
    }

    fn folder(&self, id: VolumeId) -> PathBuf {
        self.path.join(id.to_string())
    }

    async fn run<T: Send + 'static>(
        &self,
        path: PathBuf,
        call: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        self.threads.run_soon(PATIENCE, call).await.map_err(VolumeError::io("use", &path))?
    }

    /// What is noted beside a volume, and where.
    async fn manifest(&self, id: VolumeId) -> Result<(PathBuf, Manifest), VolumeError> {
        let folder = self.folder(id);
        let from = folder.clone();
        let found = self.run(folder.clone(), move || read(&from, id)).await?;
        found
            .map(|manifest| (folder.clone(), manifest))
            .ok_or(VolumeError::Gone { id, path: folder })
    }

    pub(super) async fn room(&self) -> Result<Space, VolumeError> {
        let path = self.path.clone();
        self.run(path.clone(), move || {
            host::space(&path).map_err(VolumeError::io("see the space of", &path))
        })
        .await
    }

    pub(super) async fn allocated(&self) -> Result<Bytes, VolumeError> {
        let path = self.path.clone();
        self.run(path.clone(), move || allocated(&path).map_err(VolumeError::io("measure", &path)))
            .await
    }

    pub(super) async fn exists(&self, id: VolumeId) -> Result<bool, VolumeError> {
        let folder = self.folder(id);
        self.run(folder.clone(), move || match fs::symlink_metadata(&folder) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(VolumeError::io("examine", &folder)(error)),
        })
        .await
    }

    pub(super) async fn open_volume(&self, id: VolumeId) -> Result<Opened, VolumeError> {
        let (folder, manifest) = self.manifest(id).await?;
        self.run(folder.clone(), move || {
            let (path, format) = top(&folder, &manifest);
            // Through a link the guest would have any file of the node.
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_file() => {
                    let (size, direct) = (size_of(&path, format)?, is_direct(&path));
                    Ok(Opened { at: At::File(path), format, size, direct })
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    Err(VolumeError::io("examine", &path)(error))
                }
                Ok(_) | Err(_) => Err(VolumeError::Gone { id, path }),
            }
        })
        .await
    }

    pub(super) async fn close(&self, id: VolumeId) -> Result<(), VolumeError> {
        let (folder, manifest) = self.manifest(id).await?;
        self.is_free(id, &folder, &manifest).await
    }

    /// Make a volume; `from` is where what it is to hold is, if that is another volume.
    pub(super) async fn create(
        &self,
        volume: &NewVolume,
        from: Option<Opened>,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<Ensured, VolumeError> {
        let id = volume.place.id;
        let folder = self.folder(id);
        let look = {
            let folder = folder.clone();
            move || read(&folder, id)
        };
        if self.run(folder.clone(), look).await?.is_some() {
            return Ok(Ensured::AlreadyThere);
        }
        let format = volume.format.unwrap_or(self.format);
        let source = match (&volume.content, from) {
            (Content::Empty, _) => None,
            (Content::Image(base), _) => Some(Source::of(base)),
            (Content::Volume { .. }, Some(from)) => Some(Source {
                path: from.path().to_owned(),
                format: word(from.format),
                size: from.size,
            }),
            (Content::Volume { place, .. }, None) => {
                return Err(VolumeError::Gone { id: place.id, path: folder });
            }
        };
        if let Some(source) = source.as_ref().filter(|source| source.size > volume.size) {
            return Err(VolumeError::TooSmall { size: volume.size, needs: source.size });
        }
        let on_image = match &volume.content {
            Content::Image(base) if self.is_shared && format == Format::Qcow2 => Some(base),
            Content::Image(_) | Content::Empty | Content::Volume { .. } => None,
        };
        let below = on_image.map_or(Below::Nothing, |base| {
            Below::Image(base.path.clone(), Source::of(base).known())
        });
        let manifest = Manifest::new(id, volume.size, format, below);
        let layer = folder.join(file_name(manifest.top, format));
        let make = {
            let folder = folder.clone();
            move || durable::folder(&folder, FOLDER_MODE).map_err(VolumeError::io("make", &folder))
        };
        self.run(folder.clone(), make).await?;
        // What has no holes fills it.
        let needed = source.as_ref().filter(|_| on_image.is_none()).map(|source| source.size);
        let made = match source.filter(|_| on_image.is_none()) {
            _ if format == Format::Luks => self.encrypt(volume, &layer).await,
            Some(source) => {
                let to = (layer.as_path(), format, volume.size);
                self.copy(id, &source, to, progress, cancel).await
            }
            None => {
                let bytes = blank(volume, on_image, format)?;
                let size = volume.size;
                let layer = layer.clone();
                self.run(folder.clone(), move || write(&layer, bytes.as_ref(), size)).await
            }
        };
        if let Err(error) = made {
            // Nothing but what this call made is in it.
            let gone = folder.clone();
            let remove = move || remove_tree(&gone);
            self.run(folder, remove).await?;
            let VolumeError::NoSpace { path, needed: None, .. } = error else { return Err(error) };
            let free = self.room().await.ok().map(|space| space.free);
            return Err(VolumeError::NoSpace { path, needed, free });
        }
        let note = {
            let folder = folder.clone();
            move || note(&folder, &manifest)
        };
        self.run(folder, note).await?;
        info!(volume = %id, size = %volume.size, "volume made");
        Ok(Ensured::Created)
    }

    /// Write an empty layer that is encrypted. The passphrase goes there by a pipe.
    async fn encrypt(&self, volume: &NewVolume, layer: &Path) -> Result<(), VolumeError> {
        let failed = || VolumeError::io("encrypt", layer);
        let begin = {
            let layer = layer.to_owned();
            move || match durable::remove_if_there(&layer) {
                Ok(_) => Ok(()),
                Err(error) => Err(VolumeError::io("remove", &layer)(error)),
            }
        };
        self.run(layer.to_owned(), begin).await?;
        let key = format!("secret,id=key,file={STDIN}");
        let size = volume.size.0.to_string();
        let words = ["create", "-q", "--object", &key, "-f", "luks", "-o", "key-secret=key"];
        let mut tries = 0;
        loop {
            let (read, mut write) = io::pipe().map_err(failed())?;
            let passphrase = volume.passphrase.as_ref().map_or("", |word| word.expose());
            // It is shorter than a pipe is deep.
            io::Write::write_all(&mut write, passphrase.as_bytes()).map_err(failed())?;
            drop(write);
            let rest = [layer.as_os_str(), std::ffi::OsStr::new(&size)];
            let arguments = words.map(std::ffi::OsStr::new).into_iter().chain(rest).collect();
            let stdin = Some(File::from(std::os::fd::OwnedFd::from(read)));
            let bounds = bounds(volume.size);
            let job = Job { program: &self.qemu_img, arguments, bounds, stdin };
            let ran = qemu_img::run(job, Output::Answer, late(GROW_WALL)).await;
            match succeeded("encrypt", layer, ran) {
                // On a busy node it may not be told how fast it is, by which it hardens the key.
                Err(VolumeError::QemuImg { said, .. })
                    if said.contains(NO_CPU_USAGE) && tries < ENCRYPT_TRIES =>
                {
                    tries += 1;
                }
                ended => break ended?,
            }
        }
        let layer = layer.to_owned();
        self.run(layer.clone(), move || {
            let file = File::open(&layer).map_err(VolumeError::io("write", &layer))?;
            file.sync_all().map_err(VolumeError::io("write", &layer))
        })
        .await
    }

    /// Copy what another disk holds into a layer.
    async fn copy(
        &self,
        id: VolumeId,
        source: &Source,
        (layer, format, size): (&Path, Format, Bytes),
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        let folder = layer.parent().unwrap_or(Path::new("/"));
        let begin = {
            let layer = layer.to_owned();
            move || {
                durable::remove_if_there(&layer).map_err(VolumeError::io("remove", &layer))?;
                Unfinished::begin(&layer).map_err(VolumeError::io("write", &layer))
            }
        };
        let unfinished = self.run(folder.to_owned(), begin).await?;
        let to = (&unfinished.file, format, Onto::File);
        let made = self.convert(id, source, layer, to, progress, cancel).await;
        let path = layer.to_owned();
        let finish = move || {
            made?;
            unfinished.finish().map_err(VolumeError::io("write", &path))
        };
        self.run(folder.to_owned(), finish).await?;
        if size > source.size {
            self.grow(layer, format, size).await?;
        }
        Ok(())
    }

    /// Have a volume hold what another disk holds.
    pub(super) async fn fill(
        &self,
        id: VolumeId,
        from: &Opened,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        let (folder, manifest) = self.manifest(id).await?;
        self.is_free(id, &folder, &manifest).await?;
        let (layer, format) = top(&folder, &manifest);
        let path = layer.clone();
        let open = move || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).custom_flags(nix::libc::O_NOFOLLOW);
            options.open(&path).map_err(VolumeError::io("open", &path))
        };
        let file = self.run(folder.clone(), open).await?;
        // As large as its file may become.
        let (path, size) = (from.path().to_owned(), from.size.max(manifest.size));
        let source = Source { path, format: word(from.format), size };
        self.convert(id, &source, &layer, (&file, format, Onto::Disk), progress, cancel).await?;
        let sync = move || file.sync_all().map_err(VolumeError::io("write", &layer));
        self.run(folder, sync).await
    }

    /// Copy what another disk holds into a layer's file.
    async fn convert(
        &self,
        id: VolumeId,
        source: &Source,
        layer: &Path,
        (file, format, onto): (&File, Format, Onto),
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        progress.send_replace((Bytes(0), source.size));
        let copy = Copy {
            program: &self.qemu_img,
            from: (&source.path, source.format),
            to: (file, word(format)),
            onto,
            folder: layer.parent().unwrap_or(Path::new("/")),
            size: source.size,
            keep_free: self.keep_free,
        };
        match copy.make(&self.threads, progress, cancel).await {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                Err(VolumeError::Cancelled { id })
            }
            ran => succeeded("copy", layer, ran),
        }
    }

    pub(super) async fn delete(&self, id: VolumeId) -> Result<Removed, VolumeError> {
        let folder = self.folder(id);
        let removed = self.run(folder.clone(), move || {
            let files: Vec<PathBuf> = match fs::read_dir(&folder) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Ok(Removed::AlreadyGone);
                }
                Err(error) => return Err(VolumeError::io("list", &folder)(error)),
            };
            nobody_has(id, &files, &folder)?;
            // First, so that what a crash leaves is no volume.
            durable::remove(&folder.join(MANIFEST))
                .map_err(VolumeError::io("remove the manifest in", &folder))?;
            remove_tree(&folder).map(|()| Removed::Removed)
        });
        let removed = removed.await?;
        info!(volume = %id, ?removed, "volume removed");
        Ok(removed)
    }

    pub(super) async fn extend(&self, id: VolumeId, size: Bytes) -> Result<Ensured, VolumeError> {
        let (folder, manifest) = self.manifest(id).await?;
        if self.true_size(&folder, &manifest).await? >= size {
            self.note_size(id, size).await?;
            return Ok(Ensured::AlreadyThere);
        }
        let (path, format) = top(&folder, &manifest);
        self.is_free(id, &folder, &manifest).await?;
        self.grow(&path, format, size).await?;
        self.note_size(id, size).await?;
        info!(volume = %id, %size, "volume extended");
        Ok(Ensured::Created)
    }

    /// The size a volume has: a QEMU that grew it may have been the last to know.
    async fn true_size(&self, folder: &Path, manifest: &Manifest) -> Result<Bytes, VolumeError> {
        let (path, format) = top(folder, manifest);
        let noted = manifest.size;
        self.run(path.clone(), move || size_of(&path, format).map(|size| size.max(noted))).await
    }

    pub(super) async fn note_size(&self, id: VolumeId, size: Bytes) -> Result<(), VolumeError> {
        let (folder, mut manifest) = self.manifest(id).await?;
        if manifest.size >= size {
            return Ok(());
        }
        manifest.size = size;
        self.run(folder.clone(), move || note(&folder, &manifest)).await
    }

    async fn grow(&self, layer: &Path, format: Format, size: Bytes) -> Result<(), VolumeError> {
        let path = layer.to_owned();
        if format == Format::Luks {
            let (pool, why) =
                (self.name.clone(), "only a guest's QEMU can make what is encrypted larger");
            return Err(VolumeError::Unfit { pool, why });
        }
        if format == Format::Raw {
            return self
                .run(path.clone(), move || {
                    let failed = || VolumeError::io("extend", &path);
                    let file = OpenOptions::new().write(true).open(&path).map_err(failed())?;
                    let is = file.metadata().map_err(failed())?.len();
                    if is < size.0 {
                        file.set_len(size.0).map_err(failed())?;
                    }
                    file.sync_all().map_err(failed())
                })
                .await;
        }
        let count = size.0.to_string();
        let words = ["resize", "-q", "-f", word(format)].map(std::ffi::OsStr::new);
        let rest = [layer.as_os_str(), std::ffi::OsStr::new(&count)];
        let arguments = words.into_iter().chain(rest).collect();
        let job = Job { program: &self.qemu_img, arguments, bounds: bounds(size), stdin: None };
        succeeded("extend", layer, qemu_img::run(job, Output::Answer, late(GROW_WALL)).await)
    }

    /// Whether nobody on this node has a volume open.
    async fn is_free(
        &self,
        id: VolumeId,
        folder: &Path,
        manifest: &Manifest,
    ) -> Result<(), VolumeError> {
        let file =
            |(n, layer): (&u32, &super::manifest::Layer)| folder.join(file_name(*n, layer.format));
        let files: Vec<PathBuf> = manifest.layers.iter().map(file).collect();
        let folder = folder.to_owned();
        self.run(folder.clone(), move || nobody_has(id, &files, &folder)).await
    }
}

/// What is copied into a new volume.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    format: &'static str,
    size: Bytes,
}

impl Source {
    fn of(base: &Base) -> Self {
        Self { path: base.path.clone(), format: base.format.as_str(), size: base.virtual_size }
    }

    fn known(&self) -> Format {
        if self.format == "raw" { Format::Raw } else { Format::Qcow2 }
    }
}

fn path_of(pool: &Directory) -> PathBuf {
    pool.path.clone()
}

fn top(folder: &Path, manifest: &Manifest) -> (PathBuf, Format) {
    let format = manifest.layers[&manifest.top].format;
    (folder.join(file_name(manifest.top, format)), format)
}
