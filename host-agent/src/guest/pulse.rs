//! When a silence is a silence, and when a port is opened again. Pure: the clock is the caller's.
//!
//! ```text
//!   heard -- three heartbeats missed, or an answer, or somebody doubts --> a sync is sent
//!     ^                                                                       |
//!     | anything sound comes                                         no reply | doubling waits
//!     +---------------------------------------------- silent, and again <-----+--> give the link up
//! ```
//!
//! An agent that never said a word on this link is not silent: its port may not be open in the guest
//! yet, and what was sent waits there for it. Sending more would only fill the pipe.

use std::time::Duration;

use tokio::time::Instant;

use super::settings::Pace;

/// Heartbeats that may fail to come.
const MISSED_BEATS: u32 = 3;
/// Signs of life that are asked for in vain before the link is opened afresh.
const MOST_DOUBTS: u32 = 4;
/// A guest's own word on its interval is held within these, seconds: one whose beats are further apart
/// is asked in between, and one that lies is not taken for alive much longer than any other.
const INTERVAL: std::ops::RangeInclusive<u64> = 1..=60;
/// A link that was good for so long earns a fresh start after it ends.
const GOOD: Duration = Duration::from_secs(60);

/// What is to be done about the agent's silence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Beat {
    /// Nothing, yet.
    Wait,
    /// Ask for a sign of life.
    Ask,
    /// It is silent. Ask again.
    Silent,
    /// It is silent, and this link leads nowhere.
    GiveUp,
}

/// The agent's signs of life on one link.
#[derive(Debug, Clone)]
pub(super) struct Pulse {
    doubt: Duration,
    every: Option<Duration>,
    doubts: u32,
    heard: Option<Instant>,
    due: Option<Instant>,
}

impl Pulse {
    /// Of a link just opened.
    pub(super) fn new(pace: &Pace) -> Self {
        Self { doubt: pace.doubt, every: None, doubts: 0, heard: None, due: None }
    }

    /// Something sound came.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = Some(now);
        self.doubts = 0;
        self.due = self.every.map(|every| now + every * MISSED_BEATS);
    }

    /// A heartbeat came, and the next is due in so many seconds.
    pub(super) fn heartbeat(&mut self, seconds: u64, now: Instant) {
        let seconds = seconds.clamp(*INTERVAL.start(), *INTERVAL.end());
        self.every = Some(Duration::from_secs(seconds));
        self.heard(now);
    }

    /// Whether nothing came since then.
    pub(super) fn silent_since(&self, then: Instant) -> bool {
        self.heard.is_some_and(|heard| heard < then)
    }

    /// There is a reason to ask for a sign of life.
    pub(super) fn suspect(&mut self, now: Instant) {
        if self.heard.is_some() && self.doubts == 0 {
            self.due = Some(now);
        }
    }

    /// When to look again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// What is to be done now.
    pub(super) fn tick(&mut self, now: Instant) -> Beat {
        if self.due.is_none_or(|due| now < due) {
            return Beat::Wait;
        }
        self.doubts += 1;
        self.due = Some(now + self.doubt * (1 << self.doubts.min(MOST_DOUBTS)) / 2);
        match self.doubts {
            0..=1 => Beat::Ask,
            2..=MOST_DOUBTS => Beat::Silent,
            _ => Beat::GiveUp,
        }
    }
}

/// Why a link ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The session is over.
    Stopped,
    /// It could not be opened.
    Absent,
    /// The other side closed it.
    Closed,
    /// Nobody answers on it.
    Unanswered,
    /// What comes is not the protocol.
    Garbled,
}

/// A wait before the link is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pause {
    /// How long.
    pub(super) length: Duration,
    /// Whether word that the guest changed ends it early. A guest that misbehaves cannot shorten its
    /// penalty so.
    pub(super) wakeable: bool,
}

/// How often it went wrong lately.
#[derive(Debug, Clone)]
pub(super) struct Retry {
    pace: Pace,
    failures: u32,
    penalties: u32,
}

