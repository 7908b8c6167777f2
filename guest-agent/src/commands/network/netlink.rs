//! Links and addresses, as the kernel dumps them.
//!
//! Two dumps tell all there is: names, link addresses of any length, counters of 64 bits, addresses.
//! The C library makes the same two and keeps less, so that counters and long addresses would have to
//! be looked up in files, one by one.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, setsockopt, socket,
    sockopt::ReceiveTimeout,
};
use nix::sys::time::TimeVal;
use ostler_protocol::qga::commands::network::InterfaceStatistics;

/// The kernel fills no more in one go.
const BUFFER: usize = 32 << 10;
/// A dump during which something changed is begun anew, so often.
const TRIES: u32 = 5;
/// The kernel answers at once, or never.
const PATIENCE: Duration = Duration::from_secs(5);

const HEADER: usize = 16;
/// Of the messages' own heads, before their attributes.
const LINK_HEAD: usize = 16;
const ADDRESS_HEAD: usize = 8;
/// Bits of an attribute's type that say how it is written.
const TYPE: u16 = 0x3FFF;
const DUMP_INTERRUPTED: u16 = 0x10;

/// A network link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) address: Vec<u8>,
    pub(super) statistics: Option<InterfaceStatistics>,
}

/// An address of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) link: u32,
    /// Another name for the link under which it was set, if any.
    pub(super) label: Option<String>,
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
}

/// All links and addresses.
pub(super) fn dump() -> Result<(Vec<Link>, Vec<Address>), Errno> {
    let route = SockProtocol::NetlinkRoute;
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?;
    let patience = TimeVal::new(PATIENCE.as_secs().cast_signed(), 0);
    setsockopt(&socket, ReceiveTimeout, &patience)?;
    let mut buffer = vec![0; BUFFER];
    let links = ask(&socket, &mut buffer, libc::RTM_GETLINK, LINK_HEAD, link)?;
    let addresses = ask(&socket, &mut buffer, libc::RTM_GETADDR, ADDRESS_HEAD, address)?;
    Ok((links, addresses))
}

/// One dump, of the messages that `read` understands.
fn ask<T>(
    socket: &OwnedFd,
    buffer: &mut [u8],
    kind: u16,
    head: usize,
    read: fn(u16, &[u8]) -> Option<T>,
) -> Result<Vec<T>, Errno> {
    let mut found = Vec::new();
    for number in 1..=TRIES {
        found.clear();
        let number = number | u32::from(kind) << 8;
        send(socket.as_raw_fd(), &request(kind, head, number), MsgFlags::empty())?;
        let mut interrupted = false;
        let mut done = false;
        while !done {
            let length = match recv(socket.as_raw_fd(), buffer, MsgFlags::MSG_TRUNC) {
                Err(Errno::EINTR) => continue,
                length => length?,
            };
            let datagram = buffer.get(..length).ok_or(Errno::EMSGSIZE)?;
            for message in Messages(datagram) {
                if message.number != number {
                    continue;
                }
                interrupted |= message.flags & DUMP_INTERRUPTED != 0;
                match i32::from(message.kind) {
                    libc::NLMSG_DONE => done = true,
                    libc::NLMSG_ERROR => return Err(error(message.body)),
                    _ => found.extend(read(message.kind, message.body)),
                }
            }
        }
        if !interrupted {
            break;
        }
    }
    Ok(found)
}

fn request(kind: u16, head: usize, number: u32) -> Vec<u8> {
    let length = u32::try_from(HEADER + head).unwrap_or_default();
    let flags = u16::try_from(libc::NLM_F_REQUEST | libc::NLM_F_DUMP).unwrap_or_default();
    let mut request = Vec::with_capacity(HEADER + head);
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(flags.to_ne_bytes());
    request.extend(number.to_ne_bytes());
    request.resize(HEADER + head, 0);
    request
}

fn error(body: &[u8]) -> Errno {
    Errno::from_raw(number(body, 0).map_or(libc::EIO, |number| number.cast_signed().wrapping_neg()))
}

/// The messages of a datagram.
struct Messages<'a>(&'a [u8]);

struct Message<'a> {
    kind: u16,
    flags: u16,
    number: u32,
    body: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(number(self.0, 0)?).ok()?;
        let message = Message {
            kind: short(self.0, 4)?,
            flags: short(self.0, 6)?,
            number: number(self.0, 8)?,
            body: self.0.get(HEADER..length)?,
        };
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    }
}

