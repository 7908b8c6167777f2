//! The queue: what a restart of the broker, a repeated delivery and a poisonous message come to.

use std::time::Duration;

use lapin::options::{BasicGetOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{BasicProperties, Connection, ConnectionProperties};
use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::rpc::{Amqp, Call, Client};
use ostler_tests::services::Broker;
use serde_json::{Value, json};

use crate::node::{Node, end_of, need_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_outlives_the_broker_it_came_through() {
    need_root!();
    let mut broker = Broker::private().await.unwrap();
    let mut node = Node::on(&broker).await;
    let image = node.image(Mode::Ostler).await;
    let id = uuid::Uuid::new_v4().to_string();
    node.adopt(&id);
    let cli = Cli::over_broker(broker.uri(), node.agent.host()).unwrap();
    let boot = tokio::spawn({
        let id = id.clone();
        async move {
            cli.json(&[
                "instance",
                "boot",
                "--id",
                &id,
                "--name",
                "survivor",
                "--image",
                &image,
                "--vcpus",
                "1",
                "--memory",
                "192M",
                "--network",
                "lan",
            ])
            .await
        }
    });
    let client = &mut node.client;
    poll::until("the boot is under way", Duration::from_secs(30), async || {
        let listed = client.call("operation.list", json!({"instance": id})).await;
        match listed.map_err(|e| e.to_string())?.as_array().map(Vec::len) {
            Some(1) => Ok(()),
            other => Err(format!("{other:?} operations")),
        }
    })
    .await
    .unwrap();
    broker.kill().await.unwrap();
    broker.start().await.unwrap();

    let booted = boot.await.unwrap().expect("the caller's wait gets its result");
    assert_eq!(booted["status"], "ACTIVE");
    let operations = node.ask("operation.list", json!({"instance": id})).await;
    let boots: Vec<&Value> = operations.as_array().unwrap().iter().collect();
    assert_eq!(boots.len(), 1, "{operations:#}");
    assert_eq!(boots[0]["state"], "succeeded");
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_message_twice_is_one_operation() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let lan = node.network.clone();
    let params = node.boot_params("once", Mode::Ostler, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let mut client = node.agent.amqp_client().await.unwrap();
    let call = Call::new("instance.boot", params.clone()).key("the-very-same");
    let first = client.send(&call).await.unwrap();
    // Through another connection, as a redelivery to a new consumer would look, and once more
    // when it is over.
    let mut other = node.agent.amqp_client().await.unwrap();
    let second = other.send(&call).await.unwrap();
    let over = end_of(&mut client, &first).await;
    let third = client.send(&call).await.unwrap();
    assert_eq!((&first["id"], &first["id"]), (&second["id"], &third["id"]));
    assert_eq!(over["state"], "succeeded");
    assert_eq!(third["state"], "succeeded");

    let listed = node.ask("instance.list", Value::Null).await;
    assert_eq!(listed.as_array().unwrap().len(), 1, "{listed:#}");
    let operations = node.ask("operation.list", json!({"instance": id})).await;
    assert_eq!(operations.as_array().unwrap().len(), 1);

    // The key of one request is no other's.
    let mut changed = params;
    changed["name"] = json!("other");
    changed["id"] = json!(uuid::Uuid::new_v4());
    let other = Call::new("instance.boot", changed).key("the-very-same");
    assert_eq!(client.send(&other).await.unwrap_err().reason(), Some("key_reused"));
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_many_frames_is_the_one_the_socket_gives() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let document = node.ask("rpc.discover", Value::Null).await;
    let frames = document.to_string().len() / (16 << 10);
    assert!(frames > 4, "{frames} frames are not many");
    let mut client = node.agent.amqp_client().await.unwrap();
    let told = client.send(&Call::new("rpc.discover", Value::Null)).await.unwrap();
    assert_eq!(told, document);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_cannot_be_read_goes_to_the_dead_letters_with_the_reason() {
    need_root!();
    let broker = Broker::private().await.unwrap();
    let mut node = Node::on(&broker).await;
    let amqp = connected(&node).await;
    let Client::Amqp(amqp) = amqp else { panic!("not AMQP") };
    let poison = [
        ("{\"jsonrpc\": ".as_bytes().to_vec(), "not JSON"),
        (br#"{"id": 1, "method": "host.ping"}"#.to_vec(), "jsonrpc"),
        (vec![b'x'; 2 << 20], "at most"),
    ];
    for (body, _) in &poison {
        amqp.publish_raw(body, BasicProperties::default()).await.unwrap();
    }
    #[expect(clippy::disallowed_methods, reason = "the queue is looked at from outside")]
    let connection =
        Connection::connect(broker.uri(), ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    // Each is told of by itself: in which order is a matter of luck.
    let mut expected = poison.map(|(_, reason)| reason).to_vec();
    while !expected.is_empty() {
        let dead = poll::until("a dead letter", Duration::from_secs(30), async || {
            channel
                .queue_declare("ostler.dead".into(), passive, FieldTable::default())
                .await
                .map_err(|e| e.to_string())?;
            let got = channel
                .basic_get("ostler.dead".into(), BasicGetOptions { no_ack: true })
                .await
                .map_err(|e| e.to_string())?;
            got.ok_or_else(|| "none".to_owned())
        })
        .await
        .unwrap();
        let headers = dead.delivery.properties.headers().clone().unwrap_or_default();
        let told = match headers.inner().get("x-ostler-reason") {
            Some(AMQPValue::LongString(told)) => told.to_string(),
            other => panic!("{other:?}"),
        };
        let told_of = expected.iter().position(|reason| told.contains(reason));
        expected.remove(told_of.unwrap_or_else(|| panic!("{told:?} is none of {expected:?}")));
    }
    // A change without a key could not be told from its own redelivery.
    let keyless =
        br#"{"jsonrpc": "2.0", "id": 1, "method": "network.ensure", "params": {"name": "n"}}"#;
    amqp.publish_raw(keyless, BasicProperties::default()).await.unwrap();
    // The node is none the worse for it.
    assert_eq!(node.ask("host.show", Value::Null).await["broker"], "up");
    let mut client = connected(&node).await;
    client.call("host.ping", Value::Null).await.unwrap();
    let networks = node.ask("network.list", Value::Null).await;
    assert_eq!(networks.as_array().unwrap().len(), 1, "{networks:#}");
}

/// A client through the broker, once the agent has declared its queue.
async fn connected(node: &Node) -> Client {
    poll::until("the node answers through the broker", Duration::from_secs(60), async || {
        let mut client = node.agent.amqp_client().await.map_err(|e| e.to_string())?;
        client.call("host.ping", Value::Null).await.map_err(|e| e.to_string())?;
        Ok(client)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_its_broker_is_usable_over_its_socket() {
    need_root!();
    let mut broker = Broker::private().await.unwrap();
    let mut node = Node::on(&broker).await;
    connected(&node).await;
    broker.stop().await.unwrap();
    let client = &mut node.client;
    poll::until("the loss is seen", Duration::from_secs(60), async || {
        let shown = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        if shown["broker"] == "down" { Ok(()) } else { Err(shown["broker"].to_string()) }
    })
    .await
    .unwrap();
    let id = node.boot("alone", Mode::Ostler).await;
    node.delete(&id).await;
    broker.start().await.unwrap();
    connected(&node).await;
    let _events = Amqp::connect(broker.uri(), node.agent.host()).await.unwrap();
}
