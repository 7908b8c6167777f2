//! The agent's log: standard error, one line an entry.
//!
//! The form is that of stock agents (`SECONDS.MICROS: level: text`), so what watches their log can
//! watch this one. No secret is ever passed here.

use std::error::Error;
use std::fmt;
use std::io::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Where entries go, and which.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    verbosity: Verbosity,
}

/// Which entries are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors.
    #[default]
    Errors,
    /// All of them.
    All,
}

impl Log {
    /// A log that writes what `verbosity` lets through.
    pub fn new(verbosity: Verbosity) -> Self {
        Self { verbosity }
    }

    /// Something that was asked for did not happen.
    pub fn error(self, text: fmt::Arguments<'_>) {
        write("error", text);
    }

    /// Something happened that is worth knowing when looking for a cause.
    pub fn info(self, text: fmt::Arguments<'_>) {
        match self.verbosity {
            Verbosity::Errors => {}
            Verbosity::All => write("info", text),
        }
    }

    /// A command that changes the guest was asked for. Its arguments are not told: they may be secret.
    pub fn audit(self, command: &str, id: Option<&Value>) {
        match id {
            Some(id) => self.info(format_args!("{command} called, id {id}")),
            None => self.info(format_args!("{command} called")),
        }
    }
}

fn write(level: &str, text: fmt::Arguments<'_>) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // a log that cannot be written is no reason to stop serving
    let _ = writeln!(
        std::io::stderr().lock(),
        "{}.{:06}: {level}: {text}",
        now.as_secs(),
        now.subsec_micros()
    );
}

/// An error with all its causes, as one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
