//! `ostler console`: sits at an instance's serial console.
//!
//! ```text
//!   stdin ──> a thread ──> pending ──> console.write, one after another
//!   stdout <────────────────────────── console.read, always one under way
//! ```
//!
//! The two ask by a connection each, so that typing does not wait for the guest to print. A session
//! the node has forgotten (its agent was restarted) is opened again, and said so.

mod terminal;

use std::future::{Future, pending};
use std::io::{IsTerminal, Read as _, Write as _};
use std::pin::Pin;
use std::time::Duration;

use clap::Args;
use ostler_protocol::rpc::console::{
    Close, Data, Open, Opened, Printed, Read, State, Taken, WRITE_MAX, Write,
};
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::method::{ConsoleClose, ConsoleOpen, ConsoleRead, ConsoleWrite};
use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use self::terminal::{Raw, Signals};
use super::Session;
use super::instance::InstanceRef;
use crate::args::seconds;
use crate::clean::clean;
use crate::client::Client;
use crate::failure::{Cause, Failure};
use crate::output::note;

/// How long the node holds a read on which nothing happens.
const WAIT: Duration = Duration::from_secs(20);
/// How much longer than usual a write may take: the node waits for a guest that does not read.
const WRITE_WAIT: Duration = Duration::from_secs(10);
/// How much may wait to be typed.
const PENDING: usize = WRITE_MAX;
/// How long the node may take to take note that we leave.
const GOODBYE: Duration = Duration::from_secs(2);

/// How to sit at a console.
#[derive(Args)]
pub(crate) struct ConsoleArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// The key that leaves, on a terminal: a character, ^X for Ctrl-X, or none
    #[arg(long, value_name = "KEY", default_value = "^]", value_parser = escape)]
    escape: Escape,
    /// In a pipe: how long the guest must be silent after the end of the input
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = seconds)]
    linger: Duration,
}

/// The key that leaves, if there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Escape(Option<u8>);

fn escape(text: &str) -> Result<Escape, String> {
    match text.as_bytes() {
        b"none" => Ok(Escape(None)),
        [b'^', key] if (b'@'..=b'_').contains(&key.to_ascii_uppercase()) => {
            Ok(Escape(Some(key.to_ascii_uppercase() & 0x1f)))
        }
        [key] if key.is_ascii() => Ok(Escape(Some(*key))),
        _ => Err("give one character, ^X for Ctrl-X, or none".to_owned()),
    }
}

impl std::fmt::Display for Escape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(key @ 0..=0x1f) => write!(f, "Ctrl-{}", char::from(key | 0x40)),
            Some(key) => write!(f, "{}", char::from(key).escape_default()),
            None => f.write_str("closing the terminal"),
        }
    }
}

/// What the keyboard is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Keyboard {
    /// A person's: the escape key counts, and what is typed while there is no console is lost.
    Terminal,
    /// A pipe or a file: each byte is passed on.
    Pipe,
}

type Asking<T> = Pin<Box<dyn Future<Output = (Client, Result<T, Failure>)>>>;

impl ConsoleArgs {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let id = self.instance.resolve(&mut session.client).await?;
        let opened = session.client.call::<ConsoleOpen>(&Open { id }).await?;
        let mut signals = Signals::listen()?;
        let keyboard = match std::io::stdin().is_terminal() {
            true => Keyboard::Terminal,
            false => Keyboard::Pipe,
        };
        if keyboard == Keyboard::Terminal {
            note(&format!("the console of {id}; {} leaves it", self.escape));
        }
        let raw = match keyboard {
            Keyboard::Terminal => Some(Raw::enter()?),
            Keyboard::Pipe => None,
        };
        let mut seat = Seat {
            id,
            session: opened,
            typed: 0,
            pending: Vec::new(),
            sent: 0,
            keyboard,
            escape: self.escape,
        };
        if seat.session.state == State::Waiting {
            seat.say("the instance is off; its console opens when it runs");
        }
        let outcome = tokio::select! {
            outcome = seat.sit(&session.client, self.linger) => outcome,
            () = signals.any() => Err(Cause::Interrupted.into()),
        };
        let close = Close { session: seat.session.session };
        // It is closed anyway when nobody reads it.
        drop(tokio::time::timeout(GOODBYE, session.client.call::<ConsoleClose>(&close)).await);
        drop(raw);
        if keyboard == Keyboard::Terminal {
            note("");
            note("left the console");
        }
        outcome
    }
}

