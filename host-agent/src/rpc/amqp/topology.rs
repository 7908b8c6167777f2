//! What the node declares at the broker: exchanges, its queue, and where dead letters go. All of
//! it is durable and named, and none of it exclusive: queues that come and go wear brokers out.

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Channel, ExchangeKind};
use ostler_protocol::rpc::amqp::{
    DEAD_MAX, DEAD_TTL, DELIVERY_LIMIT, EXCHANGE_BROADCAST, EXCHANGE_DEAD, EXCHANGE_EVENTS,
    EXCHANGE_RPC, QUEUE_DEAD, host_queue,
};

use super::{Ended, amqp};

/// Declare what the node needs; all of it durable, none of it exclusive.
pub(super) async fn declare(channel: &Channel, host: &str) -> Result<(), Ended> {
    let exchanges = [
        (EXCHANGE_RPC, ExchangeKind::Direct),
        (EXCHANGE_BROADCAST, ExchangeKind::Fanout),
        (EXCHANGE_EVENTS, ExchangeKind::Topic),
        (EXCHANGE_DEAD, ExchangeKind::Fanout),
    ];
    for (name, kind) in exchanges {
        let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(name.into(), kind, options, FieldTable::default())
            .await
            .map_err(amqp("declare an exchange"))?;
    }
    let quorum = |more: &[(&str, AMQPValue)]| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("quorum".into()));
        for (name, value) in more {
            arguments.insert((*name).into(), value.clone());
        }
        arguments
    };
    let dead = quorum(&[
        ("x-message-ttl", AMQPValue::LongLongInt(DEAD_TTL)),
        ("x-max-length", AMQPValue::LongLongInt(DEAD_MAX)),
    ]);
    let own = quorum(&[
        ("x-delivery-limit", AMQPValue::LongLongInt(DELIVERY_LIMIT)),
        ("x-dead-letter-exchange", AMQPValue::LongString(EXCHANGE_DEAD.into())),
    ]);
    let queue = host_queue(host);
    for (name, arguments) in [(QUEUE_DEAD, dead), (queue.as_str(), own)] {
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel
            .queue_declare(name.into(), options, arguments)
            .await
            .map_err(amqp("declare a queue"))?;
    }
    let bindings = [
        (queue.as_str(), EXCHANGE_RPC, host),
        (queue.as_str(), EXCHANGE_BROADCAST, ""),
        (QUEUE_DEAD, EXCHANGE_DEAD, ""),
    ];
    for (queue, exchange, key) in bindings {
        let options = QueueBindOptions::default();
        channel
            .queue_bind(queue.into(), exchange.into(), key.into(), options, FieldTable::default())
            .await
            .map_err(amqp("bind a queue"))?;
    }
    Ok(())
}
