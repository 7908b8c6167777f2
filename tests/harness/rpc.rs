//! A JSON-RPC 2.0 client of the host agent over either transport, written from
//! the contract and not with the command's code: what both get wrong alike
//! would otherwise pass.
//!
//! The names of the exchanges are spelt out here for the same reason.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

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
        /// For programs: `code`, subject, step, causes, next action.
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
            Self::Fault { data, .. } => data.get("code").and_then(Value::as_str),
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
    Amqp(Amqp),
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
        Amqp::connect(uri, host).await.map(Self::Amqp)
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

/// A connection to the node's socket: one JSON text a line.
#[derive(Debug)]
pub struct Socket {
    path: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Socket {
    /// Connect.
    ///
    /// # Errors
    /// If nobody listens.
    pub async fn connect(path: &Path) -> Result<Self, CallError> {
        let stream = UnixStream::connect(path)
            .await
            .map_err(|error| CallError::Lost(format!("{}: {error}", path.display())))?;
        Ok(Self { path: path.to_owned(), stream: BufReader::new(stream) })
    }

    /// Send bytes as they are: for what no well-behaved client sends.
    ///
    /// # Errors
    /// If the connection broke.
    pub async fn send_raw(&mut self, bytes: &[u8]) -> Result<(), CallError> {
        self.stream.write_all(bytes).await.map_err(|error| self.lost(&error))
    }

    /// The next line as it is; `None` when the agent has closed.
    ///
    /// # Errors
    /// If none comes in time.
    pub async fn receive_raw(&mut self, patience: Duration) -> Result<Option<Value>, CallError> {
        let mut line = String::new();
        let read = tokio::time::timeout(patience, self.stream.read_line(&mut line)).await;
        let read = read
            .map_err(|_| CallError::Unanswered { method: "(raw)".to_owned(), waited: patience })?
            .map_err(|error| self.lost(&error))?;
        if read == 0 {
            return Ok(None);
        }
        serde_json::from_str(&line).map(Some).map_err(|_| CallError::Garbled(line))
    }

    async fn send(&mut self, call: &Call) -> Result<Value, CallError> {
        let id = Uuid::new_v4().to_string();
        let mut bytes = call.body(&id, call.key.as_deref()).to_string().into_bytes();
        bytes.push(b'\n');
        let until = Instant::now() + call.patience;
        timeout_at(until, self.stream.write_all(&bytes))
            .await
            .map_err(|_| call.unanswered())?
            .map_err(|error| self.lost(&error))?;
        loop {
            let mut line = String::new();
            let read = timeout_at(until, self.stream.read_line(&mut line))
                .await
                .map_err(|_| call.unanswered())?
                .map_err(|error| self.lost(&error))?;
            if read == 0 {
                return Err(CallError::Lost(format!("{}: closed", self.path.display())));
            }
            // an answer to a call given up on earlier is passed over
            if let Some(outcome) = outcome(line.as_bytes(), &id) {
                return outcome;
            }
        }
    }

    fn lost(&self, error: &std::io::Error) -> CallError {
        CallError::Lost(format!("{}: {error}", self.path.display()))
    }
}

/// A connection to the broker, for requests to one host.
pub struct Amqp {
    host: String,
    connection: Connection,
    channel: Channel,
    replies: Consumer,
}

impl std::fmt::Debug for Amqp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Amqp").field("host", &self.host).finish_non_exhaustive()
    }
}

