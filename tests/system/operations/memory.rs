//! Memory and vCPUs: what a guest had in memory is there after a pause and a suspend, and is not
//! after a hard reboot; vCPUs and memory change while it runs.

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use serde_json::{Value, json};
use std::time::Duration;

use crate::node::{BOOT, Node, need_root, virsh};

#[tokio::test(flavor = "multi_thread")]
async fn memory_survives_a_pause_and_a_suspend() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("steady", Mode::Ostler).await;
    node.shell(&id, "echo here >/tmp/mark").await;
    let only = json!({"id": id});

    let shown = node.becomes("instance.pause", only.clone(), "PAUSED").await;
    assert_eq!(shown["power_state"], "paused");
    assert!(virsh(&["domstate", &format!("ostler-{id}")]).await.contains("paused"));
    node.becomes("instance.pause", only.clone(), "PAUSED").await;
    let (reason, text) = node.refused("instance.suspend", only.clone()).await;
    assert_eq!((reason.as_str(), text.contains("unpause")), ("conflict", true), "{text}");
    node.becomes("instance.unpause", only.clone(), "ACTIVE").await;
    assert_eq!(node.shell(&id, "cat /tmp/mark").await, "here");

    let shown = node.becomes("instance.suspend", only.clone(), "SUSPENDED").await;
    assert_eq!((shown["power_state"].as_str(), node.qemu(&id)), (Some("shutdown"), None));
    assert!(virsh(&["dominfo", &format!("ostler-{id}")]).await.contains("Managed save:   yes"));
    // A restart of the agent changes nothing about it.
    node.agent.restart().await.unwrap();
    node.reconnect().await;
    node.until(&id, "known again", |i| i["power_state"] == "shutdown").await;
    assert_eq!(node.show(&id).await["status"], "SUSPENDED");
    node.becomes("instance.resume", only.clone(), "ACTIVE").await;
    assert_eq!(node.shell(&id, "cat /tmp/mark").await, "here");
    let clock = node.ask("guest.time", only.clone()).await;
    assert!(clock["offset"].as_i64().unwrap_or(i64::MAX).abs() < 30_000_000_000, "{clock:#}");

    // From suspended, a hard reboot throws the memory away.
    node.becomes("instance.suspend", only.clone(), "SUSPENDED").await;
    let hard = json!({"id": id, "manner": "hard"});
    node.becomes("instance.reboot", hard, "ACTIVE").await;
    assert_eq!(node.shell(&id, "cat /tmp/mark || echo gone").await, "gone");
    assert!(virsh(&["dominfo", &format!("ostler-{id}")]).await.contains("Managed save:   no"));
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vcpus_and_memory_change_while_it_runs() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let mut params = node.boot_params("elastic", Mode::Ostler, &[&lan]).await;
    params["max_vcpus"] = json!(2);
    params["max_memory"] = json!(256 << 20);
    let id = params["id"].as_str().unwrap().to_owned();
    node.done("instance.boot", params).await;
    assert_eq!(node.shell(&id, "nproc").await, "1");
    let before = kib(&node.shell(&id, "grep MemTotal /proc/meminfo").await);

    let more = json!({"id": id, "vcpus": 2, "memory": 256u64 << 20});
    let shown = node.becomes("instance.adjust", more, "ACTIVE").await;
    assert_eq!((shown["vcpus"].as_u64(), shown["memory"].as_u64()), (Some(2), Some(256 << 20)));
    poll_shell(&mut node, &id, "echo 1 >/sys/devices/system/cpu/cpu1/online; nproc", |said| {
        said == "2"
    })
    .await;
    poll_shell(&mut node, &id, "grep MemTotal /proc/meminfo", |said| kib(said) > before + 40_000)
        .await;

    let beyond = json!({"id": id, "vcpus": 3});
    let (reason, text) = node.refused("instance.adjust", beyond).await;
    assert_eq!((reason.as_str(), text.contains("resize")), ("invalid_params", true), "{text}");

    // It is what it was given after a restart too.
    node.done("instance.reboot", json!({"id": id, "manner": "hard"})).await;
    assert_eq!(node.shell(&id, "nproc").await, "2");
    node.delete(&id).await;
}

fn kib(line: &str) -> u64 {
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Run a line in the guest until it says what is wanted.
async fn poll_shell(node: &mut Node, id: &str, line: &str, wanted: impl Fn(&str) -> bool) {
    let mut said = String::new();
    let until = tokio::time::Instant::now() + BOOT;
    while tokio::time::Instant::now() < until {
        said = node.shell(id, line).await;
        if wanted(&said) {
            return;
        }
    }
    panic!("{line}: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_save_can_be_cancelled_and_the_guest_runs_on() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("kept", Mode::Ostler).await;
    node.shell(&id, "echo here >/tmp/mark").await;
    let operation = node.ask("instance.suspend", json!({"id": id})).await;
    node.ask("operation.cancel", json!({"id": operation["id"]})).await;
    let over = node.end_of(&operation).await;
    // It may have been through before the word came.
    let shown = node.show(&id).await;
    match over["state"].as_str().unwrap() {
        "cancelled" => assert_eq!(shown["status"], "ACTIVE", "{shown:#}"),
        "succeeded" => {
            assert_eq!(shown["status"], "SUSPENDED", "{shown:#}");
            node.done("instance.resume", json!({"id": id})).await;
        }
        other => panic!("{other}: {over:#}"),
    }
    assert_eq!(node.shell(&id, "cat /tmp/mark").await, "here");
    let client = &mut node.client;
    poll::until("nothing is under way", Duration::from_secs(30), async || {
        let live = client.call("host.show", Value::Null).await.map_err(|e| e.to_string())?;
        if live["operations"] == 0 { Ok(()) } else { Err(live.to_string()) }
    })
    .await
    .unwrap();
    node.delete(&id).await;
}
