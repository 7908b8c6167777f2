//! What a plain login at the broker can send to fell a node, and does not: it costs its sender an
//! answer at most, and nobody else anything.

use std::collections::BTreeSet;
use std::time::Duration;

use futures_util::StreamExt;
use lapin::options::{
    BasicConsumeOptions, BasicGetOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, Consumer};
use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::rpc::{Amqp, Call, Client, RawMessage, nested, short};
use ostler_tests::services::{Broker, Libvirt, Wire};
use serde_json::{Value, json};

use crate::node::need_root;

const SOON: Duration = Duration::from_secs(60);
const PING: &[u8] = br#"{"jsonrpc": "2.0", "id": 1, "method": "host.ping"}"#;

/// An agent that serves by this broker.
async fn serving(uri: &str) -> HostAgent {
    let agent = HostAgent::start(Setup::with_broker(uri)).await.unwrap();
    answers(&agent).await;
    agent
}

/// It answers by its broker.
async fn answers(agent: &HostAgent) {
    poll::until("the node answers through the broker", SOON, async || {
        let mut client = agent.amqp_client().await.map_err(|e| e.to_string())?;
        let ping = Call::new("host.ping", Value::Null).patience(Duration::from_secs(5));
        client.send(&ping).await.map_err(|e| e.to_string())
    })
    .await
    .unwrap();
}

/// The lines of its log that say this.
fn told(agent: &HostAgent, text: &str) -> usize {
    let log = std::fs::read_to_string(agent.log()).unwrap();
    log.lines().filter(|line| line.contains(text)).count()
}

