//! A node behind an AMQP 0-9-1 broker, by the names of [`rpc::amqp`](ostler_protocol::rpc::amqp).
//!
//! ```text
//!   publish, mandatory ──> ostler.rpc ──(routing key = host)──> ostler.host.<host> ──> agent
//!   consume, no ack   <── amq.rabbitmq.reply-to <────────────────────────────────────── reply
//! ```
//!
//! This end declares nothing: exchanges and queues are the agents', and one made here by a
//! misspelt name would take requests nobody reads. What is missing is an error instead. Replies
//! come by the broker's direct reply-to, which needs the consumer to stand, on the same channel,
//! before anything is published. lapin's own recovery stays off: see the module above.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
};
use lapin::protocol::{AMQPErrorKind, AMQPHardError, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ErrorKind,
    ExchangeKind,
};
use ostler_protocol::rpc::amqp::{CONTENT_TYPE, DIRECT_REPLY_TO, EXCHANGE_RPC};
use ostler_protocol::rpc::envelope::Response;

use super::{Message, RESPONSE_LIMIT, TransportError, read_response};
use crate::target::Broker;

/// How long parting in good order may take.
const PARTING: Duration = Duration::from_secs(1);

/// A connection to a broker, with the channel requests and replies go through.
pub(crate) struct AmqpLink {
    connection: Connection,
    channel: Channel,
    replies: Consumer,
    host: String,
    address: String,
}

impl AmqpLink {
    /// Connect, see that there are host agents at this broker, and listen for replies.
    pub(super) async fn open(broker: &Broker) -> Result<Self, TransportError> {
        let address = &broker.address;
        let fails = |error| connecting(address, error);
        let properties = ConnectionProperties::default().with_connection_name("ostler".into());
        let connection =
            Connection::connect_uri(broker.uri.clone(), properties).await.map_err(fails)?;
        let channel = connection.create_channel().await.map_err(fails)?;
        channel
            .exchange_declare(
                EXCHANGE_RPC.into(),
                ExchangeKind::Direct,
                ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() },
                FieldTable::default(),
            )
            .await
            .map_err(|error| {
                if refusal(&error) == Some(&AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)) {
                    let address = address.clone();
                    TransportError::NoExchange { address, exchange: EXCHANGE_RPC }
                } else {
                    fails(error)
                }
            })?;
        channel.confirm_select(ConfirmSelectOptions::default()).await.map_err(fails)?;
        let replies = channel
            .basic_consume(
                DIRECT_REPLY_TO.into(),
                "".into(),
                BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() },
                FieldTable::default(),
            )
            .await
            .map_err(fails)?;
        let (host, address) = (broker.host.clone(), address.clone());
        Ok(Self { connection, channel, replies, host, address })
    }

    /// Publish a request, see that it was routed and kept, and wait for the reply that names it.
    pub(super) async fn exchange(
        &mut self,
        message: &Message,
        keep: Duration,
    ) -> Result<Response, TransportError> {
        let expiration = keep.as_millis().max(1).to_string();
        let mut properties = BasicProperties::default()
            .with_content_type(CONTENT_TYPE.into())
            .with_correlation_id(message.id.as_str().into())
            .with_reply_to(DIRECT_REPLY_TO.into())
            .with_expiration(expiration.into());
        if let Some(key) = &message.key {
            properties = properties.with_message_id(key.as_str().into());
        }
        let confirmation = self
            .channel
            .basic_publish(
                EXCHANGE_RPC.into(),
                self.host.as_str().into(),
                BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() },
                &message.body,
                properties,
            )
            .await
            .map_err(lost)?
            .await
            .map_err(lost)?;
        match confirmation {
            Confirmation::Ack(None) => {}
            Confirmation::Ack(Some(_)) | Confirmation::Nack(Some(_)) => {
                let (host, address) = (self.host.clone(), self.address.clone());
                return Err(TransportError::NoQueue { host, address });
            }
            Confirmation::Nack(None) | Confirmation::NotRequested => {
                return Err(TransportError::NotTaken { host: self.host.clone() });
            }
        }
        loop {
            let delivery = match self.replies.next().await {
                Some(Ok(delivery)) => delivery,
                Some(Err(error)) => return Err(lost(error)),
                None => return Err(TransportError::Lost(None)),
            };
            let answers = delivery.properties.correlation_id().as_ref().map(|id| id.as_str());
            // Anyone at the broker who learns the reply address can write to it.
            if answers != Some(message.id.as_str()) {
                continue;
            }
            if delivery.data.len() > RESPONSE_LIMIT {
                return Err(TransportError::TooLarge);
            }
            return read_response(&delivery.data, message);
        }
    }

    /// Say goodbye, so that the broker does not log a lost client.
    pub(super) async fn close(self) {
        let closing = self.connection.close(200, "done".into());
        // Whatever comes of it, the answer is here already.
        drop(tokio::time::timeout(PARTING, closing).await);
    }
}

fn lost(error: lapin::Error) -> TransportError {
    TransportError::Lost(Some(Box::new(error)))
}

/// What the broker said in refusing something, if that is what happened.
fn refusal(error: &lapin::Error) -> Option<&AMQPErrorKind> {
    if let ErrorKind::ProtocolError(error) = error.kind() { Some(error.kind()) } else { None }
}

/// Sort an error of connecting: a broker that refuses will refuse again, one that is away comes
/// back.
fn connecting(address: &str, source: lapin::Error) -> TransportError {
    let denied = matches!(
        refusal(&source),
        Some(
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED)
                | AMQPErrorKind::Hard(AMQPHardError::NOTALLOWED)
        )
    ) || matches!(source.kind(), ErrorKind::AuthProviderError(_));
    let address = address.to_owned();
    if denied {
        TransportError::BrokerDenied { address, source }
    } else {
        TransportError::Broker { address, source }
    }
}
