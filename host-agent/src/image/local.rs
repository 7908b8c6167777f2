//! Images from files of this node.
//!
//! Links are followed, since `latest.qcow2` is how people name images; what is opened is then
//! judged by its descriptor, so nothing can be swapped between the look and the reading: it must
//! be a regular file, and, where the configuration says so, lie in an allowed directory.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::part::{Part, Sink, Written, writing};
use super::{ImageError, LocalSources, Phase, Progress};
use crate::threads::Threads;

/// Bytes read at once.
const CHUNK: usize = 1 << 20;

/// What to copy and how far.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) path: PathBuf,
    pub(super) part: Part,
    pub(super) allowed: LocalSources,
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
    let mut file = open(path, &copy.allowed)?;
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
    let mut buffer = vec![0; CHUNK];
    loop {
        let received = sink.written();
        let total = Some(Bytes(before.len()));
        progress.send_replace(Progress { phase: Phase::Receiving, received, total });
        if dropped.is_cancelled() {
            return Err(unreadable(io::ErrorKind::Interrupted.into()));
        }
        match file.read(&mut buffer).map_err(unreadable)? {
            0 => break,
            count if received.0 + count as u64 > before.len() => {
                return Err(ImageError::ChangedWhileRead { path: path.clone() });
            }
            count => sink.push(&buffer[..count]).map_err(writing(&copy.part))?,
        }
    }
    let after = file.metadata().map_err(unreadable)?;
    let state = |meta: &std::fs::Metadata| (meta.len(), meta.mtime(), meta.mtime_nsec());
    if state(&before) != state(&after) || sink.written().0 != before.len() {
        return Err(ImageError::ChangedWhileRead { path: path.clone() });
    }
    sink.finish().map_err(writing(&copy.part))
}

fn open(path: &Path, allowed: &LocalSources) -> Result<File, ImageError> {
    let unreadable = |source| ImageError::Unreadable { path: path.to_owned(), source };
    // Without O_NONBLOCK, opening a FIFO would wait for its other end.
    let nonblock = nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let file = OpenOptions::new().read(true).custom_flags(nonblock).open(path);
    let file = file.map_err(unreadable)?;
    let kind = file.metadata().map_err(unreadable)?.file_type();
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
    if let LocalSources::Below(directories) = allowed {
        // Where the descriptor really is, wherever the path leads by now.
        let link = format!("/proc/self/fd/{}", file.as_raw_fd());
        let real = std::fs::read_link(link).map_err(unreadable)?;
        let within = |directory: &PathBuf| {
            directory.canonicalize().is_ok_and(|directory| real.starts_with(directory))
        };
        if !directories.iter().any(within) {
            return Err(ImageError::NotAllowed { path: real });
        }
    }
    Ok(file)
}
