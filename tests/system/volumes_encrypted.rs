//! Encrypted volumes on real guests: what they hold is on no disk in plain, and what opens them is
//! seen nowhere.

use std::fs;
use std::path::{Path, PathBuf};

use ostler_tests::cli::Cli;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::Run;
use serde_json::json;

use crate::node::{BOOT, Node, need_root, virsh};
use crate::volumes::{read, size, status, write};
use crate::volumes_connected::{Server, forgotten, free_port, holding, new_id};

const MIB: u64 = 1 << 20;
const WORD: &str = "correct-horse-battery";

/// A file with this in it, in the node's folder; it goes when the test ends.
fn file(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

async fn words_of(node: &Node, id: &str) -> String {
    let domain = format!("ostler-{id}");
    let live = virsh(&["dumpxml", "--security-info", &domain]).await;
    let kept = virsh(&["dumpxml", "--inactive", "--security-info", &domain]).await;
    let line = fs::read(format!("/proc/{}/cmdline", node.qemu(id).unwrap())).unwrap();
    format!("{live}{kept}{}", String::from_utf8_lossy(&line))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_volume_is_plain_to_its_guest_alone() {
    need_root!();
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let own = tempfile::tempdir().unwrap();
    let word = file(own.path(), "word", &format!("{WORD}\n"));
    let volume = new_id();
    let cli = Cli::on(&node.agent).unwrap();
    let args = ["volume", "create", "safe", "16M", "--id", &volume, "--passphrase-file"];
    cli.text(&[&args[..], &[word.to_str().unwrap()]].concat()).await.unwrap();
    let shown = node.ask("volume.show", json!({"id": volume})).await;
    assert_eq!((&shown["format"], &shown["size"]), (&json!("luks"), &json!(16 * MIB)));
    node.done("instance.attach_volume", json!({"id": one, "volume": volume})).await;
    assert_eq!(size(&mut node, &one, &volume).await, 16 * MIB);
    write(&mut node, &one, &volume, "plain-as-day", 1).await;
    let layer = node.agent.state_dir().join("volumes").join(&volume).join("0.luks");
    assert!(fs::read(&layer).unwrap().starts_with(b"LUKS"));
    assert_eq!(holding("plain-as-day", &[&node.agent.state_dir()]), Vec::<PathBuf>::new());

    // It goes on over a restart of both, and grows while it is had.
    node.agent.restart().await.unwrap();
    node.reconnect().await;
    node.done("instance.reboot", json!({"id": one, "manner": "hard"})).await;
    assert_eq!(read(&mut node, &one, &volume, 1).await, "plain-as-day");
    node.done("volume.extend", json!({"id": volume, "size": 24 * MIB})).await;
    assert_eq!(size(&mut node, &one, &volume).await, 24 * MIB);
    write(&mut node, &one, &volume, "at-the-end", 23).await;
    node.done("instance.detach_volume", json!({"id": one, "volume": volume})).await;
    node.done("instance.attach_volume", json!({"id": other, "volume": volume})).await;
    assert_eq!(read(&mut node, &other, &volume, 23).await, "at-the-end");
    for (method, params) in [
        ("volume.snapshot", json!({"id": volume, "name": "a"})),
        ("volume.create", json!({"name": "b", "size": MIB, "format": "luks"})),
        ("volume.create", json!({"name": "b", "size": MIB, "passphrase": ""})),
        ("volume.create", json!({"name": "b", "size": MIB, "format": "raw", "passphrase": WORD})),
    ] {
        let (_, text) = node.refused(method, params).await;
        assert!(!text.contains(WORD), "{text}");
    }
    let seen = words_of(&node, &other).await;
    assert!(!seen.contains(WORD), "{seen}");
    let logs = Path::new("/var/log/libvirt/qemu");
    assert_eq!(holding(WORD, &[node.agent.folder(), logs]), Vec::<PathBuf>::new());
    node.done("instance.detach_volume", json!({"id": other, "volume": volume})).await;
    for params in [
        json!({"name": "b", "source": {"volume": volume}}),
        json!({"name": "b", "size": 64 * MIB, "source": {"volume": volume}}),
    ] {
        let (_, text) = node.refused("volume.create", params).await;
        assert!(text.contains("encrypted"), "{text}");
    }
    let (_, text) = node.refused("volume.extend", json!({"id": volume, "size": 32 * MIB})).await;
    assert!(text.contains("encrypted"), "{text}");
    assert_eq!(status(&mut node, &volume).await, "available");
    node.done("volume.delete", json!({"id": volume})).await;
    forgotten(&mut node, &volume).await;
    node.delete(&one).await;
    node.delete(&other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_from_elsewhere_is_opened_by_its_passphrase() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("one", Mode::Ostler).await;
    let own = tempfile::tempdir().unwrap();
    let word = file(own.path(), "word", WORD);
    let disk = own.path().join("disk.luks");
    let key = format!("secret,id=key,file={}", word.display());
    let args = ["create", "-q", "--object", &key, "-f", "luks", "-o", "key-secret=key"];
    // On a busy machine it cannot always tell how fast that is.
    poll::until("a disk is encrypted", BOOT, async || {
        let run = Run::new("qemu-img").args(args).args([disk.as_os_str(), "16M".as_ref()]);
        run.stdout().await.map_err(|error| error.to_string())
    })
    .await
    .unwrap();
    let (port, volume) = (free_port(), new_id());
    let _server = Server::nbd_of(&disk, port).await;
    let data = json!({"host": "127.0.0.1", "port": port, "export": "data", "encrypted": true});
    let connection = json!({"driver_volume_type": "nbd", "data": data});
    let asked = json!({"id": id, "volume": volume, "connection": connection});
    let (_, text) = node.refused("instance.attach_volume", asked.clone()).await;
    assert!(text.contains("passphrase"), "{text}");
    let mut wrong = asked;
    wrong["passphrase"] = json!("wrong-horse-battery");
    let over = node.tried("instance.attach_volume", wrong).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    assert!(!over.to_string().contains("horse"), "{over:#}");
    forgotten(&mut node, &volume).await;

    let connection = file(own.path(), "connection.json", &connection.to_string());
    let cli = Cli::on(&node.agent).unwrap();
    let args = ["instance", "attach-volume", &id, &volume, "--connection"];
    let files = [connection.to_str().unwrap(), "--passphrase-file", word.to_str().unwrap()];
    cli.text(&[&args[..], &files].concat()).await.unwrap();
    assert_eq!(size(&mut node, &id, &volume).await, 16 * MIB);
    write(&mut node, &id, &volume, "plain-as-day", 1).await;
    assert_eq!(holding("plain-as-day", &[own.path()]), Vec::<PathBuf>::new());
    node.done("instance.reboot", json!({"id": id, "manner": "hard"})).await;
    assert_eq!(read(&mut node, &id, &volume, 1).await, "plain-as-day");
    let seen = words_of(&node, &id).await;
    assert!(!seen.contains(WORD), "{seen}");
    let logs = Path::new("/var/log/libvirt/qemu");
    assert_eq!(holding(WORD, &[node.agent.folder(), logs]), Vec::<PathBuf>::new());
    node.delete(&id).await;
    forgotten(&mut node, &volume).await;
}
