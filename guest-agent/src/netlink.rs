//! Listening to what the kernel announces: devices, networks.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::epoll::EpollFlags;
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, socket,
};

use crate::edges::Watch;

/// Reads and forgets all there is.
pub(crate) fn drain(source: &OwnedFd) {
    let mut buffer = [0; 4096];
    // ENOBUFS says that something was lost, which is as good as any announcement
    while matches!(
        nix::unistd::read(source, &mut buffer),
        Ok(1..) | Err(nix::errno::Errno::ENOBUFS | nix::errno::Errno::EINTR)
    ) {}
}

/// A netlink socket that listens to groups of a protocol.
pub(crate) fn listen(protocol: SockProtocol, groups: u32) -> io::Result<Watch<OwnedFd>> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let listener = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
    bind(listener.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
    Watch::new(listener, EpollFlags::EPOLLIN)
}
