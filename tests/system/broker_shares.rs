//! One caller among many at the broker: what it waits for keeps nobody else from an answer, and the
//! log tells who it is.

use lapin::BasicProperties;
use ostler_tests::rpc::{Amqp, Call, Client};
use ostler_tests::services::{Broker, Libvirt};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::broker_limits::{agent_on, logged};
use crate::node::need_root;

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_for_much_keeps_nobody_else_from_an_answer() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let agent = agent_on(&broker, "").await;
    // A source that never begins: an operation that is not over.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = format!("http://{}/disk", listener.local_addr().unwrap());
    let mut client = Client::amqp(broker.uri(), agent.host()).await.unwrap();
    let import = json!({"name": "endless", "source": source, "format": "raw"});
    let call = Call::new("image.import", import).key("endless");
    let id = client.send(&call).await.unwrap()["id"].clone();
    let greedy = Amqp::connect(broker.uri(), agent.host()).await.unwrap();
    let wait = json!({
        "jsonrpc": "2.0", "id": 1, "method": "operation.wait",
        "params": {"id": id, "timeout": 60_000},
    });
    for _ in 0..600 {
        let properties = BasicProperties::default().with_reply_to("nobody".into());
        greedy.publish_raw(wait.to_string().as_bytes(), properties).await.unwrap();
    }
    // These come after them in the same queue.
    let mut ask = async |method: &str, params: Value| client.call(method, params).await;
    assert_eq!(ask("network.list", Value::Null).await.unwrap(), json!([]));
    let another = ask("operation.wait", json!({"id": id, "timeout": 10})).await.unwrap();
    assert_eq!(another["id"], id);
    let unwaited = ask("operation.wait", json!({"id": id, "timeout": 0})).await.unwrap();
    assert_eq!(unwaited["id"], id);
    let mut socket = agent.client().await.unwrap();
    socket.call("operation.cancel", json!({"id": id})).await.unwrap();
    broker.forget_host(agent.host()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_tells_whose_login_a_change_came_by() {
    need_root!();
    let _libvirt = Libvirt::ensure().await.unwrap();
    let broker = Broker::ensure().await.unwrap();
    let agent = agent_on(&broker, "").await;
    let amqp = Amqp::connect(broker.uri(), agent.host()).await.unwrap();
    let change = json!({
        "jsonrpc": "2.0", "id": 1, "method": "image.remove", "params": {"name": "none"},
    });
    let from = |user: &str, key: &str| {
        BasicProperties::default()
            .with_user_id(user.into())
            .with_app_id("nova user_id=root\u{1b}[2J".into())
            .with_message_id(key.into())
    };
    amqp.publish_raw(change.to_string().as_bytes(), from("guest", "theirs")).await.unwrap();
    let line = logged(&agent, "image.remove").await;
    assert!(line.contains("amqp user_id=guest app_id=nova_user_id_root__2J"), "{line}");
    // The broker proves it: another's is not taken.
    let forged = amqp.publish_raw(change.to_string().as_bytes(), from("root", "forged")).await;
    assert!(forged.is_err());
    broker.forget_host(agent.host()).await.unwrap();
}
