//! Programs: run to their end ([`Run`]), or kept running under a guard
//! ([`Daemon`]).

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::io::AsyncWriteExt;

use crate::{Error, Result, poll};

/// How long a program may take to end by itself before it is killed.
const GRACE: Duration = Duration::from_secs(15);

/// A command of the standard library: the harness's one way to make one.
#[expect(clippy::disallowed_methods, reason = "the test harness's one home of running programs")]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    Command::new(program)
}

/// One run of a program, to be described and then awaited.
#[derive(Debug)]
pub struct Run {
    program: OsString,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    less_env: Vec<OsString>,
    stdin: Vec<u8>,
    patience: Duration,
}

/// What a program left.
#[derive(Debug, Clone)]
pub struct Output {
    /// Its exit code; 128 and the signal's number if one ended it.
    pub code: i32,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Run {
    /// A run of `program`, without arguments, with a minute to end.
    pub fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            args: Vec::new(),
            env: Vec::new(),
            less_env: Vec::new(),
            stdin: Vec::new(),
            patience: Duration::from_secs(60),
        }
    }

    /// More arguments.
    #[must_use]
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// One more variable in its environment.
    #[must_use]
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// One variable less.
    #[must_use]
    pub fn without_env(mut self, name: impl Into<OsString>) -> Self {
        self.less_env.push(name.into());
        self
    }

    /// What it reads on its standard input; nothing if not said.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = bytes.into();
        self
    }

    /// How long it may take.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn told(&self) -> String {
        std::iter::once(&self.program)
            .chain(&self.args)
            .map(|word| word.to_string_lossy())
            .collect::<Vec<_>>()
            .join(" ")
    }

    /// Run it, whatever it returns.
    ///
    /// # Errors
    /// If it cannot be started or does not end in time; then it is killed.
    pub async fn output(self) -> Result<Output> {
        let told = self.told();
        let mut command = command(&self.program);
        command
            .args(&self.args)
            .envs(self.env)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in &self.less_env {
            command.env_remove(name);
        }
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let mut child = command.spawn().map_err(Error::io(format!("starting `{told}`")))?;
        let stdin = child.stdin.take();
        let ended = tokio::time::timeout(self.patience, async {
            let feed = async {
                if let Some(mut stdin) = stdin {
                    // a program that does not read what it is given is no error of ours
                    let _unread = stdin.write_all(&self.stdin).await;
                }
            };
            tokio::join!(feed, child.wait_with_output()).1
        })
        .await;
        let Ok(ended) = ended else {
            return Err(Error::TimedOut {
                what: format!("`{told}` ends"),
                waited: self.patience,
                seen: "still running; killed".to_owned(),
            });
        };
        let output = ended.map_err(Error::io(format!("waiting for `{told}`")))?;
        Ok(Output {
            code: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Run it; what it printed, if it succeeded.
    ///
    /// # Errors
    /// Also [`Error::Failed`] if it returns anything but 0.
    pub async fn stdout(self) -> Result<String> {
        let command = self.told();
        let output = self.output().await?;
        if output.code == 0 {
            return Ok(output.stdout);
        }
        let stderr = if output.stderr.trim().is_empty() { output.stdout } else { output.stderr };
        Err(Error::Failed { command, status: format!("exit {}", output.code), stderr })
    }
}

/// An exit code; 128 and the signal's number if one ended it.
pub(crate) fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A program kept running, in a process group of its own (a terminal's Ctrl-C
/// is for the harness, which stops things in their order), its output in a
/// file. Dropping it ends the group: SIGTERM, and SIGKILL if that is ignored.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Daemon {
    /// Start `command`, its output appended to `log`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(log)
            .map_err(Error::path("opening", log))?;
        let twin = file.try_clone().map_err(Error::path("sharing", log))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(twin)
            .process_group(0)
            .spawn()
            .map_err(Error::io(format!("starting {name}")))?;
        Ok(Self { name: name.to_owned(), child, log: log.to_owned() })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// [`Error::Ended`] if it does not run any more.
    ///
    /// # Errors
    /// That one.
    pub fn check(&mut self) -> Result<()> {
        if self.alive() {
            return Ok(());
        }
        Err(Error::Ended { name: self.name.clone(), log: self.tail(30) })
    }

    /// Send it a signal, it alone. One that has ended is past minding.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        match kill(process(self.child.id()), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::errno(format!("sending {signal} to {}", self.name))(errno)),
        }
    }

    /// Wait for its end; its exit code, or 128 and the signal's number.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn ended(&mut self, patience: Duration) -> Result<i32> {
        let name = self.name.clone();
        poll::until(&format!("{name} ends"), patience, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(code(status)),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }

    /// Ask it to end and wait for it; its exit code.
    ///
    /// # Errors
    /// If it does not.
    pub async fn terminate(&mut self) -> Result<i32> {
        self.signal(Signal::SIGTERM)?;
        self.ended(GRACE).await
    }

    /// End it as a power cut would: SIGKILL, at whatever it was doing.
    ///
    /// # Errors
    /// If the system refuses.
    pub async fn kill(&mut self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended(GRACE).await.map(drop)
    }

    /// The same for all that it started and that is still in its group.
    ///
    /// # Errors
    /// If it is there still.
    pub async fn kill_group(mut self) -> Result<()> {
        let _gone = killpg(process(self.child.id()), Signal::SIGKILL);
        self.ended(GRACE).await.map(drop)
    }

    /// Send a signal to it and all that it started and that is still in its group.
    ///
    /// # Errors
    /// If the system refuses.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        match killpg(process(self.child.id()), signal) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(errno) => Err(Error::errno(format!("sending {signal} to {}", self.name))(errno)),
        }
    }

    /// [`Self::kill_group`] for a guard's `drop`.
    pub fn kill_group_blocking(mut self) {
        let _gone = killpg(process(self.child.id()), Signal::SIGKILL);
        poll::until_blocking(GRACE, || !self.alive());
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    pub fn tail(&self, lines: usize) -> String {
        tail(&self.log, lines)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not only the child: what it started and left in its group goes too.
        let group = process(self.child.id());
        let gone = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        if !gone(&mut self.child) {
            let _gone = killpg(group, Signal::SIGTERM);
            poll::until_blocking(GRACE, || gone(&mut self.child));
        }
        let _none_left = killpg(group, Signal::SIGKILL);
        let _reaped = self.child.wait();
    }
}

