//! What surrounds a command: request, response, error and event.
//!
//! An agent reads requests strictly and names what is wrong in the words stock agents use, because
//! clients match on them. A host reads responses and events leniently: what it does not know it passes
//! over, and what it must have and does not get is an error of its own.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Says, in an answer and in an event's data, that something was cut.
pub(super) const TRUNCATED: &str = "truncated";

/// The kind of an error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ErrorClass {
    /// Everything that has no class of its own.
    GenericError,
    /// The command does not exist, or is disabled: clients tell "unsupported" from "failed" by this.
    CommandNotFound,
    /// A device is not active.
    DeviceNotActive,
    /// A device does not exist.
    DeviceNotFound,
    /// The kernel's virtual machine support lacks a capability.
    KVMMissingCap,
    /// A class a later agent has; never sent.
    #[serde(other)]
    Unknown,
}

/// An error reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct Fault {
    /// Its kind.
    pub class: ErrorClass,
    /// What went wrong, for people.
    pub desc: String,
}

impl Fault {
    /// An error without a class of its own.
    pub fn generic(desc: impl fmt::Display) -> Self {
        Self { class: ErrorClass::GenericError, desc: desc.to_string() }
    }

    /// The command is not one of the agent's.
    pub fn not_found(name: &str) -> Self {
        Self {
            class: ErrorClass::CommandNotFound,
            desc: format!("The command {name} has not been found"),
        }
    }

    /// The agent has the command and may not run it.
    pub fn disabled(name: &str, why: Disabled) -> Self {
        Self {
            class: ErrorClass::CommandNotFound,
            desc: format!("Command {name} has been disabled: {why}"),
        }
    }
}

/// Why a command the agent has is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disabled {
    /// The guest's owner forbids it.
    Blocked,
    /// It goes further than the guest's owner permits.
    Profile(&'static str),
    /// File systems are frozen, and it is not sure to do without them.
    Frozen,
}

impl fmt::Display for Disabled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked => f.write_str("the command is not allowed"),
            Self::Profile(name) => write!(f, "the command is not allowed by profile '{name}'"),
            Self::Frozen => f.write_str("the agent is in frozen state"),
        }
    }
}

#[derive(Serialize)]
pub(super) struct FaultLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) id: Option<&'a Value>,
    pub(super) error: &'a Fault,
}

/// A command on its way to an agent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Request {
    /// The command's name.
    pub execute: String,
    /// Its arguments; absent is the same as none.
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub arguments: Map<String, Value>,
    /// Comes back with the reply. Any value; null is not the same as absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Value>,
}

/// Why a value is not a request, with the id to answer with.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{kind}")]
pub struct RequestError {
    /// What is wrong.
    pub kind: RequestErrorKind,
    /// The id the value had.
    pub id: Option<Value>,
}

/// What is wrong with a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestErrorKind {
    /// It is no object.
    #[error("QMP input must be a JSON object")]
    NotAnObject,
    /// It does not say what to execute.
    #[error("QMP input lacks member 'execute'")]
    LacksExecute,
    /// What to execute is no string.
    #[error("QMP input member 'execute' must be a string")]
    ExecuteNotAString,
    /// The arguments are no object.
    #[error("QMP input member 'arguments' must be an object")]
    ArgumentsNotAnObject,
    /// It has a member the protocol does not.
    #[error("QMP input member '{0}' is unexpected")]
    Unexpected(String),
}

impl Request {
    /// Reads a request strictly, as an agent does.
    pub fn from_value(value: Value) -> Result<Self, RequestError> {
        let Value::Object(members) = value else {
            return Err(RequestError { kind: RequestErrorKind::NotAnObject, id: None });
        };
        let mut id = None;
        let mut execute = None;
        let mut arguments = Map::new();
        let mut wrong = None;
        for (name, value) in members {
            let found = match (name.as_str(), value) {
                ("id", value) => {
                    id = Some(value);
                    continue;
                }
                ("execute", Value::String(name)) => {
                    execute = Some(name);
                    continue;
                }
                ("execute", _) => {
                    // told before all else
                    wrong = Some(RequestErrorKind::ExecuteNotAString);
                    continue;
                }
                ("arguments", Value::Object(given)) => {
                    arguments = given;
                    continue;
                }
                ("arguments", _) => RequestErrorKind::ArgumentsNotAnObject,
                _ => RequestErrorKind::Unexpected(name),
            };
            wrong.get_or_insert(found);
        }
        match (wrong, execute) {
            (Some(kind), _) => Err(RequestError { kind, id }),
            (None, None) => Err(RequestError { kind: RequestErrorKind::LacksExecute, id }),
            (None, Some(execute)) => Ok(Self { execute, arguments, id }),
        }
    }
}

