//! Disks of other hypervisors become qcow2: once, by qemu-img, when they were received and compared.
//!
//! What is kept is a disk like any other, and QEMU reads no other format while a guest runs. Our own
//! judgement comes first ([`foreign`](super::foreign)), then that of `qemu-img info`, and only then
//! the conversion, whose result takes the received file's place and is judged as any qcow2 is.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::Bytes;
use tokio::time::{Instant, MissedTickBehavior};

use super::foreign::{self, Judged};
use super::part::{Part, Sink, Written, writing};
use super::qemu_img::{second_opinion, unreadable};
use super::{ImageError, Limits, Unfit};
use crate::durable::remove_if_there;
use crate::host;
use crate::qemu_img::{Bounds, Job, Output, Ran, STDIN, run};
use crate::threads::Threads;

/// The free space, and whether the conversion gets on, is looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A conversion whose file does not change for this long hangs: unless it reads zeros, which is
/// told by its progress.
const STALLED: Duration = Duration::from_secs(600);

/// A file's metadata beyond what grows with the disk.
const SLACK: u64 = 64 << 20;

/// A part to convert.
pub(super) struct Convert<'a> {
    pub(super) part: &'a Part,
    /// What it was declared to be.
    pub(super) format: Format,
    pub(super) limits: &'a Limits,
    pub(super) threads: &'a Threads,
}

impl Convert<'_> {
    /// Make a qcow2 of it, which takes its place.
    pub(super) async fn run(&self) -> Result<Result<Written, Unfit>, ImageError> {
        let Self { part, format, limits, threads } = self;
        let (file, format, cap) = (part.data.clone(), *format, limits.virtual_size);
        let judge = move || foreign::judge(format, &mut File::open(file)?, cap);
        let size = match threads.run(judge).await.map_err(writing(part))? {
            Ok(size) => size,
            Err(Judged::Unfit(unfit)) => return Ok(Err(unfit)),
            Err(Judged::Unread(error)) => return Err(writing(part)(error)),
        };
        if let Err(unfit) = second_opinion(&limits.qemu_img, format, &part.data, size).await? {
            return Ok(Err(unfit));
        }
        let (made, holder) = (part.made.clone(), (*part).clone());
        let begin = move || {
            let _written_by_nobody_else = holder;
            begin(&made)
        };
        let file = threads.run(begin).await.flatten().map_err(writing(part))?;
        let ran = self.convert(size, &file).await;
        let ran = match ran {
            Ok(ran) if ran.began() => ran,
            Ok(ran) => return Err(ImageError::QemuImg(io::Error::other(ran.complaint()))),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(writing(part)(error));
            }
            Err(error) => return Err(ImageError::QemuImg(error)),
        };
        if !ran.status.success() {
            let said = ran.complaint();
            // In the words of the C locale, which is what it runs in.
            if said.contains("No space left on device") || said.contains("Disk quota exceeded") {
                return Err(writing(part)(io::ErrorKind::StorageFull.into()));
            }
            return Ok(Err(unreadable(&ran, &part.data)));
        }
        let (part, keep_free) = ((*part).clone(), limits.keep_free);
        let finish = move || {
            let written = Sink::made(&part, keep_free)?.finish()?;
            part.become_made()?;
            Ok(written)
        };
        let finished = threads.run(finish).await.flatten();
        finished.map(Ok).map_err(writing(self.part))
    }

    async fn convert(&self, size: Bytes, file: &File) -> io::Result<Ran> {
        let format = self.format.as_str();
        let words = ["convert", "-p", "-f", format, "-O", "qcow2"].map(OsStr::new);
        let names = [self.part.data.as_os_str(), OsStr::new(STDIN)];
        let arguments = words.into_iter().chain(names).collect();
        let (program, stdin) = (&*self.limits.qemu_img, Some(file.try_clone()?));
        let job = Job { program, arguments, bounds: bounds(size), stdin };
        let (done, seen) = tokio::sync::watch::channel(0.0);
        let mut tell = |share| {
            done.send_replace(share);
        };
        run(job, Output::Progress(&mut tell), self.hopeless(file, || *seen.borrow())).await
    }

    /// Wait until there is a reason to give a conversion up.
    async fn hopeless(&self, file: &File, done: impl Fn() -> f64) -> io::Error {
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last = (0.0, 0);
        let mut moved = Instant::now();
        loop {
            looks.tick().await;
            let (file, made) = (file.try_clone(), self.part.made.clone());
            let look = move || {
                let folder = made.parent().unwrap_or(&made);
                Ok((file?.metadata()?.blocks(), host::space(folder)?.free))
            };
            // A file system that does not answer holds a thread, and not this one.
            let looked = tokio::time::timeout(STALLED, self.threads.run(look)).await;
            let (blocks, free) = match looked.map(Result::flatten) {
                Ok(Ok(looked)) => looked,
                Ok(Err(error)) => return error,
                Err(_) => return io::ErrorKind::TimedOut.into(),
            };
            if free < self.limits.keep_free {
                return io::ErrorKind::StorageFull.into();
            }
            let now = (done(), blocks);
            if now != last {
                (last, moved) = (now, Instant::now());
            }
            if moved.elapsed() > STALLED {
                return io::Error::new(io::ErrorKind::TimedOut, "it does not get on");
            }
        }
    }
}

/// An empty file for the result.
fn begin(made: &Path) -> io::Result<File> {
    remove_if_there(made)?;
    let nofollow = nix::libc::O_NOFOLLOW;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    options.custom_flags(nofollow).open(made)
}

/// What a disk of this size may take: metadata is a thousandth of the data at most, and a slow
/// processor unpacks 50 MB in a second.
fn bounds(Bytes(disk): Bytes) -> Bounds {
    let cpu = Duration::from_secs(600 + disk / 50_000_000);
    let file = Bytes(disk.saturating_add(disk / 1024).saturating_add(SLACK));
    Bounds { memory: Bytes::gib(4), cpu, file }
}
