//! Copies a disk whole, by `qemu-img convert`: with progress, watched, and called off when asked.
//!
//! It is given up when the file system has less left than is kept free, and when it neither tells
//! of progress nor writes for ten minutes.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::values::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::{Bounds, Job, Output, Ran, STDIN, run};
use crate::host;
use crate::threads::Threads;

/// The free space, and whether the copy gets on, is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A copy that neither tells of progress nor writes for this long hangs.
const STALLED: Duration = Duration::from_secs(600);

/// A file's metadata beyond what grows with the disk.
const SLACK: u64 = 64 << 20;

/// What a copy is written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Onto {
    /// An empty file, which gets its length.
    File,
    /// A disk that is there, a device or a file, and has it.
    Disk,
}

/// A copy to be made.
#[derive(Debug)]
pub(crate) struct Copy<'a> {
    /// qemu-img.
    pub(crate) program: &'a Path,
    /// The disk: a path that is absolute, and its format.
    pub(crate) from: (&'a Path, &'a str),
    /// An empty file or a disk, and the format to write.
    pub(crate) to: (&'a File, &'a str),
    /// What that is.
    pub(crate) onto: Onto,
    /// The folder of the file, for its space.
    pub(crate) folder: &'a Path,
    /// The size of the disk.
    pub(crate) size: Bytes,
    /// What is left free.
    pub(crate) keep_free: Bytes,
}

impl Copy<'_> {
    /// Make it. `progress` is told bytes of the disk: how many, of how many. After `cancel` the
    /// error is [`io::ErrorKind::Interrupted`].
    pub(crate) async fn make(
        &self,
        threads: &Threads,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> io::Result<Ran> {
        let total = self.size;
        let ((from, read), (to, written)) = (self.from, self.to);
        let words = ["convert", "-p", "-f", read, "-O", written].map(OsStr::new);
        let onto = match self.onto {
            Onto::File => None,
            Onto::Disk => Some(OsStr::new("-n")),
        };
        let names = [from.as_os_str(), OsStr::new(STDIN)];
        let arguments = words.into_iter().chain(onto).chain(names).collect();
        let stdin = Some(to.try_clone()?);
        let job = Job { program: self.program, arguments, bounds: bounds(total), stdin };
        let mut tell = |done: f64| {
            // As a float it is not exact, and need not be.
            let done = (total.0 as f64 * done) as u64;
            progress.send_replace((Bytes(done).min(total), total));
        };
        let stop = async {
            tokio::select! {
                biased;
                () = cancel.cancelled() => io::ErrorKind::Interrupted.into(),
                why = self.hopeless(threads, progress.subscribe()) => why,
            }
        };
        run(job, Output::Progress(&mut tell), stop).await
    }

    /// Wait until there is a reason to give a copy up.
    async fn hopeless(
        &self,
        threads: &Threads,
        progress: watch::Receiver<(Bytes, Bytes)>,
    ) -> io::Error {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (Bytes(0), 0);
        let mut moved = Instant::now();
        loop {
            looks.tick().await;
            let (file, folder): (_, PathBuf) = (self.to.0.try_clone(), self.folder.to_owned());
            // A file system that does not answer holds a thread, and not this one.
            let look = move || Ok((file?.metadata()?.blocks(), host::space(&folder)?.free));
            let looked = tokio::time::timeout(STALLED, threads.run(look)).await;
            let (blocks, free) = match looked.map(Result::flatten) {
                Ok(Ok(looked)) => looked,
                Ok(Err(error)) => return error,
                Err(_) => return io::ErrorKind::TimedOut.into(),
            };
            if free < self.keep_free {
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

/// What working on a disk of so many bytes may take: metadata is a thousandth of the data at most,
/// and a slow processor copies, or unpacks, 50 MB in a second.
pub(crate) fn bounds(disk: Bytes) -> Bounds {
    let cpu = Duration::from_secs(600 + disk.0 / 50_000_000);
    let file = Bytes(disk.0.saturating_add(disk.0 / 1024).saturating_add(SLACK));
    Bounds { memory: Bytes::gib(4), cpu, file }
}

/// Whether what qemu-img complains of is a full disk: in the words of the C locale, in which it
/// runs.
pub(crate) fn is_full(complaint: &str) -> bool {
    complaint.contains("No space left on device") || complaint.contains("Disk quota exceeded")
}
