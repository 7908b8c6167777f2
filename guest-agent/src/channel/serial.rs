//! A virtio-serial port.
//!
//! ```text
//!            not there                   host away                 host there
//!  +------> hotplug::wait ----open----> edge, read = 0 ---edge---> Session
//!  |                                         ^                        |
//!  |                                         +---- read = 0, HUP -----+
//!  +----------------------- ENODEV: unplugged ------------------------+
//! ```
//!
//! A port can be opened once, and stays open over any number of host sides: the device says when one
//! comes or goes by an edge, so none is polled for.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::fcntl::OFlag;
use nix::sys::epoll::EpollFlags;
use tokio::sync::watch;

use super::session::{AtEnd, Link, Session, SessionEnd};
use super::{Kind, hotplug};
use crate::commands::Agent;
use crate::edges::{Edge, Watch};

/// How long what came before the host's opening may be its own.
const EARLY: Duration = Duration::from_millis(100);
const PORTS: &str = "/sys/class/virtio-ports";

/// Serves the port at `path` whenever it is there.
pub async fn serve(
    agent: Rc<Agent>,
    kind: Kind,
    path: PathBuf,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let port = tokio::select! {
            port = hotplug::wait(&path, &agent.log, || open(&path, Path::new(PORTS))) => port,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        agent.log.info(format_args!("{} is open", path.display()));
        match talk(&agent, kind, &port, &mut stopped).await {
            SessionEnd::Stopped => return,
            SessionEnd::Closed => {}
            SessionEnd::Failed(error) => {
                agent.log.info(format_args!("{} is gone: {error}", path.display()));
            }
        }
    }
}

/// Holds one session after the other, until the port fails.
async fn talk<L: Link>(
    agent: &Rc<Agent>,
    kind: Kind,
    port: &L,
    stopped: &mut watch::Receiver<bool>,
) -> SessionEnd {
    loop {
        let hung_up = tokio::select! {
            edge = away(port) => edge,
            _ = stopped.wait_for(|stopped| *stopped) => return SessionEnd::Stopped,
        };
        let hung_up = match hung_up {
            Ok(hung_up) => hung_up,
            Err(error) => return SessionEnd::Failed(error),
        };
        let session = Session::new(agent.clone(), kind, AtEnd::Drop, port);
        match session.run(hung_up, stopped).await {
            SessionEnd::Closed => {}
            end @ (SessionEnd::Stopped | SessionEnd::Failed(_)) => return end,
        }
    }
}

/// Waits for an edge, and tells whether the host is away still.
///
/// The kernel hands over a host's first bytes on another path than the news that it has opened the
/// port, and the bytes may win. So a port that is hung up is left alone for a moment: what is in it may
/// belong to a host that is about to show. Only what stays without an owner was left by the last one.
async fn away<L: Link>(port: &L) -> io::Result<bool> {
    if !port.edge().await?.hung_up {
        return Ok(false);
    }
    let shown = async {
        while port.edge().await?.hung_up {}
        Ok(false)
    };
    tokio::time::timeout(EARLY, shown).await.unwrap_or(Ok(true))
}

/// Opens the port: by its path, or where there is no udev to make that, by its name.
fn open(path: &Path, ports: &Path) -> io::Result<Watch<File>> {
    let device = if path.exists() { path.to_owned() } else { find(path, ports)? };
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let port = File::options().read(true).write(true).custom_flags(flags.bits()).open(device)?;
    Watch::new(port, EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT)
}

/// The device of the port that has the name a udev rule would have made the path from.
fn find(path: &Path, ports: &Path) -> io::Result<PathBuf> {
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let name = path.file_name().ok_or_else(missing)?;
    for port in std::fs::read_dir(ports)? {
        let port = port?;
        let text = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
        if text.trim_end().as_bytes() == name.as_encoded_bytes() {
            return Ok(Path::new("/dev").join(port.file_name()));
        }
    }
    Err(missing())
}

impl Link for Watch<File> {
    async fn edge(&self) -> io::Result<Edge> {
        Watch::edge(self).await
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        io::Read::read(&mut self.source(), buffer)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut self.source(), bytes)
    }
}

#[cfg(test)]
mod tests;
