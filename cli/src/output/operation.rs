//! Operations for people.

use ostler_protocol::rpc::operation::{Outcome, Progress as Amount, State, StepState, Unit};
use ostler_protocol::rpc::values::{Bytes, Timestamp};

use super::table::{Field, Mood, fields, list};
use super::time::{age, instant, span};
use super::{Look, Show, fault_rows};
use crate::reply::{Operation, Word, plain};

impl Show for Vec<Operation> {
    fn show(&self, look: Look) -> String {
        if self.is_empty() {
            return "no operations".to_owned();
        }
        let header = ["ID", "KIND", "SUBJECT", "STATE", "STEP", "AGE"];
        let now = Timestamp::now();
        let rows = self.iter().map(|operation| {
            let current = operation
                .steps
                .iter()
                .find(|step| step.is(StepState::Running) || step.is(StepState::Failed));
            vec![
                Field::plain(operation.id),
                Field::plain(&operation.kind),
                Field::plain(operation.about()),
                state(&operation.state),
                Field::maybe(current.map(|step| step.title())),
                Field::plain(age(operation.accepted, now)),
            ]
        });
        list(look, &header, rows)
    }
}

impl Show for Operation {
    fn show(&self, look: Look) -> String {
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("kind", Field::plain(&self.kind)),
            ("subject", Field::plain(self.about())),
            ("state", state(&self.state)),
            ("key", Field::maybe(self.key.as_ref())),
            ("accepted", Field::plain(instant(self.accepted))),
            ("started", Field::maybe(self.started.map(instant))),
            ("finished", Field::maybe(self.finished.map(instant))),
        ];
        if let Some(deadline) = self.deadline {
            let text = format!("not to be begun after {}", instant(deadline));
            rows.push(("deadline", Field::plain(text)));
        }
        if let Some(asked) = self.cancel_asked {
            rows.push(("cancel asked", Field::plain(instant(asked))));
        }
        for (index, step) in self.steps.iter().enumerate() {
            let mood = match step.state {
                Word::Known(StepState::Pending) | Word::Newer(_) => Mood::Neutral,
                Word::Known(StepState::Running | StepState::Undone) => Mood::Moving,
                Word::Known(StepState::Done) => Mood::Good,
                Word::Known(StepState::Failed) => Mood::Bad,
            };
            let mut text = format!("{}. {}: {}", index + 1, step.title(), step.state);
            if let Some(progress) = &step.progress {
                text.push_str(&format!(", {}", amount(progress)));
            }
            if let (Some(started), Some(finished)) = (step.started, step.finished) {
                text.push_str(&format!(", took {}", span(finished.since(started))));
            }
            text.push_str(&step.tries());
            rows.push(("step", Field::new(text, mood)));
        }
        if let Some(result) = &self.result {
            rows.push(("result", outcome(result)));
        }
        if let Some(fault) = self.fault() {
            rows.extend(fault_rows("error", fault, &self.reason().unwrap_or_default()));
        }
        fields(look, rows)
    }
}

fn state(state: &Word<State>) -> Field {
    let mood = match state {
        Word::Known(State::Succeeded) => Mood::Good,
        Word::Known(State::Queued | State::Running) => Mood::Moving,
        Word::Known(State::Failed | State::Undone) => Mood::Bad,
        Word::Known(State::Cancelled) | Word::Newer(_) => Mood::Neutral,
    };
    Field::new(state, mood)
}

/// What an operation came to. That a guest was not quiesced is worth a look: what its programs had
/// not written yet is missing in the image.
fn outcome(outcome: &Word<Outcome>) -> Field {
    let mood = match outcome {
        Word::Known(Outcome::Snapshot { quiesced: true, .. }) => Mood::Good,
        Word::Known(Outcome::Snapshot { quiesced: false, .. }) => Mood::Moving,
        Word::Newer(_) => Mood::Neutral,
    };
    Field::new(outcome_text(outcome), mood)
}

/// The same as a sentence.
pub(crate) fn outcome_text(outcome: &Word<Outcome>) -> String {
    match outcome {
        Word::Known(Outcome::Snapshot { image, quiesced: true, .. }) => {
            format!("image {image} is made; the guest was quiesced for it")
        }
        Word::Known(Outcome::Snapshot { image, quiesced: false, why }) => {
            let why = why.as_deref().unwrap_or("no reason is given");
            format!("image {image} is made; the guest was not quiesced: {why}")
        }
        Word::Newer(value) => plain(value),
    }
}

/// What the end of an operation means.
pub(super) fn meaning(state: &Word<State>) -> String {
    let more = match state {
        Word::Known(State::Queued) => ": not begun",
        Word::Known(State::Running | State::Succeeded) | Word::Newer(_) => "",
        Word::Known(State::Failed) => ": something it did may be left",
        Word::Known(State::Cancelled) => ": what it had done is undone",
        Word::Known(State::Undone) => ": things are as they were before",
    };
    format!("{state}{more}")
}

/// How far, as people read it.
pub(crate) fn amount(progress: &Word<Amount>) -> String {
    let &Amount { done, total, unit } = match progress {
        Word::Known(amount) => amount,
        Word::Newer(value) => return plain(value),
    };
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

    #[test]
    fn amounts_are_bounded_by_their_total() {
        let bytes = |done, total| amount(&Word::Known(Amount { done, total, unit: Unit::Bytes }));
        assert_eq!(bytes(1 << 20, Some(4 << 20)), "1 MiB of 4 MiB (25 %)");
        assert_eq!(bytes(u64::MAX, Some(1)), "16777215.9 TiB of 1 B (100 %)");
        assert_eq!(bytes(5, None), "5 B");
    }
}
