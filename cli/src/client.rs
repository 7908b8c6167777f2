//! A client of one node: typed calls, and waiting for operations, over whichever transport.
//!
//! ```text
//!   call   read        one answer                                 30 s unless told
//!   change change      one answer: the accepted operation         30 s unless told
//!   act    in a guest  one answer                                30 s unless told
//!   wait   operation   long polls until it is over                no limit unless told
//!
//!   each:  connect ──> send ──> answer
//!             ^                   │ connection lost, or no answer in time
//!             └──── back off <────┘
//! ```
//!
//! A lost connection says nothing about the request: it is sent again, byte for byte. That is safe
//! for reads, and for changes because the key inside makes the second the same operation as the
//! first. A change also carries the instant at which this side gives up, so that it is never
//! started after the operator was told that it had not been answered.

use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::envelope::{Context, Version};
use ostler_protocol::rpc::fault::Reason;
use ostler_protocol::rpc::method::{Effect, Method, OperationWait};
use ostler_protocol::rpc::operation::{self, State};
use ostler_protocol::rpc::values::{IdempotencyKey, OperationId, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::failure::{Cause, Failure};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::reply::{MaybeNewer, Operation};
use crate::target::Target;
use crate::transport::{Link, Message, Remedy, TransportError};

/// How long one answer may take, where the operator gave no limit.
const ANSWER: Duration = Duration::from_secs(30);
/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long the node holds an `operation.wait` on which nothing happens.
const POLL: Duration = Duration::from_secs(20);
/// The least time between two polls: an operation may move on faster than anybody reads.
const BETWEEN_POLLS: Duration = Duration::from_millis(200);
/// The same when a poll was answered at once and with nothing new, as a node that stops does.
const BETWEEN_VAIN_POLLS: Duration = Duration::from_secs(1);
/// How much longer than asked for the node may take to answer before it counts as lost.
const SLACK: Duration = Duration::from_secs(10);
/// The first pause between attempts; each later one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// A client of one node.
pub(crate) struct Client {
    target: Arc<Target>,
    link: Option<Link>,
    interrupt: Interrupt,
    began: Option<Instant>,
    limit: Option<Duration>,
    got_through: bool,
}

/// When to stop trying, and how long to try each time.
struct Patience {
    /// When it is over; never, if absent.
    until: Option<Instant>,
    /// How long one attempt may take.
    attempt: Duration,
    /// Whether a refusal that will pass (the agent restarts, its queue is full) is waited out.
    refusals: Refusals,
}

/// What is done about a refusal that will pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusals {
    /// It is the answer.
    Tell,
    /// Ask again.
    WaitOut,
}

/// A request as it is written; [`envelope::Request`](ostler_protocol::rpc::envelope::Request)
/// holds its parameters as a JSON value, which would keep copies of a password in memory.
#[derive(Serialize)]
struct Outgoing<'a, P> {
    jsonrpc: Version,
    id: &'a str,
    method: &'static str,
    params: &'a P,
    context: Context,
}

impl Client {
    /// A client that gives up `limit` after it was first asked something, if there is a limit.
    pub(crate) fn new(target: Target, limit: Option<Duration>) -> Self {
        let (link, interrupt) = (None, Interrupt::default());
        let target = Arc::new(target);
        Self { target, link, interrupt, began: None, limit, got_through: false }
    }

    /// Another client of the same node, to ask two things at once. It gives up when this one does.
    pub(crate) fn sibling(&self) -> Self {
        Self {
            target: Arc::clone(&self.target),
            link: None,
            interrupt: Interrupt::default(),
            began: self.began,
            limit: self.limit,
            got_through: self.got_through,
        }
    }

    /// Where this client connects to.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// Let Ctrl-C be an error from here on, rather than the end of the program.
    pub(crate) fn heed_interrupts(&mut self) -> Result<(), Cause> {
        self.interrupt.heed()
    }

    /// What was asked for is done: what is still read, to show it, has the usual time.
    pub(crate) fn lift_limit(&mut self) {
        self.limit = None;
    }

    /// Ask something that answers directly.
    pub(crate) async fn call<M: Method>(
        &mut self,
        params: &M::Params,
    ) -> Result<M::Reply, Failure> {
        self.call_patiently::<M>(params, Duration::ZERO).await
    }

