//! `ostler guest push` and `pull`: files in and out of guests, piece by piece.
//!
//! Each piece names its place, so after a lost connection it is simply sent again. As scp does, both
//! overwrite what is there; `pull` writes to a file of another name first, which takes the place of
//! the old one when all has come. A guest decides what a file of its holds, so one that goes on for
//! ever ends at `--max-size`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::guest::work::{Data, FileRead, FileWrite, PIECE_MAX};
use ostler_protocol::rpc::method::{GuestFileRead, GuestFileWrite};
use ostler_protocol::rpc::values::Bytes;
use serde::Serialize;

use super::place::GuestPath;
use crate::args::Format;
use crate::commands::Session;
use crate::failure::{Cause, Failure};
use crate::size;

/// The most that is copied unless told.
const MAX_SIZE: &str = "16G";
/// Answers in a row that bring nothing and do not end, after which a guest is given up.
const EMPTY_MOST: u32 = 16;
/// How much longer than usual a piece may take: `chmod` is run with the first.
const LONGER: Duration = Duration::from_secs(30);

/// How often a piece is asked for that a guest leaves unanswered, once it has answered for one: a
/// guest with much to do may keep its agent waiting for longer than libvirt waits for that.
const TRIES: u32 = 6;
/// How long it is left alone between two.
const PAUSE: Duration = Duration::from_secs(1);

/// A file to copy into a guest.
#[derive(Args)]
pub(crate) struct PushArgs {
    /// The file here; - is standard input
    file: PathBuf,
    /// The file in the guest: INSTANCE:PATH
    place: GuestPath,
    /// Set these permissions before the content is written, as in 0600
    #[arg(long, value_parser = octal)]
    mode: Option<u32>,
}

/// A file to copy out of a guest.
#[derive(Args)]
pub(crate) struct PullArgs {
    /// The file in the guest: INSTANCE:PATH
    place: GuestPath,
    /// The file here; - is standard output
    file: PathBuf,
    /// Give up beyond this size
    #[arg(long, value_name = "SIZE", value_parser = size::parse, default_value = MAX_SIZE)]
    max_size: Bytes,
}

/// What was copied.
#[derive(Serialize)]
struct Copied {
    bytes: u64,
}

impl PushArgs {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let name = self.file.display().to_string();
        let local = |source| Cause::Local { what: format!("read {name}"), source };
        let (mut from, length): (Box<dyn Read>, _) = if self.file.as_os_str() == "-" {
            (Box::new(std::io::stdin()), None)
        } else {
            let file = File::open(&self.file).map_err(local)?;
            let length = file.metadata().map_err(local)?.len();
            (Box::new(file), Some(length))
        };
        let id = self.place.instance.resolve(&mut session.client).await?;
        let bar = bar(session, length);
        let mut offset = 0;
        loop {
            let mut piece = Vec::with_capacity(PIECE_MAX);
            from.by_ref().take(PIECE_MAX as u64).read_to_end(&mut piece).map_err(local)?;
            // an empty file has one piece too
            if piece.is_empty() && offset > 0 {
                break;
            }
            let (first, bytes) = (offset == 0, piece.len() as u64);
            let write = FileWrite {
                id,
                path: self.place.path.clone(),
                offset,
                data: Data(piece),
                truncate: first,
                mode: self.mode.filter(|_| first),
            };
            let client = &mut session.client;
            again(offset, async || client.act::<GuestFileWrite>(&write, None, LONGER).await)
                .await?;
            offset += bytes;
            bar.set_position(offset);
            if bytes < PIECE_MAX as u64 {
                break;
            }
        }
        bar.finish_and_clear();
        let sentence = format!("{} are in {}", Bytes(offset), self.place.path);
        session.output.sentence(&Copied { bytes: offset }, &sentence)
    }
}

