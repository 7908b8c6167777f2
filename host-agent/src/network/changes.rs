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
        self.read(|_| true)
    }

    /// The same; whether one was of this table of nftables.
    pub(super) fn note_of(&self, table: &str) -> bool {
        self.read(|messages| is_of(messages, table))
    }

    fn read(&self, counts: impl Fn(&[u8]) -> bool) -> bool {
        let mut any = false;
        let mut messages = [0; 16384];
        loop {
            match recv(self.socket.get_ref().as_raw_fd(), &mut messages, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => any |= messages.get(..length).is_some_and(&counts),
                // Some were lost: what they were of is not known.
                Err(Errno::ENOBUFS) => any = true,
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

/// Whether one of these messages of nftables is of a table of this name. The table is the attribute 1
/// of all of them (`NFTA_TABLE_NAME`, `NFTA_CHAIN_TABLE`, `NFTA_RULE_TABLE`, ...), a text with a zero at
/// its end; lengths are rounded up to four: linux/netlink.h, linux/netfilter/nf_tables.h.
fn is_of(mut messages: &[u8], table: &str) -> bool {
    const HEADER: usize = 16 + 4;
    let round = |length: usize| length.next_multiple_of(4);
    while let Some(length) = messages.first_chunk() {
        let length = u32::from_ne_bytes(*length) as usize;
        let Some(mut attributes) = messages.get(HEADER..length) else { return false };
        while let Some(&[a, b, c, d]) = attributes.first_chunk() {
            let size = usize::from(u16::from_ne_bytes([a, b]));
            let kind = u16::from_ne_bytes([c, d]) & 0x3fff;
            let Some(value) = attributes.get(4..size) else { break };
            if kind == 1 && value.strip_suffix(&[0]) == Some(table.as_bytes()) {
                return true;
            }
            attributes = attributes.get(round(size)..).unwrap_or_default();
        }
        messages = messages.get(round(length)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = vec![0; 20];
        for (kind, value) in attributes {
            all.extend((4 + value.len() as u16).to_ne_bytes());
            all.extend(kind.to_ne_bytes());
            all.extend(*value);
            all.resize(all.len().next_multiple_of(4), 0);
        }
        let length = (all.len() as u32).to_ne_bytes();
        all[..4].copy_from_slice(&length);
        all
    }

    #[test]
    fn a_message_is_of_the_table_it_names() {
        let ours = message(&[(2, b"x"), (1, b"ostler\0")]);
        let theirs = message(&[(1, b"ostler-1\0"), (2, b"ostler\0")]);
        assert!(is_of(&ours, "ostler") && !is_of(&theirs, "ostler"));
        assert!(is_of(&[theirs.clone(), ours.clone()].concat(), "ostler"));
        // Whatever is cut off, or says that it is longer than it is.
        for length in 0..ours.len() {
            assert!(!is_of(&ours[..length], "ostler"), "{length}");
        }
        let mut endless = theirs;
        endless[20..24].fill(0);
        assert!(!is_of(&endless, "ostler"));
    }
}
