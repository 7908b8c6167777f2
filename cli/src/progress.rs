//! What an operation is doing, while it is waited for: a live line on a terminal, else one line
//! for each step. Always on standard error, so that standard output is the result and nothing else.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use ostler_protocol::rpc::operation::{Progress as Amount, StepState, Unit};

use crate::args::Format;
use crate::clean::clean;
use crate::output::{amount, note};
use crate::reply::{MaybeNewer, Operation, Step};

/// Somebody who watches an operation.
pub(crate) enum Progress {
    /// One live line.
    Live(ProgressBar),
    /// A line for each step that begins or ends, and for each quarter of a long one.
    Lines(PrintedProgress),
    /// Nobody watches.
    Silent,
}

/// What was said last, and need not be said again.
#[derive(Default)]
pub(crate) struct PrintedProgress {
    steps: Vec<PrintedStep>,
    trouble: Option<String>,
}

/// What was said of a step.
#[derive(Debug, Clone, Default)]
struct PrintedStep {
    state: Option<StepState>,
    quarters: u64,
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
            (false, Format::Table) => Self::Lines(PrintedProgress::default()),
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

/// What there is to say of an operation of whose steps `said` was said before.
fn news(said: &mut Vec<PrintedStep>, operation: &Operation) -> Vec<String> {
    let all = operation.steps.len();
    said.resize(all, PrintedStep::default());
    let mut lines = Vec::new();
    for (index, (step, said)) in operation.steps.iter().zip(said).enumerate() {
        let number = index + 1;
        // A state newer than this build is passed over: the steps beside it tell enough.
        let Some(&state) = step.state.known() else { continue };
        if said.state == Some(state) {
            let quarters = quarters(step);
            if state == StepState::Running && quarters > said.quarters {
                said.quarters = quarters;
                lines.push(format!("{}: {number}/{all} {}", operation.kind, with_amount(step)));
            }
            continue;
        }
        let what = match (state, said.state) {
            (StepState::Pending, _) => None,
            (StepState::Running, _) => Some(""),
            // That a step was begun implies it was done, once the next has begun: only a step that
            // was over before it was ever seen is told when done.
            (StepState::Done, None | Some(StepState::Pending)) => Some(""),
            (StepState::Done, Some(_)) => None,
            (StepState::Failed, _) => Some(": failed"),
            (StepState::Undone, _) => Some(": undone"),
        };
        said.state = Some(state);
        if let Some(what) = what {
            lines.push(format!("{}: {number}/{all} {}{what}", operation.kind, step.title()));
        }
    }
    lines
}

/// How many quarters of its bytes a step has moved. Other units pass by themselves.
fn quarters(step: &Step) -> u64 {
    match step.progress {
        Some(MaybeNewer::Known(Amount { done, total: Some(total), unit: Unit::Bytes }))
            if total > 0 =>
        {
            (u128::from(done.min(total)) * 4 / u128::from(total)) as u64
        }
        Some(MaybeNewer::Known(_) | MaybeNewer::Newer(_)) | None => 0,
    }
}

/// One line for where the operation is.
fn live_line(operation: &Operation) -> String {
    let all = operation.steps.len();
    let is_undoing = |step: &Step| step.is(StepState::Failed) || step.is(StepState::Undone);
    let undoing = operation.steps.iter().any(is_undoing);
    match operation.steps.iter().position(|step| step.is(StepState::Running)) {
        _ if undoing => format!("{}: undoing what it did", operation.kind),
        Some(index) => {
            let step = &operation.steps[index];
            format!("{}: {}/{all} {}", operation.kind, index + 1, with_amount(step))
        }
        None => format!("{}: {}", operation.kind, operation.state),
    }
}

fn with_amount(step: &Step) -> String {
    match &step.progress {
        None => format!("{}{}", step.title(), step.tries()),
        Some(progress) => format!("{}  {}{}", step.title(), amount(progress), step.tries()),
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
    fn a_step_is_told_with_what_it_is_about() {
        let mut now = operation(&["running"]);
        now.steps[0].subject =
            serde_json::from_value(serde_json::json!({"image": "shot"})).unwrap();
        assert_eq!(news(&mut Vec::new(), &now), ["image.import: 1/1 step 0 (image shot)"]);
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
    fn each_quarter_of_a_long_step_is_told_once() {
        let mut said = Vec::new();
        let mut told = |done: u64| {
            let mut operation = operation(&["running"]);
            let amount = Amount { done, total: Some(400 << 20), unit: Unit::Bytes };
            operation.steps[0].progress = Some(MaybeNewer::Known(amount));
            news(&mut said, &operation)
        };
        assert_eq!(told(0), ["image.import: 1/1 step 0"]);
        assert_eq!(told(99 << 20), Vec::<String>::new());
        assert_eq!(told(210 << 20), ["image.import: 1/1 step 0  210 MiB of 400 MiB (52 %)"]);
        assert_eq!(told(211 << 20), Vec::<String>::new());
    }
}
