//! The standard port, which libvirt owns: the way to guests with a stock agent.
//!
//! The hypervisor says when the port opens and closes, but only when that changes, and it says nothing
//! of whether an agent behind it answers. So while Ostler's own port has no answer this one is tried:
//! when the instance starts or is taken over, when the port opens, and now and then after a failure.

use std::time::Duration;

use ostler_protocol::qga::Command;
use ostler_protocol::qga::ErrorClass;
use ostler_protocol::qga::bounds::limits;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::info::GuestInfo;
use ostler_protocol::qga::commands::sync::GuestPing;
use ostler_protocol::qga::envelope::Message;
use ostler_protocol::qga::framing::{Frame, Limits, Parser};
use ostler_protocol::rpc::guest::Transport;
use serde_json::Value;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use zeroize::Zeroizing;

use super::budget::Budget;
use super::entry::{Entry, Seat};
use super::error::Error;
use super::report::clean;
use super::request::{self, Line};
use super::settings::Caps;
use super::state::Observation;
use crate::hypervisor::{self, Hypervisor};

/// The longest text libvirt's own protocol carries.
const RPC_STRING: usize = 4 << 20;
/// What the hypervisor may take beyond the guest's time before it counts as unreachable.
const MARGIN: Duration = Duration::from_secs(2);
/// The most an agent may take to show that it is there.
const PROBE: Duration = Duration::from_secs(5);
/// Probes at once, however often a guest opens and closes the port; then one a second.
const PROBES: u32 = 4;

/// A question that failed.
#[derive(Debug)]
pub(super) struct Failure {
    /// Why.
    pub(super) error: Error,
    /// Whether it failed because the agent said nothing.
    pub(super) mute: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, mute: false }
    }
}

/// Asks through libvirt, and notes whether the agent is there.
pub(super) async fn ask<H: Hypervisor, C: Command>(
    hypervisor: &H,
    entry: &Entry,
    caps: &Caps,
    arguments: &C::Arguments,
    deadline: Instant,
) -> Result<Value, Failure> {
    let session = entry.session();
    let line = request::line::<C>(arguments, None)?;
    let timed_out = Error::Timeout { command: C::NAME };
    let Ok(turn) = timeout_at(deadline, entry.turn.acquire()).await else {
        return Err(timed_out.into());
    };
    let time = deadline.saturating_duration_since(Instant::now());
    let text = text(C::NAME, line)?;
    let call = hypervisor.guest_command(entry.id, &text, time);
    let outcome = match timeout(time + MARGIN, call).await {
        Ok(outcome) => outcome,
        Err(_) => return Err(timed_out.into()),
    };
    drop(turn);
    let over = Transport::Libvirt;
    match outcome {
        Ok(reply) => {
            let response = read(&reply, caps);
            entry.observe(
                session,
                match response {
                    Some(_) => Observation::Answered(over, None),
                    None => Observation::Garbage(over),
                },
            );
            match response {
                Some(Ok(value)) => Ok(value),
                Some(Err((class, desc))) => {
                    Err(Error::Refused { command: C::NAME, class, desc }.into())
                }
                None => Err(Error::Garbled { command: C::NAME }.into()),
            }
        }
        Err(error) => {
            let failure = failure(entry, C::NAME, error);
            if failure.mute {
                entry.observe(session, Observation::Missed(over));
            }
            Err(failure)
        }
    }
}

/// The line as text, without copying what may be a secret.
fn text(command: &'static str, mut line: Line) -> Result<Zeroizing<String>, Error> {
    line.pop();
    String::from_utf8(std::mem::take(&mut *line))
        .map(Zeroizing::new)
        .map_err(|error| Error::Unwritable { command, why: error.utf8_error().to_string() })
}

/// A reply, read within the same bounds as those on Ostler's own port.
fn read(reply: &str, caps: &Caps) -> Option<Result<Value, (ErrorClass, String)>> {
    // libvirt has it in memory already, and passes on no more than this
    let limits = Limits { bytes: RPC_STRING, ..limits(caps.answer, caps.depth) };
    let mut parser = Parser::new(limits);
    match parser.next_frame(&mut reply.as_bytes())? {
        Ok(Frame::Value(value)) => match Message::from_value(value).ok()? {
            Message::Response(response) => {
                Some(response.outcome.map_err(|fault| (fault.class, fault.desc)))
            }
            Message::Event(_) => None,
        },
        Ok(Frame::Delimiter) | Err(_) => None,
    }
}

/// What the agent said, without what libvirt puts before it.
fn own_words<'a>(command: &str, reason: &'a str) -> &'a str {
    let told = format!("unable to execute QEMU agent command '{command}': ");
    reason.split_once(told.as_str()).map_or(reason, |(_, words)| words)
}

