//! Commands to bytes, values to replies, and errors that keep no secret.
//!
//! A line is written into a buffer of just its size and wiped when it is dropped: a buffer that grew
//! would leave pieces of a password behind.

use std::io;
use std::time::Duration;

use ostler_protocol::qga::Command;
use ostler_protocol::qga::commands::sync::{GuestSyncDelimited, SyncArguments};
use ostler_protocol::qga::framing::DELIMITER;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::error::Error;
use super::report::{Part, clean};

/// How a command's refusal ends, in stock agents' words and ours, while file systems are frozen.
const FROZEN: &str = ": the agent is in frozen state";

/// A request on its way, newline included.
pub(super) type Line = Zeroizing<Vec<u8>>;

/// A question.
#[derive(Debug)]
pub(super) struct Ask {
    /// Its number.
    pub(super) id: u64,
    /// The command.
    pub(super) command: &'static str,
    /// The bytes to send.
    pub(super) line: Line,
    /// When an answer is no use any more.
    pub(super) deadline: Instant,
    /// How success shows.
    pub(super) success: Success,
    /// Where the answer goes.
    pub(super) answer: oneshot::Sender<Result<Part<Value>, Error>>,
}

/// How a command's success shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Success {
    /// By a reply.
    Reply,
    /// By no error in this time after it was sent, or by the end of the link.
    Quiet(Duration),
}

#[derive(Serialize)]
struct Envelope<'a, A> {
    execute: &'static str,
    arguments: &'a A,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<u64>,
}

struct Counter(usize);

impl io::Write for Counter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line that asks for `C`.
pub(super) fn line<C: Command>(arguments: &C::Arguments, id: Option<u64>) -> Result<Line, Error> {
    let envelope = Envelope { execute: C::NAME, arguments, id };
    let unwritable =
        |error: serde_json::Error| Error::Unwritable { command: C::NAME, why: error.to_string() };
    let mut counter = Counter(1);
    serde_json::to_writer(&mut counter, &envelope).map_err(unwritable)?;
    let mut line = Zeroizing::new(Vec::with_capacity(counter.0));
    serde_json::to_writer(&mut *line, &envelope).map_err(unwritable)?;
    line.push(b'\n');
    Ok(line)
}

/// The line that asks for a sign of life, led by the byte that makes any parser listen.
pub(super) fn sync(number: i64) -> Result<Line, Error> {
    let mut line = line::<GuestSyncDelimited>(&SyncArguments { id: number }, None)?;
    line.insert(0, DELIMITER);
    Ok(line)
}

/// What the value says as a reply to `C`.
pub(super) fn reply<C: Command>(value: Value) -> Result<C::Reply, Error> {
    serde_json::from_value(value).map_err(|_| Error::Garbled { command: C::NAME })
}

/// The same error; busy, if it is no answer but that the guest is frozen: nothing was done, and it may
/// be as soon as it is thawed.
pub(super) fn unless_frozen(error: Error) -> Error {
    if let Error::Refused { desc, .. } = &error
        && desc.ends_with(FROZEN)
    {
        let why = "the guest's file systems are frozen, for a copy of its disks".into();
        return Error::Busy { why };
    }
    error
}

/// The same error, free of these words: a guest may repeat the password it was given.
pub(super) fn without(error: Error, secrets: &[&str]) -> Error {
    let hide = |text: String| {
        let tells = |secret: &&str| !secret.is_empty() && text.contains(*secret);
        if secrets.iter().any(tells) {
            "its words are withheld: they repeat the secret".to_owned()
        } else {
            text
        }
    };
    match error {
        Error::Refused { command, class, desc } => {
            Error::Refused { command, class, desc: clean(&hide(desc)) }
        }
        Error::Unavailable { instance, why, asked } => {
            Error::Unavailable { instance, why: hide(why), asked }
        }
        Error::Unwritable { command, why } => Error::Unwritable { command, why: hide(why) },
        error @ (Error::NotRunning { .. }
        | Error::Garbled { .. }
        | Error::Timeout { .. }
        | Error::Busy { .. }
        | Error::Invalid { .. }
        | Error::KeyReused
        | Error::UnknownExec { .. }) => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::qga::ErrorClass;
    use ostler_protocol::qga::commands::Nothing;
    use ostler_protocol::qga::commands::sync::GuestPing;
    use ostler_protocol::qga::commands::user::{GuestSetUserPassword, SetUserPasswordArguments};
    use ostler_protocol::qga::envelope::Request;

    #[test]
    fn a_line_is_a_request_an_agent_reads() {
        let line = line::<GuestPing>(&Nothing {}, Some(7)).unwrap();
        let value: Value = serde_json::from_slice(&line).unwrap();
        let request = Request::from_value(value).unwrap();
        assert_eq!((request.execute.as_str(), request.id), ("guest-ping", Some(7.into())));
        assert_eq!(line.last(), Some(&b'\n'));
    }

    #[test]
    fn a_line_never_grows_its_buffer() {
        let arguments = SetUserPasswordArguments {
            username: "ü\n\"".repeat(100),
            password: "x".repeat(5000),
            crypted: false,
        };
        let line = line::<GuestSetUserPassword>(&arguments, None).unwrap();
        assert_eq!(line.len(), line.capacity());
    }

    #[test]
    fn an_error_that_repeats_the_secret_is_withheld_even_where_it_would_be_cut() {
        let refused =
            |desc: String| Error::Refused { command: "x", class: ErrorClass::GenericError, desc };
        let told = without(refused(format!("{}hunter2", "a".repeat(252))), &["hunter2"]);
        assert!(!told.to_string().contains("hun"), "{told}");
        let told = without(refused("no such user".into()), &["hunter2", ""]);
        assert_eq!(told, refused("no such user".into()));
    }
}
