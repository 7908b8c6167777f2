//! One caller among many at the broker: what it waits for keeps nobody else from an answer.

use lapin::BasicProperties;
use ostler_tests::rpc::{Amqp, Call, Client};
use ostler_tests::services::{Broker, Libvirt};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::broker_limits::agent_on;
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
