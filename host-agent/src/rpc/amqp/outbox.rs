//! What goes out to a broker: events, dead letters, probes, and by [`Replies`] answers.
//!
//! A broker short of memory or disk takes nothing for as long as that lasts, and says so. Nothing
//! piles up meanwhile: events are dropped, for each tells what is and the next tells it again;
//! replies that wait are as many as there are places for them (`session.rs`).

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lapin::{
    BasicProperties, Channel, Confirmation, Connection, Event as Notice, PublisherConfirm,
};
use ostler_protocol::rpc::amqp::{CONTENT_TYPE, EXCHANGE_DEAD, EXCHANGE_EVENTS, EXCHANGE_RPC};
use ostler_protocol::rpc::envelope::Response;
use ostler_protocol::rpc::event::Event;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::dead::Letter;
use super::publish::{confirming, publish};
use super::replies::{Replies, Reply};
use super::{Ended, close};
use crate::refusal::Refusal;
use crate::rpc::fault;

/// Events that may be on their way at a time; the next waits, and those after it may be lost.
const UNCONFIRMED: usize = 128;
/// The pause before a dead letter the broker did not take is offered again.
const AGAIN: Duration = Duration::from_secs(5);
/// The type of the messages the agent sends to itself.
pub(super) const PROBE_KIND: &str = "ostler-probe";
/// How long one may wait: longer than it is waited for, which shows whether it waits.
const PROBE_LIFE: Duration = Duration::from_secs(60);

/// The connection that publishes.
pub(super) struct Outbox {
    connection: Connection,
    /// Dead letters and probes.
    messages: Channel,
    /// Events, apart: a queue of somebody's that is slow to confirm them holds nothing else.
    events: Channel,
    replies: Replies,
    /// Set when an answer found no connection.
    lost: CancellationToken,
}

impl Outbox {
    pub(super) async fn open(connection: Connection, replies: Replies) -> Result<Self, Ended> {
        let messages = confirming(&connection).await?;
        let events = confirming(&connection).await?;
        Ok(Self { connection, messages, events, replies, lost: CancellationToken::new() })
    }

    /// Whether the broker has said that it takes nothing now.
    pub(super) fn is_blocked(&self) -> bool {
        self.connection.status().blocked()
    }

    /// Send an answer, and wait until the broker has it, or it cannot be given.
    ///
    /// # Errors
    /// If there is no connection for it; the session ends.
    pub(super) async fn reply(&self, reply: &Reply, response: &Response) -> Result<(), Ended> {
        let sent = self.replies.send(reply, response).await;
        if sent.is_err() {
            self.lost.cancel();
        }
        sent
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
    /// trouble: then there is enough else to hear. One that an agent which stops leaves behind does
    /// not stay in the queue.
    pub(super) async fn probe(&self, host: &str) -> lapin::Result<()> {
        let properties = BasicProperties::default()
            .with_type(PROBE_KIND.into())
            .with_expiration(PROBE_LIFE.as_millis().to_string().into());
        publish(&self.messages, EXCHANGE_RPC, host, b"", properties).await?.await.map(drop)
    }

    /// Tell events, until the connection breaks or, once `stop` is set, none is left.
    pub(super) async fn tell(
        &self,
        mut events: broadcast::Receiver<Event<Refusal>>,
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
                            tracing::info!(lost, "events were dropped while the broker accepted none");
                            lost = 0;
                        }
                        match self.event(&fault::event(event)).await {
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
        tokio::select! {
            ended = mind(&self.connection) => ended,
            () = self.lost.cancelled() => Ended::Mute,
        }
    }

    /// Part from the broker.
    pub(super) async fn close(&self) {
        tokio::join!(close(&self.connection), self.replies.close());
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
