//! Disks of other hypervisors become qcow2: once, by qemu-img, when they were received and compared.
//!
//! What is kept is a disk like any other, and QEMU reads no other format while a guest runs. Our own
//! judgement comes first ([`super::foreign`]), then that of `qemu-img info`, and only then
//! the conversion, whose result takes the received file's place and is judged as any qcow2 is.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::Bytes;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::foreign::{self, Judged};
use super::part::{Part, Sink, Written, writing};
use super::qemu_img::{second_opinion, unreadable};
use super::{ImageError, Limits, Unfit};
use crate::durable::remove_if_there;
use crate::qemu_img::convert::{Copy, Onto, is_full};
use crate::threads::Threads;

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
        let copy = Copy {
            program: &limits.qemu_img,
            from: (&part.data, format.as_str()),
            to: (&file, Format::Qcow2.as_str()),
            onto: Onto::File,
            folder: part.made.parent().unwrap_or(&part.made),
            size,
            keep_free: limits.keep_free,
        };
        // Whoever gives it up drops it.
        let (progress, _unseen) = watch::channel((Bytes(0), Bytes(0)));
        let ran = copy.make(threads, &progress, &CancellationToken::new()).await;
        let ran = match ran {
            Ok(ran) if ran.began() => ran,
            Ok(ran) => return Err(ImageError::QemuImg(io::Error::other(ran.complaint()))),
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                return Err(writing(part)(error));
            }
            Err(error) => return Err(ImageError::QemuImg(error)),
        };
        if !ran.status.success() {
            if is_full(&ran.complaint()) {
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
}

/// An empty file for the result.
fn begin(made: &Path) -> io::Result<File> {
    remove_if_there(made)?;
    let nofollow = nix::libc::O_NOFOLLOW;
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create_new(true).mode(0o600);
    options.custom_flags(nofollow).open(made)
}
