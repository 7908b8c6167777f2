//! The journal: what the agent must still know after its process, or the node, has died.
//!
//! ```text
//!   compute ── typed writes ──> one thread ── SQLite, WAL, synchronous=FULL ──> disk
//!                                  (writes that wait together share one commit)
//! ```
//!
//! An operation's row is written when it is accepted, before each step and after it; a command is
//! acknowledged only after its row is on disk. Bodies are JSON of the records, so that a field may
//! be added without a migration; what is searched for has a column. No secret is ever written: an
//! operation that needs one keeps it in memory and does not survive a crash.

pub mod records;
mod reserve;
mod store;
mod thread;

use std::path::PathBuf;

use ostler_protocol::rpc::values::PortId;

pub use store::{Accepted, Entry, PortEntry, Snapshot, VolumeEntry, Write};
pub use thread::Journal;

/// What went wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or is not a journal.
    #[error("cannot open the journal {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The file was written by a newer agent.
    #[error("the journal {path} has version {found}; this agent knows versions up to {known}")]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest this build knows.
        known: i64,
    },
    /// A read or a write failed; nothing of it was kept.
    #[error("cannot {action}")]
    Sql {
        /// What was being done.
        action: &'static str,
        /// Why it failed.
        source: rusqlite::Error,
    },
    /// A body cannot be read back.
    #[error("the journal's {what} {id} cannot be read")]
    Body {
        /// The table.
        what: &'static str,
        /// The row.
        id: String,
        /// Why not.
        source: serde_json::Error,
    },
    /// The journal's thread is gone.
    #[error("the journal is closed")]
    Closed,
}

impl Error {
    /// Whether the disk is full.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Sql { source, .. } => {
                source.sqlite_error_code() == Some(rusqlite::ErrorCode::DiskFull)
            }
            Self::Newer { .. } | Self::Body { .. } | Self::Closed => false,
        }
    }

    /// The port whose row it is about, as far as that can be told.
    pub fn port(&self) -> Option<PortId> {
        match self {
            Self::Body { what: store::PORT, id, .. } => id.parse().ok(),
            Self::Body { .. }
            | Self::Open { .. }
            | Self::Newer { .. }
            | Self::Sql { .. }
            | Self::Closed => None,
        }
    }

    /// Whether it is about an instance's row.
    pub fn is_of_an_instance(&self) -> bool {
        matches!(self, Self::Body { what, .. } if *what == store::INSTANCE)
    }

    /// Whether it is about the row of something that may lie on an image.
    pub fn is_of_what_needs_images(&self) -> bool {
        matches!(self, Self::Body { what, .. } if [store::INSTANCE, store::VOLUME].contains(what))
    }
}
