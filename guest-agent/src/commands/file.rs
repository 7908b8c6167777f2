//! Files, opened by path and used by handle.
//!
//! ```text
//!  handle --> Files --> the file's turn --> a thread, with a deadline --> transfer
//! ```
//!
//! A file may lie on a disk or share that is dead, so each call on one is made on a thread that can be
//! given up. The file stays that thread's until the call ends: whoever asks for it meanwhile is told
//! that it is busy, and closing it only forgets it. Nothing is buffered here, so what was written is
//! there at once and there is nothing to flush.

mod numbers;
mod transfer;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::qga::base64::{Base64Error, decoded_len};
use ostler_protocol::qga::commands::file::{
    FileHandle, FileOpenArguments, FileRead, FileReadArguments, FileSeekArguments, FileSought,
    FileWhence, FileWriteArguments, FileWritten, GuestFileClose, GuestFileFlush, GuestFileOpen,
    GuestFileRead, GuestFileSeek, GuestFileWrite,
};
use ostler_protocol::qga::commands::{Command, Done};
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::{Agent, CommandError, Handle};
use crate::policy::Effect;
use crate::worker::WorkerError;
use numbers::Numbers;
use transfer::{Cached, Mode};

/// The most a read may ask for.
const MOST_READ: usize = 48 << 20;
const DEFAULT_READ: usize = 4096;
/// So much is read without a thread if the kernel has it in memory: most reads are small, and a thread
/// takes longer than they do.
const AT_ONCE: usize = 64 << 10;
/// Half of the descriptors a process may have open, where nobody has changed that.
const MOST_OPEN: usize = 512;
/// A healthy disk is done in less; a dead one is not waited for.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a call waits for another on the same file.
const TURN: Duration = Duration::from_secs(1);

