//! The one error of the harness: which step, on what, and what was seen
//! instead, since whoever reads it has only a test's output to go by.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// What the harness returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why the harness could not do what a test asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A condition did not come true in time.
    #[error("{what}: not so after {waited:?}; last seen: {seen}")]
    TimedOut {
        /// The condition.
        what: String,
        /// How long it was waited for.
        waited: Duration,
        /// What was so instead.
        seen: String,
    },
    /// A program ended with a failure.
    #[error("`{command}` failed ({status}): {stderr}")]
    Failed {
        /// The program and its arguments; never what it was given on stdin.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A program ended while it was needed.
    #[error("{name} ended by itself; the end of its log:\n{log}")]
    Ended {
        /// Which program.
        name: String,
        /// The last lines it wrote.
        log: String,
    },
    /// Something that must be there is not.
    #[error("{what} is missing: {remedy}")]
    Missing {
        /// What.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// The system refused something.
    #[error("{step}")]
    Io {
        /// What was tried, and on what.
        step: String,
        /// Why not.
        source: io::Error,
    },
    /// What was read is not what it should be.
    #[error("{what} is not understood: {text}")]
    Garbled {
        /// What was read.
        what: String,
        /// The text itself.
        text: String,
    },
    /// The broker refused something.
    #[error("broker: {step}")]
    Broker {
        /// What was tried.
        step: String,
        /// Why not.
        source: Box<lapin::Error>,
    },
    /// The user interrupted.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An [`Error::Io`], for `map_err`.
    pub fn io(step: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { step: step.into(), source }
    }

    /// The same for a refusal of the kernel's.
    pub fn errno(step: impl Into<String>) -> impl FnOnce(nix::Error) -> Self {
        move |errno| Self::Io { step: step.into(), source: errno.into() }
    }

    /// The same on a path.
    pub fn path(doing: &str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let step = format!("{doing} {}", path.into().display());
        move |source| Self::Io { step, source }
    }

    /// The same error, with more of what was seen if it ran out of time.
    #[must_use]
    pub fn with(mut self, more: &str) -> Self {
        if let Self::TimedOut { seen, .. } = &mut self {
            seen.push_str("; ");
            seen.push_str(more);
        }
        self
    }

    /// The same for the broker.
    pub fn broker(step: impl Into<String>) -> impl FnOnce(lapin::Error) -> Self {
        move |source| Self::Broker { step: step.into(), source: Box::new(source) }
    }
}