    /// Ask something the node may take `longer` than usual to answer.
    pub(crate) async fn call_patiently<M: Method>(
        &mut self,
        params: &M::Params,
        longer: Duration,
    ) -> Result<M::Reply, Failure> {
        let reply = self.fetch::<M>(params, longer).await?;
        Ok(read_reply::<M>(reply)?)
    }

    /// Ask something that answers directly, and read the answer as something more lenient, or
    /// smaller, than the method's own type.
    pub(crate) async fn ask<M: Method, T: DeserializeOwned>(
        &mut self,
        params: &M::Params,
    ) -> Result<T, Failure> {
        let reply = self.fetch::<M>(params, Duration::ZERO).await?;
        Ok(read_as::<M, T>(reply)?)
    }

    async fn fetch<M: Method>(
        &mut self,
        params: &M::Params,
        longer: Duration,
    ) -> Result<Value, Failure> {
        let until = self.give_up().unwrap_or_else(|| Instant::now() + ANSWER + longer);
        let patience =
            Patience { until: Some(until), attempt: ANSWER + longer, refusals: Refusals::Tell };
        let message = message::<M>(params, None, None)?;
        Ok(self.send(&message, &patience, &mut Progress::Silent).await?)
    }

    /// Have something done that answers directly. Sent again after a loss: with a key it is the same.
    pub(crate) async fn act<M: Method>(
        &mut self,
        params: &M::Params,
        key: Option<&IdempotencyKey>,
        longer: Duration,
    ) -> Result<M::Reply, Failure> {
        debug_assert_eq!(M::EFFECT, Effect::Act);
        let until = self.give_up().unwrap_or_else(|| Instant::now() + ANSWER + longer);
        let patience =
            Patience { until: Some(until), attempt: ANSWER + longer, refusals: Refusals::Tell };
        let message = message::<M>(params, key, None)?;
        let reply = self.send(&message, &patience, &mut Progress::Silent).await?;
        Ok(read_reply::<M>(reply)?)
    }

    /// The limit on all of this client's dealings, if the operator gave one.
    pub(crate) fn limit(&self) -> Option<Duration> {
        self.limit
    }

    /// Ask for a change; the answer is the operation it became.
    pub(crate) async fn change<M: Method<Reply = operation::Operation>>(
        &mut self,
        params: &M::Params,
        key: IdempotencyKey,
    ) -> Result<Operation, Failure> {
        debug_assert_eq!(M::EFFECT, Effect::Change);
        let now = Instant::now();
        let until = self.give_up().unwrap_or(now + ANSWER);
        let left = until.saturating_duration_since(now);
        let deadline = Timestamp(Timestamp::now().0 + left.as_millis() as u64);
        let message = message::<M>(params, Some(&key), Some(deadline))?;
        let patience = Patience { until: Some(until), attempt: ANSWER, refusals: Refusals::Tell };
        let reply = match self.send(&message, &patience, &mut Progress::Silent).await {
            Ok(reply) => reply,
            Err(Unsent { cause, sent: Sent::Never }) => return Err(cause.into()),
            // A refusal is an answer: nothing was begun.
            Err(Unsent { cause: cause @ Cause::Refused(_), .. }) => return Err(cause.into()),
            Err(Unsent { cause, sent: Sent::Perhaps }) => {
                return Err(cause.leaving_change(key));
            }
        };
        read_as::<M, Operation>(reply).map_err(|cause| cause.leaving_change(key))
    }

