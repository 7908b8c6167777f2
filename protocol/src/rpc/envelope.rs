//! The JSON-RPC 2.0 envelope, and the context that travels beside a request.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fault::{Fault, Reason, located};
use super::strict::{self, Strict};
use super::values::{IdempotencyKey, Timestamp};

/// The version member of every message.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Version {
    /// JSON-RPC 2.0, the only one.
    #[default]
    #[serde(rename = "2.0")]
    V2,
}

/// The id of a request, echoed on its response.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Id {
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
}

/// What a request carries besides its parameters. Over AMQP, the message's `message_id` is the key
/// where none is given here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Context {
    /// The same key is the same operation, however often the request arrives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<IdempotencyKey>,
    /// Not to be started after this, milliseconds since the UNIX epoch: refused as `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// The caller's name for this request, for both sides' logs; at most 128 characters are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// A request. Without an id it is a notification: carried out, not answered.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// Always `"2.0"`.
    pub jsonrpc: Version,
    /// Echoed on the response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
    /// The method, as in `instance.boot`.
    pub method: String,
    /// Parameters by name; absent means none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// What belongs to the request rather than to the method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<Context>,
}

/// A response: exactly one of `result` and `error`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Always `"2.0"`.
    pub jsonrpc: Version,
    /// The request's id; null when the request could not be read far enough to have one.
    pub id: Option<Id>,
    /// What the method returned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Value>,
    /// Why it did not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Fault>,
}

impl Response {
    /// The response to request `id` with this outcome.
    pub fn new(id: Option<Id>, outcome: Result<Value, Fault>) -> Self {
        let (result, error) = match outcome {
            Ok(value) => (Some(value), None),
            Err(fault) => (None, Some(fault)),
        };
        Self { jsonrpc: Version::V2, id, result, error }
    }

    /// The outcome, or what is wrong with a response that has none.
    pub fn into_outcome(self) -> Result<Value, Fault> {
        match (self.result, self.error) {
            (_, Some(fault)) => Err(fault),
            (Some(value), None) => Ok(value),
            (None, None) => Err(Fault::new(
                Reason::Internal,
                "the node sent a response without result or error".to_owned(),
            )),
        }
    }
}

/// Read a request from the bytes of one message.
///
/// # Errors
/// `parse_error` if it is not JSON, `invalid_request` if it is JSON but not a request; with the
/// request's id where it has one that can be read.
pub fn read_request(bytes: &[u8]) -> Result<Request, (Option<Id>, Fault)> {
    let (value, doubled) = strict::read(bytes).map_err(|e| {
        (None, Fault::new(Reason::ParseError, format!("the request is not JSON: {e}")))
    })?;
    let invalid = |text: String| {
        let text = format!("the request is not a JSON-RPC 2.0 request: {text}");
        Fault::new(Reason::InvalidRequest, text)
    };
    let members = match &value {
        Value::Object(members) => members,
        Value::Array(_) => {
            let text = "it is an array, and batches are not supported".to_owned();
            return Err((None, invalid(text).next("send each request by itself, as an object")));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            return Err((None, invalid("it is not an object".to_owned())));
        }
    };
    let id = match members.get("id").map(|id| serde_json::from_value(id.clone())) {
        None => None,
        Some(Ok(id)) => Some(id),
        Some(Err(_)) => {
            let text = "id: it is neither a text nor a whole number of 64 bits".to_owned();
            return Err((None, invalid(text).next("to get no answer, leave id out")));
        }
    };
    if let Some(member) = doubled {
        // Of two ids, none is the request's own.
        let id = id.filter(|_| member != "id");
        return Err((id, invalid(format!("{member} is there twice")).next("give it once")));
    }
    serde_path_to_error::deserialize(Strict(value)).map_err(|e| (id, invalid(located(&e))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_request_keeps_its_id_for_the_answer() {
        let (id, fault) = read_request(br#"{"id": 7, "method": "host.ping"}"#).unwrap_err();
        assert_eq!(id, Some(Id::Number(7)));
        assert_eq!(fault.data.reason, Reason::InvalidRequest);
        assert!(fault.message.contains("jsonrpc"), "{}", fault.message);
    }

    #[test]
    fn what_is_not_json_is_a_parse_error() {
        let (id, fault) = read_request(b"{").unwrap_err();
        assert_eq!((id, fault.code), (None, -32700));
    }

    #[test]
    fn what_is_not_supported_is_said() {
        for (text, said) in [
            (r#"["2.0", "7", "host.ping", null, null]"#, "batches are not supported"),
            (r#"[{"jsonrpc": "2.0", "id": 1, "method": "host.ping"}]"#, "batches"),
            ("[]", "batches"),
            ("7", "it is not an object"),
            (r#"{"jsonrpc": "2.0", "id": null, "method": "host.ping"}"#, "id: it is neither"),
            (r#"{"jsonrpc": "2.0", "id": 1.5, "method": "host.ping"}"#, "id: it is neither"),
        ] {
            let (id, fault) = read_request(text.as_bytes()).unwrap_err();
            assert_eq!((id, fault.data.reason), (None, Reason::InvalidRequest), "{text}");
            assert!(fault.message.contains(said) && fault.data.next.is_some() == (text != "7"));
        }
    }

    #[test]
    fn an_array_is_no_context() {
        let text = br#"{"jsonrpc": "2.0", "id": 1, "method": "host.ping", "context": ["k"]}"#;
        let (id, fault) = read_request(text).unwrap_err();
        assert_eq!(id, Some(Id::Number(1)));
        assert!(fault.message.contains("context: invalid type: sequence"), "{}", fault.message);
    }

    #[test]
    fn a_member_that_is_there_twice_is_refused_at_any_depth() {
        for (members, said) in [
            (r#""method": "a", "method": "b""#, "method is there twice"),
            (r#""method": "a", "params": {"name": 1, "name": 1}"#, "params.name is there twice"),
            (
                r#""method": "a", "params": {"env": [[{"hunter2": 1, "hunter2": 2}]]}"#,
                "a member within params.env is there twice",
            ),
            (
                r#""method": "a", "params": {"a": {"b": {"c": {"d": 1, "d": 1}}}}"#,
                "a member within params.a is there twice",
            ),
            (r#""method": "a", "context": {"key": "k", "key": "l"}"#, "context.key"),
        ] {
            let text = format!("{{\"jsonrpc\": \"2.0\", \"id\": 7, {members}}}");
            let (id, fault) = read_request(text.as_bytes()).unwrap_err();
            assert_eq!((id, fault.data.reason), (Some(Id::Number(7)), Reason::InvalidRequest));
            assert!(fault.message.contains(said), "{} lacks {said}", fault.message);
            assert!(!fault.message.contains("hunter2"));
        }
        let twice = br#"{"jsonrpc": "2.0", "id": 1, "id": 2, "method": "host.ping"}"#;
        assert_eq!(read_request(twice).unwrap_err().0, None);
        let apart =
            br#"{"jsonrpc": "2.0", "id": 1, "method": "a", "params": [{"a": {"a": 1}}, {"a": 2}]}"#;
        assert!(read_request(apart).is_ok());
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = "[".repeat(100_000);
        assert_eq!(read_request(deep.as_bytes()).unwrap_err().1.code, -32700);
    }
}
