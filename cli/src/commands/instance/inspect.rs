//! The commands of `ostler instance` that look into an instance and change nothing.

use std::io::IsTerminal;
use std::time::Duration;

use clap::Subcommand;
use ostler_protocol::rpc::console::{LOG_MAX, Log, ReadLog};
use ostler_protocol::rpc::inspect::{Definition, OpenScreen, ReadXml};
use ostler_protocol::rpc::instance::Select;
use ostler_protocol::rpc::method::{
    InstanceConsoleLog, InstanceDiagnostics, InstanceVnc, InstanceVncOpen, InstanceXml,
};
use ostler_protocol::rpc::values::InstanceId;

use super::InstanceRef;
use crate::args::Format;
use crate::clean::clean_lines;
use crate::commands::Session;
use crate::failure::Failure;
use crate::output::write_out;

/// How often a log is looked at that is followed.
const FOLLOW: Duration = Duration::from_secs(1);
/// How much of the end of a followed log is kept, to find its place again after a rotation.
const KEPT: usize = 4 << 10;

/// What can be seen of instances.
#[derive(Subcommand)]
pub(crate) enum InspectCommand {
    /// Show an instance's definition as libvirt keeps it, without secrets
    Xml {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Show the definition of the next start, not the one that runs now
        #[arg(long)]
        persistent: bool,
    },
    /// Show counters of a running instance: processors, NICs, disks, memory
    Diagnostics {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
    },
    /// Show where an instance's VNC server listens
    Vnc {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Set a new password that lets somebody connect for a short time
        #[arg(long)]
        open: bool,
        /// How long the new password is valid; default: a minute
        #[arg(
            long, value_name = "SECONDS", requires = "open",
            value_parser = clap::value_parser!(u32).range(1..=3600)
        )]
        valid: Option<u32>,
    },
    /// Show the end of what an instance's serial console printed
    ///
    /// On a terminal, control characters are replaced; in a pipe or a file, you get the guest's
    /// bytes unchanged.
    ConsoleLog {
        /// The instance: its id, or its name if that is unique
        instance: InstanceRef,
        /// Show only this many lines
        #[arg(long, value_name = "N")]
        lines: Option<usize>,
        /// Keep showing new output
        #[arg(long)]
        follow: bool,
    },
}

impl InspectCommand {
    /// Carry it out.
    pub(crate) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Xml { instance, persistent } => {
                let id = instance.resolve(&mut session.client).await?;
                let definition = if persistent { Definition::Persistent } else { Definition::Live };
                let params = ReadXml { id, definition };
                let xml = session.client.call::<InstanceXml>(&params).await?;
                session.output.result(&xml)
            }
            Self::Diagnostics { instance } => {
                let id = instance.resolve(&mut session.client).await?;
                let told = session.client.call::<InstanceDiagnostics>(&Select { id }).await?;
                session.output.result(&told)
            }
            Self::Vnc { instance, open: true, valid } => {
                let id = instance.resolve(&mut session.client).await?;
                let params = OpenScreen { id, valid };
                let screen = session.client.call::<InstanceVncOpen>(&params).await?;
                session.output.result(&screen)
            }
            Self::Vnc { instance, open: false, valid: _ } => {
                let id = instance.resolve(&mut session.client).await?;
                let screen = session.client.call::<InstanceVnc>(&Select { id }).await?;
                session.output.result(&screen)
            }
            Self::ConsoleLog { instance, lines, follow } => {
                let id = instance.resolve(&mut session.client).await?;
                let log = read(session, id, LOG_MAX).await?;
                if session.output.format() == Format::Json && !follow {
                    return session.output.sentence(&log, "");
                }
                show(last_lines(log.data.bytes(), lines))?;
                if follow { go_on(session, id, &log).await } else { Ok(()) }
            }
        }
    }
}

async fn read(session: &mut Session, id: InstanceId, bytes: u64) -> Result<Log, Failure> {
    session.client.call::<InstanceConsoleLog>(&ReadLog { id, bytes: Some(bytes) }).await
}

/// Shows what comes, until somebody stops it.
async fn go_on(session: &mut Session, id: InstanceId, from: &Log) -> Result<(), Failure> {
    session.client.lift_limit();
    let mut kept = tail(from.data.bytes());
    let mut size = from.size;
    loop {
        tokio::time::sleep(FOLLOW).await;
        if read(session, id, 0).await?.size == size {
            continue;
        }
        let log = read(session, id, LOG_MAX).await?;
        show(newer(&kept, log.data.bytes()))?;
        kept = tail(log.data.bytes());
        size = log.size;
    }
}

fn tail(bytes: &[u8]) -> Vec<u8> {
    bytes[bytes.len().saturating_sub(KEPT)..].to_vec()
}

/// What of a log comes after what was seen of it; all of it, if that is not there any more.
fn newer<'a>(seen: &[u8], log: &'a [u8]) -> &'a [u8] {
    if seen.is_empty() {
        return log;
    }
    let at = log.windows(seen.len()).rposition(|window| window == seen);
    at.map_or(log, |at| &log[at + seen.len()..])
}

/// The last lines, the one that has not ended included.
fn last_lines(bytes: &[u8], lines: Option<usize>) -> &[u8] {
    let Some(lines) = lines else { return bytes };
    let ended = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let breaks = ended.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n');
    match (lines, breaks.map(|(at, _)| at).nth(lines.saturating_sub(1))) {
        (0, _) => &[],
        (_, Some(at)) => &bytes[at + 1..],
        (_, None) => bytes,
    }
}

fn show(bytes: &[u8]) -> Result<(), Failure> {
    if std::io::stdout().is_terminal() {
        return Ok(write_out(clean_lines(&String::from_utf8_lossy(bytes)).as_bytes())?);
    }
    Ok(write_out(bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_the_end() {
        let log = b"one\r\ntwo\r\nthree";
        assert_eq!(last_lines(log, None), log);
        assert_eq!(last_lines(log, Some(0)), b"");
        assert_eq!(last_lines(log, Some(1)), b"three");
        assert_eq!(last_lines(b"one\ntwo\n", Some(1)), b"two\n");
        assert_eq!(last_lines(log, Some(2)), b"two\r\nthree");
        assert_eq!(last_lines(log, Some(3)), log);
        assert_eq!(last_lines(log, Some(9)), log);
        assert_eq!(last_lines(b"", Some(1)), b"");
    }

    #[test]
    fn a_followed_log_is_not_shown_twice() {
        assert_eq!(newer(b"", b"new"), b"new");
        assert_eq!(newer(b"old ", b"older old new"), b"new");
        assert_eq!(newer(b"gone", b"all new"), b"all new");
        assert_eq!(newer(b"same", b"same"), b"");
    }
}
