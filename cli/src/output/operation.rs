//! Operations for people.

use ostler_protocol::rpc::operation::{Operation, State, StepState};
use ostler_protocol::rpc::values::Timestamp;

use super::table::{Field, Mood, fields, list};
use super::time::{age, instant, span};
use super::{Look, Show};
use crate::failure::word;
use crate::progress::amount;

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
                .find(|step| matches!(step.state, StepState::Running | StepState::Failed));
            vec![
                Field::plain(operation.id),
                Field::plain(operation.kind),
                Field::plain(&operation.subject),
                state(operation.state),
                Field::maybe(current.map(|step| &step.name)),
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
            ("kind", Field::plain(self.kind)),
            ("subject", Field::plain(&self.subject)),
            ("state", state(self.state)),
            ("key", Field::maybe(self.key.as_ref())),
            ("accepted", Field::plain(instant(self.accepted))),
            ("started", Field::maybe(self.started.map(instant))),
            ("finished", Field::maybe(self.finished.map(instant))),
        ];
        for (index, step) in self.steps.iter().enumerate() {
            let (word, mood) = match step.state {
                StepState::Pending => ("pending", Mood::Neutral),
                StepState::Running => ("running", Mood::Moving),
                StepState::Done => ("done", Mood::Good),
                StepState::Failed => ("failed", Mood::Bad),
                StepState::Undone => ("undone", Mood::Moving),
            };
            let mut text = format!("{}. {}: {word}", index + 1, step.name);
            if let Some(progress) = step.progress {
                text.push_str(&format!(", {}", amount(progress)));
            }
            if let (Some(started), Some(finished)) = (step.started, step.finished) {
                text.push_str(&format!(", took {}", span(finished.since(started))));
            }
            rows.push(("step", Field::new(text, mood)));
        }
        if let Some(error) = &self.error {
            rows.push(("error", Field::new(error, Mood::Bad)));
            if let Some(next) = &error.data.next {
                rows.push(("next", Field::plain(next)));
            }
        }
        fields(look, rows)
    }
}

fn state(state: State) -> Field {
    let mood = match state {
        State::Succeeded => Mood::Good,
        State::Queued | State::Running => Mood::Moving,
        State::Failed | State::Undone => Mood::Bad,
        State::Cancelled => Mood::Neutral,
    };
    Field::new(word(state), mood)
}

/// What the end of an operation means.
pub(super) const fn meaning(state: State) -> &'static str {
    match state {
        State::Queued => "queued: not begun",
        State::Running => "running",
        State::Succeeded => "succeeded",
        State::Failed => "failed: something it did may be left",
        State::Cancelled => "cancelled: what it had done is undone",
        State::Undone => "undone: things are as they were before",
    }
}
