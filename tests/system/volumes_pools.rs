//! Pools in trouble: one that is full, and one whose file system goes away. What is asked of them
//! ends clearly, nothing is left half made, and other guests run on.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use ostler_tests::agent::{Mount, Setup};
use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, need_root};
use crate::volumes::{find, read, size, status, write};

const MIB: u64 = 1 << 20;

/// A file system of its own, for a pool.
struct Small {
    // unmounted before its folder goes
    mount: Option<Mount>,
    folder: TempDir,
}

impl Small {
    fn mounted(size: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let pool = folder.path().join("pool");
        std::fs::create_dir(&pool).unwrap();
        Self { mount: Some(Mount::of_size(&pool, size).unwrap()), folder }
    }

    /// Away it goes, with whatever is open in it.
    fn unmount(&mut self) {
        self.mount = None;
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("pool")
    }

    /// Leave no room; what fills it.
    fn fill(&self) -> PathBuf {
        let path = self.path().join("filler");
        let mut file = File::create(&path).unwrap();
        for size in [1 << 20, 1 << 12, 1] {
            let block = vec![0u8; size];
            while file.write_all(&block).is_ok() {}
        }
        path
    }

    /// The volumes there is something of.
    fn volumes(&self) -> usize {
        let entries = std::fs::read_dir(self.path()).unwrap().flatten();
        entries.filter(|entry| entry.path().is_dir()).count()
    }
}

async fn node_with(pool: &Path) -> Node {
    let more = format!(
        "[[pools]]\nname = \"default\"\ndriver = \"directory\"\npath = \"{}\"\n\
         [[pools]]\nname = \"small\"\ndriver = \"directory\"\npath = \"{}\"\n",
        pool.parent().unwrap().join("other").display(),
        pool.display(),
    );
    std::fs::create_dir_all(pool.parent().unwrap().join("other")).unwrap();
    // One that is started after the mount sees it.
    Node::on_own_libvirt(Setup { more, ..Setup::default() }, None).await
}

async fn create(node: &mut Node, params: Value) -> String {
    let over = node.done("volume.create", params).await;
    over["subject"]["volume"].as_str().unwrap().to_owned()
}

