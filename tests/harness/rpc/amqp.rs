//! The broker: requests to a host's queue, replies to the channel, events.

use std::collections::VecDeque;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::try_join_all;
use lapin::message::Delivery;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, QueueBindOptions,
    QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::{Call, CallError, outcome};

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

    /// Send all of these at once, none waiting for another's answer; their outcomes, in the same
    /// order.
    ///
    /// # Errors
    /// The broker did not take one, or one was not answered within the patience of the first.
    pub async fn send_all(
        &mut self,
        calls: &[Call],
    ) -> Result<Vec<Result<Value, CallError>>, CallError> {
        let Some(first) = calls.first() else { return Ok(Vec::new()) };
        let until = Instant::now() + first.patience;
        let ids: Vec<String> = calls.iter().map(|_| Uuid::new_v4().to_string()).collect();
        let sent = calls.iter().zip(&ids).map(|(call, id)| self.publish(call, id));
        timeout_at(until, try_join_all(sent)).await.map_err(|_| first.unanswered())??;
        let mut outcomes: Vec<Option<Result<Value, CallError>>> =
            calls.iter().map(|_| None).collect();
        while let Some(missing) = outcomes.iter().position(Option::is_none) {
            let delivery = timeout_at(until, self.replies.next())
                .await
                .map_err(|_| calls.get(missing).unwrap_or(first).unanswered())?
                .ok_or_else(|| CallError::Lost("the broker closed the channel".to_owned()))?
                .map_err(lost)?;
            let answered = ids
                .iter()
                .zip(&mut outcomes)
                .filter(|(_, known)| known.is_none())
                .find_map(|(id, known)| Some((known, outcome(&delivery.data, id)?)));
            if let Some((known, outcome)) = answered {
                *known = Some(outcome);
            }
        }
        Ok(outcomes.into_iter().flatten().collect())
    }

    /// Publish a call, to be answered with this id.
    async fn publish(&self, call: &Call, id: &str) -> Result<(), CallError> {
        let key = call.key.clone().unwrap_or_else(|| Uuid::new_v4().to_string());
        let mut properties = BasicProperties::default()
            .with_content_type("application/json".into())
            .with_message_id(key.as_str().into())
            .with_correlation_id(id.into())
            .with_reply_to("amq.rabbitmq.reply-to".into());
        if let Some(expiration) = call.expiration {
            properties =
                properties.with_expiration(expiration.as_millis().to_string().as_str().into());
        }
        self.publish_raw(call.body(id, None).to_string().as_bytes(), properties).await
    }

    pub(super) async fn send(&mut self, call: &Call) -> Result<Value, CallError> {
        let id = Uuid::new_v4().to_string();
        let until = Instant::now() + call.patience;
        timeout_at(until, self.publish(call, &id)).await.map_err(|_| call.unanswered())??;
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