/// Why a file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// A mode there is none of.
    #[error("invalid file open mode '{0}'")]
    Mode(String),
    /// It could not be opened.
    #[error("failed to open file '{path}' (mode: '{mode}')")]
    Open {
        /// Which.
        path: String,
        /// How.
        mode: String,
        /// Why.
        source: io::Error,
    },
    /// Too many are open.
    #[error("failed to open file '{0}': {MOST_OPEN} files are open, which is the most")]
    TooMany(String),
    /// No such handle.
    #[error("handle '{0}' has not been found")]
    Handle(i64),
    /// An earlier call on it has not ended.
    #[error("handle '{0}' is busy: an earlier command on it has not ended")]
    Busy(i64),
    /// Less than none or more than there may be.
    #[error("value '{0}' is invalid for argument count")]
    Count(i64),
    /// It could not be read.
    #[error("failed to read file")]
    Read(#[source] io::Error),
    /// The data is not base64.
    #[error(transparent)]
    Base64(#[from] Base64Error),
    /// It could not be written.
    #[error("failed to write to file")]
    Write(#[source] io::Error),
    /// The number for a place means nothing.
    #[error("invalid whence code {0}")]
    Whence(i64),
    /// It has no such place.
    #[error("failed to seek file")]
    Seek(#[source] io::Error),
    /// It is closed, but not all may have been written.
    #[error("failed to close handle '{handle}'")]
    Close {
        /// Which.
        handle: i64,
        /// Why.
        source: io::Error,
    },
    /// The thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// An open file, or nothing once it is closed. Held by whoever makes a call on it.
type Slot = Arc<Mutex<Option<Opened>>>;

#[derive(Debug)]
struct Opened {
    file: File,
    /// Its end is known without waiting for anybody.
    local: bool,
}

/// The open files.
#[derive(Debug)]
pub struct Files {
    open: RefCell<BTreeMap<i64, Slot>>,
    numbers: Mutex<Numbers>,
}

impl Files {
    /// None is open; the numbers of handles go on from where they were.
    pub fn new(state_directory: &Path) -> Self {
        Self {
            open: RefCell::default(),
            numbers: Mutex::new(Numbers::new(state_directory.join("qga.state"))),
        }
    }

    fn slot(&self, handle: i64) -> Result<Slot, FileError> {
        self.open.borrow().get(&handle).cloned().ok_or(FileError::Handle(handle))
    }
}

type Turn = OwnedMutexGuard<Option<Opened>>;

async fn turn(slot: Slot) -> Option<Turn> {
    tokio::time::timeout(TURN, slot.lock_owned()).await.ok()
}

/// Makes a call on an open file.
async fn call<T: Send + 'static>(
    agent: &Agent,
    handle: i64,
    what: &'static str,
    job: impl FnOnce(&mut File) -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    let turn = turn(agent.files.slot(handle)?).await.ok_or(FileError::Busy(handle))?;
    go_on(agent, handle, turn, what, job).await
}

/// Makes a call on an open file whose turn has come.
async fn go_on<T: Send + 'static>(
    agent: &Agent,
    handle: i64,
    mut turn: Turn,
    what: &'static str,
    job: impl FnOnce(&mut File) -> Result<T, FileError> + Send + 'static,
) -> Result<T, FileError> {
    agent
        .workers
        .run(what, DEADLINE, move || {
            let opened = turn.as_mut().ok_or(FileError::Handle(handle))?;
            job(&mut opened.file)
        })
        .await?
}

impl Handle for GuestFileOpen {
    async fn handle(agent: Rc<Agent>, arguments: FileOpenArguments) -> Result<i64, CommandError> {
        let FileOpenArguments { path, mode } = arguments;
        let word = mode.unwrap_or_else(|| "r".to_owned());
        agent.log.info(format_args!("guest-file-open called, filepath: {path}, mode: {word}"));
        let Some(mode) = Mode::from_word(&word) else { return Err(FileError::Mode(word).into()) };
        if mode.writes() {
            let refused = |why| CommandError::Refused { command: Self::NAME, why };
            agent.policy.permits(Effect::Commands).map_err(refused)?;
        }
        let files = &agent.files;
        if files.open.borrow().len() >= MOST_OPEN {
            return Err(FileError::TooMany(path).into());
        }
        let opened = agent
            .workers
            .run("opening a file", DEADLINE, move || match mode.open(Path::new(&path)) {
                Ok(file) => Ok((Opened { local: transfer::is_local(&file), file }, path)),
                Err(source) => Err(FileError::Open { path, mode: word, source }),
            })
            .await;
        let (opened, path) = opened.map_err(FileError::Worker)??;
        let handle = files.numbers.lock().await.next(&agent.workers, &agent.log).await;
        let mut open = files.open.borrow_mut();
        // others may have been opened meanwhile
        if open.len() >= MOST_OPEN {
            return Err(FileError::TooMany(path).into());
        }
        open.insert(handle, Arc::new(Mutex::new(Some(opened))));
        Ok(handle)
    }
}

impl Handle for GuestFileClose {
    async fn handle(agent: Rc<Agent>, arguments: FileHandle) -> Result<Done, CommandError> {
        let FileHandle { handle } = arguments;
        let files = &agent.files;
        let slot = files.slot(handle)?;
        let turn = turn(slot.clone()).await;
        if files.open.borrow_mut().remove(&handle).is_none() {
            return Err(FileError::Handle(handle).into());
        }
        // a call that hangs on it closes it when it ends
        let Some(mut turn) = turn else { return Ok(Done {}) };
        let closed = agent
            .workers
            .run("closing a file", DEADLINE, move || {
                turn.take().map_or(Ok(()), |opened| transfer::close(opened.file))
            })
            .await;
        match closed {
            Ok(closed) => {
                closed.map_err(|source| FileError::Close { handle, source })?;
                Ok(Done {})
            }
            Err(error) => {
                // closing was not begun: it can be tried again
                if let WorkerError::Exhausted(_) | WorkerError::Spawn(..) = error {
                    files.open.borrow_mut().insert(handle, slot);
                }
                Err(FileError::Worker(error).into())
            }
        }
    }
}

impl Handle for GuestFileRead {
    async fn handle(
        agent: Rc<Agent>,
        arguments: FileReadArguments,
    ) -> Result<FileRead, CommandError> {
        let FileReadArguments { handle, count } = arguments;
        let slot = agent.files.slot(handle)?;
        let most = match count {
            None => DEFAULT_READ,
            Some(count) => usize::try_from(count)
                .ok()
                .filter(|count| *count <= MOST_READ)
                .ok_or(FileError::Count(count))?,
        };
        let turn = turn(slot).await.ok_or(FileError::Busy(handle))?;
        let mut begun = Vec::new();
        if most <= AT_ONCE
            && let Some(Opened { file, .. }) = turn.as_ref()
        {
            match transfer::read_cached(file, most) {
                Cached::Whole(read) => return Ok(read),
                Cached::Begun(data) => begun = data,
            }
        }
        let read = go_on(&agent, handle, turn, "reading a file", move |file| {
            transfer::read(file, begun, most).map_err(FileError::Read)
        });
        Ok(read.await?)
    }
}

impl Handle for GuestFileWrite {
    async fn handle(
        agent: Rc<Agent>,
        arguments: FileWriteArguments,
    ) -> Result<FileWritten, CommandError> {
        let FileWriteArguments { handle, buf_b64, count } = arguments;
        agent.files.slot(handle)?;
        let written = call(&agent, handle, "writing a file", move |file| {
            let length = decoded_len(&buf_b64)?;
            let most = match count {
                None => length,
                Some(count) => usize::try_from(count)
                    .ok()
                    .filter(|count| *count <= length)
                    .ok_or(FileError::Count(count))?,
            };
            transfer::write(file, &buf_b64, most).map_err(FileError::Write)
        });
        Ok(FileWritten { count: written.await?, eof: false })
    }
}

impl Handle for GuestFileSeek {
    async fn handle(
        agent: Rc<Agent>,
        arguments: FileSeekArguments,
    ) -> Result<FileSought, CommandError> {
        let FileSeekArguments { handle, offset, whence } = arguments;
        let slot = agent.files.slot(handle)?;
        let place = match whence {
            // what is below 0 is above all places then, and refused as such
            FileWhence::Set => SeekFrom::Start(offset.cast_unsigned()),
            FileWhence::Cur => SeekFrom::Current(offset),
            FileWhence::End => SeekFrom::End(offset),
            FileWhence::Code(code) => return Err(FileError::Whence(code).into()),
        };
        let mut turn = turn(slot).await.ok_or(FileError::Busy(handle))?;
        let seek = move |file: &mut File| file.seek(place).map_err(FileError::Seek);
        let position = match turn.as_mut() {
            Some(Opened { file, local: true }) => seek(file)?,
            Some(Opened { local: false, .. }) | None => {
                go_on(&agent, handle, turn, "seeking in a file", seek).await?
            }
        };
        Ok(FileSought { position: position.cast_signed(), eof: false })
    }
}

impl Handle for GuestFileFlush {
    async fn handle(agent: Rc<Agent>, arguments: FileHandle) -> Result<Done, CommandError> {
        agent.files.slot(arguments.handle)?;
        Ok(Done {})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use std::sync::mpsc;

    #[tokio::test]
    async fn seeking_in_a_local_file_needs_no_thread_and_elsewhere_has_one() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            Settings { state_directory: folder.path().to_owned(), ..Settings::for_tests() };
        let agent = Rc::new(Agent::new(&settings));
        let path = folder.path().join("file");
        std::fs::write(&path, [7; 9]).unwrap();
        let open = async |path: &str| {
            let arguments = FileOpenArguments { path: path.to_owned(), mode: None };
            GuestFileOpen::handle(agent.clone(), arguments).await.unwrap()
        };
        let (file, other) = (open(path.to_str().unwrap()).await, open("/dev/null").await);
        let opened = agent.files.slot(file).unwrap();
        if !opened.lock().await.as_ref().unwrap().local {
            return; // a file system that is not known
        }
        let mut stuck = Vec::new();
        loop {
            let (release, released) = mpsc::channel::<()>();
            match agent.workers.begin("stuck", move || released.recv()) {
                Ok(_) => stuck.push(release),
                Err(_) => break,
            }
        }
        let seek = async |handle, offset, whence| {
            let arguments = FileSeekArguments { handle, offset, whence };
            GuestFileSeek::handle(agent.clone(), arguments).await
        };
        assert_eq!(seek(file, 2, FileWhence::Set).await.unwrap().position, 2);
        assert_eq!(seek(file, 3, FileWhence::Cur).await.unwrap().position, 5);
        assert_eq!(seek(file, -1, FileWhence::End).await.unwrap().position, 8);
        seek(file, -1, FileWhence::Set).await.unwrap_err();
        let refused = seek(other, 0, FileWhence::Set).await;
        assert!(matches!(
            refused,
            Err(CommandError::File(FileError::Worker(WorkerError::Exhausted(_))))
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_hangs_is_busy_and_can_be_closed() {
        let folder = tempfile::tempdir().unwrap();
        let settings =
            Settings { state_directory: folder.path().to_owned(), ..Settings::for_tests() };
        let agent = Rc::new(Agent::new(&settings));
        let (reader, writer) = io::pipe().unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let opened = Opened { file, local: false };
        agent.files.open.borrow_mut().insert(7, Arc::new(Mutex::new(Some(opened))));
        let (release, released) = mpsc::channel::<()>();
        let hung = call(&agent, 7, "job", move |_| {
            let _ = released.recv();
            Ok(())
        });
        assert!(matches!(hung.await, Err(FileError::Worker(WorkerError::Late("job")))));
        let next = call(&agent, 7, "job", |_| Ok(())).await;
        assert!(matches!(next, Err(FileError::Busy(7))));
        let other = call(&agent, 8, "job", |_| Ok(())).await;
        assert!(matches!(other, Err(FileError::Handle(8))));

        GuestFileClose::handle(agent.clone(), FileHandle { handle: 7 }).await.unwrap();
        let next = call(&agent, 7, "job", |_| Ok(())).await;
        assert!(matches!(next, Err(FileError::Handle(7))));
        drop(release);
        // its end shows that the other one is closed, once the call that hung has ended
        let mut reader = reader;
        assert_eq!(io::Read::read(&mut reader, &mut [0]).unwrap(), 0);
    }
}
