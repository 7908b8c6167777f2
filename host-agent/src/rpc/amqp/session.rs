//! One session with one broker: what it delivers is taken and answered.
//!
//! ```text
//!   delivery ── probe ──────────────────────────────────────────> acknowledged
//!            ├─ cannot be read, or was given up ─> dead letter confirmed, told ─> acknowledged
//!            ├─ read ─────────────────────────────────────────── acknowledged ──> answered
//!            └─ change, in its turn ──> in the journal, or refused
//!                                          └─> answer confirmed ─> acknowledged
//! ```
//!
//! Changes are taken in the order they came, each once the one before is on disk. Reads do not wait
//! for them: a burst of changes must not make the node look dead.
//!
//! What was delivered and not acknowledged when a session ends goes back to the queue; whatever of
//! it was done already is known by its key. So a change is never acknowledged on a guess, and no
//! change under way is abandoned with the session: it runs in a task of its own.
//!
//! A message on which sessions end must not take others with it, for all that was delivered when
//! one ends counts as delivered once more. So what comes again comes one at a time, and only when
//! the first new one is there are more delivered together. For that there are two consumers, of
//! which the broker gives to one: the careful one, and when that is cancelled the other. The
//! queue is single-active-consumer for it, and so that nobody else's consumer gets a share.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Acker, BasicProperties, Channel, Connection, Consumer};
use ostler_protocol::rpc::amqp::frames::DELIVERIES;
use ostler_protocol::rpc::amqp::{BODY_LIMIT, TRIES, host_queue};
use ostler_protocol::rpc::envelope::{Response, read_request};
use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::values::IdempotencyKey;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::caller::caller;
use super::dead::{brief, is_dead, letter};
use super::outbox::{Outbox, PROBE_KIND, mind};
use super::replies::Reply;
use super::{Ended, PARTING, Stopping, amqp, close, topology};
use crate::compute::Outside;
use crate::rpc::service::{Asked, Service};
use crate::rpc::shares::Shares;

/// Deliveries under way at a time, once none comes again. Few: each may be as large as the broker
/// allows, and all of them count as delivered once more whenever a session ends.
const PREFETCH: u16 = 32;
/// Answers on their way at a time; more are dropped, and asked for again.
const REPLIES: usize = 1024;
/// How long a change's acknowledgement waits for its answer to be at the broker.
const REPLY_PATIENCE: Duration = Duration::from_secs(5);

/// The connections to a broker, with all that is declared on them.
pub(super) struct Session<O: Outside> {
    service: Service<O>,
    pub(super) host: String,
    inward: Connection,
    pub(super) channel: Channel,
    /// Gets one delivery at a time, until one is new.
    careful: Consumer,
    consumer: Consumer,
    /// The careful one is done with.
    trusting: AtomicBool,
    pub(super) outbox: Arc<Outbox>,
    tasks: TaskTracker,
    shares: Arc<Shares>,
    replies: Arc<Semaphore>,
    /// When something was last delivered.
    pub(super) heard: watch::Sender<Instant>,
    /// Deliveries that are being taken just now, changes that wait for their turn included.
    pub(super) underway: AtomicUsize,
}

/// A change that waits for its turn.
struct Waiting {
    asked: Asked,
    acker: Acker,
    reply: Reply,
}

impl<O: Outside> Session<O> {
    pub(super) async fn open(
        inward: Connection,
        outbox: Outbox,
        host: &str,
        service: &Service<O>,
    ) -> Result<Self, Ended> {
        let channel = inward.create_channel().await.map_err(amqp("open a channel"))?;
        topology::declare(&channel, host).await?;
        let careful = consume(&channel, host, 1).await?;
        let consumer = consume(&channel, host, PREFETCH).await?;
        Ok(Self {
            service: service.clone(),
            host: host.to_owned(),
            inward,
            channel,
            careful,
            consumer,
            trusting: AtomicBool::new(false),
            outbox: Arc::new(outbox),
            tasks: TaskTracker::new(),
            shares: Arc::default(),
            replies: Arc::new(Semaphore::new(REPLIES)),
            heard: watch::Sender::new(Instant::now()),
            underway: AtomicUsize::new(0),
        })
    }

