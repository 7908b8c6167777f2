//! Files of guests, a piece at a time.
//!
//! Each request opens the file, goes to its place, reads or writes, and closes: nothing is kept
//! between two requests, so each can be repeated, and nothing has to be tidied up after a client that
//! went away. An agent that opens a file too late for whoever asked still has it closed behind it:
//! the work is seen through by itself, and waits longer than its caller.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_protocol::qga::Command as _;
use ostler_protocol::qga::commands::file::{
    FileHandle, FileOpenArguments, FileReadArguments, FileSeekArguments, FileWhence,
    FileWriteArguments, GuestFileClose, GuestFileOpen, GuestFileRead, GuestFileSeek,
    GuestFileWrite,
};
use ostler_protocol::rpc::guest::Transport;
use ostler_protocol::rpc::guest::work::{
    Data, Exec, FilePiece, FileRead, FileWrite, FileWritten, PIECE_MAX,
};
use tokio::time::{Instant, sleep};

use super::entry::Entry;
use super::error::Error;
use super::inquiry::Inquiry;
use super::{Guests, exec};
use crate::hypervisor::Hypervisor;

/// Between two tries to close a file in a guest that is frozen.
const FROZEN_PAUSE: Duration = Duration::from_millis(500);
/// Characters of a path, which Linux allows too.
const PATH_MAX: usize = 4095;

impl<H: Hypervisor> Guests<H> {
    /// Reads a piece of a file: what is there at that place, and whether the end was reached. It may
    /// be shorter than was asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] before the guest is asked; [`Error::Refused`] in the guest's words if there
    /// is no such file or it cannot be read.
    pub async fn file_read(&self, read: &FileRead) -> Result<FilePiece, Error> {
        check_path(&read.path)?;
        let count = read.count as usize;
        if count == 0 || count > PIECE_MAX {
            return Err(Error::Invalid { what: format!("count must be 1 to {PIECE_MAX} bytes") });
        }
        let place = place(read.offset, count)?;
        let (guests, entry) = (self.clone(), self.known(read.id)?);
        let over = entry.transport()?;
        let (at, path) = (Arc::clone(&entry), read.path.clone());
        let work = async move {
            let mut file = guests.open(&at, over, path, "r").await?;
            let outcome = async {
                file.seek(place).await?;
                file.read(count).await
            };
            let outcome = outcome.await;
            // nothing was written that could be lost
            let _ = file.close().await;
            outcome
        };
        self.see_through(&entry, GuestFileRead::NAME, self.deadline(), work).await
    }

    /// Writes a piece of a file, all of it.
    ///
    /// # Errors
    /// As [`Self::file_read`]. What was written before it failed stays written.
    pub async fn file_write(&self, write: FileWrite) -> Result<FileWritten, Error> {
        check_path(&write.path)?;
        let FileWrite { id, path, offset, data, truncate, mode } = write;
        if data.0.len() > PIECE_MAX {
            let what = format!("data must be at most {PIECE_MAX} bytes: write in pieces");
            return Err(Error::Invalid { what });
        }
        if truncate && offset != 0 {
            let what = "truncate empties the file, and needs offset 0".to_owned();
            return Err(Error::Invalid { what });
        }
        if mode.is_some_and(|mode| mode > 0o7777) {
            return Err(Error::Invalid { what: "mode must be at most 4095 (7777)".to_owned() });
        }
        let place = place(offset, data.0.len())?;
        let (guests, entry) = (self.clone(), self.known(id)?);
        let over = entry.transport()?;
        let at = Arc::clone(&entry);
        let work = async move {
            if let Some(mode) = mode {
                // before there is anything in it that others may not see
                let make = if truncate { "w" } else { "a" };
                guests.open(&at, over, path.clone(), make).await?.close().await?;
                guests.change_mode(id, &path, mode).await?;
            }
            let how = if truncate { "w" } else { "r+" };
            let mut file = match guests.open(&at, over, path.clone(), how).await {
                Err(Error::Refused { .. }) if offset == 0 && !truncate => {
                    // it is not there; `a` makes it, and writes nowhere but at its end
                    guests.open(&at, over, path.clone(), "a").await?.close().await?;
                    guests.open(&at, over, path, how).await?
                }
                opened => opened?,
            };
            let outcome = async {
                file.seek(place).await?;
                file.write(&data).await
            };
            let outcome = outcome.await;
            // a stock agent writes when it closes, if not before
            let closed = file.close().await;
            let written = outcome?;
            closed?;
            Ok(FileWritten { written })
        };
        let patience = if mode.is_some() { self.patience() } else { self.deadline() };
        self.see_through(&entry, GuestFileWrite::NAME, patience, work).await
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.0.settings.answer_timeout
    }

