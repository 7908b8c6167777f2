//! A serial line: for guests without virtio. Only here is `tokio-serial` used.
//!
//! A line does not tell whether the host is there, so a session on it lasts until the line fails, and
//! what separates one client of the host's from the next is the byte 0xFF alone.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use tokio::sync::watch;
use tokio_serial::SerialStream;

use super::session::{AtEnd, Link, Session, SessionEnd};
use super::{Kind, hotplug};
use crate::commands::Agent;
use crate::edges::{Edge, Watch};

/// A line that failed may fail again at once: it is left alone for as long as stock agents do.
const AGAIN: Duration = Duration::from_secs(5);

/// Why a line could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the serial line {}", .path.display())]
pub struct LineError {
    path: PathBuf,
    source: io::Error,
}

/// A serial line, set up to pass bytes as they are.
#[derive(Debug)]
pub struct Line(SerialStream);

impl AsFd for Line {
    fn as_fd(&self) -> BorrowedFd<'_> {
        #[expect(unsafe_code, reason = "the stream gives its descriptor as a bare number only")]
        // SAFETY: the stream keeps it open for as long as it is borrowed here.
        unsafe {
            BorrowedFd::borrow_raw(self.0.as_raw_fd())
        }
    }
}

/// Opens a line. Must be called within the runtime.
pub fn open(path: &Path, baud: u32) -> Result<Watch<Line>, LineError> {
    try_open(path, baud).map_err(|source| LineError { path: path.to_owned(), source })
}

fn try_open(path: &Path, baud: u32) -> io::Result<Watch<Line>> {
    let builder = tokio_serial::new(path.to_string_lossy(), baud);
    let stream = SerialStream::open(&builder)?;
    // it is raw, does not block, and is not passed on to children: the stream sees to that
    Watch::new(Line(stream), EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)
}

/// Serves a line whenever it is there; first, if it was opened already, as it is.
pub async fn serve(
    agent: Rc<Agent>,
    kind: Kind,
    path: PathBuf,
    baud: u32,
    mut line: Option<Watch<Line>>,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let link = match line.take() {
            Some(line) => line,
            None => tokio::select! {
                line = hotplug::wait(&path, &agent.log, || try_open(&path, baud)) => line,
                _ = stopped.wait_for(|stopped| *stopped) => return,
            },
        };
        agent.log.info(format_args!("{} is open", path.display()));
        match Session::new(agent.clone(), kind, AtEnd::Drop, &link).run(false, &mut stopped).await {
            SessionEnd::Stopped => return,
            SessionEnd::Closed => agent.log.info(format_args!("{} was hung up", path.display())),
            SessionEnd::Failed(error) => {
                agent.log.info(format_args!("{} failed: {error}", path.display()));
            }
        }
        drop(link);
        tokio::select! {
            () = tokio::time::sleep(AGAIN) => {}
            _ = stopped.wait_for(|stopped| *stopped) => return,
        }
    }
}

// the stream's own reads go by what the runtime has seen of it, which the edges do not wait for
impl Link for Watch<Line> {
    async fn edge(&self) -> io::Result<Edge> {
        Watch::edge(self).await
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        nix::unistd::read(self.source(), buffer).map_err(Into::into)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        nix::unistd::write(self.source(), bytes).map_err(Into::into)
    }
}
