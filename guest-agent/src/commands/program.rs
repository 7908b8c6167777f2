//! Programs of the guest's, run as children.
//!
//! These are the agent's own helpers; what its clients run is `exec`'s. Their environment is a search path and nothing else; what they must
//! know and nobody may see goes through standard input. Their output is for an error's text, so little
//! of it is kept.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::Command;

/// Where programs are looked for.
pub const DIRECTORIES: [&str; 6] =
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/local/bin"];

pub(super) const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// So much of what a program says is kept.
const KEPT: usize = 2048;
/// A program that has ended may have left its output open to others.
const LINGER: Duration = Duration::from_millis(100);

/// Why a program did not do what it was run for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be started.
    #[error("cannot run {program}")]
    Spawn {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It did not take its input, or could not be waited for.
    #[error("{program} was lost")]
    Lost {
        /// Which.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It ended, and not well.
    #[error("{program} failed: {status}{}", said(.output))]
    Failed {
        /// Which.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// What it said.
        output: String,
    },
    /// It did not end.
    #[error("{program} did not end in time")]
    Late {
        /// Which.
        program: String,
    },
}

impl ProgramError {
    /// Whether the program was not even started.
    pub fn is_spawn(&self) -> bool {
        matches!(self, Self::Spawn { .. })
    }

    /// The same error, without a secret in what the program said.
    #[must_use]
    pub fn without(mut self, secret: &[u8]) -> Self {
        if let (Self::Failed { output, .. }, Ok(secret)) = (&mut self, std::str::from_utf8(secret))
            && !secret.is_empty()
        {
            *output = output.replace(secret, "***");
        }
        self
    }
}

fn said(output: &str) -> String {
    let text = output.trim();
    if text.is_empty() { String::new() } else { format!(": {text}") }
}

/// What happens to a program that does not end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLate {
    /// It is killed.
    Kill,
    /// It is left alone.
    Leave,
}

/// Finds an executable program.
pub fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES
        .iter()
        .map(|directory| Path::new(directory).join(name))
        .find(|path| is_program(path))
}

/// Whether a path is a file that may be run.
pub fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

/// Runs a program to its end.
pub async fn run(
    program: &Path,
    arguments: &[&str],
    input: Option<&[u8]>,
    deadline: Duration,
    when_late: WhenLate,
) -> Result<(), ProgramError> {
    complete(program, arguments, input, deadline, when_late).await.map(drop)
}

/// Runs a program that tells something, to its end, and gives the beginning of what it said.
pub async fn output(
    program: &Path,
    arguments: &[&str],
    deadline: Duration,
) -> Result<String, ProgramError> {
    complete(program, arguments, None, deadline, WhenLate::Kill).await
}

async fn complete(
    program: &Path,
    arguments: &[&str],
    input: Option<&[u8]>,
    deadline: Duration,
    when_late: WhenLate,
) -> Result<String, ProgramError> {
    let name = || program.display().to_string();
    #[expect(clippy::disallowed_methods, reason = "the guest agent's home of child processes")]
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", SEARCH_PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(when_late == WhenLate::Kill)
        .spawn()
        .map_err(|source| ProgramError::Spawn { program: name(), source })?;
    let mut group = Group(child.id().filter(|_| when_late == WhenLate::Kill));
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let said = RefCell::new(Vec::new());
    let work = async {
        let talk = async {
            tokio::join!(feed(stdin, input), listen(stdout, &said), listen(stderr, &said)).0
        };
        tokio::pin!(talk);
        // it may end before its output does, if it left that to others
        let (fed, status) = tokio::select! {
            fed = &mut talk => (Some(fed), child.wait().await?),
            status = child.wait() => (tokio::time::timeout(LINGER, talk).await.ok(), status?),
        };
        Ok::<_, io::Error>((fed, status))
    };
    let (fed, status) = match tokio::time::timeout(deadline, work).await {
        Ok(Ok(done)) => done,
        Ok(Err(source)) => return Err(ProgramError::Lost { program: name(), source }),
        Err(_) => return Err(ProgramError::Late { program: name() }),
    };
    group.0 = None;
    let output = String::from_utf8_lossy(&said.borrow()).into_owned();
    if !status.success() {
        return Err(ProgramError::Failed { program: name(), status, output });
    }
    match fed.unwrap_or(Ok(())) {
        Ok(()) => Ok(output),
        Err(source) => Err(ProgramError::Lost { program: name(), source }),
    }
}

/// A program and what it started, killed when this is dropped before the program has ended.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // it may end just now
            let _ = killpg(Pid::from_raw(leader.cast_signed()), Signal::SIGKILL);
        }
    }
}

async fn feed(pipe: Option<impl AsyncWrite + Unpin>, input: Option<&[u8]>) -> io::Result<()> {
    match (pipe, input) {
        (Some(mut pipe), Some(input)) => pipe.write_all(input).await,
        _ => Ok(()),
    }
}

/// Keeps the beginning of what a program says; the rest is read and forgotten, so that it can go on.
async fn listen(pipe: Option<impl AsyncRead + Unpin>, said: &RefCell<Vec<u8>>) {
    let Some(mut pipe) = pipe else { return };
    let mut chunk = [0; 512];
    while let Ok(count @ 1..) = pipe.read(&mut chunk).await {
        let mut said = said.borrow_mut();
        let room = KEPT.saturating_sub(said.len());
        said.extend_from_slice(&chunk[..count.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn shell(script: &str, input: Option<&[u8]>, seconds: u64) -> Result<(), ProgramError> {
        let deadline = Duration::from_secs(seconds);
        run(Path::new("/bin/sh"), &["-c", script], input, deadline, WhenLate::Kill).await
    }

    #[tokio::test]
    async fn a_program_is_given_its_input_and_no_environment() {
        shell("read a; test \"$a\" = secret && test -z \"$HOME\"", Some(b"secret\n"), 60)
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_failure_tells_what_the_program_said() {
        let error =
            shell("echo out; echo err >&2; exit 3", None, 60).await.unwrap_err().to_string();
        assert!(error.contains("exit status: 3"), "{error}");
        assert!(error.contains("out") && error.contains("err"), "{error}");
    }

    #[tokio::test]
    async fn an_endless_talker_ends_and_little_is_kept() {
        let error = shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 1", None, 60).await;
        assert!(error.unwrap_err().to_string().len() < KEPT + 100);
    }

    #[tokio::test]
    async fn a_program_that_leaves_its_output_open_has_ended() {
        shell("sleep 5 & exit 0", None, 60).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_given_up() {
        assert!(matches!(shell("exec sleep 600", None, 0).await, Err(ProgramError::Late { .. })));
    }

    #[tokio::test]
    async fn a_program_does_not_ignore_the_signal_of_a_broken_pipe() {
        // the agent does, and a program cannot take that back if it inherits it
        let error = shell("kill -PIPE $$; exit 0", None, 60).await.unwrap_err().to_string();
        assert!(error.contains("SIGPIPE"), "{error}");
    }
}
