//! The broker at its limits: short of memory, its queues full, its things otherwise than they
//! should be; messages nobody can read, that come too often, or too late.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use lapin::options::{
    BasicAckOptions, BasicConsumeOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions,
    ConfirmSelectOptions, ExchangeDeclareOptions, QueueDeclareOptions, QueuePurgeOptions,
};
use lapin::types::{AMQPValue, ByteArray, FieldTable};
use lapin::{BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind};
use nix::sys::signal::Signal;
use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::cli::Cli;
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::rpc::{Amqp, Call, Client};
use ostler_tests::services::{Broker, Libvirt};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::node::need_root;

const SOON: Duration = Duration::from_secs(60);

/// An agent on a broker, once that delivers to it.
pub(crate) async fn agent_on(broker: &Broker, more: &str) -> HostAgent {
    let setup = Setup { more: more.to_owned(), ..Setup::with_broker(broker.uri()) };
    let agent = HostAgent::start(setup).await.unwrap();
    up(&agent).await;
    agent
}

/// The agent says that it is on its broker.
pub(crate) async fn up(agent: &HostAgent) {
    let mut client = agent.client().await.unwrap();
    poll::until("the agent is on the broker", SOON, async || {
        let shown = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        if shown["broker"] == "up" { Ok(()) } else { Err(shown["broker"].to_string()) }
    })
    .await
    .unwrap();
}

/// The agent's log says this.
pub(crate) async fn logged(agent: &HostAgent, text: &str) -> String {
    poll::until("the log", SOON, async || {
        let log = std::fs::read_to_string(agent.log()).map_err(|e| e.to_string())?;
        match log.lines().find(|line| line.contains(text)) {
            Some(line) => Ok(line.to_owned()),
            None => Err(format!("no {text:?} in it")),
        }
    })
    .await
    .unwrap()
}