impl Amqp {
    /// Connect, and consume replies.
    ///
    /// # Errors
    /// If the broker refuses.
    #[expect(clippy::disallowed_methods, reason = "the harness is an AMQP client of its own")]
    pub async fn connect(uri: &str, host: &str) -> Result<Self, CallError> {
        let connection =
            Connection::connect(uri, ConnectionProperties::default()).await.map_err(lost)?;
        let channel = connection.create_channel().await.map_err(lost)?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(lost)?;
        // direct reply-to: consumed before the first request, unacknowledged
        let replies = channel
            .basic_consume(
                "amq.rabbitmq.reply-to".into(),
                "".into(),
                BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() },
                FieldTable::default(),
            )
            .await
            .map_err(lost)?;
        Ok(Self { host: host.to_owned(), connection, channel, replies })
    }

    /// Publish a body as it is, without waiting for an answer: for what no
    /// well-behaved client sends.
    ///
    /// # Errors
    /// If the broker did not take it, or had no queue for it.
    pub async fn publish_raw(
        &self,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), CallError> {
        let confirmation = self
            .channel
            .basic_publish(
                "ostler.rpc".into(),
                self.host.as_str().into(),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                body,
                properties,
            )
            .await
            .map_err(lost)?
            .await
            .map_err(lost)?;
        match confirmation {
            Confirmation::Ack(None) => Ok(()),
            Confirmation::Ack(Some(_)) => {
                Err(CallError::Lost(format!("no queue is bound for host {}", self.host)))
            }
            Confirmation::Nack(_) | Confirmation::NotRequested => {
                Err(CallError::Lost("the broker did not take the request".to_owned()))
            }
        }
    }

    /// Events whose routing key matches `pattern`, from now on; `#` for all.
    ///
    /// # Errors
    /// If the broker refuses.
    pub async fn events(&self, pattern: &str) -> Result<Events, CallError> {
        let channel = self.connection.create_channel().await.map_err(lost)?;
        // the test's own queue, which is to go with the test
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        let queue =
            channel.queue_declare("".into(), options, FieldTable::default()).await.map_err(lost)?;
        channel
            .queue_bind(
                queue.name().clone(),
                "ostler.events".into(),
                pattern.into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(lost)?;
        let consumer = channel
            .basic_consume(
                queue.name().clone(),
                "".into(),
                BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() },
                FieldTable::default(),
            )
            .await
            .map_err(lost)?;
        Ok(Events { consumer, passed: VecDeque::new(), _channel: channel })
    }

    async fn send(&mut self, call: &Call) -> Result<Value, CallError> {
        let id = Uuid::new_v4().to_string();
        let key = call.key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(key.as_str().into())
            .with_correlation_id(id.as_str().into())
            .with_reply_to("amq.rabbitmq.reply-to".into());
        if let Some(expiration) = call.expiration {
            properties =
                properties.with_expiration(expiration.as_millis().to_string().as_str().into());
        }
        let until = Instant::now() + call.patience;
        let body = call.body(&id, None).to_string();
        timeout_at(until, self.publish_raw(body.as_bytes(), properties))
            .await
            .map_err(|_| call.unanswered())??;
        loop {
            let delivery: Delivery = timeout_at(until, self.replies.next())
                .await
                .map_err(|_| call.unanswered())?
                .ok_or_else(|| CallError::Lost("the broker closed the channel".to_owned()))?
                .map_err(lost)?;
            if let Some(outcome) = outcome(&delivery.data, &id) {
                return outcome;
            }
        }
    }
}

/// Events, in the order they came.
pub struct Events {
    consumer: Consumer,
    passed: VecDeque<Value>,
    _channel: Channel,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("passed", &self.passed).finish_non_exhaustive()
    }
}

impl Events {
    /// The next event that fits; those before it are kept in [`Self::passed`].
    ///
    /// # Errors
    /// If none comes in time.
    pub async fn next(
        &mut self,
        patience: Duration,
        fits: impl Fn(&Value) -> bool,
    ) -> Result<Value, CallError> {
        let until = Instant::now() + patience;
        loop {
            let delivery = timeout_at(until, self.consumer.next())
                .await
                .map_err(|_| CallError::Unanswered {
                    method: format!("(event; passed: {:?})", self.passed),
                    waited: patience,
                })?
                .ok_or_else(|| CallError::Lost("the broker closed the channel".to_owned()))?
                .map_err(lost)?;
            let event: Value = serde_json::from_slice(&delivery.data).map_err(|_| {
                CallError::Garbled(String::from_utf8_lossy(&delivery.data).into_owned())
            })?;
            if fits(&event) {
                return Ok(event);
            }
            self.passed.push_back(event);
        }
    }

    /// The events [`Self::next`] passed over, oldest first.
    pub fn passed(&self) -> impl Iterator<Item = &Value> {
        self.passed.iter()
    }
}

fn lost(error: lapin::Error) -> CallError {
    CallError::Lost(error.to_string())
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
    fn a_fault_keeps_its_code_and_data() {
        let text = br#"{"jsonrpc":"2.0","id":"2","error":{"code":-32000,"message":"busy","data":{"code":"conflict"}}}"#;
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