    /// Serve until something goes wrong, or the agent has stopped.
    pub(super) async fn serve(&self, stopping: &Stopping) -> Ended {
        let events = self.service.compute().events();
        let mut telling = std::pin::pin!(self.outbox.tell(events, &stopping.telling));
        let mut minding = std::pin::pin!(self.outbox.mind());
        let mut all_told = false;
        let ended = tokio::select! {
            ended = self.consume(&stopping.taking) => ended,
            ended = self.prove() => ended,
            ended = mind(&self.inward) => ended,
            ended = &mut telling => {
                all_told = true;
                ended
            }
            ended = &mut minding => ended,
        };
        if !matches!(ended, Ended::Shutdown) {
            return ended;
        }
        // What is answered by now is acknowledged; the rest goes back with the connection.
        self.settle().await;
        close(&self.inward).await;
        if all_told {
            return Ended::Shutdown;
        }
        // What is under way is told until it has come to rest, by a broker that takes it.
        let told = async {
            tokio::select! {
                ended = &mut telling => ended,
                ended = &mut minding => ended,
            }
        };
        let late = async {
            stopping.telling.cancelled().await;
            tokio::time::sleep(PARTING).await;
        };
        tokio::select! {
            _ended = told => {}
            () = late => {}
        }
        Ended::Shutdown
    }

    /// Part from the broker, leaving it a moment for answers on their way.
    pub(super) async fn part(&self) {
        self.settle().await;
        tokio::join!(close(&self.inward), self.outbox.close());
    }

    async fn settle(&self) {
        self.tasks.close();
        let _ = tokio::time::timeout(PARTING, self.tasks.wait()).await;
    }

    async fn consume(&self, stop: &CancellationToken) -> Ended {
        let (turns, mut waiting) = mpsc::channel(usize::from(PREFETCH));
        let changes = async {
            while let Some(change) = waiting.recv().await {
                // What is left goes back to the queue, for the agent's next start.
                if !stop.is_cancelled() {
                    self.change(change, stop).await?;
                }
                self.underway.fetch_sub(1, Ordering::Relaxed);
            }
            Ok(())
        };
        match tokio::try_join!(self.deliveries(turns, stop), changes) {
            Ok(((), ())) => Ended::Shutdown,
            Err(ended) => ended,
        }
    }

