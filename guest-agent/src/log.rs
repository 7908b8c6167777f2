//! The agent's log: standard error or a file, one line an entry, and an audit trail in the system's log.
//!
//! The form is that of stock agents (`SECONDS.MICROS: level: text`), so what watches their log can
//! watch this one. No secret is ever passed here.
//!
//! ```text
//!  error, warning, info ---> line ----------> the file, or standard error
//!  audit ------------------> line, datagram -> the same, and /dev/log
//!                             |          ^
//!                     hold()  +-> held --+  release()
//! ```
//!
//! While file systems are frozen nothing is written, not even to standard error: whoever reads that may
//! be a journal on a frozen disk. Entries wait, the first of them in memory, the rest as a number.

mod file;

use std::error::Error;
use std::fmt;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::Value;

pub use file::LogError;
use file::LogFile;

/// Where the system's log takes datagrams.
const SYSTEM_LOG: &str = "/dev/log";
/// Facility user, priority info: what stock agents give theirs.
const PRIORITY: &str = "<14>";
const NAME: &str = "ostler-guest-agent";
/// The longest entry; an id of a request can be megabytes.
const LONGEST: usize = 1024;
/// How many entries wait while nothing may be written.
const HELD: usize = 64;

/// Where entries go, and which.
#[derive(Clone, Debug)]
pub struct Log(Arc<Sinks>);

#[derive(Debug)]
struct Sinks {
    verbosity: Verbosity,
    /// The file's, if it is in one.
    path: Option<PathBuf>,
    system_log: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// While it is not open, and if there is none, standard error takes its place.
    file: Option<LogFile>,
    held: Option<Held>,
    /// What the audit trail is sent from, once there was something to send.
    sender: Option<UnixDatagram>,
    /// The file is to be opened anew when that may be done.
    reopen: bool,
    /// Entries there was no room for.
    lost: usize,
}

impl State {
    fn sender(&mut self) -> io::Result<&UnixDatagram> {
        let sender = match self.sender.take() {
            Some(sender) => sender,
            None => {
                let sender = UnixDatagram::unbound()?;
                sender.set_nonblocking(true)?;
                sender
            }
        };
        Ok(self.sender.insert(sender))
    }
}

#[derive(Debug, Default)]
struct Held {
    entries: Vec<Entry>,
    dropped: usize,
}

#[derive(Debug)]
struct Entry {
    line: Option<String>,
    datagram: Option<String>,
}

/// Which entries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors and warnings.
    #[default]
    Errors,
    /// All of them.
    All,
}

impl Default for Log {
    fn default() -> Self {
        Self::new(Verbosity::default())
    }
}

impl PartialEq for Log {
    fn eq(&self, other: &Self) -> bool {
        self.0.verbosity == other.0.verbosity && self.0.path == other.0.path
    }
}

impl Eq for Log {}

impl Log {
    /// A log on standard error that writes what `verbosity` lets through.
    pub fn new(verbosity: Verbosity) -> Self {
        Self::to(verbosity, None, SYSTEM_LOG.into())
    }

    /// A log in a file, once it is opened.
    pub fn in_file(verbosity: Verbosity, file: PathBuf) -> Self {
        Self::to(verbosity, Some(file), SYSTEM_LOG.into())
    }

    fn to(verbosity: Verbosity, path: Option<PathBuf>, system_log: PathBuf) -> Self {
        let state = State { file: path.clone().map(LogFile::new), ..State::default() };
        Self(Arc::new(Sinks { verbosity, path, system_log, state: Mutex::new(state) }))
    }

    /// Which entries are written.
    pub fn verbosity(&self) -> Verbosity {
        self.0.verbosity
    }

    /// The file, if it is in one.
    pub fn file(&self) -> Option<&Path> {
        self.0.path.as_deref()
    }

    /// Opens the file, or opens it anew after it was moved away. Not while entries are held: then it is
    /// done when they are written.
    pub fn open(&self) -> Result<(), LogError> {
        let mut state = self.state();
        if state.held.is_some() {
            state.reopen = true;
            return Ok(());
        }
        self.open_file(&mut state)
    }

