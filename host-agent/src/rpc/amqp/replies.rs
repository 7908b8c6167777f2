//! Answers, on a connection of their own: one that a broker cannot carry costs no more than that.
//!
//! Where an answer goes is its asker's word, and RabbitMQ ends a connection on which something is
//! sent to a name that only looks like one of its own. On the connection that events and dead
//! letters go by, and with it the session, such a request would come again and again, and nobody
//! else be served. So when this connection ends, what was under way on it is sent once more, each
//! alone on a new one: what ends that, too, is dropped, and the others have lost nothing.

use std::sync::Arc;

use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::types::ShortString;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ErrorKind};
use ostler_protocol::rpc::amqp::CONTENT_TYPE;
use ostler_protocol::rpc::amqp::uri::Endpoint;
use ostler_protocol::rpc::envelope::Response;
use tokio::sync::Mutex;

use super::publish::{confirming, publish};
use super::{Ended, Side, close, connect};
use crate::rpc::service::bytes;

/// Where the answer to a message goes.
#[derive(Debug, Clone)]
pub(super) struct Reply {
    to: Option<ShortString>,
    correlation: Option<ShortString>,
}

impl Reply {
    pub(super) fn of(properties: &BasicProperties) -> Self {
        Self { to: properties.reply_to().clone(), correlation: properties.correlation_id().clone() }
    }

    /// Whether somebody waits for it.
    pub(super) const fn is_wanted(&self) -> bool {
        self.to.is_some()
    }
}

/// How often an answer is sent alone whose connection ends for no reason that is told: each time a
/// new one stands, and ends with it.
const ALONE: u8 = 3;

/// The connection for answers, made again when it is lost.
pub(super) struct Replies {
    endpoint: Endpoint,
    host: String,
    line: Mutex<Option<Arc<Line>>>,
    /// Held by the one that is sent alone.
    alone: Mutex<()>,
}

impl Replies {
    pub(super) async fn open(endpoint: &Endpoint, host: &str) -> Result<Self, Ended> {
        let line = Line::open(endpoint, host).await?;
        Ok(Self {
            endpoint: endpoint.clone(),
            host: host.to_owned(),
            line: Mutex::new(Some(Arc::new(line))),
            alone: Mutex::new(()),
        })
    }

    /// Send an answer, and wait until the broker has it. One that it does not take, or that nobody
    /// waits for any more, is its sender's to ask for again.
    ///
    /// # Errors
    /// If there is no connection for it: the session is over.
    pub(super) async fn send(&self, reply: &Reply, response: &Response) -> Result<(), Ended> {
        let Some(to) = &reply.to else { return Ok(()) };
        let body = bytes(response);
        let line = self.line().await?;
        if line.send(to, reply.correlation.as_ref(), &body).await.is_ok() {
            return Ok(());
        }
        self.line.lock().await.take_if(|held| Arc::ptr_eq(held, &line));
        // It may have been this one, or another's that was under way with it.
        let _alone = self.alone.lock().await;
        let mut cause = String::new();
        for _ in 0..ALONE {
            let line = Line::open(&self.endpoint, &self.host).await?;
            let sent = line.send(to, reply.correlation.as_ref(), &body).await;
            close(&line.connection).await;
            let Err(source) = sent else { return Ok(()) };
            cause = source.to_string();
            if is_of_the_message(&source) {
                break;
            }
        }
        tracing::warn!(cause, "an answer is dropped: the broker refuses its reply address");
        Ok(())
    }

    async fn line(&self) -> Result<Arc<Line>, Ended> {
        let mut held = self.line.lock().await;
        if let Some(line) = &*held {
            return Ok(Arc::clone(line));
        }
        let line = Arc::new(Line::open(&self.endpoint, &self.host).await?);
        *held = Some(Arc::clone(&line));
        Ok(line)
    }

    /// Part from the broker.
    pub(super) async fn close(&self) {
        if let Some(line) = self.line.lock().await.take() {
            close(&line.connection).await;
        }
    }
}

/// A connection, and the channel on it.
struct Line {
    connection: Connection,
    channel: Channel,
}

impl Line {
    async fn open(endpoint: &Endpoint, host: &str) -> Result<Self, Ended> {
        let connection = connect(endpoint, host, Side::Replies).await?;
        let channel = confirming(&connection).await?;
        Ok(Self { connection, channel })
    }

    async fn send(
        &self,
        to: &ShortString,
        correlation: Option<&ShortString>,
        body: &[u8],
    ) -> lapin::Result<()> {
        let mut properties = BasicProperties::default().with_content_type(CONTENT_TYPE.into());
        if let Some(correlation) = correlation {
            properties = properties.with_correlation_id(correlation.clone());
        }
        let sent = publish(&self.channel, "", to.as_str(), body, properties).await?;
        if !matches!(sent.await?, Confirmation::Ack(_)) {
            tracing::debug!("a reply was not taken: the queue it goes to is full");
        }
        Ok(())
    }
}

/// Whether a broker ended a connection for what was sent, not because it stops or is gone.
fn is_of_the_message(error: &lapin::Error) -> bool {
    matches!(error.kind(), ErrorKind::ProtocolError(error)
        if *error.kind() != AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED))
}