#[expect(clippy::disallowed_methods, reason = "the broker is looked at from outside")]
async fn channel(broker: &Broker) -> (Connection, Channel) {
    let connection =
        Connection::connect(broker.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
    (connection, channel)
}

async fn depth(channel: &Channel, queue: &str) -> u32 {
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let declared = channel.queue_declare(queue.into(), passive, FieldTable::default()).await;
    declared.unwrap().message_count()
}

/// The next dead letter: its reason, if it has one, what is told, and its headers.
async fn letter(channel: &Channel) -> (String, Vec<u8>, FieldTable) {
    let dead = poll::until("a dead letter", SOON, async || {
        let options = BasicGetOptions { no_ack: true };
        let got = channel.basic_get("ostler.dead".into(), options).await;
        got.map_err(|e| e.to_string())?.ok_or_else(|| "none".to_owned())
    })
    .await
    .unwrap();
    let headers = dead.delivery.properties.headers().clone().unwrap_or_default();
    let reason = match headers.inner().get("x-ostler-reason") {
        Some(AMQPValue::LongString(told)) => told.to_string(),
        _ => String::new(),
    };
    (reason, dead.delivery.data, headers)
}

fn image(place: &Place) -> String {
    place.write("tiny.img", vec![7; 4096]).unwrap().to_string_lossy().into_owned()
}

/// Import and remove an image, which is a dozen events.
async fn churn(client: &mut Client, source: &str, n: usize) {
    let name = format!("churn-{n}");
    for (method, params) in [
        ("image.import", json!({"name": name, "source": source, "format": "raw"})),
        ("image.remove", json!({"name": name})),
    ] {
        let accepted = poll::until("it is accepted", SOON, async || {
            client.call(method, params.clone()).await.map_err(|e| e.to_string())
        })
        .await
        .unwrap();
        let over = client.call("operation.wait", json!({"id": accepted["id"]})).await.unwrap();
        assert_eq!(over["state"], "succeeded", "{over:#}");
    }
}

/// A process's memory, KiB.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_short_of_memory_stops_messages_and_nothing_else() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let mut broker = Broker::private().await.unwrap();
    let mut agent = agent_on(&broker, "").await;
    let place = Place::new("images").unwrap();
    let source = image(&place);
    let host = agent.host().to_owned();
    let listener = Amqp::connect(broker.uri(), &host).await.unwrap();
    let mut events = listener.events("operation.#").await.unwrap();

    // A command that is in the queue when the alarm comes, and whose answer is not out yet.
    let mut asker = Client::amqp(broker.uri(), &host).await.unwrap();
    asker.call("host.ping", Value::Null).await.unwrap();
    agent.signal(Signal::SIGSTOP).unwrap();
    let import = json!({"name": "early", "source": source, "format": "raw"});
    let (_watch, looking) = channel(&broker).await;
    let asked = tokio::spawn(async move {
        let call = Call::new("image.import", import).key("early").patience(SOON * 3);
        asker.send(&call).await
    });
    let queue = format!("ostler.host.{host}");
    poll::until("it is at the broker", SOON, async || {
        let listed = broker.control(&["list_queues", "name", "messages"]).await;
        let listed = listed.map_err(|e| e.to_string())?;
        match listed.lines().find(|line| line.starts_with(&queue)) {
            Some(line) if !line.trim_end().ends_with("\t0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    broker.alarm().await.unwrap();
    agent.signal(Signal::SIGCONT).unwrap();

    // Commands by the socket are done, more of them than events would be kept for.
    let mut client = agent.client().await.unwrap();
    churn(&mut client, &source, 0).await;
    logged(&agent, "the broker takes no messages").await;
    let pid = agent.pid().unwrap();
    let mut sizes = Vec::new();
    for n in 1..150 {
        if n % 25 == 0 {
            sizes.push(resident(pid));
        }
        churn(&mut client, &source, n).await;
    }
    sizes.push(resident(pid));
    eprintln!("KiB every 300 events: {sizes:?}");
    // As many events as are ever kept are there by half of it.
    let grown = sizes[5].saturating_sub(sizes[3]);
    assert!(grown < 3 << 10, "grown by {grown} KiB: {sizes:?}");
    assert_eq!(client.call("host.show", Value::Null).await.unwrap()["broker"], "up");
    // The command that waited was done, and taken off the queue, without its answer.
    let images = client.call("image.list", Value::Null).await.unwrap();
    assert_eq!(images[0]["name"], "early");
    assert_eq!(depth(&looking, &queue).await, 0);
    assert!(!asked.is_finished());

    // The agent ends in time, and starts, with the alarm on.
    let begun = Instant::now();
    assert_eq!(agent.stop().await.unwrap(), 0);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    agent.launch().unwrap();
    agent.ready().await.unwrap();
    up(&agent).await;
    let mut client = agent.client().await.unwrap();
    churn(&mut client, &source, 150).await;

    broker.calm().await.unwrap();
    logged(&agent, "the broker takes messages again").await;
    churn(&mut client, &source, 151).await;
    let last = |event: &Value| {
        let operation = &event["news"]["operation"];
        operation["subject"]["image"] == "churn-151" && operation["state"] == "succeeded"
    };
    events.next(SOON, last).await.unwrap();
    // Its own answer went with the agent that was stopped; the same key has it.
    asked.abort();
    let mut asker = Client::amqp(broker.uri(), &host).await.unwrap();
    let import = json!({"name": "early", "source": source, "format": "raw"});
    let answer = asker.send(&Call::new("image.import", import).key("early")).await.unwrap();
    assert_eq!(answer["state"], "succeeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_held_back_by_the_broker_is_given_when_it_takes_messages() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let mut broker = Broker::private().await.unwrap();
    let mut agent = agent_on(&broker, "").await;
    let mut asker = Client::amqp(broker.uri(), agent.host()).await.unwrap();
    asker.call("host.ping", Value::Null).await.unwrap();
    agent.signal(Signal::SIGSTOP).unwrap();
    let asked = tokio::spawn(async move {
        asker.send(&Call::new("host.ping", Value::Null).patience(SOON * 2)).await
    });
    let (_connection, looking) = channel(&broker).await;
    let queue = format!("ostler.host.{}", agent.host());
    // Delivered, or back in the queue: a broker that is busy may have given the agent up by now.
    poll::until("it is at the broker", SOON, async || {
        let listed = broker.control(&["list_queues", "name", "messages"]).await;
        let listed = listed.map_err(|e| e.to_string())?;
        match listed.lines().find(|line| line.starts_with(&queue)) {
            Some(line) if !line.trim_end().ends_with("\t0") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    broker.alarm().await.unwrap();
    agent.signal(Signal::SIGCONT).unwrap();
    logged(&agent, "the broker takes no messages").await;
    assert_eq!(depth(&looking, &queue).await, 0);
    assert!(!asked.is_finished());
    broker.calm().await.unwrap();
    asked.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_told_of_once_each_and_never_kept() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let own;
    // The dead letters of all hosts are in one queue: these are to be alone in it.
    let broker = if broker.is_private() {
        &broker
    } else {
        own = Broker::private().await.unwrap();
        &own
    };
    let agent = agent_on(broker, "").await;
    let amqp = Amqp::connect(broker.uri(), agent.host()).await.unwrap();
    let (_connection, channel) = channel(broker).await;
    let request = |method: &str, version: &str| {
        json!({"jsonrpc": version, "id": 1, "method": method,
               "params": {"user": "root", "password": {"plain": "hunter2"}}})
        .to_string()
        .into_bytes()
    };
    let long = "x".repeat(500_000);
    let mut nested = FieldTable::default();
    for _ in 0..20 {
        let mut outer = FieldTable::default();
        outer.insert("in".into(), AMQPValue::FieldTable(nested));
        outer.insert("bytes".into(), AMQPValue::ByteArray(ByteArray::from(vec![0, 255, 27, 10])));
        outer.insert("nothing".into(), AMQPValue::Void);
        nested = outer;
    }
    let plain = BasicProperties::default;
    let poison: Vec<(Vec<u8>, BasicProperties, &str)> = vec![
        (b"{\"password\": {\"plain\": \"hunter2\"".to_vec(), plain(), "not JSON"),
        (vec![0xff, 0xfe, 0], plain(), "not JSON"),
        (Vec::new(), plain(), "not JSON"),
        (vec![b'x'; 2 << 20], plain(), "at most"),
        (request("instance.pasword", "2.0"), plain(), "no method"),
        (request("instance.password", "1.0"), plain(), "unknown variant"),
        ("[".repeat(100_000).into_bytes(), plain(), "recursion"),
        (b"[]".to_vec(), plain().with_headers(nested), "batches are not supported"),
        (
            b"7".to_vec(),
            plain().with_user_id("guest".into()).with_expiration("60000".into()),
            "it is not an object",
        ),
        (request("host.ping", "2.0"), plain().with_message_id("with space".into()), "idempotency"),
        (
            json!({"jsonrpc": "2.0", "method": "host.ping", "context": {(long): 1}})
                .to_string()
                .into_bytes(),
            plain(),
            "context.xxx",
        ),
    ];
    for (body, properties, _) in &poison {
        amqp.publish_raw(body, properties.clone()).await.unwrap();
    }
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (_, _, reason) in &poison {
        *expected.entry(*reason).or_default() += 1;
    }
    for _ in &poison {
        let (reason, told, _) = letter(&channel).await;
        let told = String::from_utf8(told).unwrap();
        assert!(!told.contains("hunter2") && told.len() < 2000, "{told}");
        let fits = expected.iter_mut().find(|(text, left)| reason.contains(**text) && **left > 0);
        let (_, left) = fits.unwrap_or_else(|| panic!("{reason:?} was not expected"));
        *left -= 1;
    }
    assert_eq!(expected.values().sum::<usize>(), 0, "{expected:?}");
    assert_eq!(depth(&channel, "ostler.dead").await, 0);
    poll::until("all are acknowledged", SOON, async || {
        match depth(&channel, &format!("ostler.host.{}", agent.host())).await {
            0 => Ok(()),
            left => Err(format!("{left} left")),
        }
    })
    .await
    .unwrap();
    let log = std::fs::read_to_string(agent.log()).unwrap();
    assert!(!log.contains("hunter2"));
    assert!(!log.contains("no broker"), "no message ends the session");
    let mut client = Client::amqp(broker.uri(), agent.host()).await.unwrap();
    client.call("host.ping", Value::Null).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_often_is_given_up_what_comes_too_late_is_dropped_and_what_is_too_much_refused()
 {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::private().await.unwrap();
    let mut agent = agent_on(&broker, "").await;
    agent.stop().await.unwrap();
    let amqp = Amqp::connect(broker.uri(), agent.host()).await.unwrap();
    let (_connection, channel) = channel(&broker).await;
    let queue = format!("ostler.host.{}", agent.host());
    // What it sent to itself, to hear itself, may not have reached it.
    channel.queue_purge(queue.as_str().into(), QueuePurgeOptions::default()).await.unwrap();

    // Too late: neither the agent nor the dead letters get it.
    let late = BasicProperties::default().with_expiration("1".into());
    amqp.publish_raw(b"late", late).await.unwrap();
    // Too often: as from an agent that dies of it again and again.
    amqp.publish_raw(b"deadly", BasicProperties::default()).await.unwrap();
    let options = BasicConsumeOptions::default();
    let mut victim = channel
        .basic_consume(queue.as_str().into(), "".into(), options, FieldTable::default())
        .await
        .unwrap();
    for _ in 0..=10 {
        let delivery = victim.next().await.unwrap().unwrap();
        assert_eq!(delivery.data, b"deadly");
        let again = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        delivery.nack(again).await.unwrap();
    }
    let (_, body, headers) = letter(&channel).await;
    assert_eq!(body, b"deadly");
    let why = headers.inner().get("x-first-death-reason");
    assert_eq!(why, Some(&AMQPValue::LongString("delivery_limit".into())));
    assert_eq!(depth(&channel, "ostler.dead").await, 0);
    channel
        .basic_cancel(victim.tag(), lapin::options::BasicCancelOptions::default())
        .await
        .unwrap();

    // Too much: the sender is told, and what waits already waits on.
    let large = vec![b'x'; 1 << 20];
    let mut taken = 0;
    let refused = loop {
        match amqp.publish_raw(&large, BasicProperties::default()).await {
            Ok(()) => taken += 1,
            Err(error) => break error,
        }
        assert!(taken < 60, "it takes everything");
    };
    assert!(refused.to_string().contains("did not take"), "{refused}");
    assert!(taken >= 32, "only {taken}");
    let cli = Cli::over_broker(broker.uri(), agent.host()).unwrap();
    let output = cli.output(&["--timeout", "20", "host", "ping"], "").await.unwrap();
    assert!(output.stderr.contains("full"), "{output:?}");
    assert_eq!(output.code, 4, "{output:?}");

    // Whom no agent ever served is told at once.
    let cli = Cli::over_broker(broker.uri(), "no-such-host").unwrap();
    let begun = Instant::now();
    let output = cli.output(&["instance", "list"], "").await.unwrap();
    assert_eq!(output.code, 4, "{output:?}");
    assert!(output.stderr.contains("no host agent has ever declared"), "{output:?}");
    assert!(output.stderr.contains("spelling of --host"), "{output:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());

    // All that waited is read, when there is an agent again.
    agent.launch().unwrap();
    agent.ready().await.unwrap();
    for _ in 0..taken {
        let (reason, ..) = letter(&channel).await;
        assert!(reason.contains("not JSON"), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_beyond_the_limit_is_refused_as_busy_and_not_delivered_again() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let agent = agent_on(&broker, "[limits]\noperations = 1\n").await;
    // A source that begins and does not go on.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = format!("http://{}/disk", listener.local_addr().unwrap());
    let mut client = Client::amqp(broker.uri(), agent.host()).await.unwrap();
    let import = |name: &str| json!({"name": name, "source": source, "format": "raw"});
    let first = client.send(&Call::new("image.import", import("one")).key("one")).await.unwrap();
    let _held = listener.accept().await.unwrap();
    for n in 0..20 {
        let key = format!("beyond-{n}");
        let refused = client.send(&Call::new("image.import", import("two")).key(key)).await;
        assert_eq!(refused.unwrap_err().reason(), Some("busy"));
    }
    // The one that was accepted is still its key's.
    let same = client.send(&Call::new("image.import", import("one")).key("one")).await.unwrap();
    assert_eq!(same["id"], first["id"]);
    let (_connection, channel) = channel(&broker).await;
    let queue = format!("ostler.host.{}", agent.host());
    let mut socket = agent.client().await.unwrap();
    socket.call("operation.cancel", json!({"id": first["id"]})).await.unwrap();
    assert_eq!(depth(&channel, &queue).await, 0);
    let log = std::fs::read_to_string(agent.log()).unwrap();
    assert_eq!(log.lines().filter(|line| line.contains("busy: 1 operations")).count(), 20);
    broker.forget_host(agent.host()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_refused_and_a_queue_made_otherwise_are_told_with_what_to_do() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::private().await.unwrap();
    let (_connection, channel) = channel(&broker).await;
    let queue = "ostler.host.stubborn";
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(queue.into(), durable, FieldTable::default()).await.unwrap();
    let wrong = broker.uri().replace("guest:guest", "guest:hunter2");
    let setup = Setup {
        broker: vec![wrong, broker.uri().to_owned()],
        host: Some("stubborn".to_owned()),
        ..Setup::default()
    };
    let agent = HostAgent::start(setup).await.unwrap();
    let refused = logged(&agent, "refused the login").await;
    assert!(
        refused.contains("endpoint=1") && refused.contains("check user, password"),
        "{refused}"
    );
    let otherwise = logged(&agent, "not as this version makes it").await;
    assert!(otherwise.contains("endpoint=2") && otherwise.contains(queue), "{otherwise}");
    assert!(otherwise.contains("delete_queue"), "{otherwise}");
    // What it was told to do is enough.
    let options = lapin::options::QueueDeleteOptions::default();
    channel.queue_delete(queue.into(), options).await.unwrap();
    up(&agent).await;
    assert!(!std::fs::read_to_string(agent.log()).unwrap().contains("hunter2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn broadcasts_and_events_go_on_after_a_restart_of_the_broker() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let mut broker = Broker::private().await.unwrap();
    let agents = [agent_on(&broker, "").await, agent_on(&broker, "").await];
    broker.restart().await.unwrap();
    for agent in &agents {
        poll::until("it is back", SOON, async || {
            let mut client = agent.amqp_client().await.map_err(|e| e.to_string())?;
            let call = Call::new("host.ping", Value::Null).patience(Duration::from_secs(5));
            client.send(&call).await.map_err(|e| e.to_string())
        })
        .await
        .unwrap();
    }
    let (connection, channel) = channel(&broker).await;
    let passive = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
    let fanout = ExchangeKind::Fanout;
    channel
        .exchange_declare("ostler.broadcast".into(), fanout, passive, FieldTable::default())
        .await
        .unwrap();
    let replies = connection.create_channel().await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = replies.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let name = queue.name().clone();
    let listener = Amqp::connect(broker.uri(), agents[0].host()).await.unwrap();
    let mut events = listener.events("operation.#").await.unwrap();

    // A change that every node makes, under one key: each has its own journal.
    let place = Place::new("images").unwrap();
    let import = json!({"jsonrpc": "2.0", "id": "all", "method": "image.import",
        "params": {"name": "all", "source": image(&place), "format": "raw"}});
    let properties = BasicProperties::default()
        .with_reply_to(name.clone())
        .with_correlation_id("all".into())
        .with_message_id("for-all".into());
    for _ in 0..2 {
        channel
            .basic_publish(
                "ostler.broadcast".into(),
                "".into(),
                BasicPublishOptions::default(),
                import.to_string().as_bytes(),
                properties.clone(),
            )
            .await
            .unwrap()
            .await
            .unwrap();
    }
    let options = BasicConsumeOptions::default();
    let mut answers =
        replies.basic_consume(name, "".into(), options, FieldTable::default()).await.unwrap();
    let mut operations: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..4 {
        let answer = tokio::time::timeout(SOON, answers.next()).await.unwrap().unwrap().unwrap();
        answer.ack(BasicAckOptions::default()).await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.data).unwrap();
        *operations.entry(answer["result"]["id"].to_string()).or_default() += 1;
    }
    assert_eq!(operations.values().copied().collect::<Vec<_>>(), [2, 2], "{operations:?}");
    for agent in &agents {
        let over = |event: &Value| {
            event["host"] == agent.host() && event["news"]["operation"]["state"] == "succeeded"
        };
        // Either may have come first.
        if !events.passed().any(over) {
            events.next(SOON, over).await.unwrap();
        }
    }
}
