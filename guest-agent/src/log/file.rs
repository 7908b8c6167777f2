//! The log's file.
//!
//! A write to a disk may hang: a dead one, or one that something else than this agent froze. So while
//! the agent serves, a thread of the file's own writes it, and lines it does not get rid of are counted.
//! Before that, when there may be no thread because the process is still to be copied, it is written
//! as it comes.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// Lines on their way to the disk.
const WAITING: usize = 64;
/// Enough to write a line.
const STACK: usize = 128 << 10;
/// How long the last lines may take.
const LAST: Duration = Duration::from_millis(500);

/// A log file that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {}", .path.display())]
pub struct LogError {
    path: PathBuf,
    source: io::Error,
}

/// The file.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    writer: Writer,
}

#[derive(Debug)]
enum Writer {
    /// Whoever calls; not yet, while it is not open.
    Caller(Option<File>),
    /// The thread, which says that it has ended by dropping its end.
    Thread { tasks: SyncSender<Task>, ended: Receiver<()> },
}

#[derive(Debug)]
enum Task {
    Line(String),
    Open,
}

fn open(path: &Path) -> Result<File, LogError> {
    let opened = File::options().append(true).create(true).open(path);
    opened.map_err(|source| LogError { path: path.to_owned(), source })
}

impl LogFile {
    /// The file, not open yet.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, writer: Writer::Caller(None) }
    }

    /// Whether it takes lines.
    pub(super) fn is_open(&self) -> bool {
        !matches!(self.writer, Writer::Caller(None))
    }

    /// Opens it, or opens it anew: the old one is written to until the new one is open. What the thread
    /// cannot open it tells itself.
    pub(super) fn open(&mut self) -> Result<(), LogError> {
        match &mut self.writer {
            Writer::Caller(file) => *file = Some(open(&self.path)?),
            // with so much waiting it was asked for already, or the next time will do
            Writer::Thread { tasks, .. } => drop(tasks.try_send(Task::Open)),
        }
        Ok(())
    }

    /// Leaves it to a thread. Without one (the system has none left) all stays as it is.
    pub(super) fn hand_over(&mut self) {
        let Writer::Caller(file) = &mut self.writer else { return };
        let (tasks, received) = sync_channel(WAITING);
        let (ending, ended) = sync_channel(0);
        // a copy, for if there is no thread this one is still needed
        let file = file.as_ref().and_then(|file| file.try_clone().ok());
        let path = self.path.clone();
        let begun = std::thread::Builder::new().stack_size(STACK).spawn(move || {
            let _ending: SyncSender<()> = ending;
            work(&path, file, received);
        });
        if begun.is_ok() {
            self.writer = Writer::Thread { tasks, ended };
        }
    }

    /// Writes a line, and says whether it was taken. One that is not open takes none.
    pub(super) fn write(&mut self, line: &str) -> bool {
        match &mut self.writer {
            Writer::Caller(None) => false,
            Writer::Caller(Some(file)) => file.write_all(format!("{line}\n").as_bytes()).is_ok(),
            Writer::Thread { tasks, .. } => tasks.try_send(Task::Line(line.to_owned())).is_ok(),
        }
    }

    /// Waits for what was written, though not for a disk that hangs, and closes it.
    pub(super) fn close(&mut self) {
        if let Writer::Thread { tasks, ended } =
            std::mem::replace(&mut self.writer, Writer::Caller(None))
        {
            drop(tasks);
            // nothing is ever sent: either it ends or it is late
            let _: Result<(), RecvTimeoutError> = ended.recv_timeout(LAST);
        }
    }
}

fn work(path: &Path, mut file: Option<File>, tasks: Receiver<Task>) {
    for task in tasks {
        let line = match task {
            Task::Line(line) => line,
            Task::Open => match open(path) {
                Ok(opened) => {
                    file = Some(opened);
                    continue;
                }
                Err(error) => super::line("error", format_args!("{}", super::chain(&error))),
            },
        };
        let line = format!("{line}\n");
        let _ = match &mut file {
            Some(file) => file.write_all(line.as_bytes()),
            None => io::stderr().write_all(line.as_bytes()),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn the_thread_writes_in_order_and_opens_anew() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("old"));
        let mut file = LogFile::new(path.clone());
        assert!(!file.is_open() && !file.write("lost"));
        file.open().unwrap();
        assert!(file.is_open());
        assert!(file.write("one"));
        file.hand_over();
        assert!(file.write("two"));
        std::fs::rename(&path, &old).unwrap();
        file.open().unwrap();
        assert!(file.write("three"));
        file.close();
        assert_eq!(std::fs::read_to_string(old).unwrap(), "one\ntwo\n");
        assert_eq!(std::fs::read_to_string(path).unwrap(), "three\n");
    }

    #[test]
    fn what_cannot_be_opened_anew_goes_on_with_the_old() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("log"), folder.path().join("old"));
        let mut file = LogFile::new(path.clone());
        file.open().unwrap();
        file.hand_over();
        std::fs::rename(&path, &old).unwrap();
        std::fs::create_dir(&path).unwrap();
        file.open().unwrap();
        assert!(file.write("more"));
        file.close();
        let text = std::fs::read_to_string(old).unwrap();
        assert!(text.contains("cannot open the log file") && text.ends_with("\nmore\n"), "{text}");
    }

    #[test]
    fn a_file_that_hangs_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        // somebody who does not read
        let reader = File::options().read(true).write(true).open(&path).unwrap();
        let mut file = LogFile::new(path);
        file.open().unwrap();
        file.hand_over();
        let line = "x".repeat(4096);
        let mut taken = 0;
        while file.write(&line) {
            taken += 1;
            assert!(taken < 10_000, "a pipe holds less, and so does what waits");
        }
        drop(reader);
        file.close();
    }
}
