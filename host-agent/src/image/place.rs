//! Where a file of this node is made of an image.
//!
//! The agent writes as root, and who may export need not be root: so files are made only in the
//! directories of the configuration, which are opened as for an [import](super::local), and never
//! in the place of another.
//!
//! ```text
//!   <folder>/.ostler-export-<mark>   written; once whole and synced, linked to ...
//!   <folder>/<name>                  ... this, and kept as its other name until the export is over
//! ```
//!
//! The other name is how a repeat after a crash, and an undo, tell the file that this export made
//! from one that somebody else has put there.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstatat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use ostler_protocol::rpc::values::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::local::{NotOpened, open_below};
use super::sparse::{Piece, Reader};
use super::{ExportError, Exported};
use crate::host;

/// What is copied, and how far.
pub(super) struct Copying {
    pub(super) file: File,
    pub(super) size: Bytes,
    pub(super) keep_free: Bytes,
    pub(super) progress: watch::Sender<(Bytes, Bytes)>,
    pub(super) cancel: CancellationToken,
}

/// Where a file is made: a folder that is open, and names in it.
pub(super) struct Place {
    path: PathBuf,
    folder: File,
    name: OsString,
    other: OsString,
}

impl Place {
    pub(super) fn open(
        path: &Path,
        mark: &str,
        directories: &[PathBuf],
    ) -> Result<Self, ExportError> {
        let above = path.parent().unwrap_or(Path::new("/"));
        let opened = open_below(above, directories, OFlag::O_RDONLY | OFlag::O_DIRECTORY);
        let folder = opened.map_err(|error| match error {
            NotOpened::NotBelow => {
                let directories = directories.to_vec();
                ExportError::NotAllowed { path: path.to_owned(), directories }
            }
            NotOpened::Failed(source) => {
                ExportError::Io { step: "open", path: above.to_owned(), source }
            }
        })?;
        let name = path.file_name().unwrap_or_default().to_owned();
        let other = OsString::from(format!(".ostler-export-{mark}"));
        Ok(Self { path: path.to_owned(), folder, name, other })
    }

    /// Have the file be there, whole.
    pub(super) fn fill(&self, copy: &Copying) -> Result<(), ExportError> {
        // It was done before a crash, or all but the last of it.
        if self.is_ours()? {
            return self.sync();
        }
        let exists = || ExportError::Exists { path: self.path.clone() };
        if self.inode(&self.name)?.is_some() {
            return Err(exists());
        }
        // What there is of it from before a crash.
        self.remove(&self.other)?;
        let needed = self.check_room(copy)?;
        let failed = |step| self.failed(step, needed);
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        let made =
            openat(&self.folder, self.other.as_os_str(), flags, Mode::S_IRUSR | Mode::S_IWUSR);
        let made = File::from(made.map_err(|error| failed("create")(error.into()))?);
        let linked = self.copy(copy, &made, &failed).and_then(|()| {
            // By descriptor: what gets the name is what was written.
            let opened = format!("/proc/self/fd/{}", made.as_raw_fd());
            let (name, follow) = (self.name.as_os_str(), AtFlags::AT_SYMLINK_FOLLOW);
            match linkat(AT_FDCWD, opened.as_str(), &self.folder, name, follow) {
                Ok(()) => Ok(()),
                Err(Errno::EEXIST) => Err(exists()),
                Err(error) => Err(failed("create")(error.into())),
            }
        });
        if linked.is_err() {
            self.remove(&self.other)?;
        }
        linked?;
        self.sync()
    }

    /// What there must be room for: a hole takes none.
    fn check_room(&self, copy: &Copying) -> Result<Bytes, ExportError> {
        let meta = copy.file.metadata().map_err(self.io("read the image for"))?;
        let data = meta.blocks().saturating_mul(512).min(copy.size.0);
        let needed = Bytes(data.saturating_add(copy.keep_free.0));
        let folder = format!("/proc/self/fd/{}", self.folder.as_raw_fd());
        let free = host::space(Path::new(&folder)).map_err(self.io("find the space for"))?.free;
        if free < needed {
            let path = self.path.clone();
            return Err(ExportError::NoSpace { path, needed, free: Some(free) });
        }
        Ok(needed)
    }

    fn copy<F: FnOnce(io::Error) -> ExportError>(
        &self,
        copy: &Copying,
        made: &File,
        failed: &impl Fn(&'static str) -> F,
    ) -> Result<(), ExportError> {
        let mut reader = Reader::new(&copy.file, copy.size.0);
        let mut at = 0;
        while let Some(piece) = reader.next().map_err(self.io("read the image for"))? {
            match piece {
                Piece::Data(bytes) => {
                    made.write_all_at(bytes, at).map_err(failed("write"))?;
                    at += bytes.len() as u64;
                }
                Piece::Hole(count) => at += count,
            }
            copy.progress.send_replace((Bytes(at), copy.size));
            if copy.cancel.is_cancelled() {
                return Err(ExportError::Cancelled);
            }
        }
        if at != copy.size.0 {
            let source = io::ErrorKind::UnexpectedEof.into();
            return Err(self.io("read the image for")(source));
        }
        made.set_len(at).map_err(failed("write"))?;
        made.sync_all().map_err(failed("write"))
    }

    /// Leave only the file, or nothing.
    pub(super) fn settle(&self, exported: Exported) -> Result<(), ExportError> {
        if exported == Exported::Dropped && self.is_ours()? {
            self.remove(&self.name)?;
        }
        self.remove(&self.other)?;
        self.sync()
    }

    /// Whether the file is what this export made.
    fn is_ours(&self) -> Result<bool, ExportError> {
        let made = self.inode(&self.other)?;
        Ok(made.is_some() && made == self.inode(&self.name)?)
    }

    fn inode(&self, name: &OsStr) -> Result<Option<(u64, u64)>, ExportError> {
        match fstatat(&self.folder, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(found) => Ok(Some((found.st_dev, found.st_ino))),
            Err(Errno::ENOENT) => Ok(None),
            Err(error) => Err(self.io("look for")(error.into())),
        }
    }

    fn remove(&self, name: &OsStr) -> Result<(), ExportError> {
        match unlinkat(&self.folder, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(self.io("clear away what there is of")(error.into())),
        }
    }

    fn sync(&self) -> Result<(), ExportError> {
        self.folder.sync_all().map_err(self.io("keep"))
    }

    fn io(&self, step: &'static str) -> impl FnOnce(io::Error) -> ExportError {
        let path = self.path.clone();
        move |source| ExportError::Io { step, path, source }
    }

    /// The same, full disks told apart.
    fn failed(&self, step: &'static str, needed: Bytes) -> impl FnOnce(io::Error) -> ExportError {
        let path = self.path.clone();
        move |source| {
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            match full.contains(&source.kind()) {
                true => ExportError::NoSpace { path, needed, free: None },
                false => ExportError::Io { step, path, source },
            }
        }
    }
}
