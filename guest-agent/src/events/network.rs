//! The kernel's notifications of links and addresses.

use std::io;
use std::os::fd::OwnedFd;

use nix::sys::socket::SockProtocol;

use crate::edges::Watch;
use crate::netlink::{self, drain};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`
const GROUPS: u32 = 0x1 | 0x10 | 0x100;

/// Listens from now on.
pub(super) fn watch() -> io::Result<Watch<OwnedFd>> {
    netlink::listen(SockProtocol::NetlinkRoute, GROUPS)
}

/// Waits for a notification. What it says is not read: the interfaces are looked at afresh, so nothing
/// depends on having seen every one.
pub(super) async fn changed(watch: &io::Result<Watch<OwnedFd>>) {
    match watch {
        Ok(watch) if watch.edge().await.is_ok() => drain(watch.source()),
        _ => std::future::pending().await,
    }
}
