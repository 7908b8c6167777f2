//! How long file systems may stay frozen, and the note that outlives the agent.
//!
//! A lease runs in real time: a guest that was suspended meanwhile finds it lapsed when it wakes. It is
//! counted on the clock of the boot, which nobody sets. The note is written before anything is frozen;
//! an agent that starts and finds it was killed while file systems were frozen, and goes on from there.

use std::fmt::Write;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::epoll::EpollFlags;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::commands::info;
use crate::edges::Watch;

/// A time by which file systems are to be thawed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    /// How long it was given for.
    pub(super) length: Duration,
    /// When it ends, since the boot.
    end: Duration,
}

impl Lease {
    /// One that begins now.
    pub(super) fn begin(length: Duration) -> Self {
        Self { length, end: since_boot() + length }
    }

    /// What is left of it.
    pub(super) fn left(&self) -> Duration {
        self.end.saturating_sub(since_boot())
    }

    /// Waits until it has lapsed.
    pub(super) async fn lapse(&self) {
        if let Ok(timer) = self.timer() {
            // the timer is looked at, not believed: the edge may be the first, that tells how it is now
            while !self.left().is_zero() && timer.edge().await.is_ok() {}
        }
        // without such a timer, one that stands still in a suspended guest
        while !self.left().is_zero() {
            tokio::time::sleep(self.left()).await;
        }
    }

    fn timer(&self) -> io::Result<Watch<TimerFd>> {
        let timer = TimerFd::new(
            ClockId::CLOCK_BOOTTIME,
            TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC,
        )?;
        let end = Expiration::OneShot(TimeSpec::from_duration(self.end));
        timer.set(end, TimerSetTimeFlags::TFD_TIMER_ABSTIME)?;
        Watch::new(timer, EpollFlags::EPOLLIN)
    }
}

fn since_boot() -> Duration {
    nix::time::clock_gettime(nix::time::ClockId::CLOCK_BOOTTIME)
        .map_or(Duration::ZERO, Duration::from)
}

/// The note that file systems are frozen.
#[derive(Clone, Debug)]
pub(super) struct Note {
    path: PathBuf,
}

impl Note {
    /// The note in the agent's state directory, named as the stock agent names it.
    pub(super) fn within(directory: &Path) -> Self {
        Self { path: directory.join("qga.state.isfrozen") }
    }

    /// Writes it. The names are for people: whoever finds it thaws whatever is frozen.
    pub(super) fn write(&self, lease: &Lease, names: &[String]) -> io::Result<()> {
        let mut text = String::new();
        let boot = info::boot_id().unwrap_or_default();
        // a string takes whatever is written to it
        let _ = writeln!(text, "boot {boot}");
        let _ = writeln!(text, "lease {}", lease.length.as_millis());
        let _ = writeln!(text, "end {}", lease.end.as_millis());
        for name in names {
            let _ = writeln!(text, "filesystem {}", name.escape_debug());
        }
        fs::write(&self.path, text)
    }

    /// Takes it away; there may be none.
    pub(super) fn remove(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The lease of what an agent before this one has frozen, if it has. A note that says nothing, as
    /// the stock agent's, or makes no sense, is given `length` from now. One of an earlier boot is void.
    pub(super) fn read(&self, length: Duration) -> Option<Lease> {
        let text = fs::read(&self.path).ok()?;
        let text = String::from_utf8_lossy(&text);
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
        let time = |key: &str| value(key)?.parse().ok().map(Duration::from_millis);
        let boot = value("boot").filter(|boot| !boot.is_empty());
        if boot.is_some_and(|boot| info::boot_id().is_some_and(|now| now != boot)) {
            return None;
        }
        let fresh = Lease::begin(length);
        Some(match (time("lease"), time("end")) {
            (Some(length), Some(end)) if end <= since_boot() + length => Lease { length, end },
            _ => fresh,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_lease_lapses_when_its_time_has_come() {
        let lease = Lease::begin(Duration::from_millis(20));
        lease.lapse().await;
        assert!(lease.left().is_zero());
        // and at once when it has already
        lease.lapse().await;
    }

    #[tokio::test]
    async fn a_lease_that_has_not_lapsed_is_waited_for() {
        let lease = Lease::begin(Duration::from_secs(600));
        let wait = tokio::time::timeout(Duration::from_millis(20), lease.lapse()).await;
        assert!(wait.is_err());
        assert!(lease.left() <= Duration::from_secs(600) && !lease.left().is_zero());
    }

    #[test]
    fn the_next_agent_finds_the_lease() {
        let folder = tempfile::tempdir().unwrap();
        let note = Note::within(folder.path());
        let length = Duration::from_secs(60);
        assert!(note.read(length).is_none());
        let lease = Lease::begin(Duration::from_secs(7));
        note.write(&lease, &["/srv\n/x".to_owned()]).unwrap();
        let found = note.read(length).unwrap();
        assert_eq!(found.length, lease.length);
        assert_eq!(found.end.as_millis(), lease.end.as_millis());
        note.remove().unwrap();
        note.remove().unwrap();
        assert!(note.read(length).is_none());
    }

    #[test]
    fn a_note_without_a_sensible_lease_is_given_one() {
        let folder = tempfile::tempdir().unwrap();
        let note = Note::within(folder.path());
        let length = Duration::from_secs(60);
        for text in ["", "lease x\nend 1\n", "lease 1000\nend 99999999999999\n", "\u{ff}"] {
            fs::write(&note.path, text).unwrap();
            let lease = note.read(length).unwrap();
            assert_eq!(lease.length, length, "{text}");
            assert!(!lease.left().is_zero() && lease.left() <= length, "{text}");
        }
    }

    #[test]
    fn a_note_of_an_earlier_boot_is_void() {
        let folder = tempfile::tempdir().unwrap();
        let note = Note::within(folder.path());
        fs::write(&note.path, "boot 0d9e\nlease 60000\nend 1\n").unwrap();
        assert!(note.read(Duration::from_secs(60)).is_none());
    }
}
