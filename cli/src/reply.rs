//! What nodes answer, read so that an older command can still follow and show a newer node.
//!
//! Words are only ever added to the protocol, and nodes are upgraded before the operators' machines
//! or after. A word this build does not know must not make the whole answer unreadable: it is shown
//! as it came. Only reading is lenient; what is sent is made of the protocol's own types.

use std::fmt;

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::operation::{Kind, Outcome, Progress, State, StepState, Subject};
use ostler_protocol::rpc::values::{IdempotencyKey, Name, OperationId, Timestamp};
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

/// A part of a reply: one this build knows, or a newer one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum MaybeNewer<T> {
    /// One this build knows.
    Known(T),
    /// What came instead.
    Newer(Value),
}

impl<T> MaybeNewer<T> {
    /// What this build knows it as.
    pub(crate) fn known(&self) -> Option<&T> {
        match self {
            Self::Known(known) => Some(known),
            Self::Newer(_) => None,
        }
    }
}

impl<T: Serialize> fmt::Display for MaybeNewer<T> {
    /// The word of the wire.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known(known) => {
                f.write_str(&plain(&serde_json::to_value(known).unwrap_or_default()))
            }
            Self::Newer(value) => f.write_str(&plain(value)),
        }
    }
}

/// A JSON value as people read it: texts without quotes, and nothing for null.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => value.to_string(),
    }
}

/// A reply that is only to be shown: as it came, and as what this build knows it as, if it does.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Shown<T> {
    /// As it came.
    pub(crate) raw: Value,
    /// As this build knows it; nothing if there is a newer word in it.
    pub(crate) known: Option<T>,
}

impl<T> Shown<T> {
    /// Whether it is what is called so.
    pub(crate) fn is_named(&self, name: &Name) -> bool {
        self.raw.get("name").and_then(Value::as_str) == Some(name.as_str())
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Shown<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Value::deserialize(deserializer)?;
        match T::deserialize(&raw) {
            Ok(known) => Ok(Self { raw, known: Some(known) }),
            // serde has no other way to tell this from nonsense.
            Err(error) if error.to_string().starts_with("unknown variant") => {
                Ok(Self { raw, known: None })
            }
            Err(error) => Err(D::Error::custom(error)),
        }
    }
}

impl<T> Serialize for Shown<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.raw.serialize(serializer)
    }
}

/// An operation, as [the protocol](ostler_protocol::rpc::operation::Operation) describes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Operation {
    pub(crate) id: OperationId,
    pub(crate) kind: MaybeNewer<Kind>,
    pub(crate) subject: MaybeNewer<Subject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) state: MaybeNewer<State>,
    pub(crate) steps: Vec<Step>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<Shown<Fault>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<MaybeNewer<Outcome>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) deadline: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cancel_asked: Option<Timestamp>,
    pub(crate) revision: u64,
    pub(crate) accepted: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finished: Option<Timestamp>,
    /// Fields newer than this build.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

/// A step of an operation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Step {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<MaybeNewer<Subject>>,
    pub(crate) state: MaybeNewer<StepState>,
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) failures: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) progress: Option<MaybeNewer<Progress>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) started: Option<Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) finished: Option<Timestamp>,
    /// Fields newer than this build.
    #[serde(flatten)]
    pub(crate) rest: Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_none(failures: &u32) -> bool {
    *failures == 0
}

impl Operation {
    /// Whether it is over: nothing about it changes any more.
    pub(crate) fn is_over(&self) -> bool {
        // An operation in a state of which only the word is known is over if it has an end.
        self.state.known().map_or(self.finished.is_some(), |state| state.is_over())
    }

    /// Why it did not succeed.
    pub(crate) fn fault(&self) -> Option<&Fault> {
        self.error.as_ref()?.known.as_ref()
    }

    /// The same in the node's word, which may be newer than this build.
    pub(crate) fn reason(&self) -> Option<String> {
        self.error.as_ref()?.raw.pointer("/data/reason").map(plain)
    }

    /// What it is about, in words.
    pub(crate) fn about(&self) -> String {
        about(&self.subject)
    }
}

fn about(subject: &MaybeNewer<Subject>) -> String {
    match subject {
        MaybeNewer::Known(subject) => subject.to_string(),
        MaybeNewer::Newer(value) => plain(value),
    }
}

impl Step {
    /// What it does, and to what if that is not what the operation is about.
    pub(crate) fn title(&self) -> String {
        match &self.subject {
            Some(subject) => format!("{} ({})", self.name, about(subject)),
            None => self.name.clone(),
        }
    }

    /// How often it was tried in vain and is tried again, in words; nothing if it was not.
    pub(crate) fn tries(&self) -> String {
        match self.failures {
            0 => String::new(),
            n if self.is(StepState::Running) => format!(", failed {n} times and is tried again"),
            n => format!(", after {n} failed tries"),
        }
    }

    /// Whether it is in this state.
    pub(crate) fn is(&self, state: StepState) -> bool {
        self.state.known() == Some(&state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::rpc::instance::Status;
    use serde_json::json;

    #[test]
    fn a_newer_word_is_shown_as_it_is() {
        let word: MaybeNewer<Status> = serde_json::from_value(json!("ACTIVE")).unwrap();
        assert_eq!((word.to_string(), word.known()), ("ACTIVE".into(), Some(&Status::Active)));
        let word: MaybeNewer<Status> = serde_json::from_value(json!("MIGRATING")).unwrap();
        assert_eq!((word.to_string(), word.known()), ("MIGRATING".into(), None));
    }

    #[test]
    fn a_newer_word_is_no_error_and_nonsense_is_one() {
        let shown: Shown<Status> = serde_json::from_value(json!("MIGRATING")).unwrap();
        assert_eq!(shown.known, None);
        assert_eq!(serde_json::to_value(&shown).unwrap(), "MIGRATING");
        assert!(serde_json::from_value::<Shown<Status>>(json!(7)).is_err());
    }

    #[test]
    fn a_newer_operation_comes_out_as_it_came_in() {
        let came = json!({
            "id": "0f8fad5b-d9cb-469f-a165-70867728950e", "kind": "instance.migrate",
            "subject": {"volume": "v"}, "state": "parked", "revision": 3, "accepted": 0,
            "finished": 5, "result": {"migrated": {"to": "n2"}}, "priority": 7,
            "error": {"code": -32099, "message": "no", "data": {"reason": "unlucky"}},
            "steps": [{"name": "copy", "state": "skipped", "why": "x",
                       "progress": {"done": 1, "unit": "pages"}}],
        });
        let operation: Operation = serde_json::from_value(came.clone()).unwrap();
        assert!(operation.is_over());
        assert_eq!(operation.kind.to_string(), "instance.migrate");
        assert_eq!(operation.reason().unwrap(), "unlucky");
        assert_eq!(operation.fault().unwrap().message, "no");
        assert_eq!(serde_json::to_value(&operation).unwrap(), came);
    }
}
