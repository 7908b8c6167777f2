//! `ostler guest exec`: a program in a guest, as if it ran here.
//!
//! The request names the run of the host agent it is for and has a key, so that it can be sent again
//! after a lost connection and never runs the program twice. Output is printed as it comes, as far as
//! the guest's agent tells it before the end.

use std::io::{IsTerminal as _, Read as _, Write as _};
use std::time::Duration;

use clap::Args;
use ostler_protocol::rpc::guest::work::{
    Capture, Data, Exec, ExecState, ExecWait, Execution, PIECE_MAX,
};
use ostler_protocol::rpc::host::Nothing;
use ostler_protocol::rpc::method::{GuestExec, GuestExecWait, HostPing};
use ostler_protocol::rpc::values::{IdempotencyKey, Timestamp};
use serde::Serialize;

use super::InstanceRef;
use crate::args::Format;
use crate::clean::clean;
use crate::commands::Session;
use crate::failure::{Cause, Failure, Program};
use crate::output::{note, write_out};

/// How long the node holds one question.
const POLL: Duration = Duration::from_secs(20);
/// The exit code of a program that was ended for its time limit, as timeout(1) has it.
const TIMED_OUT: u8 = 124;
/// What a signal's number is added to, as shells do.
const SIGNALLED: i32 = 128;

/// A program to run.
#[derive(Args)]
pub(crate) struct ExecArgs {
    /// The instance: its id, or its name if that is unique
    instance: InstanceRef,
    /// The program, by its path in the guest or a name its agent finds, and its arguments
    #[arg(required = true, last = true, value_name = "PROGRAM ARGS")]
    program: Vec<String>,
    /// The account it runs as; needs Ostler's own guest agent
    #[arg(long)]
    user: Option<String>,
    /// The folder it starts in; needs Ostler's own guest agent
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// An environment variable; repeat for more. The program then has only these. NAME alone
    /// passes on your own variable, which keeps its value out of the command line
    #[arg(long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Do not read standard input; else it is read to its end first, unless it is a terminal
    #[arg(short = 'n', long)]
    no_stdin: bool,
    /// The idempotency key: the same key runs the program once, however often you send it
    #[arg(long, value_name = "KEY")]
    key: Option<IdempotencyKey>,
}

/// The outcome for programs.
#[derive(Serialize)]
struct Outcome {
    #[serde(flatten)]
    last: Execution,
    /// What to exit with.
    exit: u8,
}

impl ExecArgs {
    /// Carry it out. `--timeout` is the program's.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        let input = if self.no_stdin || std::io::stdin().is_terminal() { None } else { stdin()? };
        let env = self.env.iter().map(|one| variable(one)).collect::<Result<Vec<_>, _>>()?;
        let mut words = self.program.into_iter();
        let path = words.next().unwrap_or_default();
        let limit = session.client.limit();
        // the program has it; what it takes to start it and to hear of its end comes on top
        session.client.lift_limit();
        let id = self.instance.resolve(&mut session.client).await?;
        let node = session.client.call::<HostPing>(&Nothing {}).await?;
        let request = Exec {
            id,
            path,
            args: words.collect(),
            env: (!env.is_empty()).then_some(env),
            input: input.map(Data),
            capture: Capture::Both,
            timeout_ms: limit.map(|limit| u32::try_from(limit.as_millis()).unwrap_or(u32::MAX)),
            user: self.user,
            cwd: self.cwd,
            agent: (node.started != Timestamp::default()).then_some(node.started),
        };
        let key = self.key.unwrap_or_else(IdempotencyKey::random);
        let started = session.client.act::<GuestExec>(&request, Some(&key), Duration::ZERO).await;
        let started = started.map_err(|failure| {
            if matches!(failure.cause, Cause::Interrupted) {
                failure.cause.leaving_change(key.clone())
            } else {
                failure
            }
        })?;
        let format = session.output.format();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut sizes = [0_u64; 2];
        let mut last = loop {
            let wait = ExecWait {
                id,
                exec: started.exec,
                timeout: Some(POLL.as_millis() as u32),
                stdout_from: sizes[0],
                stderr_from: sizes[1],
            };
            let now = session.client.call_patiently::<GuestExecWait>(&wait, POLL).await;
            let now = now.map_err(|failure| {
                let program = Program { instance: id, pid: started.pid, key: key.clone() };
                left(failure, program)
            })?;
            match format {
                Format::Table => {
                    write_out(&now.stdout.0)?;
                    // there is nobody left to tell if this fails
                    let _ = std::io::stderr().write_all(&now.stderr.0);
                }
                Format::Json => {
                    out.extend_from_slice(&now.stdout.0);
                    err.extend_from_slice(&now.stderr.0);
                }
            }
            sizes[0] += now.stdout.0.len() as u64;
            sizes[1] += now.stderr.0.len() as u64;
            let all = sizes[0] >= now.stdout_size && sizes[1] >= now.stderr_size;
            if all && now.state != ExecState::Running {
                break now;
            }
        };
        if let ExecState::Lost = last.state {
            return Err(Cause::Lost(clean(&last.why.unwrap_or_default())).into());
        }
        session.exit = exit(&last);
        match format {
            Format::Table => {
                for (name, cut) in
                    [("output", last.stdout_truncated), ("error output", last.stderr_truncated)]
                {
                    if cut {
                        note(&format!("ostler: the program wrote more {name} than was kept"));
                    }
                }
                if last.timed_out {
                    note("ostler: the program was ended: it ran longer than --timeout");
                }
                Ok(())
            }
            Format::Json => {
                (last.stdout, last.stderr) = (Data(out), Data(err));
                session.output.sentence(&Outcome { exit: session.exit, last }, "")
            }
        }
    }
}