    fn open_file(&self, state: &mut State) -> Result<(), LogError> {
        state.reopen = false;
        state.file.as_mut().map_or(Ok(()), LogFile::open)
    }

    /// Leaves the file to a thread: from now on no write is waited for.
    pub fn hand_over(&self) {
        if let Some(file) = &mut self.state().file {
            file.hand_over();
        }
    }

    /// Waits for the last entries, though not for a disk that hangs. What comes after goes to standard
    /// error.
    pub fn close(&self) {
        if let Some(file) = &mut self.state().file {
            file.close();
        }
    }

    /// Writes nothing from now on: file systems are being frozen.
    pub fn hold(&self) {
        self.state().held.get_or_insert_default();
    }

    /// Writes what was held, and whatever comes from now on.
    pub fn release(&self) {
        let mut state = self.state();
        let Some(Held { entries, dropped }) = state.held.take() else { return };
        let opened = if state.reopen { self.open_file(&mut state) } else { Ok(()) };
        for entry in entries {
            self.write(&mut state, entry);
        }
        if dropped > 0 {
            let line =
                line("warning", format_args!("{dropped} entries were left out while frozen"));
            self.write(&mut state, Entry { line: Some(line), datagram: None });
        }
        if let Err(error) = opened {
            let line = line("error", format_args!("{}", chain(&error)));
            self.write(&mut state, Entry { line: Some(line), datagram: None });
        }
    }

    /// Tells standard error what was held, and leaves the file alone: the agent ends, and what is frozen
    /// stays so.
    pub fn give_up(&self) {
        let mut state = self.state();
        let Some(Held { entries, .. }) = state.held.take() else { return };
        state.file = None;
        for entry in entries {
            self.write(&mut state, entry);
        }
    }

    /// Something that was asked for did not happen.
    pub fn error(&self, text: fmt::Arguments<'_>) {
        self.take(Entry { line: Some(line("error", text)), datagram: None });
    }

    /// Something is not as its owner may think.
    pub fn warning(&self, text: fmt::Arguments<'_>) {
        self.take(Entry { line: Some(line("warning", text)), datagram: None });
    }

    /// Something happened that is worth knowing when looking for a cause.
    pub fn info(&self, text: fmt::Arguments<'_>) {
        match self.0.verbosity {
            Verbosity::Errors => {}
            Verbosity::All => self.take(Entry { line: Some(line("info", text)), datagram: None }),
        }
    }

    /// A command that changes the guest was asked for. Its arguments are not told: they may be secret.
    pub fn audit(&self, command: &str, channel: &str, id: Option<&Value>) {
        let id = id.map(|id| format!(", id {id}")).unwrap_or_default();
        let text = format!("{command} called on the {channel} channel{id}");
        let datagram = format!("{PRIORITY}{NAME}[{}]: info: {text}", std::process::id());
        let line = match self.0.verbosity {
            Verbosity::Errors => None,
            Verbosity::All => Some(line("info", format_args!("{text}"))),
        };
        self.take(Entry { line, datagram: Some(shortened(datagram)) });
    }

    fn take(&self, entry: Entry) {
        let mut state = self.state();
        match &mut state.held {
            None => self.write(&mut state, entry),
            Some(held) if held.entries.len() < HELD => held.entries.push(entry),
            Some(held) => held.dropped += 1,
        }
    }