/// Somebody at a console.
struct Seat {
    id: InstanceId,
    session: Opened,
    /// How much this session has typed.
    typed: u64,
    /// What is to be typed next.
    pending: Vec<u8>,
    /// How much of that is on its way.
    sent: usize,
    keyboard: Keyboard,
    escape: Escape,
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flow {
    GoOn,
    Leave,
}

impl Seat {
    /// Pass bytes both ways until somebody leaves, or the input has ended and the guest is silent.
    async fn sit(&mut self, client: &Client, linger: Duration) -> Result<(), Failure> {
        let mut input = keys()?;
        let mut ended = false;
        let mut silent = Instant::now() + linger;
        let mut reading = self.reading(client.sibling());
        let mut writer = Some(client.sibling());
        let mut writing: Option<Asking<Taken>> = None;
        loop {
            if !self.pending.is_empty()
                && let Some(client) = writer.take()
            {
                writing = Some(self.writing(client));
            }
            let idle = writing.is_none() && self.pending.is_empty();
            let wrote = async {
                match &mut writing {
                    Some(writing) => writing.await,
                    None => pending().await,
                }
            };
            let forgotten = tokio::select! {
                (client, outcome) = &mut reading => match outcome {
                    Ok(printed) => {
                        if !printed.data.bytes().is_empty() {
                            silent = Instant::now() + linger;
                        }
                        if self.take(printed)? == Flow::Leave {
                            return Ok(());
                        }
                        reading = self.reading(client);
                        false
                    }
                    Err(failure) => forgotten(failure)?,
                },
                (client, outcome) = wrote => {
                    (writer, writing) = (Some(client), None);
                    match outcome {
                        Ok(taken) => {
                            self.was_taken(&taken);
                            silent = Instant::now() + linger;
                            false
                        }
                        Err(failure) => forgotten(failure)?,
                    }
                }
                keys = input.recv(), if !ended && self.has_room() => {
                    match keys {
                        Some(keys) if self.press(&keys) == Flow::Leave => return Ok(()),
                        Some(_) => {}
                        None => ended = true,
                    }
                    silent = Instant::now() + linger;
                    false
                }
                () = sleep_until(silent), if ended && idle => return Ok(()),
            };
            if forgotten {
                let mut asking = client.sibling();
                self.begin_again(asking.call::<ConsoleOpen>(&Open { id: self.id }).await?);
                reading = self.reading(asking);
                (writer, writing) = (Some(client.sibling()), None);
                silent = Instant::now() + linger;
            }
        }
    }

    fn reading(&self, mut client: Client) -> Asking<Printed> {
        let read = Read {
            session: self.session.session,
            at: self.session.at,
            wait: Some(WAIT.as_millis() as u32),
            state: Some(self.session.state),
        };
        Box::pin(async move {
            let outcome = client.call_patiently::<ConsoleRead>(&read, WAIT).await;
            (client, outcome)
        })
    }

    fn writing(&mut self, mut client: Client) -> Asking<Taken> {
        self.sent = self.pending.len().min(WRITE_MAX);
        let write = Write {
            session: self.session.session,
            at: self.typed,
            data: Data::new(self.pending[..self.sent].to_vec()),
        };
        Box::pin(async move {
            let outcome = client.call_patiently::<ConsoleWrite>(&write, WRITE_WAIT).await;
            (client, outcome)
        })
    }