/// What an operator is left with who does not hear of the program any more.
fn left(mut failure: Failure, program: Program) -> Failure {
    // What the node answered is about the program: it knows of none, or is about to forget it.
    if !matches!(failure.cause, Cause::Refused(_)) {
        failure.pending.program = Some(program);
    }
    failure
}

fn exit(last: &Execution) -> u8 {
    let code = match (last.timed_out, last.exit_code, last.signal) {
        (true, _, _) => return TIMED_OUT,
        (false, Some(code), _) => code,
        (false, None, signal) => SIGNALLED.saturating_add(signal.unwrap_or(0)),
    };
    u8::try_from(code).unwrap_or(u8::MAX)
}

/// All of standard input; nothing if there is none.
fn stdin() -> Result<Option<Vec<u8>>, Failure> {
    let mut input = Vec::new();
    let most = PIECE_MAX as u64 + 1;
    std::io::stdin()
        .take(most)
        .read_to_end(&mut input)
        .map_err(|source| Cause::Local { what: "read standard input".to_owned(), source })?;
    if input.len() > PIECE_MAX {
        let message = "standard input is longer than 512 KiB, which is the most a program is given";
        let next = "copy it with ostler guest push, and have the program read the file";
        return Err(Cause::usage(message, next.to_owned()).into());
    }
    Ok((!input.is_empty()).then_some(input))
}

fn variable(given: &str) -> Result<String, Failure> {
    if given.contains('=') {
        return Ok(given.to_owned());
    }
    match std::env::var(given) {
        Ok(value) => Ok(format!("{given}={value}")),
        Err(_) => {
            let message = format!("there is no variable {given} to pass on");
            Err(Cause::usage(message, "write --env NAME=VALUE".to_owned()).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::rpc::values::ExecId;

    #[test]
    fn the_exit_code_is_the_programs() {
        let over = |exit_code, signal, timed_out| {
            exit(&Execution {
                exec: ExecId::random(),
                state: ExecState::Exited,
                exit_code,
                signal,
                timed_out,
                why: None,
                stdout: Data::default(),
                stderr: Data::default(),
                stdout_size: 0,
                stderr_size: 0,
                stdout_truncated: false,
                stderr_truncated: false,
                elapsed: 0,
            })
        };
        assert_eq!(over(Some(0), None, false), 0);
        assert_eq!(over(Some(42), None, false), 42);
        assert_eq!(over(Some(1000), None, false), 255);
        assert_eq!(over(None, Some(9), false), 137);
        assert_eq!(over(None, Some(15), true), 124);
        assert_eq!(over(None, Some(i32::MAX), false), 255);
    }

    #[test]
    fn what_follows_the_dashes_is_the_programs() {
        use clap::Parser as _;
        let line = ["ostler", "guest", "exec", "web", "--timeout", "5", "--", "ls", "-l", "--env"];
        assert!(crate::commands::line::Cli::try_parse_from(line).is_ok());
        assert!(
            crate::commands::line::Cli::try_parse_from(["ostler", "guest", "exec", "web"]).is_err()
        );
    }
}