    /// Take what is delivered until the agent stops.
    async fn deliveries(
        &self,
        turns: mpsc::Sender<Waiting>,
        stop: &CancellationToken,
    ) -> Result<(), Ended> {
        let mut arriving = stream::select(self.careful.clone(), self.consumer.clone());
        loop {
            let delivery = tokio::select! {
                biased;
                () = stop.cancelled() => {
                    // The one that waits first: it would be given to when the other is gone.
                    let cancelling = async {
                        self.cancel(&self.consumer).await?;
                        self.trust().await
                    };
                    let _ = tokio::time::timeout(PARTING, cancelling).await;
                    return Ok(());
                }
                delivery = arriving.next() => delivery,
            };
            let delivery = match delivery {
                None => return Err(Ended::Cancelled),
                Some(delivery) => delivery.map_err(amqp("consume"))?,
            };
            self.heard.send_replace(Instant::now());
            if !delivery.redelivered {
                self.trust().await?;
            }
            self.underway.fetch_add(1, Ordering::Relaxed);
            match self.take(delivery).await? {
                // No more are delivered than have a place.
                Some(change) => turns.send(change).await.map_err(|_| Ended::Broken)?,
                None => {
                    self.underway.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Take many at a time from now on.
    async fn trust(&self) -> Result<(), Ended> {
        if self.trusting.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        self.cancel(&self.careful).await
    }

    async fn cancel(&self, consumer: &Consumer) -> Result<(), Ended> {
        let cancelled = self.channel.basic_cancel(consumer.tag(), BasicCancelOptions::default());
        cancelled.await.map_err(amqp("cancel a consumer"))
    }

    /// Take one delivery, but for a change, which has to wait for its turn. What is wrong with it is
    /// its sender's to know, not an error here.
    async fn take(&self, delivery: Delivery) -> Result<Option<Waiting>, Ended> {
        let Delivery { acker, properties, data, redelivered, .. } = delivery;
        if properties.kind().as_ref().is_some_and(|kind| kind.as_str() == PROBE_KIND) {
            ack(&acker).await?;
            return Ok(None);
        }
        let reply = Reply::of(&properties);
        if redelivered && deliveries(&properties) >= TRIES {
            let text = format!("given up: each of {TRIES} times it was taken, a session ended");
            let next = "see the agent's log; whether it was carried out, operation list tells";
            let fault = Fault::new(Reason::Internal, text).next(next);
            let refused = Response::new(None, Err(fault.clone()));
            self.bury(acker, &data, &properties, reply, refused, &fault);
            return Ok(None);
        }
        let asked = match self.read(&data, &properties) {
            Ok(asked) => asked,
            Err(refused) => {
                let dead = refused.error.as_ref().filter(|fault| is_dead(fault.data.reason));
                if let Some(fault) = dead {
                    let fault = fault.clone();
                    self.bury(acker, &data, &properties, reply, *refused, &fault);
                } else {
                    self.answer(Some(acker), reply, *refused);
                }
                return Ok(None);
            }
        };
        // What was copied out of it is all that is needed, and it may be large.
        drop(data);
        if asked.needs_key() && !asked.has_key() {
            let text = "a change over AMQP needs an idempotency key: it may be delivered twice";
            let fault = Fault::new(Reason::InvalidRequest, text).next("set message_id");
            self.answer(Some(acker), reply, Response::new(asked.id(), Err(fault)));
            return Ok(None);
        }
        if asked.is_change() {
            return Ok(Some(Waiting { asked, acker, reply }));
        }
        ack(&acker).await?;
        let Some(kind) = self.service.waits(&asked) else {
            if let Some(response) = self.service.answer(asked).await {
                self.answer(None, reply, response);
            }
            return Ok(None);
        };
        // The broker vouches for a user; short of that, whoever gets the answer is who asks.
        let caller = properties.user_id().as_ref().or(properties.reply_to().as_ref());
        let place = match self.shares.place(kind, caller.map_or("", |name| name.as_str())) {
            Ok(place) => place,
            Err(fault) => {
                self.answer(None, reply, Response::new(asked.id(), Err(fault)));
                return Ok(None);
            }
        };
        let (service, outbox) = (self.service.clone(), Arc::clone(&self.outbox));
        self.tasks.spawn(async move {
            if let Some(response) = service.answer(asked).await {
                // Whoever lost its answer asks again.
                let _ = outbox.reply(&reply, &response).await;
            }
            drop(place);
        });
        Ok(None)
    }

    /// Read a request, or say what is wrong with it.
    fn read(&self, data: &[u8], properties: &BasicProperties) -> Result<Asked, Box<Response>> {
        let refuse = |fault: Fault| Box::new(Response::new(None, Err(fault)));
        if data.len() > BODY_LIMIT {
            let text = format!("a request is at most {BODY_LIMIT} bytes");
            return Err(refuse(Fault::new(Reason::InvalidRequest, text)));
        }
        let key = match properties.message_id() {
            None => None,
            Some(id) => match id.as_str().parse::<IdempotencyKey>() {
                Ok(key) => Some(key),
                Err(error) => {
                    let fault = Fault::of(Reason::InvalidRequest, &error).about("message_id");
                    // Whoever asked knows its answer by the request's own id.
                    let id = read_request(data).map_or_else(|(id, _)| id, |request| request.id);
                    return Err(Box::new(Response::new(id, Err(fault))));
                }
            },
        };
        self.service.read(data, &caller(properties), key)
    }

    /// Take a change: it is in the journal, or refused, when this returns.
    async fn change(&self, change: Waiting, stop: &CancellationToken) -> Result<(), Ended> {
        let Waiting { asked, acker, reply } = change;
        let service = self.service.clone();
        // In a task of its own: were it dropped with the session, between the journal and the
        // work, the work would wait for the next start.
        let submitted = self.tasks.spawn(async move { service.answer(asked).await }).await;
        let Ok(response) = submitted else { return Err(Ended::Broken) };
        let draining = match &response {
            Some(response) => {
                response.error.as_ref().is_some_and(|fault| fault.data.reason == Reason::Draining)
            }
            // It did not ask for an answer, so there is none to tell; its key does the rest.
            None => stop.is_cancelled(),
        };
        if draining {
            // Not refused: it goes back to the queue, for the agent's next start.
            return Ok(());
        }
        match response {
            Some(response) => self.answer(Some(acker), reply, response),
            None => ack(&acker).await?,
        }
        Ok(())
    }

    /// Send an answer, and acknowledge its request, if that waits for it.
    fn answer(&self, acker: Option<Acker>, reply: Reply, response: Response) {
        let place = Arc::clone(&self.replies).try_acquire_owned().ok();
        let outbox = Arc::clone(&self.outbox);
        self.tasks.spawn(async move {
            let mut sending = std::pin::pin!(async {
                match &place {
                    Some(_) => outbox.reply(&reply, &response).await,
                    None => Ok(()),
                }
            });
            let sent = tokio::time::timeout(REPLY_PATIENCE, &mut sending).await;
            if matches!(sent, Ok(Err(_))) {
                // The session is over. The request comes again, and gets its answer then.
                return;
            }
            if let Some(acker) = acker {
                // If that fails the session is over, too.
                let _ = ack(&acker).await;
            }
            if sent.is_err() {
                let _ = sending.await;
            }
        });
    }

    /// Bury a message nobody can carry out: the reason is kept, and told to its sender, before
    /// the message is acknowledged.
    fn bury(
        &self,
        acker: Acker,
        data: &[u8],
        properties: &BasicProperties,
        reply: Reply,
        refused: Response,
        fault: &Fault,
    ) {
        let reason = brief(&fault.to_string(), 200);
        tracing::warn!(reason, size = data.len(), "a message is a dead letter");
        let letter = letter(&self.host, data, properties, fault);
        let (outbox, host) = (Arc::clone(&self.outbox), self.host.clone());
        self.tasks.spawn(async move {
            // An error ends the session, and the message comes again.
            if outbox.bury(&host, &letter).await.is_err() {
                return;
            }
            if reply.is_wanted() && outbox.reply(&reply, &refused).await.is_err() {
                return;
            }
            let _ = ack(&acker).await;
        });
    }
}

/// Subscribe to the host's queue, for this many deliveries at a time.
async fn consume(channel: &Channel, host: &str, prefetch: u16) -> Result<Consumer, Ended> {
    channel
        .basic_qos(prefetch, BasicQosOptions::default())
        .await
        .map_err(amqp("limit the deliveries under way"))?;
    let (queue, options) = (host_queue(host), BasicConsumeOptions::default());
    channel
        .basic_consume(queue.into(), "".into(), options, FieldTable::default())
        .await
        .map_err(amqp("consume from the host's queue"))
}

/// How often a message was delivered before, in vain.
fn deliveries(properties: &BasicProperties) -> i64 {
    let headers = properties.headers().as_ref();
    match headers.and_then(|headers| headers.inner().get(DELIVERIES)) {
        Some(AMQPValue::LongLongInt(count)) => *count,
        Some(AMQPValue::LongInt(count)) => (*count).into(),
        _ => 0,
    }
}

async fn ack(acker: &Acker) -> Result<(), Ended> {
    let acked = acker.ack(BasicAckOptions::default()).await;
    acked.map(drop).map_err(amqp("acknowledge"))
}
