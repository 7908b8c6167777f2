//! What goes out to a broker: replies, events, dead letters, and probes.
//!
//! A broker short of memory or disk takes nothing for as long as that lasts, and says so. Nothing
//! piles up meanwhile: events are dropped, for each tells what is and the next tells it again;
//! replies that wait are as many as there are places for them (`session.rs`).

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::types::ShortString;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Event as Notice, PublisherConfirm,
};
use ostler_protocol::rpc::amqp::{CONTENT_TYPE, EXCHANGE_DEAD, EXCHANGE_EVENTS, EXCHANGE_RPC};
use ostler_protocol::rpc::envelope::Response;
use ostler_protocol::rpc::event::Event;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::dead::Letter;
use super::{Ended, amqp, close};
use crate::rpc::service::bytes;

/// Events that may be on their way at a time; the next waits, and those after it may be lost.
const UNCONFIRMED: usize = 128;
/// The pause before a dead letter the broker did not take is offered again.
const AGAIN: Duration = Duration::from_secs(5);
/// The type of the messages the agent sends to itself.
pub(super) const PROBE_KIND: &str = "ostler-probe";

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
    pub(super) fn is_wanted(&self) -> bool {
        self.to.is_some()
    }
}

/// The connection that publishes.
pub(super) struct Outbox {
    connection: Connection,
    /// Replies, dead letters and probes.
    messages: Channel,
    /// Events, apart: a queue of somebody's that is slow to confirm them holds nothing else.
    events: Channel,
}

impl Outbox {
    pub(super) async fn open(connection: Connection) -> Result<Self, Ended> {
        let messages = confirming(&connection).await?;
        let events = confirming(&connection).await?;
        Ok(Self { connection, messages, events })
    }

    /// Whether the broker has said that it takes nothing now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Publish a reply, and wait until the broker has it. One that it does not take, or that
    /// nobody waits for any more, is its sender's to ask for again.
    pub(super) async fn reply(&self, reply: &Reply, response: &Response) -> lapin::Result<()> {
        let Some(to) = &reply.to else { return Ok(()) };
        let mut properties = BasicProperties::default().with_content_type(CONTENT_TYPE.into());
        if let Some(correlation) = &reply.correlation {
            properties = properties.with_correlation_id(correlation.clone());
        }
        let sent = publish(&self.messages, "", to.as_str(), &bytes(response), properties).await?;
        if !matches!(sent.await?, Confirmation::Ack(_)) {
            tracing::debug!("a reply was not taken: the queue it goes to is full");
        }
        Ok(())
    }

    /// Publish a dead letter until the broker has it.
    pub(super) async fn bury(&self, host: &str, letter: &Letter) -> lapin::Result<()> {
        loop {
            let properties = letter.properties.clone();
            let sent =
                publish(&self.messages, EXCHANGE_DEAD, host, &letter.body, properties).await?;
            if matches!(sent.await?, Confirmation::Ack(_)) {
                return Ok(());
            }
            tracing::warn!("the broker does not take a dead letter; it is offered again");
            tokio::time::sleep(AGAIN).await;
        }
    }

    /// Publish a message to the agent itself. One that is refused because the queue is full is no
    /// trouble: then there is enough else to hear.
    pub(super) async fn probe(&self, host: &str) -> lapin::Result<()> {
        let properties = BasicProperties::default().with_type(PROBE_KIND.into());
        publish(&self.messages, EXCHANGE_RPC, host, b"", properties).await?.await.map(drop)
    }

    /// Tell events, until the connection breaks or, once `stop` is set, none is left.
    pub(super) async fn tell(
        &self,
        mut events: broadcast::Receiver<Event>,
        stop: &CancellationToken,
    ) -> Ended {
        let mut unconfirmed: FuturesUnordered<PublisherConfirm> = FuturesUnordered::new();
        let mut lost: u64 = 0;
        loop {
            let stopping = stop.is_cancelled();
            if stopping && events.is_empty() && unconfirmed.is_empty() {
                return Ended::Shutdown;
            }
            tokio::select! {
                () = stop.cancelled(), if !stopping => {}
                Some(confirmed) = unconfirmed.next() => match confirmed {
                    // A queue that is full loses events, and says so here; it is not our queue.
                    Ok(_) => {}
                    Err(source) => return Ended::of("have an event confirmed", source),
                },
                event = events.recv(), if unconfirmed.len() < UNCONFIRMED => match event {
                    Ok(_) if self.is_blocked() => lost += 1,
                    Ok(event) => {
                        if lost > 0 {
                            tracing::info!(lost, "events were not told while the broker took none");
                            lost = 0;
                        }
                        match self.event(&event).await {
                            Ok(confirm) => unconfirmed.push(confirm),
                            Err(source) => return Ended::of("publish an event", source),
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => lost += missed,
                    Err(broadcast::error::RecvError::Closed) => return Ended::Shutdown,
                },
            }
        }
    }

    async fn event(&self, event: &Event) -> lapin::Result<PublisherConfirm> {
        // Events hold JSON values only, which always serialize.
        let body = serde_json::to_vec(event).unwrap_or_default();
        let properties = BasicProperties::default().with_content_type(CONTENT_TYPE.into());
        publish(&self.events, EXCHANGE_EVENTS, &event.routing_key(), &body, properties).await
    }

    /// Say what the broker says of this connection, until it breaks.
    pub(super) async fn mind(&self) -> Ended {
        mind(&self.connection).await
    }

    /// Part from the broker.
    pub(super) async fn close(&self) {
        close(&self.connection).await;
    }
}

/// Say what a broker says of a connection, until it breaks.
pub(super) async fn mind(connection: &Connection) -> Ended {
    let mut notices = std::pin::pin!(connection.events_listener());
    loop {
        match notices.next().await {
            Some(Notice::ConnectionBlocked(reason)) => {
                tracing::warn!(
                    reason,
                    next = "free memory or disk at the broker; this node works on meanwhile",
                    "the broker takes no messages"
                );
            }
            Some(Notice::ConnectionUnblocked) => tracing::info!("the broker takes messages again"),
            Some(Notice::Error(source)) => return Ended::of("keep the connection", source),
            // The library's enum is open; nothing else it tells ends a connection.
            Some(_) => {}
            None => return Ended::Cancelled,
        }
    }
}

async fn confirming(connection: &Connection) -> Result<Channel, Ended> {
    let channel = connection.create_channel().await.map_err(amqp("open a channel"))?;
    channel
        .confirm_select(ConfirmSelectOptions::default())
        .await
        .map_err(amqp("have messages confirmed"))?;
    Ok(channel)
}

/// Publish; the confirmation is to be awaited, for the library keeps one that is dropped.
async fn publish(
    channel: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> lapin::Result<PublisherConfirm> {
    let options = BasicPublishOptions::default();
    channel.basic_publish(exchange.into(), key.into(), options, body, properties).await
}
