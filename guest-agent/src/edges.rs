//! Edges of a descriptor: that something changed, not how things are.
//!
//! A virtio-serial port whose host is away polls as readable and hung up for as long as that lasts, and
//! a read gives 0 each time. The runtime takes a hang-up as final and would report the port ready for
//! ever. So each descriptor gets an epoll set of its own, edge-triggered, and the runtime watches that
//! set: the set is readable when the kernel woke the port's queue (data, room, host came or went) and
//! is quiet again once the edge was taken.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What the kernel told with an edge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    /// The other side is away.
    pub hung_up: bool,
}

/// A descriptor and its edges.
#[derive(Debug)]
pub struct Watch<F> {
    source: F,
    set: AsyncFd<Set>,
}

#[derive(Debug)]
struct Set(Epoll);

impl AsRawFd for Set {
    fn as_raw_fd(&self) -> RawFd {
        self.0.0.as_raw_fd()
    }
}

/// What owns the one descriptor it gives out, and closes it when it is dropped.
pub(crate) trait Owner: AsRawFd {}
impl Owner for Set {}
impl Owner for File {}
impl Owner for OwnedFd {}

/// Has the runtime watch a descriptor, which must not block.
pub(crate) fn register<T: Owner>(owner: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    #[expect(unsafe_code, reason = "the runtime has no safe way to watch a descriptor")]
    // SAFETY: an `Owner` gives the same open descriptor each time until it is dropped, which `AsyncFd`
    // does after it has ceased to watch.
    let registered = unsafe { AsyncFd::register_with_interest(owner, interest) };
    registered.map_err(Into::into)
}

/// A file that the kernel marks as exceptional when its contents have changed, as it does with tables
/// under `/proc`. Looking takes the mark away, so there must be one look: no epoll set in between.
#[derive(Debug)]
pub struct Table(AsyncFd<File>);

impl Table {
    /// Watches `file` from now on.
    pub fn new(file: File) -> io::Result<Self> {
        register(file, Interest::PRIORITY).map(Self)
    }

    /// Waits for a change. Nothing is lost when the wait is given up.
    pub async fn changed(&self) -> io::Result<()> {
        self.0.ready(Interest::PRIORITY).await?.clear_ready();
        Ok(())
    }
}

impl<F: AsFd> Watch<F> {
    /// Watches `source`, which must not block. The first edge tells how it is now.
    pub fn new(source: F, interest: EpollFlags) -> io::Result<Self> {
        let set = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        set.add(&source, EpollEvent::new(interest | EpollFlags::EPOLLET, 0))?;
        let set = register(Set(set), Interest::READABLE)?;
        Ok(Self { source, set })
    }

    /// The descriptor.
    pub fn source(&self) -> &F {
        &self.source
    }

    /// Waits for the next edge. Nothing is lost when the wait is given up.
    pub async fn edge(&self) -> io::Result<Edge> {
        let mut events = [EpollEvent::empty()];
        loop {
            let mut ready = self.set.readable().await?;
            match self.set.get_ref().0.wait(&mut events, EpollTimeout::ZERO) {
                Ok(0) => ready.clear_ready(),
                Ok(_) => {
                    let hung_up = events[0].events().contains(EpollFlags::EPOLLHUP);
                    return Ok(Edge { hung_up });
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    #[tokio::test]
    async fn an_edge_is_told_once() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let watch = Watch::new(ours, EpollFlags::EPOLLIN).unwrap();
        theirs.write_all(b"x").unwrap();
        assert!(!watch.edge().await.unwrap().hung_up);
        // the byte is still there, and yet there is no edge
        let again = tokio::time::timeout(Duration::from_millis(20), watch.edge()).await;
        assert!(again.is_err());
        theirs.write_all(b"y").unwrap();
        watch.edge().await.unwrap();
        let mut bytes = [0; 8];
        assert_eq!(watch.source().read(&mut bytes).unwrap(), 2);
        drop(theirs);
        assert!(watch.edge().await.unwrap().hung_up);
        let again = tokio::time::timeout(Duration::from_millis(20), watch.edge()).await;
        assert!(again.is_err(), "a hang-up is an edge, not a state");
    }
}
