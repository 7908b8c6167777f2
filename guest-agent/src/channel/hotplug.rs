//! Waiting for a port that is not there, or not there any more.
//!
//! The kernel announces each device on a netlink socket, and the name of a port by a second
//! announcement; udev then makes the link, which inotify sees. Whichever comes, the port is tried
//! again. Both are set up before the first try, so nothing falls in between. A slow timer stands in
//! where neither is to be had (a container) or where the port is busy, which nothing announces.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use nix::sys::socket::SockProtocol;

use crate::edges::Watch;
use crate::log::Log;
use crate::netlink::{self, drain};

/// Rarely: an agent that waits sleeps.
const AGAIN: Duration = Duration::from_secs(120);
const AGAIN_IF_BUSY: Duration = Duration::from_secs(5);

/// Tries `open` until it succeeds, whenever something changed that may be the reason.
pub async fn wait<T>(path: &Path, log: &Log, mut open: impl FnMut() -> io::Result<T>) -> T {
    let devices = devices();
    let files = files(path);
    let mut told = None;
    loop {
        let error = match open() {
            Ok(port) => return port,
            Err(error) => error,
        };
        let absent = error.kind() == io::ErrorKind::NotFound;
        if told != Some(error.kind()) {
            told = Some(error.kind());
            if absent {
                log.info(format_args!("waiting for {}", path.display()));
            } else {
                log.error(format_args!("cannot open {}: {error}", path.display()));
            }
        }
        tokio::select! {
            () = changed(devices.as_ref()) => {}
            () = changed(files.as_ref()) => {}
            () = tokio::time::sleep(if absent { AGAIN } else { AGAIN_IF_BUSY }) => {}
        }
    }
}

/// Waits for an edge and empties what it announces; for ever if there is nothing to wait for.
async fn changed(watch: Option<&Watch<OwnedFd>>) {
    let Some(watch) = watch else { return std::future::pending().await };
    if watch.edge().await.is_err() {
        return std::future::pending().await;
    }
    drain(watch.source());
}

/// The kernel's announcements of devices.
fn devices() -> Option<Watch<OwnedFd>> {
    netlink::listen(SockProtocol::NetlinkKObjectUEvent, 1).ok()
}

/// What appears in the port's folder, and the folder itself.
fn files(path: &Path) -> Option<Watch<OwnedFd>> {
    let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).ok()?;
    let flags = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_MOVED_TO;
    let mut found = false;
    for folder in path.ancestors().skip(1).take(2) {
        found |= inotify.add_watch(folder, flags).is_ok();
    }
    if !found {
        return None;
    }
    Watch::new(OwnedFd::from(inotify), EpollFlags::EPOLLIN).ok()
}
