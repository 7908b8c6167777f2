//! `kill -9` of the agent at any instant: guests go on, and nothing is left half done.

use std::time::Duration;

use nix::sys::signal::Signal;
use ostler_tests::agent::Setup;
use ostler_tests::guest_image::{Mode, ROOT};
use ostler_tests::poll;
use serde_json::{Value, json};

use crate::drain::{Rule, said};
use crate::node::{Node, gone, need_root, virsh};

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_outlives_the_agent_and_is_known_again() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("steady", Mode::Ostler).await;
    node.report(&id).await;
    let qemu = node.qemu(&id);
    let mut session = node.login(&id, ROOT).await;
    session.run("echo here >/root/mark").await.unwrap();

    for how in ["kill -9", "SIGTERM"] {
        match how {
            "kill -9" => node.agent.kill().await.unwrap(),
            _ => assert_eq!(node.agent.stop().await.unwrap(), 0),
        }
        assert_eq!(node.qemu(&id), qemu, "{how}");
        assert_eq!(session.ask("cat /root/mark").await.unwrap(), "here");
        node.agent.launch().unwrap();
        node.agent.ready().await.unwrap();
        node.reconnect().await;
        let shown = node
            .until(&id, "known again and ready", |i| {
                i["power_state"] == "running" && i["guest"]["state"] == "ready"
            })
            .await;
        assert_eq!(shown["status"], "ACTIVE");
        assert_eq!(node.qemu(&id), qemu);
        node.report(&id).await;
    }
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_boot_that_a_crash_cut_off_is_finished_or_undone() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    // Each step of the plan, and the instants between: the agent is killed when the operation is
    // seen there, which is before, within or after the step's own work.
    let moments =
        ["accepted", "create root disk", "ensure bridges", "define domain", "start domain"];
    for (n, moment) in moments.iter().enumerate() {
        let params = node.boot_params(&format!("cut-{n}"), Mode::Ostler, &[&lan]).await;
        let id = params["id"].as_str().unwrap().to_owned();
        let operation = node.ask("instance.boot", params).await;
        if *moment != "accepted" {
            let client = &mut node.client;
            poll::until("the step is reached", Duration::from_secs(60), async || {
                let now = client.call("operation.get", json!({"id": operation["id"]})).await;
                let now = now.map_err(|e| e.to_string())?;
                let step =
                    now["steps"].as_array().into_iter().flatten().find(|s| s["name"] == *moment);
                match step.map(|s| s["state"] != "pending") {
                    Some(true) => Ok(()),
                    _ => Err(now.to_string()),
                }
            })
            .await
            .unwrap();
        }
        node.agent.kill().await.unwrap();
        node.agent.launch().unwrap();
        node.agent.ready().await.unwrap();
        node.reconnect().await;
        let over = node.end_of(&operation).await;
        let shown = node.show(&id).await;
        assert_eq!(shown["task_state"], Value::Null, "killed at {moment}: {shown:#}");
        match over["state"].as_str().unwrap() {
            "succeeded" => {
                assert_eq!(shown["status"], "ACTIVE", "killed at {moment}");
                assert!(node.qemu(&id).is_some());
                node.delete(&id).await;
            }
            "undone" => {
                node.nothing_left(&id).await;
                node.delete(&id).await;
            }
            other => panic!("killed at {moment}: {other}: {over:#}"),
        }
    }
    let domains = virsh(&["list", "--all", "--name"]).await;
    let host_instances = node.ask("instance.list", Value::Null).await;
    assert_eq!(host_instances, json!([]), "{domains}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_that_a_crash_cut_off_is_finished() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("going", Mode::Ostler).await;
    let operation = node.ask("instance.delete", gone(&id)).await;
    node.agent.signal(Signal::SIGKILL).unwrap();
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let over = node.end_of(&operation).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    node.nothing_left(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_whose_word_a_crash_lost_is_told_to_be_interrupted() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("secret", Mode::Mute).await;
    // A mute guest keeps the operation under way.
    let params = json!({"id": id, "user": "root", "password": {"plain": "hunter2-is-not-kept"}});
    let operation = node.ask("instance.password", params).await;
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let over = node.end_of(&operation).await;
    assert_eq!(over["state"], "failed", "{over:#}");
    assert_eq!(over["error"]["data"]["reason"], "interrupted");
    assert_eq!(node.show(&id).await["status"], "ACTIVE");
    for name in ["journal.db", "journal.db-wal"] {
        let bytes = std::fs::read(node.agent.state_dir().join(name)).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&bytes).contains("hunter2"), "{name} has the word");
    }
    assert!(!std::fs::read_to_string(node.agent.log()).unwrap().contains("hunter2"));
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_outlives_the_agent_it_was_told_to() {
    need_root!();
    let (rule, setup) = Rule::of(Setup::default(), "before|instance.boot|start domain|hold");
    let mut node = Node::with(setup).await;
    let lan = node.network.clone();
    let params = node.boot_params("unwanted", Mode::None, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let operation = node.ask("instance.boot", params).await;
    said(&node, "a fault that was asked for").await;
    let asked = node.ask("operation.cancel", json!({"id": operation["id"]})).await;
    assert!(asked["cancel_asked"].is_u64() && asked["state"] == "running", "{asked:#}");
    node.agent.kill().await.unwrap();
    assert!(virsh(&["list", "--all", "--name"]).await.contains(&id), "it had come so far");
    rule.lift();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let over = node.end_of(&operation).await;
    assert_eq!(over["state"], "cancelled", "{over:#}");
    assert_eq!(over["cancel_asked"], asked["cancel_asked"]);
    node.nothing_left(&id).await;
}
