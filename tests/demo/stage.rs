//! What the demo tells, as it goes: numbered steps, the commands, how long each took.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::time::Instant;

use ostler_tests::{Error, Result};

/// What is told, as it goes.
pub(crate) struct Stage {
    colours: bool,
    began: Instant,
    number: usize,
    step: (String, Instant),
}

impl Stage {
    pub(crate) fn new() -> Self {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colours = std::io::stdout().is_terminal() && !plain;
        let now = Instant::now();
        Self { colours, began: now, number: 0, step: ("start".to_owned(), now) }
    }

    pub(crate) fn paint(&self, code: &str, text: &str) -> String {
        if self.colours { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    pub(crate) fn print(&self, text: &str) -> Result<()> {
        let mut out = std::io::stdout();
        writeln!(out, "{text}").and_then(|()| out.flush()).map_err(Error::io("printing"))
    }

    /// The next step begins.
    pub(crate) fn step(&mut self, title: &str) -> Result<()> {
        self.number += 1;
        self.step = (title.to_owned(), Instant::now());
        let title = format!("{:>2}. {title}", self.number);
        self.print(&format!("\n{}", self.paint("1", &title)))
    }

    pub(crate) fn command(&self, line: &str) -> Result<()> {
        self.print(&self.paint("36", &format!("    $ {line}")))
    }

    pub(crate) fn say(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.print(&format!("    {line}")))
    }

    /// The same, in the background.
    pub(crate) fn aside(&self, text: &str) -> Result<()> {
        text.lines().try_for_each(|line| self.say(&self.paint("2", line)))
    }

    /// It is over.
    pub(crate) fn done(&self) -> Result<()> {
        let took = format!("    ({:.2} s)", self.step.1.elapsed().as_secs_f64());
        self.print(&self.paint("32", &took))
    }

    /// Why it is not, with the end of the agent's log unless it was the user's wish.
    pub(crate) fn fell(&self, error: &Error, log: Option<&str>) {
        let mut text = match (error, log) {
            (Error::Interrupted, _) | (_, None) => String::new(),
            (_, Some(log)) => format!("\n--- the end of the host agent's log\n{log}\n---\n"),
        };
        let at = format!("demo: step {}, {}: {}", self.number, self.step.0, chain(error));
        let _cannot_fail = writeln!(text, "\n{}", self.paint("31", &at));
        let _unheard = std::io::stderr().write_all(text.as_bytes());
    }

    pub(crate) fn curtain(&self) -> Result<()> {
        let seconds = self.began.elapsed().as_secs_f64();
        let text = format!(
            "{} steps in {seconds:.0} s; what was started for them is stopped again",
            self.number
        );
        self.print(&format!("\n{}", self.paint("1;32", &text)))
    }
}

/// An error and its sources, on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let _cannot_fail = write!(text, ": {cause}");
        source = cause.source();
    }
    text
}

/// A word as a shell has to be given it.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_as_a_shell_needs_them() {
        assert_eq!(quoted("/a/b.qcow2"), "/a/b.qcow2");
        assert_eq!(quoted("console=ttyS0 quiet"), "'console=ttyS0 quiet'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
