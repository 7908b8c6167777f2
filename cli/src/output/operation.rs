//! Operations for people.

use ostler_protocol::rpc::operation::{Outcome, Progress as Amount, State, StepState, Unit};
use ostler_protocol::rpc::values::{Bytes, Timestamp};

use super::table::{Field, Mood, fields, list};
use super::time::{age, instant, span};
use super::{Look, Show, fault_rows};
use crate::reply::{MaybeNewer, Operation, plain};

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
                MaybeNewer::Known(StepState::Pending) | MaybeNewer::Newer(_) => Mood::Neutral,
                MaybeNewer::Known(StepState::Running | StepState::Undone) => Mood::Moving,
                MaybeNewer::Known(StepState::Done) => Mood::Good,
                MaybeNewer::Known(StepState::Failed) => Mood::Bad,
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

fn state(state: &MaybeNewer<State>) -> Field {
    let mood = match state {
        MaybeNewer::Known(State::Succeeded) => Mood::Good,
        MaybeNewer::Known(State::Queued | State::Running) => Mood::Moving,
        MaybeNewer::Known(State::Failed | State::Undone) => Mood::Bad,
        MaybeNewer::Known(State::Cancelled) | MaybeNewer::Newer(_) => Mood::Neutral,
    };
    Field::new(state, mood)
}

/// What an operation came to. That a guest was not quiesced is worth a look: what its programs had
/// not written yet is missing in the image.
fn outcome(outcome: &MaybeNewer<Outcome>) -> Field {
    let mood = match outcome {
        MaybeNewer::Known(Outcome::Snapshot { quiesced: true, .. } | Outcome::Attached { .. }) => {
            Mood::Good
        }
        MaybeNewer::Known(Outcome::Snapshot { quiesced: false, .. }) => Mood::Moving,
        MaybeNewer::Newer(_) => Mood::Neutral,
    };
    Field::new(outcome_text(outcome), mood)
}

/// The same as a sentence.
pub(crate) fn outcome_text(outcome: &MaybeNewer<Outcome>) -> String {
    match outcome {
        MaybeNewer::Known(Outcome::Snapshot { image, quiesced: true, .. }) => {
            format!("image {image} is made; the guest was quiesced for it")
        }
        MaybeNewer::Known(Outcome::Snapshot { image, quiesced: false, why }) => {
            let why = why.as_deref().unwrap_or("no reason is given");
            format!("image {image} is made; the guest was not quiesced: {why}")
        }
        MaybeNewer::Known(Outcome::Attached { volume, device, serial }) => {
            format!("volume {volume} is attached as {device}; its serial number is {serial}")
        }
        MaybeNewer::Newer(value) => plain(value),
    }
}

/// What the end of an operation means.
pub(super) fn meaning(state: &MaybeNewer<State>) -> String {
    let more = match state {
        MaybeNewer::Known(State::Queued) => ": not begun",
        MaybeNewer::Known(State::Running | State::Succeeded) | MaybeNewer::Newer(_) => "",
        MaybeNewer::Known(State::Failed) => ": something it did may be left",
        MaybeNewer::Known(State::Cancelled) => ": what it had done is undone",
        MaybeNewer::Known(State::Undone) => ": things are as they were before",
    };
    format!("{state}{more}")
}

/// How far, as people read it.
pub(crate) fn amount(progress: &MaybeNewer<Amount>) -> String {
    let &Amount { done, total, unit } = match progress {
        MaybeNewer::Known(amount) => amount,
        MaybeNewer::Newer(value) => return plain(value),
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
        let bytes =
            |done, total| amount(&MaybeNewer::Known(Amount { done, total, unit: Unit::Bytes }));
        assert_eq!(bytes(1 << 20, Some(4 << 20)), "1 MiB of 4 MiB (25 %)");
        assert_eq!(bytes(u64::MAX, Some(1)), "16777215.9 TiB of 1 B (100 %)");
        assert_eq!(bytes(5, None), "5 B");
    }
}
