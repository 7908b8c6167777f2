//! Bridges: who reaches whom.

use ostler_tests::console::Session;
use ostler_tests::guest_image::{Mode, ROOT};
use ostler_tests::process::Run;

use serde_json::{Value, json};

use crate::node::{Node, need_root};

/// The guest's own link-local address.
async fn address(session: &mut Session) -> String {
    let shown = session.ask("ip -4 -o address show dev eth0").await.unwrap();
    let address = shown.split_whitespace().find(|word| word.starts_with("169.254."));
    address.unwrap_or_else(|| panic!("no address in {shown}")).split('/').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn guests_of_one_bridge_reach_each_other_and_no_others() {
    need_root!();
    let mut node = Node::start().await;
    node.network("other").await;
    let lan = node.network.clone();
    let a = node.boot_on("a", Mode::Ostler, &[&lan]).await;
    let b = node.boot_on("b", Mode::Ostler, &[&lan]).await;
    let c = node.boot_on("c", Mode::Ostler, &["other"]).await;
    let mut on_a = node.login(&a, ROOT).await;
    let mut on_b = node.login(&b, ROOT).await;
    let mut on_c = node.login(&c, ROOT).await;
    let (to_a, to_b) = (address(&mut on_a).await, address(&mut on_b).await);

    let reached = on_a.run(&format!("ping -c 3 -W 5 {to_b}")).await.unwrap();
    assert_eq!(reached.code, 0, "{}", reached.text);
    // From the other bridge neither answers, while they go on answering each other.
    for address in [&to_a, &to_b] {
        let unreached = on_c.run(&format!("ping -c 2 -W 2 {address}")).await.unwrap();
        assert_ne!(unreached.code, 0, "{}", unreached.text);
    }
    let reached = on_b.run(&format!("ping -c 3 -W 5 {to_a}")).await.unwrap();
    assert_eq!(reached.code, 0, "{}", reached.text);
    for id in [a, b, c] {
        node.delete(&id).await;
    }
}

fn is_there(bridge: &str) -> bool {
    std::path::Path::new("/sys/class/net").join(bridge).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_is_removed_when_nobody_is_on_it_and_a_bridge_of_others_stays() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let networks = node.ask("network.list", Value::Null).await;
    let named = |name: &str| networks.as_array().unwrap().iter().find(|n| n["name"] == name);
    let bridge = named(&lan).unwrap()["bridge"].as_str().unwrap().to_owned();
    let id = node.boot("x", Mode::None).await;
    let (reason, text) = node.refused("network.remove", json!({"name": lan})).await;
    assert_eq!(reason, "in_use");
    assert!(text.contains("in use by instances: 1"), "{text}");
    node.delete(&id).await;
    assert!(is_there(&bridge));
    node.done("network.remove", json!({"name": lan})).await;
    assert!(!is_there(&bridge));
    assert_eq!(node.agent.stop().await.unwrap(), 0);
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    assert_eq!(node.ask("network.list", Value::Null).await, json!([]));
    let (reason, _) = node.refused("network.remove", json!({"name": lan})).await;
    assert_eq!(reason, "not_found");

    // An administrator's own bridge is used as it is, and left as it was.
    let theirs = format!("{bridge}x");
    node.adopt_bridge(&theirs);
    Run::new("ip").args(["link", "add", &theirs, "type", "bridge"]).stdout().await.unwrap();
    Run::new("ip").args(["link", "set", &theirs, "up"]).stdout().await.unwrap();
    node.done("network.ensure", json!({"name": "adopted", "bridge": theirs})).await;
    node.done("network.remove", json!({"name": "adopted"})).await;
    assert!(is_there(&theirs));
}
