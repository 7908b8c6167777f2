//! What qemu-img does to root disks: growing them, and writing them out whole.
//!
//! The instance is off; were it not, QEMU holds a lock on its disk, and qemu-img is refused. Both
//! are the other way round too: while qemu-img runs, the instance cannot be started. It ends with
//! this agent, so a lock never outlives who knows of it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::aside::Stamp;
use super::overlay::{Access, header, open};
use super::{Directory, DiskError, Disks, Ensured};
use crate::durable::{Unfinished, remove_if_there, sync_folder_of};
use crate::host;
use crate::qcow2::{self, Header, OverlayError};
use crate::qemu_img::{self, Bounds, Job, Output, Ran, STDIN, late};

/// Growing moves a table of some kilobytes.
const GROW_WALL: Duration = Duration::from_secs(120);

/// The free space, and whether the copy gets on, is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A copy that neither tells of progress nor writes for this long hangs.
const STALLED: Duration = Duration::from_secs(600);

/// A file's metadata beyond what grows with the disk.
const SLACK: u64 = 64 << 20;

impl Directory {
    pub(super) async fn grow(
        &self,
        instance: InstanceId,
        size: Bytes,
    ) -> Result<Ensured, DiskError> {
        let path = self.files(instance).root;
        let impossible = || DiskError::Impossible { instance, source: OverlayError::Size(size) };
        let wanted = size.0.checked_next_multiple_of(512).ok_or_else(impossible)?;
        if Bytes(wanted) > qcow2::LARGEST {
            return Err(impossible());
        }
        let has_it = {
            let path = path.clone();
            move || {
                let (header, stamp) = examine(instance, &path, Access::Sync)?;
                Ok((header.virtual_size >= Bytes(wanted), stamp))
            }
        };
        let (grown, stamp) = self.spawn(&path, has_it.clone()).await?;
        if grown {
            return Ok(Ensured::AlreadyThere);
        }
        let count = wanted.to_string();
        let arguments = ["resize", "-q", "-f", "qcow2"].map(OsStr::new).into_iter();
        let arguments = arguments.chain([path.as_os_str(), OsStr::new(&count)]).collect();
        let bounds = bounds(stamp.length.max(wanted));
        let job = Job { program: &self.qemu_img, arguments, bounds, stdin: None };
        let ran = qemu_img::run(job, Output::Answer, late(GROW_WALL)).await;
        succeeded("grow", &path, ran)?;
        match self.spawn(&path, has_it).await? {
            (true, _) => {
                info!(%instance, %size, "root disk grown");
                Ok(Ensured::Created)
            }
            (false, _) => {
                let said = "it says it did, but the disk is as it was".to_owned();
                Err(DiskError::QemuImg { step: "grow", path, said })
            }
        }
    }

    pub(super) async fn flatten(
        &self,
        instance: InstanceId,
        to: &Path,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<Ensured, DiskError> {
        let root = self.files(instance).root;
        let _turn = self.turn(&root, cancel).await?;
        let begin = {
            let (root, to) = (root.clone(), to.to_owned());
            move || begin(instance, &root, &to)
        };
        let Some(export) = self.spawn(&root, begin).await? else {
            return Ok(Ensured::AlreadyThere);
        };
        let total = export.size;
        progress.send_replace((Bytes(0), total));
        let ran = self.convert(&root, &export, progress, cancel).await;
        let finish = {
            let root = root.clone();
            move || {
                if let Err(error) = succeeded("copy", &root, ran) {
                    // Here, for removing what there is of it may take a while.
                    drop(export);
                    return Err(error);
                }
                export.finish(instance, &root)
            }
        };
        let finished = self.copiers.run(finish).await;
        finished.map_err(DiskError::io("start a thread for", &root))??;
        progress.send_replace((total, total));
        info!(%instance, to = %to.display(), size = %total, "root disk exported");
        Ok(Ensured::Created)
    }

    async fn convert(
        &self,
        root: &Path,
        export: &Export,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> io::Result<Ran> {
        let total = export.size;
        let arguments = ["convert", "-p", "-f", "qcow2", "-O", "qcow2"].map(OsStr::new);
        let names = [root.as_os_str(), OsStr::new(STDIN)];
        let arguments = arguments.into_iter().chain(names).collect();
        let stdin = Some(export.unfinished.file.try_clone()?);
        let job = Job { program: &self.qemu_img, arguments, bounds: bounds(total.0), stdin };
        let mut tell = |done: f64| {
            // As a float it is not exact, and need not be.
            let done = (total.0 as f64 * done) as u64;
            progress.send_replace((Bytes(done).min(total), total));
        };
        let stop = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => io::ErrorKind::Interrupted.into(),
                why = self.hopeless(export, progress.subscribe()) => why,
            }
        };
        qemu_img::run(job, Output::Progress(&mut tell), stop).await
    }

