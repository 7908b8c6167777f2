//! Ports on real guests: a NIC comes and goes while the guest runs, and a port keeps what it is.

use std::path::Path;

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root};

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

/// What was dropped of a port's guest, for this reason.
async fn dropped(node: &mut Node, port: &str, reason: &str) -> u64 {
    let stats = node.ask("port.stats", json!({"id": port})).await;
    let found = stats["dropped"].as_array().unwrap().iter().find(|d| d["reason"] == reason);
    found.map_or(0, |found| found["packets"].as_u64().unwrap())
}

/// The table that has the rules of a tap; none if none has.
async fn table_of(tap: &str) -> Option<String> {
    let tables = Run::new("nft").args(["list", "tables", "bridge"]).stdout().await.unwrap();
    for table in tables.lines().filter_map(|line| line.strip_prefix("table bridge ostler")) {
        let table = format!("ostler{table}");
        // One that is another test's may be gone by now.
        let listed = Run::new("nft").args(["list", "table", "bridge", &table]).stdout().await;
        if listed.is_ok_and(|listed| listed.contains(&format!("from-{tap}"))) {
            return Some(table);
        }
    }
    None
}

async fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    Run::new(words[0]).args(&words[1..]).stdout().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_speaks_for_itself_only_and_what_somebody_changes_is_put_back() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let mut ports = Vec::new();
    for (name, address) in [("one", "10.9.8.1"), ("other", "10.9.8.2")] {
        let create = json!({"name": name, "network": lan, "fixed_ips": [address]});
        let made = node.done("port.create", create).await;
        let port = made["subject"]["port"].as_str().unwrap().to_owned();
        let mut boot = node.boot_params(name, Mode::Ostler, &[]).await;
        boot["networks"] = json!([{"port": port}]);
        let id = boot["id"].as_str().unwrap().to_owned();
        node.done("instance.boot", boot).await;
        node.shell(&id, &format!("ip addr add {address}/24 dev eth0; ip link set eth0 up")).await;
        ports.push((id, port));
    }
    let [(one, port), (other, _)] = ports.try_into().unwrap();
    let ping = "ping -c 2 -W 5 10.9.8.2 >/dev/null && echo reached || echo not";
    assert_eq!(node.shell(&one, ping).await, "reached");

    // With an address that is not its port's it reaches nobody, and that is counted.
    let spoof = "ip addr add 10.9.8.7/24 dev eth0; ping -I 10.9.8.7 -c 2 -W 2 10.9.8.2 >/dev/null \
                 && echo reached || echo not; ip addr del 10.9.8.7/24 dev eth0";
    assert_eq!(node.shell(&one, spoof).await, "not");
    let counted = dropped(&mut node, &port, "arp").await + dropped(&mut node, &port, "ipv4").await;
    assert!(counted > 0);
    // Nor with another MAC.
    let mac = node.ask("port.show", json!({"id": port})).await["mac"].as_str().unwrap().to_owned();
    let spoof = format!(
        "ip link set eth0 down; ip link set eth0 address 52:54:00:de:ad:00; ip link set eth0 up; \
         ping -c 2 -W 2 10.9.8.2 >/dev/null && echo reached || echo not; \
         ip link set eth0 down; ip link set eth0 address {mac}; ip link set eth0 up"
    );
    assert_eq!(node.shell(&one, &spoof).await, "not");
    assert!(dropped(&mut node, &port, "mac").await > 0);
    assert_eq!(node.shell(&one, ping).await, "reached");

    // As soon as the port has the address, too, it may: its guest runs on.
    let update = json!({"id": port, "allowed_address_pairs": [{"ip_address": "10.9.8.7"}]});
    node.done("port.update", update).await;
    let again = "ip addr add 10.9.8.7/24 dev eth0; ping -I 10.9.8.7 -c 2 -W 5 10.9.8.2 >/dev/null \
                 && echo reached || echo not; ip addr del 10.9.8.7/24 dev eth0";
    assert_eq!(node.shell(&one, again).await, "reached");

    // Somebody flushes the rules and pulls the tap out: all is put back by itself.
    let tap = node.ask("port.show", json!({"id": port})).await["tap"].as_str().unwrap().to_owned();
    let bridge = bridge_of(&tap).unwrap();
    let table = table_of(&tap).await.unwrap();
    run(&format!("nft flush chain bridge {table} from-{tap}")).await;
    run(&format!("ip link set {tap} nomaster")).await;
    poll::until("all is put back", BOOT, async || {
        let rules = Run::new("nft")
            .args(["list", "chain", "bridge", &table, &format!("from-{tap}")])
            .stdout()
            .await
            .map_err(|error| error.to_string())?;
        let back = (rules.contains("ether saddr"), bridge_of(&tap));
        match back == (true, Some(bridge.clone())) {
            true => Ok(()),
            false => Err(format!("{back:?}")),
        }
    })
    .await
    .unwrap();
    assert_eq!(node.shell(&one, ping).await, "reached");
    node.delete(&one).await;
    node.delete(&other).await;
    assert_eq!(table_of(&tap).await, None);
}
