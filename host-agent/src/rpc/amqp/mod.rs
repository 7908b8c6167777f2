//! AMQP 0-9-1: one connection, supervised here rather than by the client library.
//!
//! ```text
//!   connect ──> declare ──> consume ──> serve ──> anything goes wrong ──> drop it all
//!      ^                                                                     │
//!      └────────────── next endpoint, after a jittered pause ────────────────┘
//! ```
//!
//! A command is acknowledged as soon as it is in the journal, never held through its operation;
//! one that is delivered again finds its own operation. A read is acknowledged at once: whoever
//! does not get its answer asks again. That the consumer lives is proven by messages the agent
//! sends to itself through the broker, for a TCP connection proves nothing.

mod topology;

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicPublishOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Event};
use ostler_protocol::rpc::amqp::{
    BODY_LIMIT, CONTENT_TYPE, EXCHANGE_DEAD, EXCHANGE_EVENTS, EXCHANGE_RPC, HEADER_REASON,
    host_queue,
};
use ostler_protocol::rpc::envelope::Response;
use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::host::Link;
use ostler_protocol::rpc::values::IdempotencyKey;
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::service::{Service, bytes};
use crate::hypervisor::Hypervisor;
use crate::network::Network;

/// Deliveries under way at a time.
const PREFETCH: u16 = 64;
/// How long a connection may take to stand.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// How often the consumer is proven alive, and how long the proof may take.
const PROBE: Duration = Duration::from_secs(20);
const PROBE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a message to the broker may take.
const PUBLISH_PATIENCE: Duration = Duration::from_secs(10);
/// The pause before the next endpoint is tried: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
/// The type of the messages the agent sends to itself.
const PROBE_KIND: &str = "ostler-probe";

/// Why a session with a broker ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the broker could not be reached in {} s", CONNECT_PATIENCE.as_secs())]
    Connect,
    #[error("cannot {step}")]
    Amqp {
        step: &'static str,
        #[source]
        source: lapin::Error,
    },
    #[error("the broker ended the subscription")]
    Cancelled,
    #[error("the consumer does not get its own messages")]
    Deaf,
    #[error("the broker does not take messages")]
    Stuck,
    #[error("the agent is stopping")]
    Shutdown,
}

fn amqp(step: &'static str) -> impl FnOnce(lapin::Error) -> Ended {
    move |source| Ended::Amqp { step, source }
}

/// Serve over AMQP until `shutdown`, whatever becomes of the brokers; `link` tells how it stands.
pub async fn serve<H: Hypervisor, N: Network>(
    endpoints: Vec<String>,
    host: String,
    service: Service<H, N>,
    link: watch::Sender<Link>,
    shutdown: CancellationToken,
) {
    let mut pause = PAUSE.0;
    for (n, endpoint) in endpoints.iter().enumerate().cycle() {
        let begun = Instant::now();
        let ended = session(endpoint, &host, &service, &link, &shutdown).await;
        link.send_replace(Link::Down);
        if matches!(ended, Ended::Shutdown) || shutdown.is_cancelled() {
            return;
        }
        if begun.elapsed() > PAUSE.1 {
            pause = PAUSE.0;
        }
        let cause = std::error::Error::source(&ended).map(ToString::to_string);
        // The endpoint is named by number: its URI holds a password.
        tracing::warn!(endpoint = n + 1, reason = %ended, cause, "no broker");
        tokio::select! {
            () = tokio::time::sleep(jittered(pause)) => {}
            () = shutdown.cancelled() => return,
        }
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Between half and the whole, so that nodes do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::new_v4().as_u128() as u32;
    pause / 2 + pause / 2 * (random % 1000) / 1000
}

/// One session with one broker. It does not return `Ok`: it ends for a reason.
async fn session<H: Hypervisor, N: Network>(
    endpoint: &str,
    host: &str,
    service: &Service<H, N>,
    link: &watch::Sender<Link>,
    shutdown: &CancellationToken,
) -> Ended {
    let name: LongString = format!("ostler-host-agent {host}").into();
    let properties = ConnectionProperties::default().with_connection_name(name);
    #[expect(clippy::disallowed_methods, reason = "this is the home of AMQP connections")]
    let connecting = Connection::connect(endpoint, properties);
    let connection = tokio::select! {
        () = shutdown.cancelled() => return Ended::Shutdown,
        connected = tokio::time::timeout(CONNECT_PATIENCE, connecting) => match connected {
            Err(_) => return Ended::Connect,
            Ok(Err(source)) => return Ended::Amqp { step: "connect to the broker", source },
            Ok(Ok(connection)) => connection,
        },
    };
    let ended = match Session::open(&connection, host, service).await {
        Err(ended) => ended,
        Ok(session) => {
            link.send_replace(Link::Up);
            tracing::info!(host, "broker connected");
            let ended = session.serve(&connection, shutdown).await;
            // Answers under way are given to a broker that still listens, for a moment.
            session.answers.close();
            let _ = tokio::time::timeout(Duration::from_secs(2), session.answers.wait()).await;
            ended
        }
    };
    let closing = connection.close(200, "bye".into());
    // A broker that does not answer is left without a word.
    let _ = tokio::time::timeout(Duration::from_secs(2), closing).await;
    ended
}

/// A connection with all that is declared on it.
struct Session<'a, H: Hypervisor, N> {
    service: &'a Service<H, N>,
    host: &'a str,
    consumer: lapin::Consumer,
    /// Replies, events and probes; messages nobody waits for are not confirmed.
    out: Channel,
    answers: TaskTracker,
}

