//! Why a console request was refused.

use std::path::PathBuf;

use ostler_protocol::rpc::console::WRITE_MAX;
use ostler_protocol::rpc::values::ConsoleId;

/// A refused request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such session.
    #[error(
        "there is no console session {session}: it was closed, was not read for a minute, or is \
         from before the agent was restarted"
    )]
    Unknown {
        /// The session.
        session: ConsoleId,
    },
    /// There are too many sessions.
    #[error("busy: {open} console sessions are open on {of}")]
    Full {
        /// How many there are.
        open: usize,
        /// Of what.
        of: &'static str,
    },
    /// A place that is not reached yet.
    #[error("{at} is ahead of the session, which is at {end}")]
    Ahead {
        /// The place given.
        at: u64,
        /// The last place there is.
        end: u64,
    },
    /// More than one request may bring.
    #[error("{bytes} bytes are more than the {WRITE_MAX} one write may bring")]
    TooMuch {
        /// How many.
        bytes: usize,
    },
    /// The log cannot be read.
    #[error("the console's log {path} cannot be read")]
    Log {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}