/// An agent's answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Response {
    /// What the command returned, or why it failed.
    pub outcome: Result<Value, Fault>,
    /// The id of the request, if it had one and was readable.
    pub id: Option<Value>,
    /// Whether a list in it was cut; see [`bounds`](super::bounds).
    pub truncated: bool,
}

/// The time of an event, by the guest's clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timestamp {
    /// Since 1970.
    pub seconds: i64,
    /// Of the second.
    pub microseconds: u32,
}

/// Something the agent tells unasked. Only Ostler's own port has these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its name, in capitals.
    pub event: String,
    /// What there is to say about it.
    #[serde(default)]
    pub data: Value,
    /// When it was.
    #[serde(default)]
    pub timestamp: Timestamp,
}

/// What an agent sends.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// The answer to a request.
    Response(Response),
    /// Something that happened.
    Event(Event),
}

/// Why a value is nothing an agent sends.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// It is no object, or has none of the members that tell what it is.
    #[error("the message is neither a response nor an event")]
    Neither,
    /// Its error is not made as errors are.
    #[error("the error of a response is malformed")]
    Fault(#[source] serde_json::Error),
    /// Its event is not made as events are.
    #[error("the event is malformed")]
    Event(#[source] serde_json::Error),
}

impl Message {
    /// Reads what an agent sent, leniently, as a host does: members it does not know are passed over.
    pub fn from_value(value: Value) -> Result<Self, MessageError> {
        let Value::Object(mut members) = value else { return Err(MessageError::Neither) };
        if members.contains_key("event") {
            let event = serde_json::from_value(Value::Object(members));
            return event.map(Self::Event).map_err(MessageError::Event);
        }
        let id = members.remove("id");
        let truncated = members.remove(TRUNCATED) == Some(Value::Bool(true));
        if let Some(fault) = members.remove("error") {
            let fault = serde_json::from_value(fault).map_err(MessageError::Fault)?;
            return Ok(Self::Response(Response { outcome: Err(fault), id, truncated }));
        }
        match members.remove("return") {
            Some(value) => Ok(Self::Response(Response { outcome: Ok(value), id, truncated })),
            None => Err(MessageError::Neither),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn error(value: Value) -> (String, Option<Value>) {
        let error = Request::from_value(value).unwrap_err();
        (error.to_string(), error.id)
    }

    #[test]
    fn a_request_is_refused_in_the_words_clients_match_on() {
        assert_eq!(error(json!(1)), ("QMP input must be a JSON object".into(), None));
        assert_eq!(
            error(json!({"id": null})),
            ("QMP input lacks member 'execute'".into(), Some(Value::Null))
        );
        assert_eq!(
            error(json!({"execute": 1, "id": [1]})),
            ("QMP input member 'execute' must be a string".into(), Some(json!([1])))
        );
        assert_eq!(
            error(json!({"execute": "x", "arguments": null})),
            ("QMP input member 'arguments' must be an object".into(), None)
        );
        assert_eq!(
            error(json!({"exec-oob": "x", "id": "a"})),
            ("QMP input member 'exec-oob' is unexpected".into(), Some(json!("a")))
        );
    }

    #[test]
    fn an_id_of_null_is_not_an_absent_one() {
        let request = Request::from_value(json!({"execute": "x", "id": null})).unwrap();
        assert_eq!(request.id, Some(Value::Null));
        assert_eq!(Request::from_value(json!({"execute": "x"})).unwrap().id, None);
    }

    #[test]
    fn a_host_passes_over_what_it_does_not_know() {
        let message =
            json!({"error": {"class": "Later", "desc": "d", "more": 1}, "id": 2, "x": []});
        let Message::Response(response) = Message::from_value(message).unwrap() else {
            panic!("an error is a response");
        };
        assert_eq!(response.id, Some(json!(2)));
        let fault = response.outcome.unwrap_err();
        assert_eq!((fault.class, fault.desc.as_str()), (ErrorClass::Unknown, "d"));
    }

    #[test]
    fn a_refused_command_is_not_found_whatever_the_reason() {
        for fault in [
            Fault::not_found("x"),
            Fault::disabled("x", Disabled::Blocked),
            Fault::disabled("x", Disabled::Frozen),
        ] {
            assert_eq!(fault.class, ErrorClass::CommandNotFound);
        }
        assert_eq!(Fault::not_found("x").desc, "The command x has not been found");
        assert_eq!(
            Fault::disabled("x", Disabled::Blocked).desc,
            "Command x has been disabled: the command is not allowed"
        );
    }
}
