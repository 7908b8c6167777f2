//! What the node declares at the broker: exchanges, its queue, and where dead letters go. All of
//! it is durable and named, and none of it exclusive: queues that come and go wear brokers out.
//!
//! ```text
//!   ostler.rpc ─────────┐                          full: publishers are refused
//!   ostler.broadcast ───┴─> ostler.host.HOST ───── expired: dropped, as its sender asked
//!                                  │
//!                                  │ delivered too often: the broker gives it up
//!                                  v
//!      the agent ──> ostler.dead  ostler.undelivered
//!    cannot read it,      └──────────┴──> queue ostler.dead
//!    or gives it up
//! ```
//!
//! `ostler.undelivered` tells the broker's reasons apart by the header the broker sets, so that
//! requests whose time ran out, which may carry secrets and are no fault, are not kept.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ErrorKind, ExchangeKind};
use ostler_protocol::rpc::amqp::{
    DEAD_MAX, DEAD_TTL, DELIVERY_LIMIT, EXCHANGE_BROADCAST, EXCHANGE_DEAD, EXCHANGE_EVENTS,
    EXCHANGE_RPC, EXCHANGE_UNDELIVERED, HOST_MAX, HOST_MAX_BYTES, QUEUE_DEAD, host_queue,
};

use super::{Ended, amqp};

/// Declare what the node needs.
///
/// # Errors
/// [`Ended::Otherwise`] if something of that name is there with other properties.
pub(super) async fn declare(channel: &Channel, host: &str) -> Result<(), Ended> {
    let exchanges = [
        (EXCHANGE_RPC, ExchangeKind::Direct),
        (EXCHANGE_BROADCAST, ExchangeKind::Fanout),
        (EXCHANGE_EVENTS, ExchangeKind::Topic),
        (EXCHANGE_DEAD, ExchangeKind::Fanout),
        (EXCHANGE_UNDELIVERED, ExchangeKind::Headers),
    ];
    for (name, kind) in exchanges {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(name.into(), kind, options, FieldTable::default())
            .await
            .map_err(declared(format!("exchange {name}")))?;
    }
    let number = AMQPValue::LongLongInt;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let dead = table(&[
        ("x-queue-type", text("quorum")),
        ("x-message-ttl", number(DEAD_TTL)),
        ("x-max-length", number(DEAD_MAX)),
    ]);
    let own = table(&[
        ("x-queue-type", text("quorum")),
        ("x-delivery-limit", number(DELIVERY_LIMIT)),
        // A second node of this name, or anyone else, gets nothing while the agent is there.
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-max-length", number(HOST_MAX)),
        ("x-max-length-bytes", number(HOST_MAX_BYTES)),
        // A command that has no room is refused to its sender, and none that waits is dropped.
        ("x-overflow", text("reject-publish")),
        ("x-dead-letter-exchange", text(EXCHANGE_UNDELIVERED)),
    ]);
    let queue = host_queue(host);
    for (name, arguments) in [(QUEUE_DEAD, dead), (queue.as_str(), own)] {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel
            .queue_declare(name.into(), options, arguments)
            .await
            .map_err(declared(format!("queue {name}")))?;
    }
    let given_up =
        table(&[("x-match", text("all-with-x")), ("x-first-death-reason", text("delivery_limit"))]);
    let bindings = [
        (queue.as_str(), EXCHANGE_RPC, host, FieldTable::default()),
        (queue.as_str(), EXCHANGE_BROADCAST, "", FieldTable::default()),
        (QUEUE_DEAD, EXCHANGE_DEAD, "", FieldTable::default()),
        (QUEUE_DEAD, EXCHANGE_UNDELIVERED, "", given_up),
    ];
    for (queue, exchange, key, arguments) in bindings {
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, arguments)
            .await
            .map_err(amqp("bind a queue"))?;
    }
    Ok(())
}

fn table(entries: &[(&str, AMQPValue)]) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, value) in entries {
        table.insert((*name).into(), value.clone());
    }
    table
}

/// What it means that something could not be declared.
fn declared(what: String) -> impl FnOnce(lapin::Error) -> Ended {
    move |source| {
        let otherwise = matches!(
            source.kind(),
            ErrorKind::ProtocolError(error)
                if *error.kind() == AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED)
        );
        if otherwise {
            Ended::Otherwise { what, source }
        } else {
            Ended::of(&format!("declare {what}"), source)
        }
    }
}
