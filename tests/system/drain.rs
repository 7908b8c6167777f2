//! SIGTERM, as an upgrade sends it: what is under way comes to rest between two steps, what comes
//! meanwhile waits or is refused, and the next agent does both, once.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use nix::sys::signal::Signal;
use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::rpc::Call;
use ostler_tests::services::Broker;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, end_of, need_root};

/// How long things may take that take no time.
const SOON: Duration = Duration::from_secs(60);
/// How long an agent may take to stop: what operations have, and what parting takes.
const BOUND: Duration = Duration::from_secs(30);

/// A rule of `OSTLER_FAULTS`, in force until it is dropped.
pub(crate) struct Rule {
    file: PathBuf,
    _folder: TempDir,
}

impl Rule {
    /// A rule, and the setup of a node it is in force on.
    pub(crate) fn of(setup: Setup, rule: &str) -> (Self, Setup) {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules");
        std::fs::write(&file, rule).unwrap();
        let mut setup = setup;
        setup.env.push(("OSTLER_FAULTS".to_owned(), format!("@{}", file.display())));
        (Self { file, _folder: folder }, setup)
    }

    /// What was held by it goes on.
    pub(crate) fn lift(&self) {
        std::fs::remove_file(&self.file).unwrap();
    }
}

/// Wait until the agent has said this.
pub(crate) async fn said(node: &Node, words: &str) {
    poll::until(&format!("the agent says {words:?}"), SOON, async || {
        let log = std::fs::read_to_string(node.agent.log()).unwrap_or_default();
        if log.contains(words) { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_told_to_stop_hands_its_work_to_the_next() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let setup = Setup::with_broker(broker.uri());
    let (rule, setup) = Rule::of(setup, "after|instance.boot|create root disk|hold");
    let mut node = Node::with(setup).await;
    let lan = node.network.clone();
    let params = node.boot_params("held", Mode::None, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let boot = Call::new("instance.boot", params).key("held");
    let held = node.client.send(&boot).await.unwrap();
    said(&node, "a fault that was asked for").await;

    node.agent.signal(Signal::SIGTERM).unwrap();
    let told = Instant::now();
    said(&node, "guests go on running").await;
    // Who asks at the socket hears why not, and what goes on.
    let bridge = format!("otd{}", &id[..6]);
    node.adopt_bridge(&bridge);
    let later = json!({"name": "later", "bridge": bridge});
    let (reason, text) = node.refused("network.ensure", later.clone()).await;
    assert_eq!((reason.as_str(), text.contains("when it is back")), ("draining", true), "{text}");
    let (reason, _) = node.refused("instance.delete", json!({"id": id, "mode": "hard"})).await;
    assert_eq!(reason, "draining");
    let again = node.client.send(&boot).await.unwrap();
    assert_eq!((&again["id"], &again["state"]), (&held["id"], &json!("running")), "{again:#}");
    // What comes through the broker stays there.
    let mut asker = node.agent.amqp_client().await.unwrap();
    let ensure = Call::new("network.ensure", later).key("later").patience(SOON);
    let asking = tokio::spawn(async move { (asker.send(&ensure).await, asker) });
    waits_in_queue(&broker, node.agent.host()).await;

    rule.lift();
    assert_eq!(node.agent.ended(BOUND).await.unwrap(), 0);
    assert!(told.elapsed() < BOUND, "{:?}", told.elapsed());
    assert!(node.qemu(&id).is_none(), "it is not begun any more");

    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let over = node.end_of(&held).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    let begun = |operation: &Value| operation["steps"][0]["started"].clone();
    assert_eq!(begun(&over), begun(&again), "what was done is not done again");
    let operations = node.ask("operation.list", json!({"instance": id})).await;
    assert_eq!(operations.as_array().unwrap().len(), 1, "{operations:#}");
    assert_eq!(node.show(&id).await["status"], "ACTIVE");
    let (accepted, mut asker) = asking.await.unwrap();
    let over = end_of(&mut asker, &accepted.unwrap()).await;
    assert_eq!((&over["state"], &over["key"]), (&json!("succeeded"), &json!("later")), "{over:#}");
    let networks = node.ask("network.list", Value::Null).await;
    let later = networks.as_array().unwrap().iter().filter(|network| network["name"] == "later");
    assert_eq!(later.count(), 1, "{networks:#}");
    node.delete(&id).await;
}

/// Wait until something lies in a host's queue, and nobody takes it.
async fn waits_in_queue(broker: &Broker, host: &str) {
    #[expect(clippy::disallowed_methods, reason = "the queue is looked at from outside")]
    let connection =
        Connection::connect(broker.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    poll::until("a message waits", SOON, async || {
        let name = format!("ostler.host.{host}");
        let queue = channel.queue_declare(name.into(), passive, FieldTable::default()).await;
        let queue = queue.map_err(|error| error.to_string())?;
        match (queue.consumer_count(), queue.message_count()) {
            (0, 1..) => Ok(()),
            (consumers, messages) => Err(format!("{consumers} consumers, {messages} messages")),
        }
    })
    .await
    .unwrap();
}