impl<'a, H: Hypervisor, N: Network> Session<'a, H, N> {
    async fn open(
        connection: &Connection,
        host: &'a str,
        service: &'a Service<H, N>,
    ) -> Result<Self, Ended> {
        let inward = connection.create_channel().await.map_err(amqp("open a channel"))?;
        let out = connection.create_channel().await.map_err(amqp("open a channel"))?;
        topology::declare(&inward, host).await?;
        inward
            .basic_qos(PREFETCH, BasicQosOptions::default())
            .await
            .map_err(amqp("limit the deliveries under way"))?;
        let queue = host_queue(host);
        let consumer = inward
            .basic_consume(
                queue.into(),
                "".into(),
                BasicConsumeOptions::default(),
                FieldTable::default(),
            )
            .await
            .map_err(amqp("consume from the host's queue"))?;
        Ok(Self { service, host, consumer, out, answers: TaskTracker::new() })
    }

    async fn serve(&self, connection: &Connection, shutdown: &CancellationToken) -> Ended {
        let mut consumer = self.consumer.clone();
        let mut told = self.service.compute().events();
        let mut broker = std::pin::pin!(connection.events_listener());
        let mut blocked = false;
        let mut heard = Instant::now();
        let mut probe = tokio::time::interval(PROBE);
        let mut deaf = std::pin::pin!(tokio::time::sleep(PROBE + PROBE_PATIENCE));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ended::Shutdown,
                delivery = consumer.next() => match delivery {
                    None => return Ended::Cancelled,
                    Some(Err(source)) => return Ended::Amqp { step: "consume", source },
                    Some(Ok(delivery)) => {
                        heard = Instant::now();
                        if let Err(ended) = self.take(delivery).await {
                            return ended;
                        }
                    }
                },
                event = told.recv() => match event {
                    // While the broker refuses messages, events are dropped: they tell what is,
                    // and the next one tells it again.
                    Ok(_) if blocked => {}
                    Ok(event) => {
                        let key = event.routing_key();
                        let body = serde_json::to_vec(&event).unwrap_or_default();
                        let properties = BasicProperties::default()
                            .with_content_type(CONTENT_TYPE.into());
                        let sent = self.publish(EXCHANGE_EVENTS, &key, &body, properties).await;
                        if let Err(ended) = sent {
                            return ended;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(missed)) => {
                        tracing::debug!(missed, "events were lost to the broker");
                    }
                    Err(broadcast::error::RecvError::Closed) => return Ended::Shutdown,
                },
                event = broker.next() => match event {
                    Some(Event::ConnectionBlocked(reason)) => {
                        tracing::warn!(reason, "the broker takes no messages");
                        blocked = true;
                    }
                    Some(Event::ConnectionUnblocked) => blocked = false,
                    Some(Event::Error(source)) => {
                        return Ended::Amqp { step: "keep the connection", source };
                    }
                    Some(_) => {}
                    None => return Ended::Cancelled,
                },
                _ = probe.tick(), if !blocked => {
                    let properties = BasicProperties::default().with_type(PROBE_KIND.into());
                    if let Err(ended) = self.publish(EXCHANGE_RPC, self.host, b"", properties).await {
                        return ended;
                    }
                }
                () = &mut deaf => {
                    if !blocked && heard.elapsed() > PROBE + PROBE_PATIENCE {
                        return Ended::Deaf;
                    }
                    let next = heard + PROBE + PROBE_PATIENCE + Duration::from_millis(100);
                    let next = next.max(Instant::now() + Duration::from_secs(1));
                    deaf.as_mut().reset(next.into());
                }
            }
        }
    }

    /// Take one delivery. What is wrong with it is its sender's to know, not an error here.
    async fn take(&self, delivery: Delivery) -> Result<(), Ended> {
        let properties = &delivery.properties;
        if properties.kind().as_ref().is_some_and(|kind| kind.as_str() == PROBE_KIND) {
            return ack(&delivery).await;
        }
        let reply = Reply::of(properties);
        let key = match properties.message_id() {
            None => Ok(None),
            Some(id) => id.as_str().parse::<IdempotencyKey>().map(Some),
        };
        if delivery.data.len() > BODY_LIMIT {
            let text = format!("a request is at most {BODY_LIMIT} bytes");
            return self.poison(&delivery, &reply, Fault::new(Reason::InvalidRequest, text)).await;
        }
        let key = match key {
            Ok(key) => key,
            Err(error) => {
                let fault = Fault::of(Reason::InvalidRequest, &error).about("message_id");
                return self.poison(&delivery, &reply, fault).await;
            }
        };
        let asked = match self.service.read(&delivery.data, "amqp", key) {
            Ok(asked) => asked,
            Err(refused) => {
                let unreadable = refused.error.as_ref().filter(|fault| {
                    matches!(fault.data.reason, Reason::ParseError | Reason::InvalidRequest)
                });
                if let Some(fault) = unreadable {
                    return self.poison(&delivery, &reply, fault.clone()).await;
                }
                self.reply(&reply, &refused).await?;
                return ack(&delivery).await;
            }
        };
        if asked.needs_key() && !asked.has_key() {
            let text = "a change over AMQP needs an idempotency key: it may be delivered twice";
            let fault = Fault::new(Reason::InvalidRequest, text).next("set message_id");
            self.reply(&reply, &Response::new(asked.id(), Err(fault))).await?;
            return ack(&delivery).await;
        }
        if asked.is_change() {
            // In the journal when this returns, or refused.
            let response = self.service.answer(asked).await;
            ack(&delivery).await?;
            return match response {
                Some(response) => self.reply(&reply, &response).await,
                None => Ok(()),
            };
        }
        ack(&delivery).await?;
        if !asked.may_wait() {
            return match self.service.answer(asked).await {
                Some(response) => self.reply(&reply, &response).await,
                None => Ok(()),
            };
        }
        if self.answers.len() >= usize::from(PREFETCH) * 16 {
            let text = "busy: too many requests are waiting on this node";
            let fault = Fault::new(Reason::Busy, text).next("ask again later");
            return self.reply(&reply, &Response::new(None, Err(fault))).await;
        }
        let (service, out) = (self.service.clone(), self.out.clone());
        self.answers.spawn(async move {
            if let Some(response) = service.answer(asked).await {
                // Whoever lost its answer asks again.
                let _ = send(&out, &reply, &response).await;
            }
        });
        Ok(())
    }

    /// A message nobody can carry out: told to its sender, and kept with the reason.
    async fn poison(&self, delivery: &Delivery, reply: &Reply, fault: Fault) -> Result<(), Ended> {
        tracing::warn!(%fault, "a message that cannot be read goes to the dead letters");
        let mut headers = FieldTable::default();
        let reason = AMQPValue::LongString(fault.to_string().into());
        headers.insert(HEADER_REASON.into(), reason);
        let properties = delivery.properties.clone().with_headers(headers);
        // Without its expiration, which has served its purpose.
        let properties = match properties.delivery_mode() {
            Some(_) => properties,
            None => properties.with_delivery_mode(2),
        };
        let kept = &delivery.data[..delivery.data.len().min(BODY_LIMIT)];
        self.publish(EXCHANGE_DEAD, self.host, kept, properties).await?;
        self.reply(reply, &Response::new(None, Err(fault))).await?;
        ack(delivery).await
    }

    async fn reply(&self, reply: &Reply, response: &Response) -> Result<(), Ended> {
        send(&self.out, reply, response).await
    }

    async fn publish(
        &self,
        exchange: &str,
        key: &str,
        body: &[u8],
        properties: BasicProperties,
    ) -> Result<(), Ended> {
        publish(&self.out, exchange, key, body, properties).await
    }
}

