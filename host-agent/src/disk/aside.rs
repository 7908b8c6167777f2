//! The root disk as it was, kept aside while an operation may have to be taken back.
//!
//! ```text
//!              set            create_root          drop
//!   root ──────────> aside ──────────────> both ───────> root (the new one)
//!     │                ^                    │ │
//!     └── copy: both   └─────── put back ───┘ └─ put back: root (the old one)
//! ```
//!
//! Each is one rename, or a link of a file that is whole, so whenever the agent or the node stops
//! the old disk is in one place or the other. A copy that is there is never made again: by the
//! time somebody asks, the root disk may have changed.

use std::fs::{self, File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::overlay::{Access, open};
use super::{DiskError, Ensured, Files, Moved};
use crate::durable::{Unfinished, remove_if_there, sync_folder_of, unfinished_name};
use crate::host;

/// Bytes copied between looks at whether to go on.
const CHUNK: u64 = 16 << 20;

/// Bytes written between looks at the free space, and between syncs: a copy must not fill the
/// node's memory with what other guests' flushes then wait for.
const SYNC_EVERY: u64 = 256 << 20;

/// Rename the root disk.
pub(super) fn set(instance: InstanceId, files: &Files) -> Result<Moved, DiskError> {
    let failed = || DiskError::io("set aside", &files.root);
    match (disk(&files.root)?, disk(&files.aside)?) {
        (Place::Disk, Place::Empty) => {
            remove_if_there(&unfinished_name(&files.aside)).map_err(failed())?;
            fs::rename(&files.root, &files.aside).map_err(failed())?;
            sync_folder_of(&files.root).map_err(failed())?;
            Ok(Moved::Moved)
        }
        (Place::Empty, Place::Disk) => {
            // The rename may be as new as a crash.
            sync_folder_of(&files.root).map_err(failed())?;
            Ok(Moved::AlreadySo)
        }
        (Place::Disk, Place::Disk) => Err(DiskError::Occupied { instance }),
        (Place::Empty, Place::Empty) => Err(DiskError::NoRoot { instance }),
    }
}

/// Rename the disk that is aside back.
pub(super) fn put_back(files: &Files) -> Result<Moved, DiskError> {
    let failed = || DiskError::io("put back", &files.root);
    remove_if_there(&unfinished_name(&files.aside)).map_err(failed())?;
    match disk(&files.aside)? {
        Place::Disk => {
            fs::rename(&files.aside, &files.root).map_err(failed())?;
            // Two names of one file are both left by a rename.
            remove_if_there(&files.aside).map_err(failed())?;
            sync_folder_of(&files.root).map_err(failed())?;
            Ok(Moved::Moved)
        }
        Place::Empty => match sync_folder_of(&files.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed()(error)),
            Ok(()) | Err(_) => Ok(Moved::AlreadySo),
        },
    }
}

/// What a name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Empty,
    Disk,
}

fn disk(path: &Path) -> Result<Place, DiskError> {
    match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_file() => Ok(Place::Disk),
        Ok(_) => Err(DiskError::NotAFile { path: path.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Place::Empty),
        Err(error) => Err(DiskError::io("examine", path)(error)),
    }
}

/// A file's state, to see whether it was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) length: u64,
    pub(super) modified: SystemTime,
    inode: u64,
}

impl Stamp {
    pub(super) fn of(file: &File) -> io::Result<Self> {
        let meta: Metadata = file.metadata()?;
        Ok(Self { length: meta.len(), modified: meta.modified()?, inode: meta.ino() })
    }
}

/// What to copy, and on which terms.
#[derive(Debug)]
pub(super) struct Copy {
    pub(super) instance: InstanceId,
    pub(super) files: Files,
    pub(super) keep_free: Bytes,
    pub(super) progress: watch::Sender<(Bytes, Bytes)>,
    pub(super) cancel: CancellationToken,
}

impl Copy {
    /// Copy it. Blocks.
    pub(super) fn run(&self) -> Result<Ensured, DiskError> {
        let Files { root, aside, .. } = &self.files;
        let failed = || DiskError::io("copy to", aside);
        if disk(aside)? == Place::Disk {
            sync_folder_of(aside).map_err(failed())?;
            return Ok(Ensured::AlreadyThere);
        }
        let instance = self.instance;
        let source = open(root, Access::Read)?.ok_or(DiskError::NoRoot { instance })?;
        let before = Stamp::of(&source).map_err(DiskError::io("examine", root))?;
        let unfinished = Unfinished::begin(aside).map_err(failed())?;
        unfinished.file.set_len(before.length).map_err(failed())?;
        self.copy(&source, &unfinished.file, before.length)?;
        if Stamp::of(&source).map_err(DiskError::io("examine", root))? != before {
            return Err(DiskError::Changed { path: root.clone() });
        }
        unfinished.finish().map_err(failed())?;
        Ok(Ensured::Created)
    }

    fn copy(&self, source: &File, target: &File, length: u64) -> Result<(), DiskError> {
        let failed = || DiskError::io("copy", &self.files.root);
        let mut at = 0;
        let mut since_sync = 0;
        self.look_at_space()?;
        while let Some((start, end)) = next_data(source, at, length).map_err(failed())? {
            at = start;
            while at < end {
                self.progress.send_replace((Bytes(at), Bytes(length)));
                if self.cancel.is_cancelled() {
                    return Err(DiskError::Cancelled { path: self.files.root.clone() });
                }
                let count = copy_piece(source, target, at, CHUNK.min(end - at)).map_err(failed())?;
                if count == 0 {
                    // It ends before it did.
                    return Err(DiskError::Changed { path: self.files.root.clone() });
                }
                at += count;
                since_sync += count;
                if since_sync >= SYNC_EVERY {
                    since_sync = 0;
                    target.sync_data().map_err(failed())?;
                    self.look_at_space()?;
                }
            }
        }
        self.progress.send_replace((Bytes(length), Bytes(length)));
        match self.cancel.is_cancelled() {
            true => Err(DiskError::Cancelled { path: self.files.root.clone() }),
            false => Ok(()),
        }
    }

    fn look_at_space(&self) -> Result<(), DiskError> {
        let folder = &self.files.folder;
        let space = host::space(folder).map_err(DiskError::io("see the space of", folder))?;
        match space.free < self.keep_free {
            true => Err(DiskError::NoSpace { path: self.files.aside.clone() }),
            false => Ok(()),
        }
    }
}

/// The next piece of a file, from `at` on, that is not a hole.
fn next_data(file: &File, at: u64, length: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= length {
        return Ok(None);
    }
    let start = match seek(file, at, Whence::SeekData) {
        Ok(start) => start,
        Err(Errno::ENXIO) => return Ok(None),
        // A file system that knows no holes: it is all data.
        Err(Errno::EINVAL | Errno::EOPNOTSUPP) => return Ok(Some((at, length))),
        Err(errno) => return Err(errno.into()),
    };
    let end = seek(file, start, Whence::SeekHole)?;
    Ok((start < length).then_some((start, end.min(length))))
}

fn seek(file: &File, at: u64, whence: Whence) -> Result<u64, Errno> {
    let at = i64::try_from(at).map_err(|_| Errno::EOVERFLOW)?;
    lseek(file, at, whence).map(i64::unsigned_abs)
}

/// Copy some bytes to the same place. The standard library has the kernel do it, which shares the
/// blocks where the file system can.
fn copy_piece(mut source: &File, mut target: &File, at: u64, count: u64) -> io::Result<u64> {
    source.seek(SeekFrom::Start(at))?;
    target.seek(SeekFrom::Start(at))?;
    io::copy(&mut io::Read::take(source, count), &mut target)
}
