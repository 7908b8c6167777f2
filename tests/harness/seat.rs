//! An operator's terminal: a program on a pty, with somebody at the keyboard.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use crate::console::Console;
use crate::process::code;
use crate::{Error, Result, poll};

/// The program, and the terminal it sits at. Dropping it kills the program.
#[derive(Debug)]
pub struct Seat {
    child: Child,
    terminal: OwnedFd,
}

impl Seat {
    /// Start a program on a terminal of its own; with the keyboard and the screen of it.
    ///
    /// # Errors
    /// If there is no pty, or it cannot be started.
    pub fn take(mut command: Command) -> Result<(Self, Console)> {
        let pty = openpty(None, None).map_err(Error::errno("opening a pty"))?;
        let nonblocking = FcntlArg::F_SETFL(OFlag::O_NONBLOCK | OFlag::O_RDWR);
        fcntl(&pty.master, nonblocking).map_err(Error::errno("opening a pty"))?;
        let end = || pty.slave.try_clone().map(Stdio::from).map_err(Error::io("sharing a pty"));
        let child = command
            .stdin(end()?)
            .stdout(end()?)
            .stderr(end()?)
            .spawn()
            .map_err(Error::io("starting a program on a pty"))?;
        let console = Console::over(File::from(pty.master))?;
        Ok((Self { child, terminal: pty.slave }, console))
    }

    /// How the terminal is set.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn settings(&self) -> Result<Termios> {
        tcgetattr(&self.terminal).map_err(Error::errno("reading a terminal's settings"))
    }

    /// Whether the terminal echoes and edits, as one without a program on it does.
    ///
    /// # Errors
    /// As [`Self::settings`].
    pub fn is_cooked(&self) -> Result<bool> {
        let flags = self.settings()?.local_flags;
        Ok(flags.contains(LocalFlags::ECHO | LocalFlags::ICANON | LocalFlags::ISIG))
    }

    /// Send the program a signal.
    ///
    /// # Errors
    /// If it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal)
            .map_err(Error::errno("signalling a program on a pty"))
    }

    /// Wait for its end; its exit code, or 128 and the signal's number.
    ///
    /// # Errors
    /// If it does not end in time.
    pub async fn ended(&mut self, patience: Duration) -> Result<i32> {
        poll::until("the program on the pty ends", patience, async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(code(status)),
            Ok(None) => Err("it runs".to_owned()),
            Err(error) => Err(error.to_string()),
        })
        .await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // it may have ended
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
