//! Wrong requests: refused with a stable word and a text that says what to change, and nothing
//! is made.

use ostler_tests::agent::{HostAgent, Setup};
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::rpc::{Client, Socket};
use ostler_tests::services::Broker;
use ostler_tests::world::World;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

use crate::node::{Node, need_root};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn wrong_requests_are_refused_and_make_nothing() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = Node::on(&broker).await;
    let image = node.image(Mode::Ostler).await;
    // By both front doors alike.
    for amqp in [false, true] {
        if amqp {
            node.client = node.agent.amqp_client().await.unwrap();
        }
        refuse_all(&mut node, &image).await;
    }
    node.reconnect().await;
}

async fn refuse_all(node: &mut Node, image: &str) {
    let before = World::look(&[node.agent.folder()]).await.unwrap();
    let operations = node.ask("operation.list", Value::Null).await;
    let boot = json!({"name": "x", "image": image, "vcpus": 1, "memory": 128 << 20});
    let with = |changes: Value| {
        let mut boot = boot.clone();
        for (field, value) in changes.as_object().unwrap() {
            boot[field] = value.clone();
        }
        boot
    };
    let without = |field: &str| {
        let mut boot = boot.clone();
        boot.as_object_mut().unwrap().remove(field);
        boot
    };
    let cases = [
        ("instance.explode", json!({}), "unknown_method", "rpc.discover"),
        ("instance.boot", without("name"), "invalid_params", "missing field `name`"),
        ("instance.boot", without("memory"), "invalid_params", "memory is missing"),
        ("instance.boot", with(json!({"colour": 1})), "invalid_params", "unknown field `colour`"),
        ("instance.boot", with(json!({"vcpus": "two"})), "invalid_params", "vcpus: invalid type"),
        ("instance.boot", with(json!({"vcpus": 0})), "invalid_params", "0 vCPUs are out of range"),
        ("instance.boot", with(json!({"vcpus": -1})), "invalid_params", "vcpus"),
        ("instance.boot", with(json!({"image": "nope"})), "not_found", "ostler image list"),
        ("instance.boot", with(json!({"image": "kernel"})), "invalid_params", "not a disk"),
        ("instance.boot", with(json!({"flavor": "nope"})), "not_found", "use one of"),
        ("instance.boot", with(json!({"name": "../../etc/x"})), "invalid_params", "is not a name"),
        ("instance.boot", with(json!({"image": "../x"})), "invalid_params", "is not a name"),
        ("instance.boot", with(json!({"id": "../x"})), "invalid_params", "is not an id"),
        (
            "instance.boot",
            with(json!({"networks": [{"network": "lan", "mac": "01:00:5e:00:00:01"}]})),
            "invalid_params",
            "networks[0].mac",
        ),
        (
            "instance.boot",
            with(json!({"networks": [{"network": "nowhere"}]})),
            "not_found",
            "ostler network ensure",
        ),
        ("instance.boot", with(json!({"memory": 1u64 << 50})), "no_capacity", "is free"),
        ("instance.boot", with(json!({"vcpus": 200})), "no_capacity", "ostler host show"),
        ("instance.boot", with(json!({"disk": 1 << 20})), "invalid_params", "cannot hold image"),
        ("instance.boot", with(json!({"disk": 1u64 << 50})), "no_capacity", "disk"),
        ("instance.boot", json!([1, 2]), "invalid_params", "by name"),
        ("instance.start", json!({"id": uuid::Uuid::new_v4()}), "not_found", "instance list"),
        ("instance.start", json!({"id": 7}), "invalid_params", "id"),
        ("operation.get", json!({"id": uuid::Uuid::new_v4()}), "not_found", "operation list"),
        (
            "instance.password",
            json!({"id": uuid::Uuid::new_v4(), "user": "a:b", "password": {"plain": "x"}}),
            "invalid_params",
            "user name",
        ),
        (
            "image.import",
            json!({"name": "a", "source": "relative", "format": "raw"}),
            "invalid_params",
            "absolute path",
        ),
        (
            "image.import",
            json!({"name": "a", "source": "http://u:p@h/x", "format": "raw"}),
            "invalid_params",
            "credentials",
        ),
        (
            "image.import",
            json!({"name": "a", "source": "/x", "format": "vpc"}),
            "invalid_params",
            "`vpc`",
        ),
        ("network.ensure", json!({"name": "n", "bridge": "a/b"}), "invalid_params", "a/b"),
        (
            "network.ensure",
            json!({"name": "n", "bridge": "much-too-long-name"}),
            "invalid_params",
            "much-too-long",
        ),
        ("network.ensure", json!({"name": "n", "mtu": 10}), "invalid_params", "10"),
        (
            "network.ensure",
            json!({"name": "n", "uplink": "eth1", "vlan": 4095}),
            "invalid_params",
            "use 1 to 4094",
        ),
        ("network.ensure", json!({"name": "n", "vlan": 7}), "invalid_params", "on a NIC"),
        (
            "network.ensure",
            json!({"name": "n", "vxlan": {"vni": 1 << 24, "local": "192.0.2.1",
                                          "remotes": ["192.0.2.2"]}}),
            "invalid_params",
            "1 to 16777215",
        ),
        (
            "network.ensure",
            json!({"name": "n", "vxlan": {"vni": 7, "local": "192.0.2.1"}}),
            "invalid_params",
            "somebody to send to",
        ),
    ];
    for (method, params, reason, text) in cases {
        let (found, message) = node.refused(method, params.clone()).await;
        assert_eq!(found, reason, "{method} {params}: {message}");
        assert!(message.contains(text), "{method} {params}: {message:?} lacks {text:?}");
    }
    // Nothing was made: no domain, no link, no file, no operation.
    let more = World::look(&[node.agent.folder()]).await.unwrap().beyond(&before);
    assert!(more.domains.is_empty() && more.files.is_empty(), "{more}");
    assert_eq!(node.ask("instance.list", Value::Null).await, json!([]));
    assert_eq!(node.ask("operation.list", Value::Null).await, operations);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_a_request_is_answered_and_bounded() {
    need_root!();
    let mut node = Node::start().await;
    let mut socket = Socket::connect(&node.agent.socket()).await.unwrap();
    for (line, code) in [
        (&b"nonsense\n"[..], -32700),
        (b"{\"jsonrpc\": \"1.0\", \"id\": 1, \"method\": \"host.ping\"}\n", -32600),
        (b"[]\n", -32600),
    ] {
        socket.send_raw(line).await.unwrap();
        let answer = socket.receive_raw(Duration::from_secs(10)).await.unwrap().unwrap();
        assert_eq!(answer["error"]["code"], code, "{answer}");
    }
    // A line without end is cut off, and the connection with it.
    let mut endless = Socket::connect(&node.agent.socket()).await.unwrap();
    let _sent = endless.send_raw(&vec![b'x'; 4 << 20]).await;
    let answer = endless.receive_raw(Duration::from_secs(10)).await;
    assert!(answer.is_err() || answer.unwrap().is_none_or(|a| a["error"]["code"] == -32600));
    // Everybody else is served on.
    node.ask("host.ping", Value::Null).await;
    let document = node.ask("rpc.discover", Value::Null).await;
    assert_eq!(document["openrpc"], "1.3.2");
    assert!(document["methods"].as_array().unwrap().iter().any(|m| m["name"] == "instance.boot"));
    let _client: &mut Client = &mut node.client;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_state_forbids_is_refused_with_what_would_be_legal() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("gates", Mode::None).await;
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    let password = json!({"id": id, "user": "root", "password": {"plain": "xyz"}});
    for (method, params) in
        [("instance.password", password), ("instance.reboot", json!({"id": id}))]
    {
        let (reason, text) = node.refused(method, params).await;
        assert_eq!(reason, "conflict");
        assert!(text.contains("SHUTOFF") && text.contains("start it first"), "{text}");
    }
    // An image that instances are made from stays.
    let (reason, _) = node.refused("image.remove", json!({"name": "mini-none"})).await;
    assert_eq!(reason, "in_use");
    let (reason, _) = node.refused("image.remove", json!({"name": "kernel"})).await;
    assert_eq!(reason, "in_use");
    node.delete(&id).await;
    node.done("image.remove", json!({"name": "mini-none"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_keep_nobody_out_and_busy_ones_say_so() {
    let agent = HostAgent::start(Setup::default()).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..400 {
        idle.push(tokio::net::UnixStream::connect(agent.socket()).await.unwrap());
    }
    let mut client = served(&agent).await;

    // All places are taken by those that wait for something: a download that does not begin.
    drop(idle);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let source = format!("http://{}/image", silent.local_addr().unwrap());
    let import = json!({"name": "slow", "source": source, "format": "raw"});
    let operation = client.call("image.import", import).await.unwrap();
    let wait = json!({"jsonrpc": "2.0", "id": 1, "method": "operation.wait",
                      "params": {"id": operation["id"], "timeout": 60_000}});
    let mut waiting = Vec::new();
    for _ in 0..200 {
        let mut stream = tokio::net::UnixStream::connect(agent.socket()).await.unwrap();
        // One that is turned away does not read.
        let _ = stream.write_all(format!("{wait}\n").as_bytes()).await;
        waiting.push(stream);
    }
    let told = poll::until("a connection is told busy", SOON, async || {
        let mut line = vec![0; 4096];
        let read = waiting.iter().find_map(|stream| stream.try_read(&mut line).ok());
        let read = read.filter(|read| *read > 0).ok_or_else(|| "nobody is told".to_owned())?;
        Ok(String::from_utf8_lossy(&line[..read]).into_owned())
    });
    let told: Value = serde_json::from_str(&told.await.unwrap()).unwrap();
    assert_eq!(told["error"]["data"]["reason"], "busy", "{told}");
    drop(waiting);
    served(&agent).await;
}

/// Wait until somebody who connects is served.
async fn served(agent: &HostAgent) -> Client {
    poll::until("somebody else is served", SOON, async || {
        let mut client = agent.client().await.map_err(|error| error.to_string())?;
        let pong = client.call("host.ping", Value::Null).await;
        pong.map(|_| client).map_err(|error| error.to_string())
    })
    .await
    .unwrap()
}
