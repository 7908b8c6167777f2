//! A node whose disk is full: what frees space goes through, and a guest that finds no room waits
//! for it.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::rpc::Amqp;
use ostler_tests::services::Broker;
use serde_json::{Value, json};

use crate::node::{Node, gone, need_root};

/// Leave no room in the file system of a folder.
fn fill(folder: &Path) {
    let mut file = File::create(folder.join("filler")).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0u8; size];
        while file.write_all(&block).is_ok() {}
    }
}

/// A node with little space, all of which can be promised.
async fn small_node(setup: Setup, instances: &str) -> Node {
    let more = format!("disk_reserve = 0\ndisk_ratio = 100.0\n[instances]\n{instances}\n");
    Node::on_own_libvirt(Setup { more, ..setup }, Some(256 << 20)).await
}

/// Have a guest write to its disk until no room is left under it; how the instance is shown then.
async fn stall(node: &mut Node, id: &str) -> Value {
    node.until(id, "the guest's agent answers", |i| i["guest"]["state"] == "ready").await;
    fill(&node.agent.state_dir());
    let line = "dd if=/dev/urandom of=/root/big bs=1M count=8 conv=fsync && echo >/root/written";
    let run = json!({"id": id, "path": "/bin/sh", "args": ["-c", line], "timeout_ms": 300_000});
    // It may be paused before its agent has answered.
    let mut client = node.agent.client().await.unwrap();
    let _answer = client.call("guest.exec", run).await;
    let shown = node.until(id, "stalled", |i| i["stalled"].is_object()).await;
    assert_eq!(shown["stalled"]["reason"], "no_space", "{shown:#}");
    assert_eq!((&shown["status"], &shown["power_state"]), (&json!("ACTIVE"), &json!("paused")));
    assert_eq!(shown["drift"], Value::Null, "{shown:#}");
    shown
}

/// The guest's write goes through, and nothing of it is lost.
async fn written(node: &mut Node, id: &str) {
    let line = "until [ -e /root/written ]; do sleep 1; done; wc -c </root/big";
    assert_eq!(node.shell(id, line).await, (8 << 20).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_found_no_room_is_told_as_that_and_goes_on_when_there_is() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut node = small_node(Setup::with_broker(broker.uri()), "").await;
    let id = node.boot("waiting", Mode::Ostler).await;
    let listener = Amqp::connect(broker.uri(), node.agent.host()).await.unwrap();
    let mut events = listener.events(&format!("instance.#.{id}")).await.unwrap();
    let patience = Duration::from_secs(60);
    let shown = stall(&mut node, &id).await;
    let message = shown["stalled"]["message"].as_str().unwrap();
    assert!(message.contains("no space left on the node; it goes on by itself"), "{message}");
    let told = events.next(patience, |e| e["news"]["instance"]["stalled"].is_object()).await;
    assert_eq!(told.unwrap()["news"]["instance"]["stalled"], shown["stalled"]);
    std::fs::remove_file(node.agent.state_dir().join("filler")).unwrap();
    let running = |e: &Value| {
        let news = &e["news"]["instance"];
        news["power_state"] == "running" && news["stalled"].is_null()
    };
    events.next(patience, running).await.unwrap();
    written(&mut node, &id).await;
    let shown = node.show(&id).await;
    assert_eq!((&shown["status"], &shown["stalled"]), (&json!("ACTIVE"), &Value::Null));
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_setting_off_it_waits_until_it_is_unpaused() {
    need_root!();
    let mut node = small_node(Setup::default(), "resume_when_room = false").await;
    let id = node.boot("patient", Mode::Ostler).await;
    let shown = stall(&mut node, &id).await;
    let message = shown["stalled"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("ostler instance unpause {id}")), "{message}");
    std::fs::remove_file(node.agent.state_dir().join("filler")).unwrap();
    // A new agent has it from libvirt; it looks around, and leaves it.
    node.agent.restart().await.unwrap();
    node.reconnect().await;
    let again = node.until(&id, "stalled, still", |i| i["stalled"].is_object()).await;
    assert_eq!(again["stalled"], shown["stalled"]);
    node.becomes("instance.unpause", json!({"id": id}), "ACTIVE").await;
    written(&mut node, &id).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_delete_and_an_image_s_removal_go_through_on_a_full_disk() {
    need_root!();
    let mut node = small_node(Setup::default(), "").await;
    let id = node.boot("full", Mode::None).await;
    let image = node.image(Mode::None).await;
    let state = node.agent.state_dir();
    let reserve = || std::fs::metadata(state.join("journal.reserve")).map_or(0, |meta| meta.len());
    let whole = reserve();
    fill(&state);
    let (reason, _) = node.refused("network.ensure", json!({"name": "b", "bridge": "ot9x"})).await;
    assert_eq!(reason, "no_space");
    let delete = node.ask("instance.delete", gone(&id)).await;
    assert!(reserve() < whole);
    let over = node.end_of(&delete).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    node.nothing_left(&id).await;
    node.done("image.remove", json!({"name": image})).await;
    poll::until("the reserve is whole again", Duration::from_secs(30), async || {
        let now = reserve();
        if now == whole { Ok(()) } else { Err(format!("{now} of {whole}")) }
    })
    .await
    .unwrap();
}