    /// A log that cannot be written is no reason to stop serving: a failure here is only counted.
    fn write(&self, state: &mut State, entry: Entry) {
        let Entry { line: text, datagram } = entry;
        if let Some(text) = text {
            let mut put = |text: &str| match &mut state.file {
                Some(file) if file.is_open() => file.write(text),
                _ => to_standard_error(text),
            };
            if state.lost > 0 {
                let notice = line("warning", format_args!("{} entries were lost", state.lost));
                state.lost = if put(&notice) { 0 } else { state.lost };
            }
            if !put(&text) {
                state.lost += 1;
            }
        }
        if let Some(datagram) = datagram {
            // by its name each time: the other side may have been started anew
            let _ = state
                .sender()
                .and_then(|sender| sender.send_to(datagram.as_bytes(), &self.0.system_log));
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever reads standard error may have stopped reading: such a pipe is not waited for.
fn to_standard_error(line: &str) -> bool {
    let mut stderr = io::stderr().lock();
    has_room(stderr.as_fd()) && stderr.write_all(format!("{line}\n").as_bytes()).is_ok()
}

/// Whether a write will not block. A pipe that is writable has room for a page.
fn has_room(descriptor: BorrowedFd<'_>) -> bool {
    let mut descriptors = [PollFd::new(descriptor, PollFlags::POLLOUT)];
    !matches!(poll(&mut descriptors, PollTimeout::ZERO), Ok(0))
}

/// An entry as it is written, on one line whatever is in it.
fn line(level: &str, text: fmt::Arguments<'_>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = format!("{}.{:06}: {level}: {text}", now.as_secs(), now.subsec_micros());
    shortened(text.replace(|character: char| character.is_control(), " "))
}

fn shortened(mut text: String) -> String {
    if text.len() > LONGEST {
        text.truncate(text.floor_char_boundary(LONGEST));
        text.push_str("...");
    }
    text
}

/// An error with all its causes, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&plain(cause));
        source = cause.source();
    }
    text
}

/// What the system says of an error, without the number Rust puts behind it: clients of stock agents
/// look for a text that ends with the system's.
fn plain(cause: &(dyn Error + 'static)) -> String {
    let mut text = cause.to_string();
    if let Some(code) = cause.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
        && let Some(length) = text.strip_suffix(&format!(" (os error {code})")).map(str::len)
    {
        text.truncate(length);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::fs::File;

    struct Place {
        folder: tempfile::TempDir,
        system_log: UnixDatagram,
    }

    impl Place {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let system_log = UnixDatagram::bind(folder.path().join("system")).unwrap();
            system_log.set_nonblocking(true).unwrap();
            Self { folder, system_log }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("log")
        }

        fn log(&self, verbosity: Verbosity) -> Log {
            Log::to(verbosity, Some(self.path()), self.folder.path().join("system"))
        }

        fn texts(&self) -> Vec<String> {
            let text = std::fs::read_to_string(self.path()).unwrap();
            text.lines().map(|line| line.split_once(": ").unwrap().1.to_owned()).collect()
        }

        fn datagram(&self) -> io::Result<String> {
            let mut buffer = [0; 4096];
            let count = self.system_log.recv(&mut buffer)?;
            Ok(String::from_utf8(buffer[..count].to_vec()).unwrap())
        }
    }

    #[test]
    fn the_systems_reason_is_told_as_c_programs_tell_it() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot seek")]
        struct Outer(#[source] io::Error);
        assert_eq!(
            chain(&Outer(io::Error::from_raw_os_error(22))),
            "cannot seek: Invalid argument"
        );
        assert_eq!(chain(&Outer(io::Error::other("(os error 22)"))), "cannot seek: (os error 22)");
    }

    #[test]
    fn an_entry_has_the_stock_form_and_is_one_line() {
        let line = line("error", format_args!("first\nsecond"));
        let (time, text) = line.split_once(": ").unwrap();
        assert_eq!(text, "error: first second");
        let (seconds, micros) = time.split_once('.').unwrap();
        assert!(seconds.parse::<u64>().unwrap() > 0);
        assert_eq!(micros.len(), 6);
    }

    #[test]
    fn a_file_is_added_to_and_opened_anew_when_it_was_moved() {
        let place = Place::new();
        std::fs::write(place.path(), "0.0: info: before\n").unwrap();
        let log = place.log(Verbosity::Errors);
        log.open().unwrap();
        log.error(format_args!("one"));
        log.info(format_args!("not told"));
        assert_eq!(place.texts(), ["info: before", "error: one"]);
        std::fs::rename(place.path(), place.folder.path().join("old")).unwrap();
        log.open().unwrap();
        log.warning(format_args!("two"));
        assert_eq!(place.texts(), ["warning: two"]);
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_an_error_that_names_it() {
        let log = Log::in_file(Verbosity::Errors, "/no/such/log".into());
        let text = chain(&log.open().unwrap_err());
        assert!(text.starts_with("cannot open the log file /no/such/log: No such file"), "{text}");
    }

    #[test]
    fn nothing_is_written_while_frozen_and_little_is_kept() {
        let place = Place::new();
        let log = place.log(Verbosity::All);
        log.hold();
        log.open().unwrap();
        for number in 0..HELD + 3 {
            log.info(format_args!("{number}"));
        }
        assert!(!place.path().exists(), "a file system that is frozen is not touched");
        log.release();
        let texts = place.texts();
        assert_eq!(texts.len(), HELD + 1);
        assert_eq!(texts[0], "info: 0");
        assert_eq!(texts[HELD], "warning: 3 entries were left out while frozen");
        log.release();
        assert_eq!(place.texts().len(), HELD + 1, "once");
    }

    #[test]
    fn giving_up_while_frozen_leaves_the_file_alone() {
        let place = Place::new();
        let log = place.log(Verbosity::All);
        log.open().unwrap();
        log.hold();
        log.error(format_args!("last words, on standard error"));
        log.give_up();
        assert!(place.texts().is_empty());
        assert!(log.state().held.is_none());
    }

    #[test]
    fn an_audit_entry_reaches_the_systems_log_without_verbosity() {
        let place = Place::new();
        let log = place.log(Verbosity::Errors);
        log.open().unwrap();
        log.audit("guest-exec", "standard", Some(&json!({"a": "\n"})));
        let expected = format!(
            "<14>ostler-guest-agent[{}]: info: guest-exec called on the standard channel, \
             id {{\"a\":\"\\n\"}}",
            std::process::id()
        );
        assert_eq!(place.datagram().unwrap(), expected);
        assert!(place.texts().is_empty());
        log.hold();
        log.audit("guest-fsfreeze-thaw", "ostler", None);
        assert_eq!(place.datagram().unwrap_err().kind(), io::ErrorKind::WouldBlock);
        log.release();
        assert!(
            place.datagram().unwrap().ends_with("guest-fsfreeze-thaw called on the ostler channel")
        );
    }

    #[test]
    fn an_entry_of_any_length_is_cut() {
        let place = Place::new();
        let log = place.log(Verbosity::All);
        log.open().unwrap();
        log.audit("guest-exec", "standard", Some(&json!("\u{e9}".repeat(1 << 20))));
        assert!(place.datagram().unwrap().len() <= LONGEST + 3);
        assert!(place.texts()[0].len() <= LONGEST + 3);
    }

    #[test]
    fn a_system_log_that_is_not_there_or_full_does_not_hold_anything_up() {
        let place = Place::new();
        let log = place.log(Verbosity::Errors);
        // more than any such queue holds, and nobody reads
        for _ in 0..2000 {
            log.audit("guest-exec", "standard", None);
        }
        std::fs::remove_file(place.folder.path().join("system")).unwrap();
        log.audit("guest-exec", "standard", None);
    }

    #[test]
    fn what_was_lost_is_counted_and_told() {
        let place = Place::new();
        let log = place.log(Verbosity::Errors);
        log.open().unwrap();
        log.state().lost = 2;
        log.error(format_args!("there is room again"));
        assert_eq!(place.texts(), ["warning: 2 entries were lost", "error: there is room again"]);
        assert_eq!(log.state().lost, 0);
    }

    #[test]
    fn a_pipe_nobody_reads_has_no_room() {
        let (_reader, writer) = nix::unistd::pipe().unwrap();
        assert!(has_room(writer.as_fd()));
        let mut file = File::from(writer);
        while has_room(file.as_fd()) {
            file.write_all(&[0; 4096]).unwrap();
        }
        assert!(!has_room(file.as_fd()));
    }
}
