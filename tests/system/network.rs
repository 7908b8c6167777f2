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

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_is_given_and_changed_while_an_instance_runs_on_its_network() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let id = node.boot("x", Mode::None).await;
    let shown = node.ask("network.show", json!({"name": lan})).await;
    assert_eq!((&shown["kind"], &shown["mtu"]), (&json!("isolated"), &json!(1500)), "{shown:#}");
    let bridge = shown["bridge"].as_str().unwrap().to_owned();
    let listed = node.ask("port.list", json!({"network": lan})).await;
    assert_eq!(shown["ports"][0]["id"], listed[0]["id"], "{shown:#}");
    let tap = format!("/sys/class/net/{}/master", listed[0]["tap"].as_str().unwrap());
    let is_plugged = || std::fs::read_link(&tap).is_ok_and(|link| link.ends_with(&bridge));
    assert!(is_plugged());
    let mtu = |link: &str| {
        let mtu = std::fs::read_to_string(format!("/sys/class/net/{link}/mtu"));
        mtu.unwrap().trim().parse::<u32>().unwrap()
    };

    // What the tunnel goes by: a link with an address.
    let under = format!("{bridge}u");
    node.adopt_bridge(&under);
    let ip = |arguments: &[&str]| Run::new("ip").args(arguments);
    ip(&["link", "add", &under, "type", "bridge"]).stdout().await.unwrap();
    ip(&["address", "add", "198.51.100.7/32", "dev", &under]).stdout().await.unwrap();
    let vni = std::process::id() + 1;
    let with = |remotes: Value| json!({"vni": vni, "local": "198.51.100.7", "remotes": remotes});
    let ensure = |vxlan: Value| json!({"name": lan, "bridge": bridge, "vxlan": vxlan});
    node.done("network.ensure", ensure(with(json!(["198.51.100.8", "198.51.100.9"])))).await;
    let link = format!("vxlan-{vni}");
    let remotes = async || {
        let shown = Run::new("bridge").args(["fdb", "show", "dev", &link]).stdout().await.unwrap();
        let mut found: Vec<String> = shown
            .lines()
            .filter(|line| line.starts_with("00:00:00:00:00:00"))
            .map(|line| line.split(' ').nth(2).unwrap().to_owned())
            .collect();
        found.sort();
        found
    };
    assert_eq!(remotes().await, ["198.51.100.8", "198.51.100.9"]);
    assert_eq!((mtu(&link), mtu(&bridge)), (1450, 1450));
    assert!(is_plugged());
    let shown = node.ask("network.show", json!({"name": lan})).await;
    assert_eq!((&shown["kind"], &shown["state"]), (&json!("vxlan"), &json!("up")), "{shown:#}");
    assert_eq!((&shown["link"], &shown["mtu"]), (&json!(link), &json!(1450)), "{shown:#}");

    // Other remotes, and nothing else.
    let index = std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).unwrap();
    node.done("network.ensure", ensure(with(json!(["198.51.100.9", "198.51.100.10"])))).await;
    assert_eq!(remotes().await, ["198.51.100.10", "198.51.100.9"]);
    assert_eq!(std::fs::read_to_string(format!("/sys/class/net/{link}/ifindex")).unwrap(), index);
    assert!(is_plugged());

    // What somebody takes away is told, and put back.
    ip(&["link", "delete", &link]).stdout().await.unwrap();
    let shown = node.ask("network.show", json!({"name": lan})).await;
    assert_eq!(shown["state"], "drifted", "{shown:#}");
    assert!(shown["drift"][0].as_str().unwrap().contains(&link), "{shown:#}");
    node.done("network.ensure", ensure(with(json!(["198.51.100.9"])))).await;
    assert_eq!(remotes().await, ["198.51.100.9"]);

    // What does not fit changes nothing.
    let mut large = ensure(with(json!(["198.51.100.9"])));
    large["mtu"] = json!(1500);
    let ended = node.tried("network.ensure", large).await;
    assert_eq!(ended["state"], "undone", "{ended:#}");
    assert!(ended.to_string().contains("has room for 1450"), "{ended:#}");
    let moved = json!({"name": lan, "bridge": under});
    let (reason, text) = node.refused("network.ensure", moved).await;
    assert_eq!(reason, "conflict", "{text}");
    assert_eq!(mtu(&bridge), 1450);

    node.delete(&id).await;
    node.done("network.remove", json!({"name": lan})).await;
    assert!(!is_there(&bridge) && !is_there(&link) && is_there(&under));
}
