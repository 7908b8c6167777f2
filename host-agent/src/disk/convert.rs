//! What qemu-img does to root disks: growing them, and writing them out whole.
//!
//! The instance is off; were it not, QEMU holds a lock on its disk, and qemu-img is refused. Both
//! are the other way round too: while qemu-img runs, the instance cannot be started. It ends with
//! this agent, so a lock never outlives who knows of it.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::aside::Stamp;
use super::overlay::{Access, header, open};
use super::{Directory, DiskError, Disks, Ensured};
use crate::durable::{Unfinished, remove_if_there, sync_folder_of};
use crate::qcow2::{self, Header, OverlayError};
use crate::qemu_img::convert::{Copy, Onto, bounds, is_full};
use crate::qemu_img::{self, Job, Output, Ran, late};

/// Growing moves a table of some kilobytes.
const GROW_WALL: Duration = Duration::from_secs(120);

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
        let bounds = bounds(Bytes(stamp.length.max(wanted)));
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
        let copy = Copy {
            program: &self.qemu_img,
            from: (&root, "qcow2"),
            to: (&export.unfinished.file, "qcow2"),
            onto: Onto::File,
            folder: &export.folder,
            size: total,
            keep_free: self.kept_free(),
        };
        let ran = copy.make(&self.copiers, progress, cancel).await;
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
    match is_full(&said) {
        true => Err(DiskError::NoSpace { path }),
        false => Err(DiskError::QemuImg { step, path, said }),
    }
}