/// The last lines of a file; empty if it cannot be read.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn process(id: u32) -> Pid {
    // process ids are below 2^22
    Pid::from_raw(id.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn output_and_exit_code_are_told() {
        let output = Run::new("sh")
            .args(["-c", "cat; echo no >&2; exit 3"])
            .stdin("yes")
            .output()
            .await
            .unwrap();
        assert_eq!((output.code, output.stdout.as_str()), (3, "yes"));
        assert_eq!(output.stderr, "no\n");
    }

    #[tokio::test]
    async fn a_program_that_hangs_is_killed_in_time() {
        let error = Run::new("sleep")
            .args(["60"])
            .patience(Duration::from_millis(50))
            .output()
            .await
            .unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    }

    #[tokio::test]
    async fn dropping_a_daemon_ends_its_whole_group() {
        let place = crate::place::Place::new("daemon").unwrap();
        let log = place.join("log");
        let mut shell = command("sh");
        // the shell goes at SIGTERM; its child ignores it and would be left
        shell.args(["-c", "(trap '' TERM; while :; do sleep 1; done) & echo $!; wait"]);
        let daemon = Daemon::start("shell", shell, &log).unwrap();
        let inner: i32 = poll::until("the shell has started its child", GRACE, async || {
            daemon.tail(1).trim().parse().map_err(|_| daemon.tail(1))
        })
        .await
        .unwrap();
        drop(daemon);
        assert!(poll::until_blocking(GRACE, || {
            // an orphan may be a zombie until init reaps it
            fs::read_to_string(format!("/proc/{inner}/stat"))
                .map_or(true, |stat| stat.contains(") Z "))
        }));
    }

    #[tokio::test]
    async fn a_daemon_that_ended_tells_its_last_words() {
        let place = crate::place::Place::new("daemon").unwrap();
        let mut shell = command("sh");
        shell.args(["-c", "echo out of hay; exit 7"]);
        let mut daemon = Daemon::start("stable", shell, &place.join("log")).unwrap();
        assert_eq!(daemon.ended(GRACE).await.unwrap(), 7);
        assert!(daemon.check().unwrap_err().to_string().contains("out of hay"));
    }
}
