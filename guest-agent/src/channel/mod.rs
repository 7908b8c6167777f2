//! The agent's channels.
//!
//! ```text
//!  serial::serve --- opens the port, waits while the host is away ---+
//!                                                                    +--> session::Session
//!  isa::serve ------ opens the line ---------------------------------+     (one per opening)
//!                                                                    |
//!  socket::serve --- accepts one client after the other -------------+
//!    of unix, vsock, activation
//! ```
//!
//! A [`session`] begins when the other side opens the channel and ends when it closes it; nothing is
//! kept from one to the next, neither half a request nor an unsent answer; commands that were begun go
//! on in [`unfinished`](crate::unfinished). Ports wait for [`edges`](crate::edges), not for levels,
//! because a port whose host is away is "readable" all the time; a [`socket`] needs less.

pub mod activation;
pub mod hotplug;
pub mod isa;
pub mod output;
pub mod serial;
pub mod session;
pub mod socket;
pub mod unix;
pub mod vsock;

/// Whose rules a channel follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The standard's: answers only, in the order of the requests.
    Standard,
    /// Ostler's: requests overlap, and events are sent.
    Ostler,
}

impl Kind {
    /// What the log calls it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Ostler => "ostler",
        }
    }

    /// How many requests may be under way at a time.
    fn overlap(self) -> usize {
        match self {
            Self::Standard => 1,
            Self::Ostler => 8,
        }
    }
}
