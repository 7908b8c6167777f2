//! Volumes given and taken again and again, by one guest and by many at once: nothing is left over,
//! and nobody is left waiting.

use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};

use crate::node::{Node, need_root};
use crate::volumes::{read, write};

const MIB: u64 = 1 << 20;

async fn volume(node: &mut Node) -> String {
    let params = json!({"name": "data", "size": 8 * MIB});
    let over = node.done("volume.create", params).await;
    over["subject"]["volume"].as_str().unwrap().to_owned()
}

/// A guest may run so many programs, and not one more at each turn.
const WRITES_EVERY: usize = 5;

/// So many attaches and detaches on one guest, which writes now and then, and reads what it wrote.
async fn again(node: &mut Node, id: &str, volume: &str, times: usize) {
    for n in 0..times {
        let it = json!({"id": id, "volume": volume});
        node.done("instance.attach_volume", it.clone()).await;
        if n > 0 && n % WRITES_EVERY == 0 {
            assert_eq!(read(node, id, volume, 1).await, format!("turn-{}", n - WRITES_EVERY));
        }
        if n % WRITES_EVERY == 0 {
            write(node, id, volume, &format!("turn-{n}"), 1).await;
        }
        node.done("instance.detach_volume", it).await;
    }
    node.until_shell(id, "ls -d /sys/block/vd* | wc -l", "1").await;
    let shown = node.show(id).await;
    assert_eq!((&shown["drift"], &shown["fault"]), (&Value::Null, &Value::Null), "{shown:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn six_attaches_and_detaches_leave_a_guest_as_it_was() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("often", Mode::Ostler).await;
    let data = volume(&mut node).await;
    again(&mut node, &id, &data, 6).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make long"]
async fn fifty_attaches_and_detaches_leave_a_guest_as_it_was() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("often", Mode::Ostler).await;
    let data = volume(&mut node).await;
    again(&mut node, &id, &data, 50).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make long"]
async fn eight_guests_are_given_volumes_and_give_them_back_at_once() {
    need_root!();
    let mut node = Node::start().await;
    let mut pairs = Vec::new();
    for n in 0..8 {
        let id = node.boot(&format!("guest-{n}"), Mode::Ostler).await;
        pairs.push((id, volume(&mut node).await));
    }
    for (id, _) in &pairs {
        node.until(id, "the guest answers", |i| i["guest"]["state"] == "ready").await;
    }
    for _ in 0..3 {
        for method in ["instance.attach_volume", "instance.detach_volume"] {
            let mut operations = Vec::new();
            for (id, volume) in &pairs {
                let it = json!({"id": id, "volume": volume});
                operations.push(node.ask(method, it).await);
            }
            for operation in &operations {
                let over = node.end_of(operation).await;
                assert_eq!(over["state"], "succeeded", "{over:#}");
            }
        }
    }
    for (id, volume) in &pairs {
        node.until_shell(id, "ls -d /sys/block/vd* | wc -l", "1").await;
        node.done("volume.delete", json!({"id": volume})).await;
    }
    for (id, _) in &pairs {
        node.delete(id).await;
    }
}
