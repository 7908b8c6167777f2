//! What can go wrong with a network, in the operator's words.

use std::io;

use super::plan::{Change, Refusal};

/// Why a call on the node's network did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// There is no netlink socket to be had.
    #[error("cannot open a netlink socket")]
    Open(#[source] io::Error),
    /// The node's links could not be read.
    #[error("cannot list the node's {what}")]
    List {
        /// Links or addresses.
        what: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// What was asked contradicts what is there.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// One change failed; those before it stand, and a repeat goes on from there.
    #[error("cannot {change} (bridge {bridge})")]
    Apply {
        /// The bridge being made sure of.
        bridge: String,
        /// The change that failed.
        change: Change,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A tap could not be plugged in again.
    #[error("cannot plug tap {tap} into its bridge")]
    Plug {
        /// Its name.
        tap: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The link could not be removed.
    #[error("cannot remove link {link}")]
    Remove {
        /// Its name.
        link: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// Somebody else keeps changing the same links.
    #[error("bridge {bridge} keeps changing while it is being made: another program manages it")]
    Unsettled {
        /// The bridge being made sure of.
        bridge: String,
    },
}

impl NetworkError {
    /// Whether the same call may succeed later with nothing changed by the operator.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Open(_) | Self::Unsettled { .. } => true,
            Self::List { source, .. }
            | Self::Apply { source, .. }
            | Self::Plug { source, .. }
            | Self::Remove { source, .. } => {
                matches!(
                    source.kind(),
                    io::ErrorKind::TimedOut
                        | io::ErrorKind::Interrupted
                        | io::ErrorKind::WouldBlock
                        | io::ErrorKind::ResourceBusy
                        | io::ErrorKind::OutOfMemory
                )
            }
            Self::Refused(_) => false,
        }
    }
}