/// What a guest does while there is no room: it waits, and the test does not.
async fn write_much(node: &mut Node, id: &str, volume: &str) {
    let line = format!(
        "{} rm -f /tmp/written; (dd if=/dev/urandom of=/dev/$d bs=1M seek=4 count=8 conv=fsync \
         2>/dev/null && echo >/tmp/written) >/dev/null 2>&1 &",
        find(volume)
    );
    let run = json!({"id": id, "path": "/bin/sh", "args": ["-c", line], "timeout_ms": 60_000});
    // It may be paused before its agent has answered.
    let mut client = node.agent.client().await.unwrap();
    let _answer = client.call("guest.exec", run).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_pool_leaves_nothing_half_made_and_its_guest_waits_for_room() {
    need_root!();
    let small = Small::mounted(64 * MIB);
    let mut node = node_with(&small.path()).await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let params = json!({"name": "data", "size": 48 * MIB, "pool": "small"});
    let volume = create(&mut node, params).await;
    node.done("instance.attach_volume", json!({"id": one, "volume": volume})).await;
    write(&mut node, &one, &volume, "before", 1).await;

    let filler = small.fill();
    let image = node.image(Mode::Ostler).await;
    for params in [
        json!({"name": "more", "size": 16 * MIB, "pool": "small"}),
        json!({"name": "copy", "source": {"image": image}, "pool": "small"}),
    ] {
        let over = node.tried("volume.create", params).await;
        assert_eq!(over["error"]["data"]["reason"], "no_space", "{over:#}");
        let made = over["subject"]["volume"].as_str().unwrap().to_owned();
        assert_eq!(status(&mut node, &made).await, "error");
        node.done("volume.delete", json!({"id": made, "force": true})).await;
    }
    let over = node.tried("volume.snapshot", json!({"id": volume, "name": "a"})).await;
    assert_eq!(
        (&over["state"], &over["error"]["data"]["reason"]),
        (&json!("undone"), &json!("no_space"))
    );
    let shown = node.ask("volume.show", json!({"id": volume})).await;
    assert_eq!((&shown["snapshots"], small.volumes()), (&json!([]), 1), "{shown:#}");
    assert_eq!(read(&mut node, &one, &volume, 1).await, "before");

    write_much(&mut node, &one, &volume).await;
    let shown = node.until(&one, "stalled", |i| i["stalled"].is_object()).await;
    assert_eq!(shown["stalled"]["reason"], "no_space", "{shown:#}");
    assert_eq!(node.shell(&other, "echo on").await, "on");
    // The node's own disk has room, and that is not what it waits for.
    let params = json!({"name": "elsewhere", "size": 16 * MIB, "pool": "default"});
    let elsewhere = create(&mut node, params).await;
    node.done("instance.attach_volume", json!({"id": other, "volume": elsewhere})).await;
    write(&mut node, &other, &elsewhere, "on", 1).await;

    std::fs::remove_file(filler).unwrap();
    let idle = |i: &Value| i["stalled"].is_null() && i["task_state"].is_null();
    node.until(&one, "running again", idle).await;
    node.shell(&one, "until [ -e /tmp/written ]; do sleep 0.2; done").await;
    let log = std::fs::read_to_string(node.agent.log()).unwrap();
    assert_eq!(log.matches("the disk has space again").count(), 1, "{log}");
    node.done("volume.snapshot", json!({"id": volume, "name": "a"})).await;
    assert_eq!(read(&mut node, &one, &volume, 1).await, "before");
    assert_eq!(size(&mut node, &one, &volume).await, 48 * MIB);
    node.delete(&one).await;
    node.delete(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_whose_file_system_is_gone_takes_nobody_else_along() {
    need_root!();
    let mut small = Small::mounted(64 * MIB);
    let mut node = node_with(&small.path()).await;
    let one = node.boot("one", Mode::Ostler).await;
    let params = |pool: &str| json!({"name": "data", "size": 16 * MIB, "pool": pool});
    let there = create(&mut node, params("small")).await;
    let idle = create(&mut node, params("small")).await;
    let other = create(&mut node, params("default")).await;
    for volume in [&there, &other] {
        node.done("instance.attach_volume", json!({"id": one, "volume": volume})).await;
        write(&mut node, &one, volume, "before", 1).await;
    }

    small.unmount();
    // What is open stays open, and the empty folder is not the pool.
    assert_eq!(read(&mut node, &one, &there, 1).await, "before");
    let over = node.tried("instance.attach_volume", json!({"id": one, "volume": idle})).await;
    let said = over["error"]["message"].as_str().unwrap();
    assert_eq!(over["state"], "undone", "{over:#}");
    assert!(said.contains("its file system is gone"), "{said}");
    let over = node.tried("volume.create", params("small")).await;
    assert_eq!(over["error"]["data"]["reason"], "volume_failed", "{over:#}");
    assert_eq!(small.volumes(), 0);
    // Whether a snapshot is there cannot be seen.
    let over = node.tried("volume.snapshot", json!({"id": there, "name": "a"})).await;
    assert_eq!(over["state"], "failed", "{over:#}");
    let next = over["error"]["data"]["next"].as_str().unwrap();
    assert!(next.starts_with("mount it again"), "{next}");
    // What would have its domain defined without it is not begun.
    for (method, params) in [
        ("volume.snapshot", json!({"id": other, "name": "a"})),
        ("instance.detach_volume", json!({"id": one, "volume": other})),
    ] {
        let over = node.tried(method, params).await;
        assert_eq!(over["state"], "undone", "{over:#}");
    }
    assert_eq!(read(&mut node, &one, &other, 1).await, "before");
    // Once it is let go of, everything else goes on.
    node.done("instance.detach_volume", json!({"id": one, "volume": there})).await;
    node.done("volume.snapshot", json!({"id": other, "name": "a"})).await;
    node.done("instance.detach_volume", json!({"id": one, "volume": other})).await;
    node.delete(&one).await;
}
