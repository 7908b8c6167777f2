//! That something changed of the node's links or rules, as the kernel tells it to who listens.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// The group of links: `RTNLGRP_LINK` of linux/rtnetlink.h, as a bit.
const LINKS: u32 = 1;
/// The group of nftables: `NFNLGRP_NFTABLES` of linux/netfilter/nfnetlink.h, as a bit.
const RULES: u32 = 1 << 6;

/// A listener. What it is told of is not read, but looked at anew.
#[derive(Debug)]
pub(super) struct Changes {
    socket: AsyncFd<OwnedFd>,
}

impl Changes {
    /// Of links.
    pub(super) fn of_links() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute, LINKS)
    }

    /// Of tables and rules of nftables.
    pub(super) fn of_rules() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter, RULES)
    }

    fn open(protocol: SockProtocol, groups: u32) -> io::Result<Self> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        #[expect(
            deprecated,
            reason = "what succeeds it is unsafe; an OwnedFd keeps its descriptor"
        )]
        let socket = AsyncFd::new(socket)?;
        Ok(Self { socket })
    }

    /// Until there was one that was not taken note of.
    pub(super) async fn wait(&self) {
        // An error is something to look at, too.
        let _ = self.socket.readable().await;
    }

    /// Take note of those there were; whether there were any.
    pub(super) fn note(&self) -> bool {
        let mut any = false;
        let mut message = [0; 8192];
        loop {
            match recv(self.socket.get_ref().as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                Ok(_) | Err(Errno::ENOBUFS) => any = true,
                Err(Errno::EINTR) => {}
                Err(_) => break,
            }
        }
        // Nothing is left to be read: the next one makes it readable again.
        let _ = self.socket.try_io(Interest::READABLE, |_| -> io::Result<()> {
            Err(io::ErrorKind::WouldBlock.into())
        });
        any
    }
}
