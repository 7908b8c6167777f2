//! A connected socket as a link.
//!
//! Unlike a port a socket ends for good when its other side leaves, so the runtime may watch it itself.
//! It is watched for input only: a peer that takes an answer out would otherwise wake the agent once
//! more for each. Room for output is waited for when there was none.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::session::Link;
use super::watch::{Edge, register};

/// A socket with somebody at its other end.
#[derive(Debug)]
pub struct Socket(AsyncFd<OwnedFd>);

impl Socket {
    /// Takes over a connected stream socket, of whatever family.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_GETFL).and_then(|flags| {
            let flags = nix::fcntl::OFlag::from_bits_retain(flags) | nix::fcntl::OFlag::O_NONBLOCK;
            nix::fcntl::fcntl(&socket, nix::fcntl::FcntlArg::F_SETFL(flags))
        })?;
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

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(nix::unistd::read(self.0.get_ref().as_fd(), buffer)?)
    }

    fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(nix::unistd::write(self.0.get_ref().as_fd(), bytes)?)
    }
}
