//! Clients of a socket, whatever kind of address it has.
//!
//! One client at a time, as on a port; the next waits until the first has left.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{SockFlag, accept4};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use super::Kind;
use super::session::{AtEnd, Link, Session, SessionEnd};
use crate::commands::Agent;
use crate::edges::{Edge, Watch, register};

/// After this a client that could not be accepted (no descriptor was left, say) is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// A socket that listens.
#[derive(Debug)]
pub struct Listener(Watch<OwnedFd>);

impl Listener {
    /// Takes a socket that listens already and does not block.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Watch::new(socket, EpollFlags::EPOLLIN).map(Self)
    }

    /// Waits for a client.
    async fn accept(&self) -> io::Result<Socket> {
        loop {
            let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
            match accept4(self.0.source().as_raw_fd(), flags) {
                Ok(descriptor) => {
                    #[expect(unsafe_code, reason = "the call that accepts gives a bare number")]
                    // SAFETY: the kernel has just made this descriptor, for nobody else.
                    let client = unsafe { OwnedFd::from_raw_fd(descriptor) };
                    return Socket::new(client);
                }
                Err(Errno::EAGAIN) => drop(self.0.edge().await?),
                Err(Errno::EINTR | Errno::ECONNABORTED) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Serves one client after the other.
pub async fn serve(
    agent: Rc<Agent>,
    kind: Kind,
    listener: Listener,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let link = match client {
            Ok(link) => link,
            Err(error) => {
                agent.log.error(format_args!("a client could not be accepted: {error}"));
                tokio::select! {
                    () = tokio::time::sleep(AGAIN) => continue,
                    _ = stopped.wait_for(|stopped| *stopped) => return,
                }
            }
        };
        match Session::new(agent.clone(), kind, AtEnd::Finish, &link).run(false, &mut stopped).await
        {
            SessionEnd::Closed => {}
            SessionEnd::Failed(error) => agent.log.info(format_args!("a client was lost: {error}")),
            SessionEnd::Stopped => return,
        }
    }
}

/// A socket with a client at its other end.
///
/// Unlike a port it ends for good when the other side leaves, so the runtime may watch it itself. It is
/// watched for input only: a client that takes an answer out would otherwise wake the agent once more
/// for each. Room for output is waited for when there was none.
#[derive(Debug)]
pub struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// Takes over a connected stream socket of whatever family, which must not block.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        register(socket, Interest::READABLE).map(Self)
    }
}

impl Link for Socket {
    /// A stream socket gives all it has, and tells when there is more.
    const SHORT_READ_IS_ALL: bool = true;

    async fn edge(&self) -> io::Result<Edge> {
        self.0.readable().await?.clear_ready();
        // a hang-up here is an end of file, which the next read tells
        Ok(Edge { hung_up: false })
    }

    async fn room(&self) -> io::Result<()> {
        // an epoll set takes a descriptor once, hence another; what is so already is told at once
        let socket = register(self.0.get_ref().try_clone()?, Interest::WRITABLE)?;
        socket.writable().await?.clear_ready();
        Ok(())
    }

    async fn gone(&self) -> io::Result<()> {
        let socket = register(self.0.get_ref().try_clone()?, Interest::WRITABLE)?;
        loop {
            socket.writable().await?.clear_ready();
            let mut now = [PollFd::new(self.0.get_ref().as_fd(), PollFlags::empty())];
            poll(&mut now, PollTimeout::ZERO)?;
            let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR;
            if now[0].revents().is_some_and(|flags| flags.intersects(hung_up)) {
                return Ok(());
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(self.0.get_ref(), buffer)?)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(self.0.get_ref(), bytes)?)
    }
}
