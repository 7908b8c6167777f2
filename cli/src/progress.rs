//! What an operation is doing, while it is waited for: a live line on a terminal, else one line
//! for each step. Always on standard error, so that standard output is the result and nothing else.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ostler_protocol::rpc::operation::{Operation, Progress as Amount, Step, StepState, Unit};
use ostler_protocol::rpc::values::Bytes;

use crate::args::Format;
use crate::output::{clean, note};

/// Somebody who watches an operation.
pub(crate) enum Progress {
    /// One live line.
    Live(ProgressBar),
    /// A line for each step that begins or ends.
    Lines(Said),
    /// Nobody watches.
    Silent,
}

/// What was said last, and need not be said again.
#[derive(Default)]
pub(crate) struct Said {
    steps: Vec<Option<StepState>>,
    trouble: Option<String>,
}

impl Progress {
    /// For somebody at a terminal, a log, or a program that wants nothing but JSON.
    pub(crate) fn new(format: Format) -> Self {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
        match (std::io::stderr().is_terminal() && !dumb, format) {
            (true, Format::Table | Format::Json) => {
                let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
                let style = ProgressStyle::with_template("{spinner} {wide_msg}");
                bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                bar.enable_steady_tick(Duration::from_millis(120));
                Self::Live(bar)
            }
            (false, Format::Table) => Self::Lines(Said::default()),
            (false, Format::Json) => Self::Silent,
        }
    }

    /// What the operation looks like now.
    pub(crate) fn show(&mut self, operation: &Operation) {
        match self {
            Self::Live(bar) => bar.set_message(clean(&live_line(operation))),
            Self::Lines(said) => {
                said.trouble = None;
                for line in news(&mut said.steps, operation) {
                    note(&line);
                }
            }
            Self::Silent => {}
        }
    }

    /// Contact was lost, and is being sought again.
    pub(crate) fn trouble(&mut self, what: &str) {
        match self {
            Self::Live(bar) => bar.set_message(clean(&format!("{what}; trying again"))),
            Self::Lines(said) if said.trouble.as_deref() == Some(what) => {}
            Self::Lines(said) => {
                said.trouble = Some(what.to_owned());
                note(&format!("{what}; trying again"));
            }
            Self::Silent => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        match self {
            // What follows, result or error, starts on a clean line.
            Self::Live(bar) => bar.finish_and_clear(),
            Self::Lines(_) | Self::Silent => {}
        }
    }
}

/// What there is to say of an operation whose steps were last said to be in the states `said`.
fn news(said: &mut Vec<Option<StepState>>, operation: &Operation) -> Vec<String> {
    let all = operation.steps.len();
    said.resize(all, None);
    let mut lines = Vec::new();
    for (index, (step, said)) in operation.steps.iter().zip(said).enumerate() {
        if *said == Some(step.state) {
            continue;
        }
        let what = match (step.state, *said) {
            (StepState::Pending, _) => None,
            (StepState::Running, _) => Some(""),
            // That a step was begun implies it was done, once the next has begun: only a step that
            // was over before it was ever seen is told when done.
            (StepState::Done, None | Some(StepState::Pending)) => Some(""),
            (StepState::Done, Some(_)) => None,
            (StepState::Failed, _) => Some(": failed"),
            (StepState::Undone, _) => Some(": undone"),
        };
        *said = Some(step.state);
        if let Some(what) = what {
            let number = index + 1;
            lines.push(format!("{}: {number}/{all} {}{what}", operation.kind, step.name));
        }
    }
    lines
}

/// One line for where the operation is.
fn live_line(operation: &Operation) -> String {
    let all = operation.steps.len();
    let at = |state| operation.steps.iter().position(|step| step.state == state);
    let undoing = operation.steps.iter().any(|step| step.state == StepState::Failed);
    match at(StepState::Running) {
        _ if undoing => format!("{}: undoing what it did", operation.kind),
        Some(index) => {
            let step = &operation.steps[index];
            format!("{}: {}/{all} {}", operation.kind, index + 1, with_amount(step))
        }
        None => format!("{}: {}", operation.kind, crate::failure::word(operation.state)),
    }
}

fn with_amount(step: &Step) -> String {
    match step.progress {
        None => step.name.clone(),
        Some(progress) => format!("{}  {}", step.name, amount(progress)),
    }
}

/// How far, as people read it.
pub(crate) fn amount(Amount { done, total, unit }: Amount) -> String {
    let count = |n: u64| match unit {
        Unit::Bytes => Bytes(n).to_string(),
        Unit::Milliseconds => format!("{} s", n / 1000),
    };
    match total {
        None => count(done),
        Some(0) => count(done),
        Some(total) => {
            let percent = u128::from(done.min(total)) * 100 / u128::from(total);
            format!("{} of {} ({percent} %)", count(done), count(total))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(states: &[&str]) -> Operation {
        let steps: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(i, state)| serde_json::json!({"name": format!("step {i}"), "state": state}))
            .collect();
        serde_json::from_value(serde_json::json!({
            "id": "0f8fad5b-d9cb-469f-a165-70867728950e",
            "kind": "image.import",
            "subject": {"image": "debian"},
            "state": "running",
            "steps": steps,
            "revision": 1,
            "accepted": 0,
        }))
        .unwrap()
    }

    #[test]
    fn each_step_is_told_once() {
        let mut said = Vec::new();
        let mut told = |states: &[&str]| news(&mut said, &operation(states));
        assert_eq!(told(&["pending", "pending"]), Vec::<String>::new());
        assert_eq!(told(&["running", "pending"]), ["image.import: 1/2 step 0"]);
        assert_eq!(told(&["running", "pending"]), Vec::<String>::new());
        assert_eq!(told(&["done", "running"]), ["image.import: 2/2 step 1"]);
        assert_eq!(told(&["done", "failed"]), ["image.import: 2/2 step 1: failed"]);
        assert_eq!(told(&["undone", "failed"]), ["image.import: 1/2 step 0: undone"]);
    }

    #[test]
    fn steps_that_were_over_before_they_were_seen_are_told_too() {
        let lines = news(&mut Vec::new(), &operation(&["done", "done"]));
        assert_eq!(lines, ["image.import: 1/2 step 0", "image.import: 2/2 step 1"]);
    }

    #[test]
    fn amounts_are_bounded_by_their_total() {
        let bytes = |done, total| amount(Amount { done, total, unit: Unit::Bytes });
        assert_eq!(bytes(1 << 20, Some(4 << 20)), "1 MiB of 4 MiB (25 %)");
        assert_eq!(bytes(u64::MAX, Some(1)), "16777215.9 TiB of 1 B (100 %)");
        assert_eq!(bytes(5, None), "5 B");
    }
}
