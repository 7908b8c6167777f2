//! What the service manager is told: that the agent serves, that it is alive, that it ends.
//!
//! One datagram each, by the protocol of `sd_notify`. It is never waited for: a manager that does not
//! read is no reason to stop serving.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::edges::Watch;

/// The agent serves.
pub const READY: &str = "READY=1";
/// The agent ends.
pub const STOPPING: &str = "STOPPING=1";
/// The agent is alive.
pub const ALIVE: &str = "WATCHDOG=1";

/// The service manager, if there is one that wants to be told.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The one that the environment names.
    pub fn find(variable: impl Fn(&str) -> Option<String>) -> Self {
        let socket = variable("NOTIFY_SOCKET").and_then(|path| open(&path));
        let for_us =
            variable("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC")
            .filter(|_| for_us && socket.is_some())
            .and_then(|time| time.parse().ok())
            .filter(|time| *time > 0)
            .map(Duration::from_micros);
        Self { socket, watchdog }
    }

    /// How often it wants to hear that the agent is alive: twice in its time limit, as it asks for.
    fn interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// What says when to tell it so. Must be called within a runtime.
    pub fn beat(&self) -> io::Result<Beat> {
        let Some(interval) = self.interval() else { return Ok(Beat(None)) };
        let timer = TimerFd::new(
            ClockId::CLOCK_MONOTONIC,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        timer.set(Expiration::Interval(interval.into()), TimerSetTimeFlags::empty())?;
        Ok(Beat(Some(Watch::new(timer, EpollFlags::EPOLLIN)?)))
    }

    /// Tells it.
    pub fn tell(&self, state: &str) {
        if let Some((socket, address)) = &self.socket {
            let _ = socket.send_to_addr(state.as_bytes(), address);
        }
    }
}

/// A beat of the kernel's: the runtime's own timers wake the agent several times for one that is long.
#[derive(Debug)]
pub struct Beat(Option<Watch<TimerFd>>);

impl Beat {
    /// Waits for the next; for ever, if nobody wants to be told.
    pub async fn next(&self) {
        let Some(timer) = &self.0 else { return std::future::pending().await };
        // the agent sleeps on if its timer is lost; the manager then starts another
        if timer.edge().await.is_err() {
            std::future::pending().await
        }
        // the kernel counts on only when it has been read; there may be nothing yet at the first edge
        let _ = timer.source().wait();
    }
}

fn open(path: &str) -> Option<(UnixDatagram, SocketAddr)> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(path),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    Some((socket, address.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manager(path: &str, pid: &str, time: &str) -> Manager {
        Manager::find(|name| match name {
            "NOTIFY_SOCKET" => Some(path.to_owned()),
            "WATCHDOG_PID" => Some(pid.to_owned()),
            "WATCHDOG_USEC" => Some(time.to_owned()),
            _ => None,
        })
    }

    #[tokio::test]
    async fn the_beat_comes_again_and_again() {
        let none = Manager::default().beat().unwrap();
        let beat = Manager { watchdog: Some(Duration::from_millis(2)), ..Manager::default() };
        let beat = beat.beat().unwrap();
        for _ in 0..3 {
            tokio::select! {
                () = beat.next() => {}
                () = none.next() => panic!("nobody wants to be told"),
            }
        }
    }

    #[test]
    fn it_is_told_by_a_path_or_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let name = format!("ostler-test-{}", std::process::id());
        let abstract_address = SocketAddr::from_abstract_name(&name).unwrap();
        for (named, socket) in [
            (path.to_str().unwrap().to_owned(), UnixDatagram::bind(&path).unwrap()),
            (format!("@{name}"), UnixDatagram::bind_addr(&abstract_address).unwrap()),
        ] {
            manager(&named, "", "").tell(READY);
            let mut buffer = [0; 64];
            let count = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..count], b"READY=1", "{named}");
        }
    }

    #[test]
    fn a_manager_that_is_gone_or_does_not_read_holds_nothing_up() {
        Manager::default().tell(READY);
        manager("/no/such/socket", "", "").tell(READY);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let _socket = UnixDatagram::bind(&path).unwrap();
        let manager = manager(path.to_str().unwrap(), "", "");
        for _ in 0..2000 {
            manager.tell(ALIVE);
        }
    }

    #[test]
    fn a_watchdog_is_fed_twice_in_its_time_and_only_by_whom_it_watches() {
        let us = std::process::id().to_string();
        let watch = |pid: &str, time: &str| manager("@x", pid, time).interval();
        assert_eq!(watch(&us, "180000000"), Some(Duration::from_secs(90)));
        assert_eq!(watch("1", "180000000"), None);
        assert_eq!(watch(&us, "0"), None);
        assert_eq!(watch(&us, "soon"), None);
        assert_eq!(Manager::find(|_| None).interval(), None);
    }
}
