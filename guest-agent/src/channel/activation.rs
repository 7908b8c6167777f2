//! A socket that a service manager has opened for the agent, in place of the standard channel.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::sys::socket::{
    AddressFamily, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt::AcceptConn,
};

/// The first descriptor that is passed, by convention.
const FIRST: RawFd = 3;

/// Why what was passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ActivationError {
    /// Not one.
    #[error("{0} sockets were passed, and only one can be served")]
    Many(String),
    /// Not of a family that is served, or it does not listen.
    #[error("the socket that was passed is no unix or vsock socket that listens")]
    Kind,
    /// It could not be looked at.
    #[error("cannot use the socket that was passed")]
    Socket(#[source] Errno),
}

/// Takes the socket that was passed to this process, if one was. To be called once.
pub fn take(variable: impl Fn(&str) -> Option<String>) -> Result<Option<OwnedFd>, ActivationError> {
    if !passed(variable)? {
        return Ok(None);
    }
    #[expect(unsafe_code, reason = "the convention is a number")]
    // SAFETY: by the convention it is this process's alone; nothing else here takes descriptors by
    // number, and this is done once. It is owned only after it was seen to be open.
    let socket = unsafe {
        prepare(BorrowedFd::borrow_raw(FIRST))?;
        OwnedFd::from_raw_fd(FIRST)
    };
    Ok(Some(socket))
}

fn passed(variable: impl Fn(&str) -> Option<String>) -> Result<bool, ActivationError> {
    // a child of the process that was meant sees the variables too
    let for_us = variable("LISTEN_PID").is_some_and(|pid| pid == std::process::id().to_string());
    match variable("LISTEN_FDS") {
        Some(count) if for_us => match count.as_str() {
            "1" => Ok(true),
            "0" | "" => Ok(false),
            _ => Err(ActivationError::Many(count)),
        },
        _ => Ok(false),
    }
}

/// Makes it a socket like those opened here.
fn prepare(socket: BorrowedFd<'_>) -> Result<(), ActivationError> {
    let address: SockaddrStorage =
        getsockname(socket.as_raw_fd()).map_err(ActivationError::Socket)?;
    let served = matches!(address.family(), Some(AddressFamily::Unix | AddressFamily::Vsock));
    if !served || !getsockopt(&socket, AcceptConn).map_err(ActivationError::Socket)? {
        return Err(ActivationError::Kind);
    }
    fcntl(socket, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).map_err(ActivationError::Socket)?;
    let flags = fcntl(socket, FcntlArg::F_GETFL).map_err(ActivationError::Socket)?;
    let flags = OFlag::from_bits_retain(flags) | OFlag::O_NONBLOCK;
    fcntl(socket, FcntlArg::F_SETFL(flags)).map_err(ActivationError::Socket)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::os::fd::AsFd;
    use std::os::unix::net::{UnixListener, UnixStream};

    fn variables(pid: &str, count: &str) -> impl Fn(&str) -> Option<String> {
        let (pid, count) = (pid.to_owned(), count.to_owned());
        move |name| match name {
            "LISTEN_PID" => Some(pid.clone()),
            "LISTEN_FDS" => Some(count.clone()),
            _ => None,
        }
    }

    #[test]
    fn only_one_socket_passed_to_this_very_process_counts() {
        let us = std::process::id().to_string();
        assert!(passed(variables(&us, "1")).unwrap());
        assert!(!passed(variables("1", "1")).unwrap());
        assert!(!passed(variables(&us, "0")).unwrap());
        assert!(!passed(|_| None).unwrap());
        let text = passed(variables(&us, "2")).unwrap_err().to_string();
        assert_eq!(text, "2 sockets were passed, and only one can be served");
    }

    #[test]
    fn only_a_socket_that_listens_and_is_local_is_served() {
        let folder = tempfile::tempdir().unwrap();
        let unix = UnixListener::bind(folder.path().join("s")).unwrap();
        prepare(unix.as_fd()).unwrap();
        let network = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(matches!(prepare(network.as_fd()), Err(ActivationError::Kind)));
        let (connected, _other) = UnixStream::pair().unwrap();
        assert!(matches!(prepare(connected.as_fd()), Err(ActivationError::Kind)));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(prepare(file.as_fd()), Err(ActivationError::Socket(_))));
    }
}
