//! A socket that the host reaches without a network, by the guest's context id and a port.

use std::fmt;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::str::FromStr;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, VsockAddr, bind, listen as start, socket,
};

use super::socket::Listener;

/// An address of vsock. The context id 4294967295 is any the guest has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    context: u32,
    port: u32,
}

impl FromStr for Address {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (context, port) = text.split_once(':').ok_or(())?;
        let number = |text: &str| text.parse().map_err(|_| ());
        Ok(Self { context: number(context)?, port: number(port)? })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.context, self.port)
    }
}

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address is none.
    #[error("'{0}' is no address of vsock, which is CID:PORT")]
    Address(String),
    /// The system refused.
    #[error("cannot listen on vsock {0}")]
    Listen(Address, #[source] io::Error),
}

/// Listens at the address a path stands for.
pub fn listen(path: &Path) -> Result<Listener, ListenError> {
    let text = path.to_string_lossy();
    let address: Address = text.parse().map_err(|()| ListenError::Address(text.into()))?;
    open(address).map_err(|source| ListenError::Listen(address, source))
}

fn open(address: Address) -> io::Result<Listener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Vsock, SockType::Stream, flags, None)?;
    bind(socket.as_raw_fd(), &VsockAddr::new(address.context, address.port))?;
    start(&socket, Backlog::MAXCONN)?;
    Listener::new(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_two_numbers() {
        let any = Address { context: u32::MAX, port: 1234 };
        assert_eq!("4294967295:1234".parse(), Ok(any));
        assert_eq!(any.to_string(), "4294967295:1234");
        for text in ["", "3", "3:", ":3", "3:4:5", "-1:4", "4294967296:1", "a:b", "/dev/vsock"] {
            assert_eq!(text.parse::<Address>(), Err(()), "{text}");
        }
    }
}