/// The kind of an agent's error, by its words: libvirt keeps nothing else of it. These are the stock
/// agent's since it has kinds, and ours.
fn class(command: &str, desc: &str) -> ErrorClass {
    let unknown = format!("The command {command} has not been found");
    let disabled = format!("Command {command} has been disabled");
    // how libvirt words the kind, if the agent has no words of its own
    let bare = "The command has not been found";
    if desc.starts_with(&unknown) || desc.starts_with(&disabled) || desc == bare {
        ErrorClass::CommandNotFound
    } else {
        ErrorClass::GenericError
    }
}

fn failure(entry: &Entry, command: &'static str, error: hypervisor::Error) -> Failure {
    use hypervisor::Error as Cause;
    let instance = entry.id;
    match error {
        Cause::NotFound { .. } | Cause::NotOurs { .. } => Error::NotRunning { instance }.into(),
        Cause::Timeout { .. } => Failure { error: Error::Timeout { command }, mute: true },
        Cause::GuestAgentUnavailable { reason, .. } => {
            Failure { error: Error::Unavailable { instance, why: reason, asked: true }, mute: true }
        }
        Cause::GuestAgentRefused { reason, .. } => {
            let desc = own_words(command, &reason).to_owned();
            Error::Refused { command, class: class(command, &desc), desc }.into()
        }
        // libvirt has looked, and this guest cannot be asked: it is paused, say.
        error @ (Cause::Refused { .. } | Cause::Failed { .. }) => Failure {
            error: Error::Unavailable { instance, why: error.to_string(), asked: true },
            mute: true,
        },
        // These say nothing of the guest.
        error @ (Cause::Busy { .. } | Cause::Unreachable { .. }) => {
            Error::Unavailable { instance, why: error.to_string(), asked: true }.into()
        }
    }
}

/// Tries the port whenever there is a reason to, until the session is stopped.
pub(super) async fn watch<H: Hypervisor>(seat: Seat, hypervisor: &H) {
    let pace = seat.settings.pace;
    let mut standing = seat.entry.standing();
    let mut budget = Budget::new(1, PROBES, Instant::now());
    let mut failures = 0_u32;
    let work = async {
        loop {
            let openings = match standing.wait_for(|standing| standing.wants_probe()).await {
                Ok(standing) => standing.openings(),
                Err(_) => return,
            };
            if let Some(wait) = budget.wait(Instant::now()) {
                sleep(wait).await;
                continue;
            }
            budget.spend(1, Instant::now());
            if probe(&seat, hypervisor).await {
                failures = 0;
                continue;
            }
            let length = pace.probe.saturating_mul(1 << failures.min(16)).min(pace.probe_most);
            failures = failures.saturating_add(1);
            let opened = standing.wait_for(|standing| standing.openings() != openings);
            if timeout(length, opened).await.is_ok() {
                failures = 0;
            }
        }
    };
    tokio::select! {
        () = seat.stop.cancelled() => {}
        () = work => {}
    }
}

/// Whether an agent answers. `guest-info` tells its version with it; the guest's owner may forbid that
/// one, and libvirt's own errors look the same, so a refusal is followed by a ping.
async fn probe<H: Hypervisor>(seat: &Seat, hypervisor: &H) -> bool {
    let (entry, caps) = (&*seat.entry, &seat.settings.caps);
    let deadline = Instant::now() + seat.settings.answer_timeout.min(PROBE);
    let info = ask::<H, GuestInfo>(hypervisor, entry, caps, &Nothing {}, deadline).await;
    match info.map_err(|failure| failure.error) {
        Ok(value) => {
            let version = request::reply::<GuestInfo>(value).ok().map(|i| clean(&i.version));
            seat.observe(Observation::Answered(Transport::Libvirt, version));
            true
        }
        Err(Error::Refused { .. }) => {
            let ping = ask::<H, GuestPing>(hypervisor, entry, caps, &Nothing {}, deadline).await;
            ping.is_ok()
        }
        Err(
            Error::NotRunning { .. }
            | Error::Unavailable { .. }
            | Error::Garbled { .. }
            | Error::Timeout { .. }
            | Error::Busy { .. }
            | Error::Invalid { .. }
            | Error::KeyReused
            | Error::UnknownExec { .. }
            | Error::Unwritable { .. },
        ) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kind_of_an_error_is_told_by_its_words() {
        use ErrorClass::{CommandNotFound, GenericError};
        let libvirts = "internal error: unable to execute QEMU agent command 'guest-exec': ";
        for (words, kind) in [
            ("The command guest-exec has not been found", CommandNotFound),
            ("Command guest-exec has been disabled", CommandNotFound),
            ("Command guest-exec has been disabled: the agent is in frozen state", CommandNotFound),
            ("The command has not been found", CommandNotFound),
            ("Command guest-ping has been disabled", GenericError),
            ("sh: The command guest-exec has not been found", GenericError),
            ("Invalid parameter 'pid'", GenericError),
        ] {
            let reason = format!("{libvirts}{words}");
            let own = own_words("guest-exec", &reason);
            assert_eq!((own, class("guest-exec", own)), (words, kind));
        }
        assert_eq!(own_words("guest-exec", "something else"), "something else");
    }
}
