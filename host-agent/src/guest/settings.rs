//! How long guests may take and how much they may send.

use std::time::Duration;

use ostler_protocol::qga::bounds;

/// What bounds the dealings with each guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestSettings {
    /// For one answer, and for one whole report.
    pub answer_timeout: Duration,
    /// How long a command whose success has no reply is listened after for an error.
    pub quiet: Duration,
    /// What a program has between being asked to end and being ended.
    pub grace: Duration,
    /// What a guest may send.
    pub caps: Caps,
    /// When things are tried again.
    pub pace: Pace,
}

/// What one guest may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Bytes of one message while an answer is due.
    pub answer: usize,
    /// Bytes of one message while none is.
    pub event: usize,
    /// Brackets one message may have open.
    pub depth: usize,
    /// Bytes a second, and what the handling of many small things amounts to in bytes; a guest that
    /// sends more is read no faster.
    pub rate: u32,
    /// Bytes it may be ahead of that rate.
    pub burst: u32,
    /// Questions on their way at once.
    pub in_flight: usize,
    /// Bad messages, less the good ones, that make its talk garbled.
    pub bad: u32,
}

/// When things are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// First wait before the socket is opened again; it doubles.
    pub reopen: Duration,
    /// The longest such wait.
    pub reopen_most: Duration,
    /// The same after garbled talk or a silence.
    pub penalty: Duration,
    /// The longest penalty.
    pub penalty_most: Duration,
    /// How long an agent that fell silent has for the first sign of life asked of it; it doubles.
    pub doubt: Duration,
    /// First wait before the standard port is tried again; it doubles.
    pub probe: Duration,
    /// The longest such wait.
    pub probe_most: Duration,
}

impl Default for GuestSettings {
    fn default() -> Self {
        Self::new(Duration::from_secs(10))
    }
}

impl GuestSettings {
    /// The defaults, with this much time for an answer.
    pub const fn new(answer_timeout: Duration) -> Self {
        Self {
            answer_timeout,
            quiet: Duration::from_millis(500),
            grace: Duration::from_secs(5),
            caps: Caps {
                answer: bounds::ANSWER_BYTES,
                event: bounds::EVENT_BYTES,
                depth: 32,
                rate: 256 << 10,
                burst: 2 << 20,
                in_flight: 16,
                bad: 16,
            },
            pace: Pace {
                reopen: Duration::from_millis(50),
                reopen_most: Duration::from_secs(2),
                penalty: Duration::from_secs(1),
                penalty_most: Duration::from_secs(30),
                doubt: Duration::from_secs(2),
                probe: Duration::from_secs(2),
                probe_most: Duration::from_secs(60),
            },
        }
    }
}
