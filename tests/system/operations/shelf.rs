//! Instances that are put away, and come back: shelved, offloaded, soft-deleted.

use ostler_tests::agent::Setup;
use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};

use crate::node::{Node, gone, need_root};

#[tokio::test(flavor = "multi_thread")]
async fn a_shelved_instance_comes_back_from_its_image() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("shelved", Mode::Ostler).await;
    node.shell(&id, "echo mine >/root/mark && sync").await;
    let only = json!({"id": id});

    let shown = node.becomes("instance.shelve", only.clone(), "SHELVED").await;
    let image = shown["shelved_image"].as_str().unwrap().to_owned();
    assert_eq!(node.qemu(&id), None);
    let (reason, text) = node.refused("image.remove", json!({"name": image})).await;
    assert_eq!(reason, "in_use", "{text}");
    node.becomes("instance.unshelve", only.clone(), "ACTIVE").await;
    assert_eq!(node.shell(&id, "cat /root/mark").await, "mine");
    let images = node.ask("image.list", Value::Null).await;
    assert!(!images.to_string().contains(&image), "{images:#}");

    node.becomes("instance.shelve", only.clone(), "SHELVED").await;
    let shown = node.becomes("instance.offload", only.clone(), "SHELVED_OFFLOADED").await;
    assert_eq!(shown["power_state"], "none");
    assert_eq!(node.files(&id), [""; 0]);
    // The image it was first made from is free to go; the one it is kept as is not.
    let host = node.ask("host.show", Value::Null).await;
    assert_eq!(host["vcpus_share"]["claimed"], 0, "it has no place on the node");
    node.becomes("instance.unshelve", only.clone(), "ACTIVE").await;
    assert_eq!(node.shell(&id, "cat /root/mark").await, "mine");

    // The same in one go; and a hard delete takes the image along.
    let shelve = json!({"id": id, "offload": true});
    node.becomes("instance.shelve", shelve, "SHELVED_OFFLOADED").await;
    node.delete(&id).await;
    let left: Vec<String> = std::fs::read_dir(node.agent.state_dir().join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "parts")
        .collect();
    assert_eq!(left.len(), 3, "kernel, ramdisk and root are left: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_soft_delete_can_be_taken_back_until_it_is_reclaimed() {
    need_root!();
    let more = "[instances]\nreclaim_after = 2\nreconcile_interval = 1\n";
    let mut node = Node::start().await;
    let id = node.boot("sorry", Mode::Ostler).await;
    node.shell(&id, "echo mine >/root/mark && sync").await;
    let shown = node.becomes("instance.delete", json!({"id": id}), "SOFT_DELETED").await;
    assert_eq!((shown["power_state"].as_str(), node.qemu(&id)), (Some("shutdown"), None));
    assert_eq!(node.ask("instance.list", Value::Null).await, json!([]));
    let deleted = node.ask("instance.list", json!({"status": "SOFT_DELETED"})).await;
    assert_eq!(deleted[0]["id"], id);
    let (reason, text) = node.refused("instance.start", json!({"id": id})).await;
    assert_eq!((reason.as_str(), text.contains("restore")), ("conflict", true), "{text}");
    // Until when, it says; and after a crash of the agent, too, that it is off.
    let week = shown["updated"].as_u64().unwrap() + 7 * 24 * 3600 * 1000;
    assert_eq!(shown["reclaimed_at"], week, "{shown:#}");
    let cli = Cli::on(&node.agent).unwrap();
    let told = cli.text(&["instance", "show", &id]).await.unwrap();
    assert!(told.to_lowercase().contains("reclaimed at"), "{told}");
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    let again = node.until(&id, "seen to be off", |i| i["power_state"] == "shutdown").await;
    assert_eq!(again["reclaimed_at"], week, "{again:#}");

    let back = node.becomes("instance.restore", json!({"id": id}), "ACTIVE").await;
    assert_eq!(back["reclaimed_at"], Value::Null, "{back:#}");
    let told = cli.text(&["instance", "show", &id]).await.unwrap();
    assert!(!told.to_lowercase().contains("reclaimed at"), "{told}");
    assert_eq!(node.shell(&id, "cat /root/mark").await, "mine");

    // One that was off comes back off.
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    node.done("instance.delete", json!({"id": id})).await;
    node.becomes("instance.restore", json!({"id": id}), "SHUTOFF").await;

    node.done("instance.delete", json!({"id": id})).await;
    let old = node.agent.setup().more.clone();
    node.agent.setup().more = format!("{old}{more}");
    node.agent.restart().await.unwrap();
    node.reconnect().await;
    node.until(&id, "reclaimed", |i| i["status"] == "DELETED").await;
    node.nothing_left(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_explains_itself_and_is_kept_until_it_was_seen() {
    need_root!();
    let mut node = Node::with(Setup {
        env: vec![(
            "OSTLER_FAULTS".to_owned(),
            "before|instance.boot|start domain|fail".to_owned(),
        )],
        ..Setup::default()
    })
    .await;
    let lan = node.network.clone();
    let params = node.boot_params("ill", Mode::None, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let over = node.tried("instance.boot", params).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    let shown = node.show(&id).await;
    assert_eq!(shown["status"], "ERROR");
    let fault = &shown["fault"];
    assert_eq!(fault["data"]["step"], "start domain", "{fault:#}");
    assert!(fault["data"]["reason"].is_string() && fault["message"].is_string(), "{fault:#}");
    let (reason, text) = node.refused("instance.delete", json!({"id": id})).await;
    assert_eq!((reason.as_str(), text.contains("--ignore")), ("conflict", true), "{text}");
    node.done("instance.delete", gone(&id)).await;
    node.nothing_left(&id).await;
}