    /// Wait until an operation is over, and show what it does meanwhile.
    pub(crate) async fn wait(
        &mut self,
        id: OperationId,
        seen: Option<Operation>,
        progress: &mut Progress,
    ) -> Result<Operation, Failure> {
        let mut revision = None;
        if let Some(operation) = seen {
            progress.show(&operation);
            if operation.is_over() {
                return Ok(operation);
            }
            revision = Some(operation.revision);
        }
        let open = |cause: Cause| {
            if matches!(cause, Cause::Refused(_)) {
                // The node answered, and not with the operation: nothing is known to go on.
                Failure::from(cause)
            } else {
                cause.leaving_operation(id)
            }
        };
        loop {
            let asked = Instant::now();
            let until = self.give_up();
            let left = until.map_or(POLL, |until| until.saturating_duration_since(Instant::now()));
            let poll = left.min(POLL);
            // Without a revision the node would answer only when it is over; the first answer is to
            // show where it is.
            let params = operation::Wait {
                id,
                revision: Some(revision.unwrap_or(0)),
                timeout: Some(poll.as_millis() as u32),
            };
            let patience = Patience { until, attempt: poll + SLACK, refusals: Refusals::WaitOut };
            let message = message::<OperationWait>(&params, None, None)?;
            let reply = self.send(&message, &patience, progress).await;
            let reply = reply.map_err(|unsent| open(unsent.cause))?;
            let operation = read_as::<OperationWait, Operation>(reply).map_err(open)?;
            progress.show(&operation);
            if operation.is_over() {
                return Ok(operation);
            }
            let vain = revision == Some(operation.revision);
            revision = Some(operation.revision);
            let least = if vain { BETWEEN_VAIN_POLLS } else { BETWEEN_POLLS };
            let next = until.map_or(asked + least, |until| until.min(asked + least));
            if self.interrupt.during(tokio::time::sleep_until(next)).await.is_none() {
                return Err(open(Cause::Interrupted));
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(open(self.timed_out(None)));
            }
        }
    }

    /// Part from the node.
    pub(crate) async fn close(&mut self) {
        if let Some(link) = self.link.take() {
            link.close().await;
        }
    }

    fn give_up(&mut self) -> Option<Instant> {
        let began = *self.began.get_or_insert_with(Instant::now);
        self.limit.map(|limit| began + limit)
    }

    fn timed_out(&self, source: Option<TransportError>) -> Cause {
        Cause::TimedOut { after: self.began.map(|at| at.elapsed()).unwrap_or_default(), source }
    }

