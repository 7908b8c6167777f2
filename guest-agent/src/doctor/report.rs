//! How findings are written.

use std::ffi::OsString;
use std::fmt::Write;

use serde::Serialize;

use super::{Finding, Verdict, worst};

/// What they are written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// For people.
    Table(Colour),
    /// For programs.
    Json,
}

/// Whether a terminal shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Colour {
    Yes,
    No,
}

impl Form {
    /// Takes `--output FORM` out of the arguments; the rest are the agent's. An error is the form that
    /// is none.
    pub(super) fn read(
        arguments: impl Iterator<Item = OsString>,
        terminal: bool,
    ) -> Result<(Self, Vec<OsString>), String> {
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let colour = if terminal && !plain { Colour::Yes } else { Colour::No };
        let mut form = Self::Table(colour);
        let mut rest = Vec::new();
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            let word = match argument.to_str() {
                Some("--output" | "-o") => {
                    arguments.next().unwrap_or_default().to_string_lossy().into_owned()
                }
                Some(text) => match text.strip_prefix("--output=") {
                    Some(word) => word.to_owned(),
                    None => {
                        rest.push(argument);
                        continue;
                    }
                },
                None => {
                    rest.push(argument);
                    continue;
                }
            };
            form = match word.as_str() {
                "table" => Self::Table(colour),
                "json" => Self::Json,
                _ => return Err(word),
            };
        }
        Ok((form, rest))
    }
}

#[derive(Serialize)]
struct Report<'a> {
    version: &'static str,
    verdict: Verdict,
    findings: &'a [Finding],
}

/// The findings in a form.
pub(super) fn write(findings: &[Finding], form: Form) -> String {
    match form {
        Form::Table(colour) => table(findings, colour),
        Form::Json => {
            let verdict = worst(findings);
            let report = Report { version: env!("CARGO_PKG_VERSION"), verdict, findings };
            // strings and words only: there is nothing in it that could not be written
            let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
            text.push('\n');
            text
        }
    }
}

fn table(findings: &[Finding], colour: Colour) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (word, code) = match finding.verdict {
            Verdict::Fine => ("fine", "32"),
            Verdict::Warning => ("warning", "33"),
            Verdict::Problem => ("PROBLEM", "31;1"),
        };
        let word = format!("{word:<7}");
        let word = match colour {
            Colour::Yes => format!("\x1b[{code}m{word}\x1b[0m"),
            Colour::No => word,
        };
        let _ = writeln!(text, "{word}  {:<width$}  {}", finding.check, shown(&finding.said));
        for (number, line) in finding.next.iter().flat_map(|next| next.lines()).enumerate() {
            let mark = if number == 0 { "->" } else { "" };
            let _ = writeln!(text, "{:9}{:<width$}  {mark:2} {}", "", "", shown(line));
        }
    }
    text
}

/// Names of programs and files are their makers' choice, and a terminal obeys control characters.
fn shown(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '?' } else { character }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings() -> [Finding; 2] {
        [
            Finding::fine("ports", "there \x1b[2J"),
            Finding::problem("hook", "absent", "make one\nor none"),
        ]
    }

    #[test]
    fn a_table_has_a_line_for_each_and_its_next_steps_below() {
        assert_eq!(
            write(&findings(), Form::Table(Colour::No)),
            "fine     ports  there ?[2J\n\
             PROBLEM  hook   absent\n         \
             \x20      -> make one\n         \
             \x20         or none\n"
        );
    }

    #[test]
    fn colours_are_for_terminals() {
        assert!(write(&findings(), Form::Table(Colour::Yes)).contains("\x1b[31;1mPROBLEM\x1b[0m"));
        let (form, _) = Form::read(std::iter::empty(), false).unwrap();
        assert_eq!(form, Form::Table(Colour::No));
    }

    #[test]
    fn json_has_the_same() {
        let text = write(&findings(), Form::Json);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value["verdict"], "problem");
        assert_eq!(value["findings"][0]["verdict"], "fine");
        assert_eq!(value["findings"][0]["said"], "there \x1b[2J");
        assert!(value["findings"][0].get("next").is_none());
        assert_eq!(value["findings"][1]["next"], "make one\nor none");
    }

    #[test]
    fn what_is_not_its_own_is_the_agents() {
        let read = |line: &str| {
            Form::read(line.split_whitespace().map(Into::into), false)
                .map(|(form, rest)| (form, rest.len()))
        };
        assert_eq!(read("-v --output json -b x"), Ok((Form::Json, 3)));
        assert_eq!(read("--output=table"), Ok((Form::Table(Colour::No), 0)));
        assert_eq!(read("--output xml"), Err("xml".to_owned()));
        assert_eq!(read("--output"), Err(String::new()));
    }
}
