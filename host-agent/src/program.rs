//! Runs the node's own programs, such as `mount`, `lvm` and `nft`, one at a time for each who asks.
//!
//! Unlike `qemu-img` they are never ended: an `lvm` that is killed between two steps can leave a
//! device suspended, and with it every guest on it. So one that is late is waited for no longer, ends
//! by itself, and keeps its turn until then: what is asked meanwhile is told so and does nothing.
//! Arguments never go through a shell, and the environment is not ours.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::qemu_img::{PATH, Ran};
use crate::turns::Turns;

/// The list of some ten thousand volumes.
const OUTPUT: u64 = 8 << 20;

/// One program after the other.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    turn: Turns,
}

impl Programs {
    pub(crate) fn new() -> Self {
        Self { turn: Turns::new(1) }
    }

    /// Run a program to its end, but wait no longer than `wall` for its turn and its end.
    pub(crate) async fn run(
        &self,
        program: &Path,
        arguments: &[impl AsRef<OsStr>],
        wall: Duration,
    ) -> io::Result<Ran> {
        self.feed(program, arguments, Vec::new(), wall).await
    }

    /// The same, of a program that reads this.
    pub(crate) async fn feed(
        &self,
        program: &Path,
        arguments: &[impl AsRef<OsStr>],
        input: Vec<u8>,
        wall: Duration,
    ) -> io::Result<Ran> {
        let name = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let late = |why: &str| io::Error::new(io::ErrorKind::TimedOut, format!("{name} {why}"));
        let deadline = Instant::now() + wall;
        let turn = timeout_at(deadline, self.turn.take());
        let turn = turn.await.map_err(|_| late("waits for an earlier one, which does not end"))?;
        #[expect(clippy::disallowed_methods, reason = "this is the one home of such programs")]
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("cannot run {name}: {error}")))?;
        let (answer, answered) = oneshot::channel();
        tokio::spawn(async move {
            let ran = end(child, input).await;
            // Before the answer: who got it may count on the turn.
            drop(turn);
            // Nobody waits any more: the caller was dropped, or it is late.
            answer.send(ran).ok();
        });
        let answered = timeout_at(deadline, answered).await;
        let answered = answered.map_err(|_| late("does not end, and is left to end by itself"))?;
        answered.map_err(|_| io::Error::other("the agent stops"))?
    }
}

async fn end(mut child: Child, input: Vec<u8>) -> io::Result<Ran> {
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let written = write(child.stdin.take(), input);
    let ((), said, complained) = tokio::try_join!(written, read(stdout), read(stderr))?;
    let status = child.wait().await?;
    if said.len() as u64 >= OUTPUT {
        return Err(io::Error::other("it said more than is reasonable"));
    }
    Ok(Ran { status, said, complained })
}

/// What it reads, to its end. One that ends before it has read all says why by itself.
async fn write(pipe: Option<impl AsyncWrite + Unpin>, input: Vec<u8>) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    match pipe.write_all(&input).await {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// What it says, and not without end; it is heard out, so that it ends.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    (&mut pipe).take(OUTPUT).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_program_that_is_late_keeps_its_turn_until_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let gate = folder.path().join("gate");
        nix::unistd::mkfifo(&gate, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let programs = Programs::new();
        let cat = Path::new("/bin/cat");
        let soon = Duration::from_millis(200);
        // Nobody writes: it does not end.
        let late = programs.run(cat, &[&gate], soon).await.unwrap_err();
        assert!(late.to_string().contains("cat does not end"), "{late}");
        let waits = programs.run(cat, &["/dev/null"], soon).await.unwrap_err();
        assert!(waits.to_string().contains("waits for an earlier one"), "{waits}");
        drop(std::fs::File::options().write(true).open(&gate).unwrap());
        let ran = programs.run(cat, &["/dev/null"], Duration::from_secs(60)).await.unwrap();
        assert!(ran.status.success());
    }

    #[tokio::test]
    async fn a_program_runs_without_our_environment() {
        let ran = Programs::new();
        let ran = ran.run(Path::new("/usr/bin/env"), &[""; 0], Duration::from_secs(60));
        let said = String::from_utf8(ran.await.unwrap().said).unwrap();
        assert!(said.contains("LC_ALL=C") && !said.contains("CARGO"), "{said}");
    }
}
