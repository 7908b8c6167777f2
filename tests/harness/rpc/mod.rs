//! A JSON-RPC 2.0 client of the host agent over either transport, written from
//! the contract and not with the command's code: what both get wrong alike
//! would otherwise pass.
//!
//! The names of the exchanges are spelt out here for the same reason.

mod amqp;
mod raw;
mod socket;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

pub use amqp::{Amqp, Events};
pub use raw::{RawMessage, nested, short};
pub use socket::Socket;

/// How long a call may take if not said.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Why a call has no result.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// The agent answered with an error.
    #[error("{message} ({code}): {data}")]
    Fault {
        /// JSON-RPC's number.
        code: i64,
        /// For people.
        message: String,
        /// For programs: `reason`, subject, step, causes, next action.
        data: Value,
    },
    /// There is no agent, or the connection broke.
    #[error("no connection: {0}")]
    Lost(String),
    /// No answer in time; whether the request was carried out is not known.
    #[error("no answer to {method} within {waited:?}")]
    Unanswered {
        /// The method.
        method: String,
        /// How long it was waited for.
        waited: Duration,
    },
    /// An answer that is not JSON-RPC.
    #[error("not a JSON-RPC answer: {0}")]
    Garbled(String),
}

impl CallError {
    /// The stable string code of a fault, if it is one.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Fault { data, .. } => data.get("reason").and_then(Value::as_str),
            Self::Lost(_) | Self::Unanswered { .. } | Self::Garbled(_) => None,
        }
    }
}

/// One call, to be described and then sent by [`Client::send`].
#[derive(Debug, Clone)]
pub struct Call {
    method: String,
    params: Value,
    key: Option<String>,
    deadline: Option<u64>,
    expiration: Option<Duration>,
    patience: Duration,
}

impl Call {
    /// A call of `method`; `params` is an object, or null for none.
    pub fn new(method: &str, params: Value) -> Self {
        Self {
            method: method.to_owned(),
            params,
            key: None,
            deadline: None,
            expiration: None,
            patience: PATIENCE,
        }
    }

    /// The idempotency key: `message_id` over AMQP, `context.key` on a socket.
    /// If not said, a new one each time over AMQP, and none on a socket.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// `context.deadline`: milliseconds since the UNIX epoch.
    #[must_use]
    pub fn deadline(mut self, milliseconds: u64) -> Self {
        self.deadline = Some(milliseconds);
        self
    }

    /// How long the message may wait in a queue (AMQP only).
    #[must_use]
    pub fn expiration(mut self, expiration: Duration) -> Self {
        self.expiration = Some(expiration);
        self
    }

    /// How long to wait for the answer.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    fn body(&self, id: &str, key: Option<&str>) -> Value {
        let mut body = json!({"jsonrpc": "2.0", "id": id, "method": self.method});
        if !self.params.is_null() {
            body["params"] = self.params.clone();
        }
        if let Some(key) = key {
            body["context"]["key"] = json!(key);
        }
        if let Some(deadline) = self.deadline {
            body["context"]["deadline"] = json!(deadline);
        }
        body
    }

    fn unanswered(&self) -> CallError {
        CallError::Unanswered { method: self.method.clone(), waited: self.patience }
    }
}

/// A client of one host, over one of the two transports.
#[derive(Debug)]
pub enum Client {
    /// The node's own socket.
    Socket(Socket),
    /// The broker.
    Amqp(Box<Amqp>),
}

impl Client {
    /// Over the socket.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn socket(path: &Path) -> Result<Self, CallError> {
        Socket::connect(path).await.map(Self::Socket)
    }

    /// Through the broker.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn amqp(uri: &str, host: &str) -> Result<Self, CallError> {
        Amqp::connect(uri, host).await.map(|amqp| Self::Amqp(Box::new(amqp)))
    }

    /// Call `method`.
    ///
    /// # Errors
    /// The agent's fault, or why there is no answer.
    pub async fn call(&mut self, method: &str, params: Value) -> Result<Value, CallError> {
        self.send(&Call::new(method, params)).await
    }

    /// Send a call as described.
    ///
    /// # Errors
    /// The agent's fault, or why there is no answer.
    pub async fn send(&mut self, call: &Call) -> Result<Value, CallError> {
        match self {
            Self::Socket(socket) => socket.send(call).await,
            Self::Amqp(amqp) => amqp.send(call).await,
        }
    }
}

/// What an answer says; `None` if it answers another request.
fn outcome(bytes: &[u8], id: &str) -> Option<Result<Value, CallError>> {
    let garbled = || CallError::Garbled(String::from_utf8_lossy(bytes).into_owned());
    let Ok(mut answer) = serde_json::from_slice::<Value>(bytes) else {
        return Some(Err(garbled()));
    };
    // id null is the agent's word on a request it could not read
    let answered = answer.get("id");
    if answered.is_some_and(|got| !got.is_null() && got != id) {
        return None;
    }
    if answer.get("jsonrpc") != Some(&json!("2.0")) {
        return Some(Err(garbled()));
    }
    let error = answer.get_mut("error").map(Value::take);
    let result = answer.get_mut("result").map(Value::take);
    Some(match (result, error) {
        (Some(result), None) => Ok(result),
        (None, Some(error)) => Err(CallError::Fault {
            code: error["code"].as_i64().unwrap_or_default(),
            message: error["message"].as_str().unwrap_or_default().to_owned(),
            data: error["data"].clone(),
        }),
        (Some(_), Some(_)) | (None, None) => Err(garbled()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_another_request_is_passed_over() {
        assert!(outcome(br#"{"jsonrpc":"2.0","id":"1","result":7}"#, "2").is_none());
        let own = outcome(br#"{"jsonrpc":"2.0","id":"2","result":7}"#, "2");
        assert_eq!(own.unwrap().unwrap(), json!(7));
    }

    #[test]
    fn a_fault_keeps_its_code_and_reason() {
        let text = br#"{"jsonrpc":"2.0","id":"2","error":{"code":-32000,"message":"busy","data":{"reason":"conflict"}}}"#;
        let error = outcome(text, "2").unwrap().unwrap_err();
        assert_eq!(error.reason(), Some("conflict"));
    }

    #[test]
    fn both_result_and_error_is_no_answer() {
        let text = br#"{"jsonrpc":"2.0","id":"2","result":1,"error":{}}"#;
        assert!(matches!(outcome(text, "2").unwrap(), Err(CallError::Garbled(_))));
    }

    #[test]
    fn a_call_carries_its_context_only_if_it_has_one() {
        assert_eq!(
            Call::new("host.ping", Value::Null).body("1", None),
            json!({"jsonrpc": "2.0", "id": "1", "method": "host.ping"})
        );
        assert_eq!(
            Call::new("a.b", json!({"c": 1})).deadline(5).body("1", Some("k")),
            json!({"jsonrpc": "2.0", "id": "1", "method": "a.b", "params": {"c": 1},
                   "context": {"key": "k", "deadline": 5}})
        );
    }
}