/// Where the answer to a message goes.
struct Reply {
    to: Option<ShortString>,
    correlation: Option<ShortString>,
}

impl Reply {
    fn of(properties: &BasicProperties) -> Self {
        Self { to: properties.reply_to().clone(), correlation: properties.correlation_id().clone() }
    }
}

async fn send(out: &Channel, reply: &Reply, response: &Response) -> Result<(), Ended> {
    let Some(to) = &reply.to else { return Ok(()) };
    let mut properties = BasicProperties::default().with_content_type(CONTENT_TYPE.into());
    if let Some(correlation) = &reply.correlation {
        properties = properties.with_correlation_id(correlation.clone());
    }
    publish(out, "", to.as_str(), &bytes(response), properties).await
}

async fn publish(
    out: &Channel,
    exchange: &str,
    key: &str,
    body: &[u8],
    properties: BasicProperties,
) -> Result<(), Ended> {
    let options = BasicPublishOptions::default();
    let sending = out.basic_publish(exchange.into(), key.into(), options, body, properties);
    match tokio::time::timeout(PUBLISH_PATIENCE, sending).await {
        Err(_) => Err(Ended::Stuck),
        Ok(sent) => sent.map(drop).map_err(amqp("publish")),
    }
}

async fn ack(delivery: &Delivery) -> Result<(), Ended> {
    let acked = delivery.ack(BasicAckOptions::default()).await;
    acked.map(drop).map_err(amqp("acknowledge"))
}