    /// Show what was printed.
    fn take(&mut self, printed: Printed) -> Result<Flow, Failure> {
        if printed.lost > 0 {
            self.say(&format!(
                "{} bytes are lost: the guest printed faster than they were read",
                printed.lost
            ));
        }
        let mut out = std::io::stdout().lock();
        match out.write_all(printed.data.bytes()).and_then(|()| out.flush()) {
            Ok(()) => {}
            // a reader that has seen enough
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(Flow::Leave),
            Err(source) => {
                return Err(Cause::Local { what: "write the output".to_owned(), source }.into());
            }
        }
        drop(out);
        self.session.at = printed.at;
        let before = std::mem::replace(&mut self.session.state, printed.state);
        match (before, printed.state) {
            (State::Attached, State::Waiting) => {
                self.say("the instance is off; its console opens again when it runs");
            }
            (State::Waiting, State::Attached) => self.say("the instance runs"),
            (State::Attached, State::Attached) | (State::Waiting, State::Waiting) => {}
        }
        Ok(Flow::GoOn)
    }

    fn was_taken(&mut self, taken: &Taken) {
        let count = usize::try_from(taken.at.saturating_sub(self.typed)).unwrap_or(usize::MAX);
        self.pending.drain(..count.min(self.sent));
        (self.typed, self.sent) = (taken.at, 0);
        if taken.state == State::Waiting && self.keyboard == Keyboard::Terminal {
            self.pending.clear();
        }
    }

    fn has_room(&self) -> bool {
        // A person can always leave, however deaf the guest.
        self.keyboard == Keyboard::Terminal || self.pending.len() < PENDING
    }

    fn press(&mut self, keys: &[u8]) -> Flow {
        let leave = match (self.keyboard, self.escape.0) {
            (Keyboard::Terminal, Some(key)) => keys.iter().position(|pressed| *pressed == key),
            (Keyboard::Terminal, None) | (Keyboard::Pipe, _) => None,
        };
        if leave.is_some() {
            return Flow::Leave;
        }
        if self.pending.len() + keys.len() <= 2 * PENDING {
            self.pending.extend(keys);
        }
        Flow::GoOn
    }

    /// Take up a new session. What was on its way may have been typed, and is not typed again.
    fn begin_again(&mut self, opened: Opened) {
        self.session = opened;
        self.typed = 0;
        self.pending.drain(..self.sent);
        self.sent = 0;
        self.say(
            "the node has forgotten this session, as an agent that was restarted does; this \
                  is a new one, and what was printed meanwhile is in: ostler instance console-log",
        );
    }

    /// Say something beside what the guest says.
    fn say(&self, line: &str) {
        match self.keyboard {
            // raw: no line ends by itself
            Keyboard::Terminal => {
                let mut err = std::io::stderr().lock();
                // nobody else to tell
                drop(write!(err, "\r\n[{}]\r\n", clean(line)));
            }
            Keyboard::Pipe => note(line),
        }
    }
}

/// Whether a request failed because the node does not know the session; else it is the end.
fn forgotten(failure: Failure) -> Result<bool, Failure> {
    let unknown = matches!(&failure.cause, Cause::Refused(fault)
        if fault.data.reason == Reason::NotFound);
    if unknown { Ok(true) } else { Err(failure) }
}

/// What is typed, read by a thread of its own: reading a terminal cannot be given up.
fn keys() -> Result<mpsc::Receiver<Vec<u8>>, Cause> {
    let (keys, pressed) = mpsc::channel(16);
    std::thread::Builder::new()
        .name("keyboard".to_owned())
        .spawn(move || {
            let mut buffer = [0; 4096];
            loop {
                match std::io::stdin().lock().read(&mut buffer) {
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Ok(0) | Err(_) => return,
                    Ok(count) => {
                        if keys.blocking_send(buffer[..count].to_vec()).is_err() {
                            return;
                        }
                    }
                }
            }
        })
        .map_err(|source| Cause::Local { what: "read the keyboard".to_owned(), source })?;
    Ok(pressed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_people_write_them() {
        for (text, key, shown) in [
            ("^]", Some(0x1d), "Ctrl-]"),
            ("^a", Some(1), "Ctrl-A"),
            ("^^", Some(0x1e), "Ctrl-^"),
            ("~", Some(b'~'), "~"),
            ("none", None, "closing the terminal"),
        ] {
            let escape = escape(text).unwrap();
            assert_eq!((escape.0, escape.to_string().as_str()), (key, shown));
        }
        for bad in ["", "^", "ab", "^1", "ä"] {
            assert!(bad == "^" || escape(bad).is_err(), "{bad}");
        }
    }
}
