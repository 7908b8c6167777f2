//! The fixed names of the AMQP 0-9-1 transport, and what its message properties mean.
//!
//! | property | meaning |
//! |---|---|
//! | `message_id` | idempotency key: the same key is the same operation, however often delivered; needed for changes |
//! | `correlation_id`, `reply_to` | where the reply goes, and what it answers |
//! | `content_type` | `application/json` |
//! | `expiration` | how long the command may wait in the queue, milliseconds |
//!
//! A deadline as a point in time travels in the request's
//! [`context`](super::envelope::Context::deadline).

pub mod frames;
pub mod uri;

/// Direct exchange for requests; the routing key is the host's name.
pub const EXCHANGE_RPC: &str = "ostler.rpc";
/// Fanout exchange: a request published here reaches every host.
pub const EXCHANGE_BROADCAST: &str = "ostler.broadcast";
/// Topic exchange for events; routing keys are `<kind>.<host>.<id>`.
pub const EXCHANGE_EVENTS: &str = "ostler.events";
/// Fanout exchange for what an agent tells of messages it cannot read; bound to [`QUEUE_DEAD`].
pub const EXCHANGE_DEAD: &str = "ostler.dead";
/// Headers exchange for messages the broker itself gives up; bound to [`QUEUE_DEAD`] for those
/// that were delivered too often, and for nothing else.
pub const EXCHANGE_UNDELIVERED: &str = "ostler.undelivered";
/// Queue that keeps what is told of messages no host could take, with the reason in the headers.
pub const QUEUE_DEAD: &str = "ostler.dead";
/// How long a dead letter is kept, milliseconds: a week.
pub const DEAD_TTL: i64 = 7 * 86_400_000;
/// How many dead letters are kept; then the oldest goes.
pub const DEAD_MAX: i64 = 10_000;
/// How often an agent takes a message before it gives it up: before the broker does, which would
/// keep it whole.
pub const TRIES: i64 = 5;
/// How often the broker delivers one message before it counts as poison.
pub const DELIVERY_LIMIT: i64 = 10;
/// How many requests may wait in a host's queue; more are refused to their publisher.
pub const HOST_MAX: i64 = 10_000;
/// How many bytes of them; more are refused to their publisher.
pub const HOST_MAX_BYTES: i64 = 32 << 20;
/// The largest request body taken, bytes. A larger one is a dead letter.
pub const BODY_LIMIT: usize = 1 << 20;
/// Header of a dead-lettered message that says why.
pub const HEADER_REASON: &str = "x-ostler-reason";
/// RabbitMQ's pseudo-queue for replies on the requester's own channel.
pub const DIRECT_REPLY_TO: &str = "amq.rabbitmq.reply-to";
/// The content type of every message.
pub const CONTENT_TYPE: &str = "application/json";

/// The queue of one host: durable, quorum, bounded, with a delivery limit.
pub fn host_queue(host: &str) -> String {
    format!("ostler.host.{host}")
}