    /// Send a request until it is answered, refused, or patience is at its end.
    async fn send(
        &mut self,
        message: &Message,
        patience: &Patience,
        progress: &mut Progress,
    ) -> Result<Value, Unsent> {
        self.interrupt.heed().map_err(|cause| Unsent { cause, sent: Sent::Never })?;
        let mut sent = Sent::Never;
        let mut pause = FIRST_PAUSE;
        loop {
            let now = Instant::now();
            let left = patience.until.map(|until| until.saturating_duration_since(now));
            let within = left.map_or(patience.attempt, |left| left.min(patience.attempt));
            let attempt = self.attempt(message, within, &mut sent).await;
            let trouble = match attempt {
                Err(Obstacle::Interrupted) => {
                    return Err(Unsent { cause: Cause::Interrupted, sent });
                }
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(fault)) => {
                    // After a loss, such a refusal is about the second sending only; the first may
                    // have been accepted.
                    let passes = matches!(fault.data.reason, Reason::Draining | Reason::Busy);
                    let again = patience.refusals == Refusals::WaitOut || sent == Sent::Perhaps;
                    if !passes || !again {
                        return Err(Unsent { cause: fault.into(), sent });
                    }
                    progress.trouble(&fault.message);
                    None
                }
                Err(Obstacle::Transport(error)) => {
                    if error.remedy(self.got_through) == Remedy::GiveUp {
                        return Err(Unsent { cause: Cause::Unreachable(error), sent });
                    }
                    progress.trouble(&error.to_string());
                    Some(error)
                }
            };
            let until = patience.until;
            if until.is_some_and(|until| Instant::now() + pause >= until) {
                let cause = match trouble {
                    // Gone, and not come back: that is not a matter of more time.
                    Some(error) if patience.refusals == Refusals::Tell && error.is_absence() => {
                        Cause::Unreachable(error)
                    }
                    trouble => self.timed_out(trouble),
                };
                return Err(Unsent { cause, sent });
            }
            if self.interrupt.during(tokio::time::sleep(pause)).await.is_none() {
                return Err(Unsent { cause: Cause::Interrupted, sent });
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Connect, if need be, and send a request once.
    async fn attempt(
        &mut self,
        message: &Message,
        within: Duration,
        sent: &mut Sent,
    ) -> Result<Result<Value, ostler_protocol::rpc::fault::Fault>, Obstacle> {
        let connect = within.min(CONNECT);
        // The link is put back only after an answer: one that failed, or was cut short, is not used
        // again.
        let mut link = match self.link.take() {
            Some(link) => link,
            None => match self.interrupt.during(Link::open(&self.target, connect)).await {
                None => return Err(Obstacle::Interrupted),
                Some(opened) => opened?,
            },
        };
        // From here on a node that is absent is one that went away.
        self.got_through = true;
        let was_sent = std::mem::replace(sent, Sent::Perhaps);
        let exchange = tokio::time::timeout(within, link.exchange(message, within));
        let response = match self.interrupt.during(exchange).await {
            None => return Err(Obstacle::Interrupted),
            Some(Err(_)) => return Err(TransportError::Silent(within).into()),
            Some(Ok(Ok(response))) => response,
            Some(Ok(Err(error))) => {
                if error.came_back() {
                    *sent = was_sent;
                }
                return Err(error.into());
            }
        };
        *sent = was_sent;
        self.link = Some(link);
        Ok(response.into_outcome())
    }
}

/// Whether the node may have a request that was not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    /// It cannot.
    Never,
    /// It may.
    Perhaps,
}

/// A request without an answer.
struct Unsent {
    cause: Cause,
    sent: Sent,
}

impl From<Unsent> for Failure {
    fn from(unsent: Unsent) -> Self {
        unsent.cause.into()
    }
}

/// What came between a request and its answer.
enum Obstacle {
    Transport(TransportError),
    Interrupted,
}

impl From<TransportError> for Obstacle {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}

fn message<M: Method>(
    params: &M::Params,
    key: Option<&IdempotencyKey>,
    deadline: Option<Timestamp>,
) -> Result<Message, Cause> {
    let id = uuid::Uuid::new_v4().to_string();
    let context = Context { key: key.cloned(), deadline, request: Some(id.clone()) };
    let outgoing = Outgoing { jsonrpc: Version::V2, id: &id, method: M::NAME, params, context };
    // Large enough never to be moved, so that no copy of a password stays behind.
    let mut body = Zeroizing::new(Vec::with_capacity(16 << 10));
    serde_json::to_writer(&mut *body, &outgoing).map_err(|error| Cause::Local {
        what: format!("write the request {}", M::NAME),
        source: error.into(),
    })?;
    Ok(Message { id, key: key.map(|key| key.as_str().to_owned()), body })
}

fn read_reply<M: Method>(reply: Value) -> Result<M::Reply, Cause> {
    read_as::<M, M::Reply>(reply)
}

fn read_as<M: Method, T: DeserializeOwned>(reply: Value) -> Result<T, Cause> {
    serde_json::from_value(reply).map_err(|source| Cause::Reply { method: M::NAME, source })
}

/// Whether an operation that is over is what was asked for.
pub(crate) fn done(operation: Operation) -> Result<Operation, Failure> {
    match operation.state {
        MaybeNewer::Known(State::Succeeded) => Ok(operation),
        MaybeNewer::Known(
            State::Queued | State::Running | State::Failed | State::Cancelled | State::Undone,
        )
        | MaybeNewer::Newer(_) => Err(Cause::NotDone(Box::new(operation)).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::rpc::envelope::read_request;
    use ostler_protocol::rpc::instance::Select;
    use ostler_protocol::rpc::method::{Call, InstanceStart};
    use ostler_protocol::rpc::values::InstanceId;

    #[test]
    fn what_is_written_is_a_request_the_node_reads() {
        let key = IdempotencyKey::random();
        let params = Select { id: InstanceId::random() };
        let message = message::<InstanceStart>(&params, Some(&key), Some(Timestamp(7))).unwrap();
        let request = read_request(&message.body).unwrap();
        let context = request.context.unwrap();
        assert_eq!((context.key, context.deadline), (Some(key), Some(Timestamp(7))));
        let call = Call::decode(&request.method, request.params).unwrap();
        assert_eq!(call, Call::InstanceStart(params));
        assert!(!message.body.contains(&b'\n'));
    }
}
