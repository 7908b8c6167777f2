//! Root disks: new ones under the same identity, rescue disks, larger ones and the way back,
//! images made of them.

use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};

use crate::node::{Node, need_root};

/// Write down on the disk that this was here.
async fn mark(node: &mut Node, id: &str, word: &str) {
    node.shell(id, &format!("echo {word} >/root/mark && sync")).await;
}

async fn marked(node: &mut Node, id: &str) -> String {
    node.shell(id, "cat /root/mark 2>/dev/null || echo none").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_keeps_the_identity_and_a_reset_the_image() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("renewed", Mode::Ostler).await;
    let before = node.show(&id).await;
    let other = node.image(Mode::QemuGa).await;
    mark(&mut node, &id, "old").await;

    let rebuild = json!({"id": id, "image": other});
    let shown = node.becomes("instance.rebuild", rebuild, "ACTIVE").await;
    assert_eq!(shown["image"], other);
    for same in ["id", "name", "ports", "disk", "memory", "created", "domain"] {
        assert_eq!(shown[same], before[same], "{same}");
    }
    assert_eq!(marked(&mut node, &id).await, "none");
    assert_eq!(node.report(&id).await["transport"], "libvirt", "the image's own agent");
    assert_eq!(node.files(&id), ["disk.qcow2"]);

    mark(&mut node, &id, "new").await;
    for wrong in ["vdb", "", "0"] {
        let (reason, text) =
            node.refused("instance.reset", json!({"id": id, "root_device": wrong})).await;
        assert_eq!((reason.as_str(), text.contains("vda")), ("invalid_params", true), "{text}");
    }
    let reset = json!({"id": id, "root_device": "vda"});
    node.becomes("instance.reset", reset.clone(), "ACTIVE").await;
    assert_eq!(marked(&mut node, &id).await, "none");

    // What is off stays off.
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    node.becomes("instance.reset", reset, "SHUTOFF").await;
    assert_eq!(node.qemu(&id), None);
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rescue_shows_the_disk_and_leaves_it() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("ill", Mode::Ostler).await;
    mark(&mut node, &id, "mine").await;
    let shown = node.becomes("instance.rescue", json!({"id": id}), "RESCUE").await;
    assert_eq!(shown["rescue_image"], shown["image"]);
    assert_eq!(marked(&mut node, &id).await, "none", "it boots the rescue image");
    assert_eq!(node.files(&id), ["disk.qcow2", "disk.rescue.qcow2"]);
    let seen = node
        .shell(&id, "mkdir -p /tmp/own && mount /dev/vdb /tmp/own && cat /tmp/own/root/mark")
        .await;
    assert_eq!(seen, "mine");
    node.shell(&id, "echo healed >/tmp/own/root/mark && umount /tmp/own && sync").await;
    let (reason, text) = node.refused("instance.stop", json!({"id": id})).await;
    assert_eq!((reason.as_str(), text.contains("unrescue")), ("conflict", true), "{text}");

    let shown = node.becomes("instance.unrescue", json!({"id": id}), "ACTIVE").await;
    assert_eq!(shown["rescue_image"], Value::Null);
    assert_eq!(marked(&mut node, &id).await, "healed");
    assert_eq!(node.files(&id), ["disk.qcow2"]);
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resize_waits_for_a_word_and_can_go_back() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("grown", Mode::Ostler).await;
    mark(&mut node, &id, "before").await;
    let before = node.show(&id).await;
    let disk = before["disk"].as_u64().unwrap();
    let larger = json!({"id": id, "vcpus": 2, "memory": 224u64 << 20, "disk": disk + (64 << 20)});

    let shown = node.becomes("instance.resize", larger.clone(), "VERIFY_RESIZE").await;
    assert_eq!(shown["vcpus"], 2);
    assert_eq!(shown["resized_from"]["disk"], disk);
    assert_eq!(node.files(&id), ["disk.aside.qcow2", "disk.qcow2"]);
    assert_eq!(node.shell(&id, "nproc").await, "2");
    let sectors = node.shell(&id, "cat /sys/block/vda/size").await;
    assert_eq!(sectors.parse::<u64>().unwrap() * 512, disk + (64 << 20));
    assert_eq!(marked(&mut node, &id).await, "before");
    mark(&mut node, &id, "after").await;
    node.refused("instance.reboot", json!({"id": id})).await;

    let shown = node.becomes("instance.revert_resize", json!({"id": id}), "ACTIVE").await;
    for same in ["vcpus", "memory", "disk"] {
        assert_eq!(shown[same], before[same], "{same}");
    }
    assert_eq!(marked(&mut node, &id).await, "before", "the old disk is back");
    assert_eq!(node.files(&id), ["disk.qcow2"]);

    node.becomes("instance.resize", larger, "VERIFY_RESIZE").await;
    let shown = node.becomes("instance.confirm_resize", json!({"id": id}), "ACTIVE").await;
    assert_eq!((shown["vcpus"].as_u64(), &shown["resized_from"]), (Some(2), &Value::Null));
    assert_eq!(node.files(&id), ["disk.qcow2"]);
    let smaller = json!({"id": id, "disk": disk});
    let (reason, text) = node.refused("instance.resize", smaller).await;
    assert_eq!((reason.as_str(), text.contains("shrink")), ("invalid_params", true), "{text}");
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_an_image_and_says_whether_the_guest_was_frozen() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("model", Mode::Ostler).await;
    mark(&mut node, &id, "copied").await;
    let over = node.done("instance.snapshot", json!({"id": id, "name": "shot"})).await;
    assert_eq!(over["result"]["snapshot"], json!({"image": "shot", "quiesced": true}), "{over:#}");
    assert_eq!(node.shell(&id, "echo on >/root/on && cat /root/on").await, "on", "it is thawed");
    assert_eq!(node.files(&id), ["disk.qcow2"]);

    let (reason, _) = node.refused("instance.snapshot", json!({"id": id, "name": "shot"})).await;
    assert_eq!(reason, "conflict");

    // What is booted from it has what the model had.
    let copy = uuid::Uuid::new_v4().to_string();
    node.adopt(&copy);
    let boot = json!({"id": copy, "name": "copy", "image": "shot", "vcpus": 1,
                      "memory": crate::node::MEMORY, "networks": [{"network": "lan"}]});
    node.done("instance.boot", boot).await;
    assert_eq!(marked(&mut node, &copy).await, "copied");
    let (reason, text) = node.refused("image.remove", json!({"name": "shot"})).await;
    assert_eq!(reason, "in_use", "{text}");
    node.delete(&copy).await;
    node.done("image.remove", json!({"name": "shot"})).await;

    // Off, and with nobody inside to ask.
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    let over = node.done("instance.snapshot", json!({"id": id, "name": "off"})).await;
    assert_eq!(over["result"]["snapshot"]["quiesced"], true, "nothing was being written: {over:#}");
    let deaf = node.boot("deaf", Mode::None).await;
    let over = node.done("instance.snapshot", json!({"id": deaf, "name": "rough"})).await;
    assert_eq!(over["result"]["snapshot"]["quiesced"], false, "{over:#}");
    assert!(over["result"]["snapshot"]["why"].is_string(), "{over:#}");
    let wanted = json!({"id": deaf, "name": "never", "quiesce": "require"});
    let over = node.tried("instance.snapshot", wanted).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    assert_eq!(over["error"]["data"]["reason"], "guest_unavailable", "{over:#}");
    let images = node.ask("image.list", Value::Null).await;
    assert!(!images.to_string().contains("never"), "{images:#}");
    node.delete(&deaf).await;
    node.delete(&id).await;
}