/// The attributes of a message: their types and values.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(short(self.0, 0)?);
        let attribute = (short(self.0, 2)? & TYPE, self.0.get(4..length)?);
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(attribute)
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn link(kind: u16, body: &[u8]) -> Option<Link> {
    if kind != libc::RTM_NEWLINK {
        return None;
    }
    let mut link = Link {
        index: number(body, 4)?,
        name: String::new(),
        address: Vec::new(),
        statistics: None,
    };
    for (kind, value) in Attributes(body.get(LINK_HEAD..)?) {
        match kind {
            libc::IFLA_IFNAME => link.name = text(value),
            libc::IFLA_ADDRESS => link.address = value.to_owned(),
            libc::IFLA_STATS64 => link.statistics = statistics(value),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

/// The kernel's `struct rtnl_link_stats64`, reckoned as its `/proc/net/dev` does.
fn statistics(value: &[u8]) -> Option<InterfaceStatistics> {
    let at = |place: usize| {
        let bytes = value.get(place * 8..place * 8 + 8)?;
        Some(u64::from_ne_bytes(bytes.try_into().ok()?))
    };
    Some(InterfaceStatistics {
        rx_packets: at(0)?,
        tx_packets: at(1)?,
        rx_bytes: at(2)?,
        tx_bytes: at(3)?,
        rx_errs: at(4)?,
        tx_errs: at(5)?,
        // those that the hardware had no room for included
        rx_dropped: at(6)?.wrapping_add(at(15)?),
        tx_dropped: at(7)?,
    })
}

fn address(kind: u16, body: &[u8]) -> Option<Address> {
    if kind != libc::RTM_NEWADDR {
        return None;
    }
    let [family, prefix, ..] = *body else { return None };
    let ip = |value: &[u8]| match i32::from(family) {
        libc::AF_INET => Some(Ipv4Addr::from(<[u8; 4]>::try_from(value).ok()?).into()),
        libc::AF_INET6 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(value).ok()?).into()),
        _ => None,
    };
    let (mut own, mut other, mut label) = (None, None, None);
    for (kind, value) in Attributes(body.get(ADDRESS_HEAD..)?) {
        match kind {
            // where both are given, the other is the peer's
            libc::IFA_LOCAL => own = ip(value),
            libc::IFA_ADDRESS => other = ip(value),
            libc::IFA_LABEL => label = Some(text(value)),
            _ => {}
        }
    }
    Some(Address { link: number(body, 4)?, label, address: own.or(other)?, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut bytes = u16::try_from(value.len() + 4).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn infiniband() -> Vec<u8> {
        let mut body = vec![0; LINK_HEAD];
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        body.extend(attribute(libc::IFLA_IFNAME, b"ib0\0"));
        body.extend(attribute(libc::IFLA_ADDRESS, &(0..20).collect::<Vec<_>>()));
        let counters: Vec<u8> = (1..=24_u64).flat_map(u64::to_ne_bytes).collect();
        body.extend(attribute(libc::IFLA_STATS64, &counters));
        body
    }

    #[test]
    fn a_link_has_its_whole_address_and_counters() {
        let link = link(libc::RTM_NEWLINK, &infiniband()).unwrap();
        assert_eq!((link.index, link.name.as_str(), link.address.len()), (7, "ib0", 20));
        let told = link.statistics.unwrap();
        assert_eq!((told.rx_packets, told.tx_packets, told.rx_bytes, told.tx_bytes), (1, 2, 3, 4));
        assert_eq!((told.rx_errs, told.tx_errs, told.rx_dropped, told.tx_dropped), (5, 6, 23, 8));
    }

    #[test]
    fn an_address_is_the_links_own_and_not_its_peers() {
        let mut body = vec![2, 32, 0, 0, 7, 0, 0, 0];
        body[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        body.extend(attribute(libc::IFA_ADDRESS, &[192, 0, 2, 1]));
        body.extend(attribute(libc::IFA_LOCAL, &[192, 0, 2, 2]));
        body.extend(attribute(libc::IFA_LABEL, b"ppp0:1\0"));
        let told = address(libc::RTM_NEWADDR, &body).unwrap();
        assert_eq!(told.address, IpAddr::from([192, 0, 2, 2]));
        assert_eq!((told.link, told.prefix, told.label.as_deref()), (7, 32, Some("ppp0:1")));
    }

    #[test]
    fn an_error_of_the_kernels_is_told() {
        assert_eq!(error(&(-1_i32).to_ne_bytes()), Errno::EPERM);
        assert_eq!(error(&[]), Errno::EIO);
        assert_eq!(error(&i32::MIN.to_ne_bytes()), Errno::UnknownErrno);
    }

    proptest! {
        #[test]
        fn no_datagram_breaks_the_readers(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
        ) {
            let mut body = infiniband();
            for (place, byte) in change {
                *place.get_mut(&mut body) = byte;
            }
            for body in [&bytes, &body] {
                for message in Messages(body) {
                    let _ = (link(message.kind, message.body), address(message.kind, message.body));
                }
                let _ = (link(libc::RTM_NEWLINK, body), address(libc::RTM_NEWADDR, body));
            }
        }
    }
}