    /// Wait until there is a reason to give a copy up.
    async fn hopeless(
        &self,
        export: &Export,
        progress: watch::Receiver<(Bytes, Bytes)>,
    ) -> io::Error {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (Bytes(0), 0);
        let mut moved = Instant::now();
        loop {
            looks.tick().await;
            let (file, folder) = (export.unfinished.file.try_clone(), export.folder.clone());
            // A file system that does not answer holds a thread, and not this one.
            let look = move || Ok((file?.metadata()?.blocks(), host::space(&folder)?.free));
            let looked = tokio::time::timeout(STALLED, self.copiers.run(look)).await;
            let (blocks, free) = match looked.map(Result::flatten) {
                Ok(Ok(looked)) => looked,
                Ok(Err(error)) => return error,
                Err(_) => return io::ErrorKind::TimedOut.into(),
            };
            if free < self.kept_free() {
                return io::ErrorKind::StorageFull.into();
            }
            let now = (progress.borrow().0, blocks);
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STALLED {
                return io::Error::new(io::ErrorKind::TimedOut, "it does not get on");
            }
        }
    }
}

/// A copy being made.
#[derive(Debug)]
struct Export {
    unfinished: Unfinished,
    to: PathBuf,
    folder: PathBuf,
    /// Of the root disk, before.
    stamp: Stamp,
    size: Bytes,
}

/// Begin a copy, unless there is one of the disk as it is.
fn begin(instance: InstanceId, root: &Path, to: &Path) -> Result<Option<Export>, DiskError> {
    let failed = || DiskError::io("write", to);
    let (header, stamp) = examine(instance, root, Access::Read)?;
    match fs::symlink_metadata(to) {
        // The copy was given the time of what it is of: another time is another disk, by now.
        Ok(meta) if meta.is_file() && meta.modified().ok() == Some(stamp.modified) => {
            sync_folder_of(to).map_err(failed())?;
            return Ok(None);
        }
        Ok(_) => drop(remove_if_there(to).map_err(failed())?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed()(error)),
    }
    let unfinished = Unfinished::begin(to).map_err(failed())?;
    let folder = to.parent().unwrap_or(Path::new("/")).to_owned();
    let size = header.virtual_size;
    Ok(Some(Export { unfinished, to: to.to_owned(), folder, stamp, size }))
}

impl Export {
    fn finish(self, instance: InstanceId, root: &Path) -> Result<(), DiskError> {
        let to = self.to;
        let copy = header(&self.unfinished.file, &to)?;
        let good = |copy: &Header| copy.backing.is_none() && copy.virtual_size == self.size;
        if !copy.as_ref().is_ok_and(good) {
            let said = "what it wrote is not a copy of the disk".to_owned();
            return Err(DiskError::QemuImg { step: "copy", path: root.to_owned(), said });
        }
        let (_, stamp) = examine(instance, root, Access::Read)?;
        if stamp != self.stamp {
            return Err(DiskError::Changed { path: root.to_owned() });
        }
        let modified: SystemTime = self.stamp.modified;
        let dated = self.unfinished.file.set_modified(modified);
        dated.and_then(|()| self.unfinished.finish()).map_err(DiskError::io("write", &to))
    }
}

/// The root disk's header, if qemu-img may see the disk, and its state.
fn examine(
    instance: InstanceId,
    path: &Path,
    access: Access,
) -> Result<(Header, Stamp), DiskError> {
    let unusable = |why| DiskError::Unusable { path: path.to_owned(), why };
    let file = open(path, access)?.ok_or(DiskError::NoRoot { instance })?;
    let header = header(&file, path)?.map_err(|error| unusable(error.to_string()))?;
    // Without a format, qemu-img would guess one from the base's bytes.
    if header.backing.as_ref().is_some_and(|backing| backing.format.is_none()) {
        return Err(unusable("it does not say which format its base image has".to_owned()));
    }
    match access {
        Access::Read => {}
        // qemu-img may have grown it an instant before a crash.
        Access::Sync => file.sync_all().map_err(DiskError::io("sync", path))?,
    }
    let stamp = Stamp::of(&file).map_err(DiskError::io("examine", path))?;
    Ok((header, stamp))
}

/// What working on a disk of so many bytes may take: metadata is a thousandth of the data at most,
/// and a slow processor copies 100 MB in a second.
fn bounds(disk: u64) -> Bounds {
    let cpu = Duration::from_secs(600 + disk / 100_000_000);
    let file = Bytes(disk.saturating_add(disk / 1024).saturating_add(SLACK));
    Bounds { memory: Bytes::gib(4), cpu, file }
}

fn succeeded(step: &'static str, path: &Path, ran: io::Result<Ran>) -> Result<(), DiskError> {
    let path = path.to_owned();
    let ran = match ran {
        Ok(ran) if ran.status.success() => return Ok(()),
        Ok(ran) => ran,
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {
            return Err(DiskError::Cancelled { path });
        }
        Err(error) => return Err(DiskError::io(step, &path)(error)),
    };
    let said = ran.complaint();
    // In the words of the C locale, which is what it runs in.
    match said.contains("No space left on device") || said.contains("Disk quota exceeded") {
        true => Err(DiskError::NoSpace { path }),
        false => Err(DiskError::QemuImg { step, path, said }),
    }
}