    async fn open<'a>(
        &'a self,
        entry: &'a Entry,
        over: Transport,
        path: String,
        how: &str,
    ) -> Result<OpenFile<'a, H>, Error> {
        let arguments = FileOpenArguments { path, mode: Some(how.to_owned()) };
        // longer than whoever asked waits: a file that is opened late must be closed as well
        let late = Inquiry { deadline: self.patience(), ..self.over(entry, over) };
        let handle = late.ask::<GuestFileOpen>(&arguments, &[]).await?;
        Ok(OpenFile { guests: self, entry, over, handle })
    }

    /// Runs `chmod` in the guest: agents have no command for it.
    async fn change_mode(
        &self,
        id: ostler_protocol::rpc::values::InstanceId,
        path: &str,
        mode: u32,
    ) -> Result<(), Error> {
        let args = vec![format!("{mode:04o}"), "--".to_owned(), path.to_owned()];
        let outcome = self.run_helper(exec::helper(id, "chmod", args)).await?;
        match outcome {
            Some(0) => Ok(()),
            Some(_) | None => Err(Error::Refused {
                command: "guest-exec",
                class: ostler_protocol::qga::ErrorClass::GenericError,
                desc: "chmod of the file did not succeed".to_owned(),
            }),
        }
    }

    /// Runs a small program of the guest's to its end: what it returned.
    pub(super) async fn run_helper(&self, program: Exec) -> Result<Option<i32>, Error> {
        let id = program.id;
        let started = self.exec(program, None).await?;
        let until = self.patience();
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let now = self.exec_wait(id, started.exec, left, [0, 0]).await?;
            match now.state {
                ostler_protocol::rpc::guest::work::ExecState::Exited => return Ok(now.exit_code),
                ostler_protocol::rpc::guest::work::ExecState::Running if !left.is_zero() => {}
                ostler_protocol::rpc::guest::work::ExecState::Running
                | ostler_protocol::rpc::guest::work::ExecState::Lost => {
                    return Err(Error::Timeout { command: "guest-exec" });
                }
            }
        }
    }
}

/// How much an agent is given to write at a time. A stock agent takes some 1 KiB at each turn of its
/// loop: on a slow guest half a megabyte took longer than an answer may.
const fn most(over: Transport) -> usize {
    match over {
        Transport::Libvirt => 48 << 10,
        Transport::Ostler => usize::MAX,
    }
}

/// A file that an agent has open.
struct OpenFile<'a, H: Hypervisor> {
    guests: &'a Guests<H>,
    entry: &'a Entry,
    over: Transport,
    handle: i64,
}

impl<H: Hypervisor> OpenFile<'_, H> {
    fn inquiry(&self) -> Inquiry<'_, H> {
        self.guests.over(self.entry, self.over)
    }

    async fn seek(&mut self, offset: i64) -> Result<(), Error> {
        if offset == 0 {
            return Ok(());
        }
        let handle = self.handle;
        let arguments = FileSeekArguments { handle, offset, whence: FileWhence::Set };
        let sought = self.inquiry().ask::<GuestFileSeek>(&arguments, &[]).await?;
        if sought.position == offset {
            Ok(())
        } else {
            // a device, say, where one place is as good as another
            let what = "the file in the guest has no places to go to: it is no ordinary file";
            Err(Error::Invalid { what: what.to_owned() })
        }
    }

    async fn read(&mut self, count: usize) -> Result<FilePiece, Error> {
        let arguments = FileReadArguments { handle: self.handle, count: Some(count as i64) };
        let read = self.inquiry().ask::<GuestFileRead>(&arguments, &[]).await?;
        let data = read.buf_b64.0;
        // whoever asked has room for so much
        if data.len() > count || usize::try_from(read.count) != Ok(data.len()) {
            return Err(Error::Garbled { command: GuestFileRead::NAME });
        }
        Ok(FilePiece { data: Data(data), eof: read.eof })
    }

    async fn write(&mut self, data: &Data) -> Result<u64, Error> {
        let mut written = 0;
        while written < data.0.len() {
            let rest = &data.0[written..];
            let rest = &rest[..rest.len().min(most(self.over))];
            let handle = self.handle;
            let arguments =
                FileWriteArguments { handle, buf_b64: STANDARD.encode(rest), count: None };
            let secrets = [arguments.buf_b64.as_str()];
            let wrote = self.inquiry().ask::<GuestFileWrite>(&arguments, &secrets).await?;
            match usize::try_from(wrote.count) {
                Ok(count) if (1..=rest.len()).contains(&count) => written += count,
                Ok(_) | Err(_) => return Err(Error::Garbled { command: GuestFileWrite::NAME }),
            }
        }
        Ok(written as u64)
    }

    async fn close(self) -> Result<(), Error> {
        let arguments = FileHandle { handle: self.handle };
        let patience = self.guests.patience();
        loop {
            let closed = self.inquiry().ask::<GuestFileClose>(&arguments, &[]).await;
            match closed {
                // frozen meanwhile: it would stay open for ever
                Err(Error::Busy { .. }) if Instant::now() < patience => sleep(FROZEN_PAUSE).await,
                closed => return closed.map(drop),
            }
        }
    }
}

/// A place in a file as agents count, if so much fits behind it.
fn place(offset: u64, count: usize) -> Result<i64, Error> {
    let end = offset.checked_add(count as u64).and_then(|end| i64::try_from(end).ok());
    match (end, i64::try_from(offset)) {
        (Some(_), Ok(offset)) => Ok(offset),
        (None, _) | (_, Err(_)) => {
            Err(Error::Invalid { what: format!("offset {offset} is beyond any file") })
        }
    }
}

/// A path is the guest's affair, but for what no path has.
fn check_path(path: &str) -> Result<(), Error> {
    let absolute = Path::new(path).is_absolute() || path.contains(":\\");
    if !absolute || path.contains('\0') || path.len() > PATH_MAX {
        let what =
            format!("path must be a whole path of at most {PATH_MAX} bytes, as in /etc/motd");
        return Err(Error::Invalid { what });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_whole() {
        for good in ["/etc/motd", "C:\\x"] {
            assert_eq!(check_path(good), Ok(()));
        }
        for bad in ["", "etc", "../x", "/a\0b", &format!("/{}", "x".repeat(PATH_MAX))] {
            assert!(check_path(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_place_is_one_that_agents_can_count_to() {
        assert_eq!(place(7, 1), Ok(7));
        assert!(place(i64::MAX as u64, 1).is_err());
        assert!(place(u64::MAX, 1).is_err());
    }
}