impl PullArgs {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = self.place.instance.resolve(&mut session.client).await?;
        let name = self.file.display().to_string();
        let local = |source| Cause::Local { what: format!("write {name}"), source };
        let mut target = Target::new(&self.file).map_err(local)?;
        let bar = bar(session, None);
        let (mut offset, mut empty) = (0_u64, 0);
        loop {
            let path = self.place.path.clone();
            let read = FileRead { id, path, offset, count: PIECE_MAX as u32 };
            let client = &mut session.client;
            let piece =
                again(offset, async || client.call_patiently::<GuestFileRead>(&read, LONGER).await)
                    .await?;
            let bytes = piece.data.0.len() as u64;
            if bytes > PIECE_MAX as u64 || offset.saturating_add(bytes) > self.max_size.0 {
                let text = format!("the file is larger than {}: see --max-size", self.max_size);
                return Err(Cause::Guest(text).into());
            }
            target.write(&piece.data.0).map_err(local)?;
            offset += bytes;
            bar.set_position(offset);
            empty = if bytes == 0 { empty + 1 } else { 0 };
            if piece.eof {
                break;
            }
            if empty >= EMPTY_MOST {
                let text = "the guest sends no more of the file, and does not say that it ends";
                return Err(Cause::Guest(text.to_owned()).into());
            }
        }
        bar.finish_and_clear();
        match target.finish().map_err(local)? {
            Destination::Stdout => Ok(()),
            Destination::File => {
                let sentence = format!("{} are in {name}", Bytes(offset));
                session.output.sentence(&Copied { bytes: offset }, &sentence)
            }
        }
    }
}

/// Have a piece copied, and again if the guest does not answer for it: twice is the same as once.
/// Who has not answered for the `first` byte of a file may never do so, and is not waited for.
async fn again<T>(
    first: u64,
    mut copy: impl AsyncFnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let mut tries = 1;
    loop {
        match copy().await {
            Err(Failure { cause: Cause::Refused(fault), .. })
                if fault.data.reason == Reason::GuestUnavailable && first > 0 && tries < TRIES =>
            {
                tokio::time::sleep(PAUSE).await;
                tries += 1;
            }
            copied => return copied,
        }
    }
}

/// Where a file from a guest goes.
enum Target {
    Stdout(std::io::Stdout),
    /// A file of another name until it is whole; removed if that never happens.
    File {
        file: File,
        temporary: PathBuf,
        path: PathBuf,
        done: bool,
    },
}

/// Where it went.
enum Destination {
    Stdout,
    File,
}

impl Target {
    fn new(path: &Path) -> std::io::Result<Self> {
        if path.as_os_str() == "-" {
            return Ok(Self::Stdout(std::io::stdout()));
        }
        if path.is_dir() {
            return Err(std::io::ErrorKind::IsADirectory.into());
        }
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(format!(".{}.part", uuid::Uuid::new_v4().simple()));
        let temporary = PathBuf::from(temporary);
        let file = File::create_new(&temporary)?;
        Ok(Self::File { file, temporary, path: path.to_owned(), done: false })
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Stdout(out) => out.write_all(data),
            Self::File { file, .. } => file.write_all(data),
        }
    }

    fn finish(mut self) -> std::io::Result<Destination> {
        match &mut self {
            Self::Stdout(out) => out.flush().map(|()| Destination::Stdout),
            Self::File { file, temporary, path, done } => {
                file.sync_all()?;
                std::fs::rename(&*temporary, &*path)?;
                *done = true;
                Ok(Destination::File)
            }
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Self::File { temporary, done: false, .. } = self {
            // it may never have been made
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// How much of something has gone, for people.
pub(crate) fn bar(session: &Session, length: Option<u64>) -> ProgressBar {
    match session.output.format() {
        Format::Json => ProgressBar::hidden(),
        // nothing is drawn where standard error is no terminal
        Format::Table => {
            let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
            let template = match length {
                Some(_) => "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
                None => "{spinner} {bytes} {bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        }
    }
}

/// Permissions in octal, as chmod(1) takes them.
fn octal(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        Ok(_) | Err(_) => Err("give permissions in octal, as in 0644".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_takes_the_place_of_the_old_one_only_when_it_is_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        std::fs::write(&path, "old").unwrap();
        let mut target = Target::new(&path).unwrap();
        target.write(b"ne").unwrap();
        drop(target);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut target = Target::new(&path).unwrap();
        target.write(b"new").unwrap();
        target.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn permissions_are_octal() {
        assert_eq!(octal("0600"), Ok(0o600));
        for bad in ["", "9", "rw", "77777"] {
            assert!(octal(bad).is_err(), "{bad}");
        }
    }
}
