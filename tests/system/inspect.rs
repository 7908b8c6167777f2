//! Looking into an instance: definitions, counters, the screen and who may look at it.

use std::net::SocketAddr;

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::{Mode, ROOT};
use ostler_tests::poll;
use ostler_tests::rfb::{Verdict, try_password};
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root, virsh};

#[tokio::test(flavor = "multi_thread")]
async fn definitions_and_counters_are_libvirts() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("seen", Mode::Ostler).await;
    let domain = format!("ostler-{id}");
    let cli = Cli::on(&node.agent).unwrap();

    // Both definitions are what libvirt has, and they are not the same.
    let live = cli.json(&["instance", "xml", "seen"]).await.unwrap();
    assert_eq!(live["xml"].as_str().unwrap().trim(), virsh(&["dumpxml", &domain]).await.trim());
    let kept = cli.text(&["instance", "xml", "seen", "--persistent"]).await.unwrap();
    assert_eq!(kept.trim(), virsh(&["dumpxml", "--inactive", &domain]).await.trim());
    assert!(!kept.contains("/dev/pts/") && live.to_string().contains("/dev/pts/"));

    // The counters are of this guest, and count.
    let mut session = node.login(&id, ROOT).await;
    let before = node.ask("instance.diagnostics", json!({"id": id})).await;
    assert_eq!((&before["state"], &before["driver"]), (&json!("running"), &json!("libvirt")));
    assert_eq!(before["hypervisor"], "qemu");
    assert_eq!(
        (&before["num_cpus"], &before["num_nics"], &before["num_disks"]),
        (&json!(1), &json!(1), &json!(1)),
        "{before:#}"
    );
    let port = node.show(&id).await["ports"][0].clone();
    assert_eq!(before["nic_details"][0]["mac"], port["mac"], "{before:#}");
    assert_eq!(before["disk_details"][0]["target"], "vda", "{before:#}");
    let number = |told: &Value, path: &str| told.pointer(path).and_then(Value::as_u64).unwrap();
    assert!(number(&before, "/uptime") < 600, "{before:#}");
    assert_eq!(number(&before, "/memory_details/maximum"), crate::node::MEMORY);
    assert!(number(&before, "/memory_details/rss") > 1 << 20);
    session.ask("dd if=/dev/urandom of=/root/x bs=1M count=4 2>/dev/null; sync").await.unwrap();
    session.ask("ip link set eth0 up; arping -c 2 -I eth0 192.0.2.1 || true").await.unwrap();
    let after = node.ask("instance.diagnostics", json!({"id": id})).await;
    for path in ["/cpu_time", "/disk_details/0/write_bytes", "/disk_details/0/write_requests"] {
        assert!(number(&after, path) > number(&before, path), "{path}: {before:#} {after:#}");
    }
    assert!(number(&after, "/nic_details/0/tx_packets") > 0, "{after:#}");
    // What the guest says by its balloon comes every ten seconds.
    poll::until("the guest tells of its memory", BOOT, async || {
        let params = json!({"id": id});
        let now = node.client.call("instance.diagnostics", params).await;
        let now = now.map_err(|error| error.to_string())?;
        let guest = now.pointer("/memory_details/guest_available").and_then(Value::as_u64);
        guest.filter(|bytes| *bytes > 1 << 20).ok_or_else(|| now.to_string())
    })
    .await
    .unwrap();
    let table = cli.text(&["instance", "diagnostics", "seen"]).await.unwrap();
    assert!(table.contains("vda: read") && table.contains("in the guest"), "{table}");

    // What does not run has no counters, and what is not there has nothing.
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    let refused = cli.output(&["instance", "diagnostics", "seen"], "").await.unwrap();
    assert_eq!(refused.code, 3);
    assert!(refused.stderr.contains("does not run"), "{}", refused.stderr);
    assert!(refused.stderr.contains("ostler instance start"), "{}", refused.stderr);
    let off = cli.text(&["instance", "xml", "seen"]).await.unwrap();
    assert!(!off.contains("/dev/pts/"));
    let vnc = node.client.call("instance.vnc", json!({"id": id})).await.unwrap_err();
    assert_eq!(vnc.reason(), Some("conflict"));
    node.delete(&id).await;
    for method in ["instance.xml", "instance.diagnostics", "instance.vnc", "instance.console_log"] {
        let gone = node.client.call(method, json!({"id": id})).await.unwrap_err();
        assert_eq!(gone.reason(), Some("not_found"), "{method}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_screen_is_opened_by_a_password_for_a_while() {
    need_root!();
    let mut node = Node::with_screens().await;
    let id = node.boot("screen", Mode::None).await;
    let cli = Cli::on(&node.agent).unwrap();
    let screen = node.ask("instance.vnc", json!({"id": id})).await;
    let at = |screen: &Value| {
        let address = screen["address"].as_str().unwrap().parse().unwrap();
        SocketAddr::new(address, screen["port"].as_u64().unwrap().try_into().unwrap())
    };
    let place = at(&screen);
    assert!(place.ip().is_loopback());
    // Until somebody opens it, nobody gets in.
    assert_eq!(try_password(place, "locked").await.unwrap(), Verdict::Refused);

    let opened = cli.json(&["instance", "vnc", "screen", "--open"]).await.unwrap();
    let password = opened["password"].as_str().unwrap().to_owned();
    assert_eq!((at(&opened), password.len()), (place, 8));
    assert_eq!(try_password(place, &password).await.unwrap(), Verdict::Accepted);
    assert_eq!(try_password(place, "not this").await.unwrap(), Verdict::Refused);
    // The next one takes its place, and its time runs out.
    let brief = node.ask("instance.vnc_open", json!({"id": id, "valid": 3})).await;
    let brief = brief["password"].as_str().unwrap().to_owned();
    assert_ne!(password, brief);
    assert_eq!(try_password(place, &password).await.unwrap(), Verdict::Refused);
    poll::until("the password has run out", BOOT, async || {
        match try_password(place, &brief).await.map_err(|error| error.to_string())? {
            Verdict::Refused => Ok(()),
            other @ (Verdict::Accepted | Verdict::Open) => Err(format!("{other:?}")),
        }
    })
    .await
    .unwrap();
    for valid in [0, 3601] {
        let params = json!({"id": id, "valid": valid});
        let refused = node.client.call("instance.vnc_open", params).await.unwrap_err();
        assert_eq!(refused.reason(), Some("invalid_params"));
    }

    // Nobody reads it elsewhere: not in what is shown, and not in the log.
    let shown = cli.text(&["instance", "xml", "screen"]).await.unwrap();
    let log = std::fs::read_to_string(node.agent.log()).unwrap();
    for word in [&password, &brief] {
        assert!(!shown.contains(word.as_str()) && !log.contains(word.as_str()));
    }
    node.delete(&id).await;
}
