//! Ports on real guests: a NIC comes and goes while the guest runs, and a port keeps what it is.

use std::path::Path;

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};

use crate::node::{Node, need_root};

const MAC: &str = "52:54:00:77:88:99";

/// How many NICs of this MAC the guest sees; it is asked until it sees as many.
async fn sees(node: &mut Node, id: &str, mac: &str, wanted: usize) {
    let line = format!(
        "i=0; while [ $i -lt 100 ]; do n=$(cat /sys/class/net/*/address | grep -c {mac}); \
         [ \"$n\" = {wanted} ] && break; i=$((i+1)); usleep 100000; done; echo $n"
    );
    assert_eq!(node.shell(id, &line).await, wanted.to_string());
}

/// The bridge that a link of the node is plugged into; none if there is no such link.
fn bridge_of(link: &str) -> Option<String> {
    let at = Path::new("/sys/class/net").join(link).join("master");
    Some(std::fs::read_link(at).ok()?.file_name()?.to_str()?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_the_same_from_guest_to_guest() {
    need_root!();
    let mut node = Node::start().await;
    let cli = Cli::on(&node.agent).unwrap();
    let lan = node.network.clone();
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let create = ["port", "create", "front", "--network", &lan, "--mac", MAC];
    let made = cli.json(&create).await.unwrap();
    assert_eq!((&made["status"], &made["mac"]), (&json!("DOWN"), &json!(MAC)));
    let (port, tap) = (made["id"].as_str().unwrap(), made["tap"].as_str().unwrap());
    assert_eq!(tap, format!("tap{}", &port[..11]));

    // A running guest is given it: it sees the MAC, and the tap is on the network's bridge.
    let listed = cli.json(&["instance", "attach-interface", "one", "front"]).await.unwrap();
    assert_eq!(listed.as_array().map(Vec::len), Some(2), "{listed:#}");
    sees(&mut node, &one, MAC, 1).await;
    let shown = cli.json(&["instance", "show", "one"]).await.unwrap();
    assert_eq!(bridge_of(tap).as_deref(), shown["ports"][1]["bridge"].as_str(), "{shown:#}");
    let shown = cli.json(&["port", "show", "front"]).await.unwrap();
    assert_eq!((&shown["status"], &shown["binding"]["instance"]), (&json!("ACTIVE"), &json!(one)));
    let (reason, text) = node.refused("port.delete", json!({"id": port})).await;
    assert_eq!((reason.as_str(), text.contains(&one)), ("in_use", true), "{text}");

    // It outlives a stop, a start, a rescue and a restart of the agent.
    node.done("instance.stop", json!({"id": one, "manner": "hard"})).await;
    assert_eq!(bridge_of(tap), None);
    node.done("instance.start", json!({"id": one})).await;
    sees(&mut node, &one, MAC, 1).await;
    assert_eq!(node.agent.stop().await.unwrap(), 0);
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    sees(&mut node, &one, MAC, 1).await;

    // It goes to another guest, one that is off at first.
    let detach = ["instance", "detach-interface", "one", "front"];
    cli.json(&detach).await.unwrap();
    sees(&mut node, &one, MAC, 0).await;
    assert_eq!(bridge_of(tap), None);
    node.done("instance.stop", json!({"id": other, "manner": "hard"})).await;
    let attach = json!({"id": other, "interface": {"port": port}});
    node.done("instance.attach_interface", attach).await;
    node.done("instance.start", json!({"id": other})).await;
    sees(&mut node, &other, MAC, 1).await;

    // One that is made for an attach goes with the detach; the one there was stays.
    node.done("instance.attach_interface", json!({"id": one, "interface": {"network": lan}})).await;
    let listed = cli.json(&["instance", "list-interfaces", "one"]).await.unwrap();
    let new = listed[1]["id"].as_str().unwrap().to_owned();
    sees(&mut node, &one, listed[1]["mac"].as_str().unwrap(), 1).await;
    node.done("instance.detach_interface", json!({"id": one, "port": new})).await;
    let (reason, _) = node.refused("port.show", json!({"id": new})).await;
    assert_eq!(reason, "not_found");
    node.delete(&one).await;
    node.delete(&other).await;
    let left = node.ask("port.list", Value::Null).await;
    assert_eq!((left.as_array().map(Vec::len), &left[0]["status"]), (Some(1), &json!("DOWN")));

    // An instance can be booted on it.
    let mut boot = node.boot_params("third", Mode::Ostler, &[]).await;
    boot["networks"] = json!([{"port": port}]);
    let third = boot["id"].as_str().unwrap().to_owned();
    node.done("instance.boot", boot).await;
    sees(&mut node, &third, MAC, 1).await;
    node.delete(&third).await;
    let table = cli.text(&["port", "list"]).await.unwrap();
    assert!(table.contains("front") && table.contains("DOWN"), "{table}");
    cli.json(&["port", "delete", "front"]).await.unwrap();
    assert_eq!(node.ask("port.list", Value::Null).await, json!([]));
}
