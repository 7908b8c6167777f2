//! A node whose disk is full: what frees space goes through.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use serde_json::json;

use crate::node::{Node, gone, need_root};

/// Leave no room in the file system of a folder.
fn fill(folder: &Path) {
    let mut file = File::create(folder.join("filler")).unwrap();
    for size in [1 << 20, 1 << 12, 1] {
        let block = vec![0u8; size];
        while file.write_all(&block).is_ok() {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_delete_and_an_image_s_removal_go_through_on_a_full_disk() {
    need_root!();
    let more = "disk_reserve = 0\ndisk_ratio = 100.0\n".to_owned();
    let setup = Setup { more, ..Setup::default() };
    let mut node = Node::on_own_libvirt(setup, Some(256 << 20)).await;
    let id = node.boot("full", Mode::None).await;
    let image = node.image(Mode::None).await;
    let state = node.agent.state_dir();
    let reserve = || std::fs::metadata(state.join("journal.reserve")).map_or(0, |meta| meta.len());
    let whole = reserve();
    fill(&state);
    let (reason, _) = node.refused("network.ensure", json!({"name": "b", "bridge": "ot9x"})).await;
    assert_eq!(reason, "no_space");
    let delete = node.ask("instance.delete", gone(&id)).await;
    assert!(reserve() < whole);
    let over = node.end_of(&delete).await;
    assert_eq!(over["state"], "succeeded", "{over:#}");
    node.nothing_left(&id).await;
    node.done("image.remove", json!({"name": image})).await;
    poll::until("the reserve is whole again", Duration::from_secs(30), async || {
        let now = reserve();
        if now == whole { Ok(()) } else { Err(format!("{now} of {whole}")) }
    })
    .await
    .unwrap();
}