impl Retry {
    /// At the start of a session.
    pub(super) fn new(pace: Pace) -> Self {
        Self { pace, failures: 0, penalties: 0 }
    }

    /// The wait after a link that ended so, having stood so long.
    pub(super) fn after(&mut self, end: End, stood: Duration) -> Pause {
        if stood >= GOOD {
            self.failures = 0;
            self.penalties = 0;
        }
        let doubled = |first: Duration, times: u32, most: Duration| {
            first.saturating_mul(1 << times.min(16)).min(most)
        };
        match end {
            End::Stopped => Pause { length: Duration::ZERO, wakeable: true },
            End::Absent | End::Closed => {
                let length = doubled(self.pace.reopen, self.failures, self.pace.reopen_most);
                self.failures = self.failures.saturating_add(1);
                Pause { length, wakeable: true }
            }
            End::Unanswered | End::Garbled => {
                let length = doubled(self.pace.penalty, self.penalties, self.pace.penalty_most);
                self.penalties = self.penalties.saturating_add(1);
                Pause { length, wakeable: end == End::Unanswered }
            }
        }
    }

    /// Word came that the guest changed: it is not to wait for what went wrong before.
    pub(super) fn woken(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::settings::GuestSettings;

    const PACE: Pace = GuestSettings::new(Duration::from_secs(10)).pace;
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_agent_that_never_spoke_is_not_silent() {
        let now = Instant::now();
        let mut pulse = Pulse::new(&PACE);
        pulse.suspect(now);
        assert_eq!((pulse.due(), pulse.tick(now + SECOND * 3600)), (None, Beat::Wait));
    }

    #[test]
    fn three_missed_heartbeats_are_doubted_then_silence_then_the_end() {
        let start = Instant::now();
        let mut pulse = Pulse::new(&PACE);
        pulse.heartbeat(5, start);
        assert_eq!(pulse.tick(start + SECOND * 14), Beat::Wait);
        let mut beats = Vec::new();
        let mut after = Vec::new();
        while beats.last() != Some(&Beat::GiveUp) {
            let due = pulse.due().unwrap();
            after.push((due - start).as_secs());
            beats.push(pulse.tick(due));
        }
        assert_eq!(beats, [Beat::Ask, Beat::Silent, Beat::Silent, Beat::Silent, Beat::GiveUp]);
        assert_eq!(after, [15, 17, 21, 29, 45]);
    }

    #[test]
    fn a_sign_of_life_ends_all_doubt() {
        let now = Instant::now();
        let mut pulse = Pulse::new(&PACE);
        pulse.heard(now);
        pulse.suspect(now);
        assert_eq!(pulse.tick(now), Beat::Ask);
        pulse.heard(now + SECOND);
        assert_eq!((pulse.due(), pulse.tick(now + SECOND * 60)), (None, Beat::Wait));
    }

    #[test]
    fn a_guests_word_on_its_interval_is_held_in_bounds() {
        let now = Instant::now();
        for (said, held) in [(0, 3), (u64::from(u32::MAX), 180), (u64::MAX, 180)] {
            let mut pulse = Pulse::new(&PACE);
            pulse.heartbeat(said, now);
            assert_eq!(pulse.due(), Some(now + SECOND * held));
        }
    }

    #[test]
    fn waits_double_to_their_most_and_a_good_link_resets_them() {
        let mut retry = Retry::new(PACE);
        let mut wait = |end, stood| retry.after(end, stood).length.as_millis();
        let absent: Vec<_> = (0..8).map(|_| wait(End::Absent, Duration::ZERO)).collect();
        assert_eq!(absent, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
        let garbled: Vec<_> = (0..7).map(|_| wait(End::Garbled, SECOND)).collect();
        assert_eq!(garbled, [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(wait(End::Garbled, GOOD), 1000);
    }

    #[test]
    fn a_garbled_guest_cannot_shorten_its_penalty() {
        let mut retry = Retry::new(PACE);
        assert!(!retry.after(End::Garbled, SECOND).wakeable);
        assert!(retry.after(End::Absent, Duration::ZERO).wakeable);
    }
}
