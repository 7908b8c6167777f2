//! The pty of a console.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use tokio::io::unix::AsyncFd;

/// An open pty, raw.
#[derive(Debug)]
pub(super) struct Line(AsyncFd<File>);

impl Line {
    /// Opens it, without becoming its session's, and has the kernel pass all bytes as they are.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK | OFlag::O_NOFOLLOW;
        let file =
            OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)?;
        let mut settings = tcgetattr(&file)?;
        cfmakeraw(&mut settings);
        tcsetattr(&file, SetArg::TCSANOW, &settings)?;
        #[expect(deprecated, reason = "what succeeds it is unsafe; a File keeps its descriptor")]
        AsyncFd::new(file).map(Self)
    }

    /// Reads what is there, or waits for it; 0 at its end. Cancel safe.
    pub(super) async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            if let Ok(read) = ready.try_io(|pty| pty.get_ref().read(buffer)) {
                return read;
            }
        }
    }

    /// Writes some of it, or waits until some can be. Cancel safe.
    pub(super) async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            if let Ok(wrote) = ready.try_io(|pty| pty.get_ref().write(bytes)) {
                return wrote;
            }
        }
    }
}
