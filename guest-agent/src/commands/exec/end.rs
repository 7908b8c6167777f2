//! A program's end: that it has exited, and that nobody can write its output any more.
//!
//! Whoever a program has started may hold its output open after it. Without a limit that is waited
//! for, as by stock agents. At a limit the group is ended; who has left it is nobody's to end, and is
//! not waited for.

use std::pin::pin;
use std::process::ExitStatus;
use std::time::Duration;

use std::os::unix::process::ExitStatusExt;

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use ostler_protocol::qga::commands::exec::ExecStatus;
use tokio::process::Child;
use tokio::time::{Instant, timeout, timeout_at};

/// How long a program has to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);
/// What was written before the end is there by then.
const LINGER: Duration = Duration::from_millis(100);

/// Waits for the end while `output` is read; after a while, if there is a limit, it is made.
pub(super) async fn end(
    child: &mut Child,
    pid: i64,
    limit: Option<Duration>,
    output: impl Future,
) -> ExecStatus {
    let deadline = limit.map(|limit| Instant::now() + limit);
    let mut output = pin!(output);
    let mut heard = false;
    let mut status = {
        let mut exited = pin!(exit(child, pid, deadline));
        loop {
            tokio::select! {
                status = &mut exited => break status,
                _ = &mut output, if !heard => heard = true,
            }
        }
    };
    if heard {
        return status;
    }
    let Some(deadline) = deadline else {
        output.await;
        return status;
    };
    if timeout_at(deadline, &mut output).await.is_err() {
        let asked = status.timed_out.is_none() && signal_orphans(pid, Signal::SIGTERM);
        if !asked || timeout(GRACE, &mut output).await.is_err() {
            signal_orphans(pid, Signal::SIGKILL);
            let _ = timeout(LINGER, output).await;
        }
        status.timed_out = Some(true);
    }
    status
}

/// Waits until the program has exited; it is made to at the deadline.
async fn exit(child: &mut Child, pid: i64, deadline: Option<Instant>) -> ExecStatus {
    let (exited, timed_out) = match deadline {
        None => (child.wait().await, None),
        Some(deadline) => match timeout_at(deadline, child.wait()).await {
            Ok(exited) => (exited, None),
            Err(_) => {
                signal(pid, Signal::SIGTERM);
                let exited = match timeout(GRACE, child.wait()).await {
                    Ok(exited) => {
                        signal_orphans(pid, Signal::SIGKILL);
                        exited
                    }
                    Err(_) => {
                        signal(pid, Signal::SIGKILL);
                        child.wait().await
                    }
                };
                (exited, Some(true))
            }
        },
    };
    let exited = exited.unwrap_or_else(|_| ExitStatus::from_raw(-1));
    ExecStatus {
        exited: true,
        exitcode: exited.code(),
        signal: exited.signal(),
        timed_out,
        ..ExecStatus::default()
    }
}

/// Signals the group of a program that is not waited for yet; whether there is any.
fn signal(pid: i64, signal: Signal) -> bool {
    group(pid).is_some_and(|group| killpg(group, signal).is_ok())
}

/// The same of one that is gone. While its group has any, no process is given its number.
fn signal_orphans(pid: i64, of: Signal) -> bool {
    let free = group(pid).is_some_and(|leader| kill(leader, None).is_err());
    free && signal(pid, of)
}

fn group(pid: i64) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|pid| *pid > 0).map(Pid::from_raw)
}