#[expect(clippy::disallowed_methods, reason = "the broker is looked at from outside")]
async fn channel(broker: &Broker) -> (Connection, Channel) {
    let connection =
        Connection::connect(broker.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

/// A queue of the test's own, and what comes to it.
async fn mailbox(channel: &Channel) -> (String, Consumer) {
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let name = queue.name().clone();
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let mail = channel.basic_consume(name.clone(), "".into(), options, FieldTable::default());
    (name.to_string(), mail.await.unwrap())
}

/// The next answer of this host, and its correlation id.
async fn answer_of(mail: &mut Consumer, host: &str) -> (Value, Option<String>) {
    loop {
        let delivery = tokio::time::timeout(SOON, mail.next()).await.unwrap().unwrap().unwrap();
        let body: Value = serde_json::from_slice(&delivery.data).unwrap();
        if body["result"]["host"] == host {
            let id = delivery.properties.correlation_id().as_ref().map(ToString::to_string);
            return (body, id);
        }
    }
}

async fn depth(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    declared.unwrap().message_count()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_nested_as_deep_as_a_frame_holds_are_not_read() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let agent = serving(broker.uri()).await;
    // On a busy machine it may have taken several tries to get there.
    let lost = told(&agent, "no broker");
    let (_connection, channel) = channel(&broker).await;
    let (name, mut mail) = mailbox(&channel).await;
    for depth in [2_000, 18_000] {
        RawMessage {
            exchange: "ostler.rpc",
            key: agent.host().as_bytes(),
            // headers and reply_to
            flags: 0x2200,
            properties: &[nested(depth), short(name.as_bytes())].concat(),
            body: PING,
        }
        .publish(broker.uri())
        .unwrap();
        answer_of(&mut mail, agent.host()).await;
    }
    assert_eq!(told(&agent, "no broker"), lost);
    broker.forget_host(agent.host()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_text_do_not_end_a_connection() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let agent = serving(broker.uri()).await;
    // On a busy machine it may have taken several tries to get there.
    let lost = told(&agent, "no broker");
    let (_connection, channel) = channel(&broker).await;
    let (name, mut mail) = mailbox(&channel).await;
    let message = RawMessage {
        exchange: "ostler.rpc",
        key: agent.host().as_bytes(),
        // correlation_id and reply_to
        flags: 0x0600,
        properties: &[short(b"a\xff"), short(name.as_bytes())].concat(),
        body: PING,
    };
    message.publish(broker.uri()).unwrap();
    let (_, correlation) = answer_of(&mut mail, agent.host()).await;
    assert_eq!(correlation.as_deref(), Some("a\u{1a}"));
    // To all hosts, by a key that is none.
    RawMessage { exchange: "ostler.broadcast", key: b"\xff\xfe", ..message }
        .publish(broker.uri())
        .unwrap();
    answer_of(&mut mail, agent.host()).await;
    assert_eq!(told(&agent, "no broker"), lost);
    broker.forget_host(agent.host()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_ends_connections_is_dropped_alone() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let agent = serving(broker.uri()).await;
    let sessions = told(&agent, "broker connected");
    let amqp = Amqp::connect(broker.uri(), agent.host()).await.unwrap();
    let mut client = Client::amqp(broker.uri(), agent.host()).await.unwrap();
    let place = Place::new("images").unwrap();
    let source = place.write("tiny.img", vec![7; 4096]).unwrap();
    let import = json!({"jsonrpc": "2.0", "id": 1, "method": "image.import",
        "params": {"name": "mute", "source": source, "format": "raw"}});
    let properties = |key: &str| {
        BasicProperties::default()
            .with_reply_to("amq.rabbitmq.reply-to.g2dkAA==.x".into())
            .with_message_id(key.into())
    };
    amqp.publish_raw(import.to_string().as_bytes(), properties("mute")).await.unwrap();
    for n in 0..5 {
        amqp.publish_raw(PING, properties(&format!("ping-{n}"))).await.unwrap();
        client.call("host.ping", Value::Null).await.unwrap();
    }
    let (_connection, channel) = channel(&broker).await;
    poll::until("all answers are dropped", SOON, async || {
        match told(&agent, "answer is dropped") {
            6 => Ok(()),
            count => Err(format!("{count}")),
        }
    })
    .await
    .unwrap();
    // The change was done, once, and is acknowledged; the session is the first one still.
    let operations = client.call("operation.list", Value::Null).await.unwrap();
    let keys: Vec<&Value> = operations.as_array().unwrap().iter().map(|o| &o["key"]).collect();
    assert_eq!(keys, ["mute"]);
    assert_eq!(told(&agent, "broker connected"), sessions);
    assert_eq!(depth(&channel, &format!("ostler.host.{}", agent.host())).await, 0);
    broker.forget_host(agent.host()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_sessions_is_given_up_and_what_came_with_it_is_done() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::private().await.unwrap();
    let wire = Wire::to(&broker).await.unwrap();
    let mut agent = serving(wire.uri()).await;
    let host = agent.host().to_owned();
    let amqp = Amqp::connect(broker.uri(), &host).await.unwrap();
    let (_connection, channel) = channel(&broker).await;
    let (name, mut mail) = mailbox(&channel).await;
    let ask = |id: &str| {
        BasicProperties::default()
            .with_reply_to(name.as_str().into())
            .with_correlation_id(id.into())
    };
    // Where the agent has a chance to give it up, and where only the broker has one.
    for (times, own) in [(5, true), (11, false)] {
        agent.stop().await.unwrap();
        wire.poison("deadly poison", times);
        for n in 0..6 {
            if n == 3 {
                let mut foreign = FieldTable::default();
                foreign.insert("foreign".into(), AMQPValue::Boolean(true));
                let properties = ask("poison").with_headers(foreign);
                amqp.publish_raw(b"deadly poison", properties).await.unwrap();
            }
            amqp.publish_raw(PING, ask(&n.to_string())).await.unwrap();
        }
        agent.launch().unwrap();
        agent.ready().await.unwrap();
        let mut answered = BTreeSet::new();
        while answered.len() < 6 {
            answered.extend(answer_of(&mut mail, &host).await.1);
        }
        assert!(!answered.contains("poison"), "{answered:?}");
        let dead = poll::until("the dead letter", SOON, async || {
            let options = BasicGetOptions { no_ack: true };
            let got = channel.basic_get("ostler.dead".into(), options).await;
            got.map_err(|e| e.to_string())?.ok_or_else(|| "none".to_owned())
        })
        .await
        .unwrap();
        let properties = dead.delivery.properties;
        assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "poison");
        let headers = properties.headers().clone().unwrap();
        assert_eq!(headers.inner().contains_key("foreign"), !own, "{headers:?}");
        assert_eq!(headers.inner().contains_key("x-ostler-reason"), own, "{headers:?}");
        assert_eq!(depth(&channel, "ostler.dead").await, 0);
        assert_eq!(wire.deaths_left(), 0);
        answers(&agent).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_a_share_of_a_hosts_requests_and_who_has_the_queue_is_told() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let mut agent = serving(broker.uri()).await;
    let (connection, thief) = channel(&broker).await;
    let queue = format!("ostler.host.{}", agent.host());
    let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
    let _stolen = thief
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    let mut client = Client::amqp(broker.uri(), agent.host()).await.unwrap();
    for _ in 0..6 {
        client.call("host.ping", Value::Null).await.unwrap();
    }
    // The agent dies, and the other is first.
    agent.kill().await.unwrap();
    agent.launch().unwrap();
    agent.ready().await.unwrap();
    poll::until("it is told", SOON, async || {
        match told(&agent, "another consumer has this host's queue") {
            0 => Err("it is not in the log".to_owned()),
            _ => Ok(()),
        }
    })
    .await
    .unwrap();
    connection.close(200, "done".into()).await.unwrap();
    answers(&agent).await;
    // Nothing is left of an agent that was killed.
    agent.kill().await.unwrap();
    let shared = told(&agent, "another consumer has");
    agent.launch().unwrap();
    agent.ready().await.unwrap();
    answers(&agent).await;
    assert_eq!(told(&agent, "another consumer has"), shared);
    broker.forget_host(agent.host()).await.unwrap();
}
