//! Images from files of this node.
//!
//! The agent reads as root, and who may import need not be root: so only regular files in the
//! directories of the configuration are read. `latest.qcow2` is how people name images, so a path
//! is resolved first, links and all; where it leads is then opened below one of the directories
//! with no link followed, whatever was swapped meanwhile. It is opened in two steps, as opening a
//! device may do something.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use ostler_protocol::rpc::values::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::part::{Part, Sink, Written, writing};
use super::sparse::{Piece, Reader};
use super::{ImageError, Phase, Progress};
use crate::threads::Threads;

/// What to copy and how far.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) path: PathBuf,
    pub(super) part: Part,
    /// At or below these.
    pub(super) directories: Vec<PathBuf>,
    pub(super) cap: Bytes,
    pub(super) keep_free: Bytes,
}

/// Copy a file into the part, hashing it. Stops soon when the future is dropped.
pub(super) async fn copy(
    threads: &Threads,
    copy: Copy,
    progress: &watch::Sender<Progress>,
) -> Result<Written, ImageError> {
    let dropped = CancellationToken::new();
    let _ends_with_us = dropped.clone().drop_guard();
    let progress = progress.clone();
    let path = copy.path.clone();
    let copied = threads.run(move || run(&copy, &dropped, &progress)).await;
    copied.map_err(|source| ImageError::Unreadable { path, source })?
}

fn run(
    copy: &Copy,
    dropped: &CancellationToken,
    progress: &watch::Sender<Progress>,
) -> Result<Written, ImageError> {
    let path = &copy.path;
    let unreadable = |source| ImageError::Unreadable { path: path.clone(), source };
    let file = open(path, &copy.directories)?;
    let before = file.metadata().map_err(unreadable)?;
    let shown = path.display().to_string();
    if before.len() == 0 {
        return Err(ImageError::Empty { source_shown: shown });
    }
    if before.len() > copy.cap.0 {
        return Err(ImageError::TooLarge { source_shown: shown, cap: copy.cap });
    }
    copy.part.discard().map_err(writing(&copy.part))?;
    let mut sink = Sink::create(&copy.part, copy.keep_free).map_err(writing(&copy.part))?;
    let total = Some(Bytes(before.len()));
    let mut reader = Reader::new(&file, before.len());
    while let Some(piece) = reader.next().map_err(unreadable)? {
        match piece {
            Piece::Data(bytes) => sink.push(bytes).map_err(writing(&copy.part))?,
            Piece::Hole(count) => sink.skip(count),
        }
        let received = sink.written();
        progress.send_replace(Progress { phase: Phase::Receiving, received, total });
        if dropped.is_cancelled() {
            return Err(unreadable(io::ErrorKind::Interrupted.into()));
        }
    }
    let after = file.metadata().map_err(unreadable)?;
    let state = |meta: &std::fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    if state(&before) != state(&after) || sink.written().0 != before.len() {
        return Err(ImageError::ChangedWhileRead { path: path.clone() });
    }
    sink.finish().map_err(writing(&copy.part))
}

/// Why what is to be below the directories was not opened.
pub(super) enum NotOpened {
    /// It is not below them.
    NotBelow,
    /// It is, and that failed.
    Failed(io::Error),
}

/// Open what is below one of the directories, where a path leads, links and all.
pub(super) fn open_below(
    path: &Path,
    directories: &[PathBuf],
    flags: OFlag,
) -> Result<File, NotOpened> {
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(source) if is_below(path, directories) => return Err(NotOpened::Failed(source)),
        // Of what is elsewhere nothing is told, not even that it is not there.
        Err(_) => return Err(NotOpened::NotBelow),
    };
    let real_directories = directories.iter().filter_map(|directory| directory.canonicalize().ok());
    let below = |directory: PathBuf| {
        let rest = real.strip_prefix(&directory).ok()?;
        Some((directory, Path::new(".").join(rest)))
    };
    let (directory, rest) = { real_directories }.find_map(below).ok_or(NotOpened::NotBelow)?;
    let directory = File::open(directory).map_err(NotOpened::Failed)?;
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    match openat2(&directory, &rest, how) {
        Ok(found) => Ok(File::from(found)),
        // It is a link by now.
        Err(Errno::ELOOP | Errno::EXDEV) => Err(NotOpened::NotBelow),
        Err(error) => Err(NotOpened::Failed(error.into())),
    }
}

fn open(path: &Path, directories: &[PathBuf]) -> Result<File, ImageError> {
    let unreadable = |source| ImageError::Unreadable { path: path.to_owned(), source };
    let found = open_below(path, directories, OFlag::O_PATH).map_err(|error| match error {
        NotOpened::NotBelow => {
            ImageError::NotAllowed { path: path.to_owned(), directories: directories.to_vec() }
        }
        NotOpened::Failed(source) => unreadable(source),
    })?;
    let kind = found.metadata().map_err(unreadable)?.file_type();
    if !kind.is_file() {
        let kind = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_block_device() || kind.is_char_device() {
            "a device"
        } else {
            "a special file"
        };
        return Err(ImageError::NotAFile { path: path.to_owned(), kind });
    }
    let known = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    OpenOptions::new().read(true).custom_flags(flags).open(known).map_err(unreadable)
}

/// Whether a path is below one of the directories as it is written.
fn is_below(path: &Path, directories: &[PathBuf]) -> bool {
    path.components().all(|part| part != Component::ParentDir)
        && directories.iter().any(|directory| path.starts_with(directory))
}
