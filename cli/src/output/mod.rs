//! What the operator sees: results on standard output, everything else on standard error.
//!
//! Texts come from nodes and from the guests behind them: [`clean`] is applied to all of them, and
//! JSON is written with every character escaped that a terminal would obey.

mod guest;
mod host;
mod image;
mod inspect;
mod instance;
mod json;
mod network;
mod operation;
mod port;
mod shown;
mod table;
mod time;
mod volume;

use std::io::{IsTerminal, Write};

use ostler_protocol::rpc::fault::Fault;
use serde::Serialize;

pub(crate) use self::operation::{amount, outcome_text};
use self::table::{Field, Mood};
use crate::args::{Color, Format, Global};
use crate::clean::clean;
use crate::failure::{Cause, Explanation, Failure};

/// Something with a form for people. Its JSON form is serde's.
pub(crate) trait Show: Serialize {
    /// As text, ending without a line break.
    fn show(&self, look: Look) -> String;
}

/// How text looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Look {
    /// Whether it goes to a terminal, where lines may be drawn.
    pub(crate) lines: Lines,
    /// Whether colours are used.
    pub(crate) paint: Paint,
}

/// Whether tables are drawn with lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// On a terminal.
    Drawn,
    /// In files and pipes.
    None,
}

/// Whether colours are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// They are.
    Colors,
    /// They are not.
    Plain,
}

/// Where results and errors go, and in which form.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
    look: Look,
    /// The paint of standard error, which may go elsewhere than standard output.
    error_paint: Paint,
}

impl Output {
    /// As the command line and the environment say.
    pub(crate) fn new(global: &Global) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let paint = |terminal: bool| match global.color {
            Color::Always => Paint::Colors,
            Color::Auto if terminal && !no_color => Paint::Colors,
            Color::Auto | Color::Never => Paint::Plain,
        };
        let terminal = std::io::stdout().is_terminal();
        let lines = if terminal { Lines::Drawn } else { Lines::None };
        Self {
            format: global.output,
            look: Look { lines, paint: paint(terminal) },
            error_paint: paint(std::io::stderr().is_terminal()),
        }
    }

    /// The form results are written in.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// Write a result.
    pub(crate) fn result(&self, result: &impl Show) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => result.show(self.look),
            Format::Json => json::text(result)?,
        };
        Ok(write_out(format!("{text}\n").as_bytes())?)
    }

    /// Write a result whose form for people is one sentence.
    pub(crate) fn sentence(&self, json: &impl Serialize, sentence: &str) -> Result<(), Failure> {
        let text = match self.format {
            Format::Table => clean(sentence),
            Format::Json => json::text(json)?,
        };
        Ok(write_out(format!("{text}\n").as_bytes())?)
    }

    /// The same, where there are several sentences.
    pub(crate) fn sentences(&self, json: &impl Serialize, all: &[String]) -> Result<(), Failure> {
        match self.format {
            Format::Table => {
                let lines: String = all.iter().map(|line| clean(line) + "\n").collect();
                Ok(write_out(lines.as_bytes())?)
            }
            Format::Json => self.sentence(json, ""),
        }
    }

    /// Write what went wrong.
    pub(crate) fn failure(&self, failure: &Failure) {
        let explanation = failure.explain();
        let text = match self.format {
            Format::Table => explain(&explanation, self.error_paint),
            Format::Json => {
                json::text(&explanation).unwrap_or_else(|_| explain(&explanation, Paint::Plain))
            }
        };
        write_err(&text);
    }
}

/// Write bytes to standard output. A reader that has seen enough (`| head`) is no error.
pub(crate) fn write_out(bytes: &[u8]) -> Result<(), Cause> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Err(source) => Err(Cause::Local { what: "write the result".to_owned(), source }),
    }
}

/// Write a line to standard error.
pub(crate) fn note(line: &str) {
    write_err(&clean(line));
}

fn write_err(text: &str) {
    let mut err = std::io::stderr().lock();
    // There is nobody left to tell if this fails.
    drop(writeln!(err, "{text}"));
}

/// A failure as text: a sentence, then indented what else is known.
fn explain(explanation: &Explanation, paint: Paint) -> String {
    let error = match paint {
        Paint::Colors => "\x1b[1;31merror:\x1b[0m",
        Paint::Plain => "error:",
    };
    let mut text = format!("{error} {}", clean(&explanation.message));
    let mut line = |word: &str, what: &str| {
        text.push_str(&format!("\n  {word}: {}", clean(what)));
    };
    let data = &explanation.data;
    for cause in &data.causes {
        line("because", cause);
    }
    if let Some(step) = &data.step {
        line("at step", step);
    }
    if let Some(subject) = &data.subject {
        line("about", subject);
    }
    if let Some(state) = &explanation.state {
        line("state", &operation::meaning(state));
    }
    line("reason", &data.reason);
    for id in &explanation.operations {
        line("operation", &id.to_string());
    }
    if let Some(next) = &data.next {
        line("next", next);
    }
    text
}

/// A fault as rows of a table: what, why, where, the word that programs match on, and what next.
fn fault_rows<'a>(
    name: &'static str,
    fault: &'a Fault,
    reason: &str,
) -> impl Iterator<Item = (&'static str, Field)> + 'a {
    let data = &fault.data;
    let word = format!("{reason} ({})", fault.code);
    let causes = data.causes.iter().map(|cause| ("because", Field::plain(cause)));
    let step = data.step.iter().map(|step| ("at step", Field::plain(step)));
    let next = data.next.iter().map(|next| ("next", Field::plain(next)));
    std::iter::once((name, Field::new(&fault.message, Mood::Bad)))
        .chain(causes)
        .chain(step)
        .chain(std::iter::once(("reason", Field::plain(word))))
        .chain(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_reads_from_what_to_why_to_what_next() {
        use ostler_protocol::rpc::fault::{Fault, Reason};
        let mut fault = Fault::new(Reason::NoSpace, "the disk could not be made")
            .at("create root disk")
            .next("free some space");
        fault.data.causes = vec!["qemu-img failed".into(), "ENOSPC\x1b[2J".into()];
        let text = explain(&Failure::from(Cause::from(fault)).explain(), Paint::Plain);
        assert_eq!(
            text,
            "error: the disk could not be made\n  because: qemu-img failed\n  because: \
             ENOSPC\u{fffd}[2J\n  at step: create root disk\n  reason: no_space\n  next: free some \
             space"
        );
    }
}
