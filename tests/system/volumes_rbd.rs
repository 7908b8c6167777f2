//! A volume on a real Ceph of one node, which has an address of the loopback and a folder to itself:
//! a monitor that asks for keys, and a store that keeps its objects in memory.

use std::fs;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use ostler_tests::guest_image::Mode;
use ostler_tests::process::{Daemon, Run, command};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{BOOT, Node, need_root, virsh};
use crate::volumes::{find, read, size, status, write};
use crate::volumes_connected::{forgotten, holding, new_id};

const MIB: u64 = 1 << 20;
const ADDRESS: &str = "127.77.83.2";
const PORT: u16 = 6789;
const WRONG: &str = "AQBEWxRnAAAAABAAd3Jvbmctd3Jvbmctd3Jvbg==";

/// A cluster, gone when dropped.
struct Ceph {
    daemons: Vec<(&'static str, Daemon)>,
    folder: TempDir,
}

impl Drop for Ceph {
    fn drop(&mut self) {
        for (_, daemon) in self.daemons.drain(..) {
            daemon.kill_group_blocking();
        }
    }
}

impl Ceph {
    /// One with a pool `volumes`, in which `cinder` may do as it likes, and an image `volume-1`.
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display().to_string();
        let id = new_id();
        let settings = format!(
            "[global]\n\
             fsid = {id}\n\
             mon host = [v2:{ADDRESS}:3300,v1:{ADDRESS}:{PORT}]\n\
             public addr = {ADDRESS}\n\
             cluster addr = {ADDRESS}\n\
             auth cluster required = cephx\n\
             auth service required = cephx\n\
             auth client required = cephx\n\
             keyring = {at}/keyring\n\
             run dir = {at}\n\
             admin socket = {at}/$name.asok\n\
             log file = {at}/$name.log\n\
             mon cluster log file = {at}/cluster.log\n\
             crash dir = {at}\n\
             mon data = {at}/mon\n\
             osd data = {at}/osd\n\
             osd objectstore = memstore\n\
             memstore device bytes = 134217728\n\
             osd pool default size = 1\n\
             osd crush chooseleaf type = 0\n\
             mon allow pool size one = true\n\
             mon data avail crit = 1\n"
        );
        fs::write(folder.path().join("ceph.conf"), settings).unwrap();
        let mut ceph = Self { daemons: Vec::new(), folder };
        for part in ["mon", "osd"] {
            fs::create_dir(ceph.folder.path().join(part)).unwrap();
        }
        let all = "--cap mon 'allow *' --cap osd 'allow *'";
        let monitor = format!("[v2:{ADDRESS}:3300,v1:{ADDRESS}:{PORT}]");
        ceph.run(&format!(
            "ceph-authtool -C mon.keyring --gen-key -n mon. --cap mon 'allow *' && \
             ceph-authtool -C keyring --gen-key -n client.admin {all} && \
             ceph-authtool keyring --gen-key -n osd.0 --cap mon 'allow profile osd' --cap osd 'allow *' && \
             ceph-authtool mon.keyring --import-keyring keyring && \
             monmaptool --create --addv a {monitor} --fsid {id} monmap && \
             ceph-mon --mkfs -i a --monmap monmap --keyring mon.keyring"
        ))
        .await;
        ceph.serve("mon", "a");
        ceph.run(&format!("ceph osd new {id} && ceph-osd -i 0 --mkfs --osd-uuid {id}")).await;
        ceph.serve("osd", "0");
        ceph.run(
            "ceph osd pool create volumes 8 && rbd pool init volumes && \
             rbd create volumes/volume-1 --size 16M && \
             ceph auth get-or-create client.cinder mon 'profile rbd' osd 'profile rbd' -o cinder",
        )
        .await;
        ceph
    }

    async fn run(&self, line: &str) -> String {
        let script = format!("cd {} && {line}", self.folder.path().display());
        let run = Run::new("sh").args(["-c", &script]).patience(BOOT);
        run.env("CEPH_CONF", self.folder.path().join("ceph.conf")).stdout().await.unwrap()
    }

    fn serve(&mut self, part: &'static str, id: &str) {
        let name = format!("ceph-{part}");
        let mut program = command(&name);
        program.args(["-f", "-i", id]).env("CEPH_CONF", self.folder.path().join("ceph.conf"));
        let daemon = Daemon::start(&name, program, &self.folder.path().join(&name)).unwrap();
        self.daemons.push((part, daemon));
    }

    fn signal(&self, signal: Signal, parts: &[&str]) {
        for (_, daemon) in self.daemons.iter().filter(|(part, _)| parts.contains(part)) {
            daemon.signal(signal).unwrap();
        }
    }

    fn keyring(&self) -> String {
        fs::read_to_string(self.folder.path().join("cinder")).unwrap()
    }

    fn key(&self) -> String {
        let keyring = self.keyring();
        keyring.lines().find_map(|line| line.trim().strip_prefix("key = ")).unwrap().to_owned()
    }
}

/// A key that an operator has libvirt keep; gone when dropped.
struct Kept {
    id: String,
}

impl Drop for Kept {
    fn drop(&mut self) {
        let _gone = command("virsh")
            .args(["-q", "-c", "qemu:///system", "secret-undefine", &self.id])
            .status();
    }
}

impl Kept {
    async fn with(key: &str, private: &str) -> Self {
        let (id, own) = (new_id(), tempfile::tempdir().unwrap());
        let (definition, value) = (own.path().join("secret.xml"), own.path().join("key"));
        let text = format!(
            "<secret ephemeral='yes' private='{private}'><uuid>{id}</uuid>\
             <usage type='ceph'><name>cinder {id}</name></usage></secret>"
        );
        fs::write(&definition, text).unwrap();
        fs::write(&value, key).unwrap();
        virsh(&["secret-define", definition.to_str().unwrap()]).await;
        let kept = Self { id };
        virsh(&["secret-set-value", &kept.id, "--file", value.to_str().unwrap()]).await;
        kept
    }
}

fn rbd(more: Value) -> Value {
    let mut data = json!({"name": "volumes/volume-1", "hosts": [ADDRESS],
        "ports": [PORT.to_string()], "cluster_name": "ceph", "auth_enabled": true,
        "auth_username": "cinder", "secret_type": "ceph", "discard": true, "qos_specs": null});
    data.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"driver_volume_type": "rbd", "data": data})
}

fn attach(id: &str, volume: &str, connection: &Value) -> Value {
    json!({"id": id, "volume": volume, "connection": connection})
}

/// The SHA-256 of a MiB of the volume.
async fn sum(node: &mut Node, id: &str, volume: &str, at_mib: u64) -> String {
    let line = format!(
        "{} dd if=/dev/$d bs=64k skip={at_mib}M iflag=skip_bytes count=16 2>/dev/null | sha256sum",
        find(volume)
    );
    node.shell(id, &line).await.split(' ').next().unwrap().to_owned()
}

/// The key is seen nowhere, while an instance has the volume.
async fn unseen(node: &Node, id: &str, key: &str) {
    let logs = Path::new("/var/log/libvirt/qemu");
    assert_eq!(holding(key, &[node.agent.folder(), logs]), Vec::<PathBuf>::new());
    let domain = format!("ostler-{id}");
    for how in [&["--security-info"][..], &["--inactive", "--security-info"]] {
        assert!(!virsh(&[&["dumpxml", &domain], how].concat()).await.contains(key));
    }
    let line = fs::read(format!("/proc/{}/cmdline", node.qemu(id).unwrap())).unwrap();
    assert!(!String::from_utf8_lossy(&line).contains(key));
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph, which only make long installs"]
async fn an_rbd_volume_goes_from_guest_to_guest_and_its_key_is_seen_nowhere() {
    need_root!();
    let ceph = Ceph::start().await;
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let (volume, key) = (new_id(), ceph.key());

    let asked = attach(&one, &volume, &rbd(json!({"keyring": WRONG})));
    let over = node.tried("instance.attach_volume", asked).await;
    let said = over.to_string();
    assert_eq!((&over["state"], said.contains(WRONG)), (&json!("undone"), false), "{said}");
    assert!(said.contains("Permission denied"), "{said}");
    forgotten(&mut node, &volume).await;

    // By a key that comes along.
    let by_key = rbd(json!({"keyring": ceph.keyring()}));
    node.done("instance.attach_volume", attach(&one, &volume, &by_key)).await;
    assert!(virsh(&["secret-list"]).await.contains(&format!("ostler-{volume}")));
    assert_eq!(size(&mut node, &one, &volume).await, 16 * MIB);
    write(&mut node, &one, &volume, "across", 1).await;
    let written = sum(&mut node, &one, &volume, 1).await;
    let there = ceph
        .run("rbd export --no-progress volumes/volume-1 - | tail -c +1048577 | head -c 1048576 | sha256sum")
        .await;
    assert_eq!(there.split(' ').next().unwrap(), written);
    unseen(&node, &one, &key).await;
    node.done("instance.stop", json!({"id": one, "manner": "hard"})).await;
    node.agent.restart().await.unwrap();
    node.reconnect().await;
    node.done("instance.start", json!({"id": one})).await;
    assert_eq!(sum(&mut node, &one, &volume, 1).await, written);
    unseen(&node, &one, &key).await;
    node.done("instance.detach_volume", json!({"id": one, "volume": volume})).await;
    forgotten(&mut node, &volume).await;

    // By a key that the operator has put there, and keeps there.
    let secret = Kept::with(&key, "yes").await;
    let by_secret = rbd(json!({"secret_uuid": secret.id}));
    node.done("instance.attach_volume", attach(&other, &volume, &by_secret)).await;
    assert_eq!(sum(&mut node, &other, &volume, 1).await, written);
    unseen(&node, &other, &key).await;
    node.done("instance.detach_volume", json!({"id": other, "volume": volume})).await;
    forgotten(&mut node, &volume).await;

    // To be read only.
    let only = rbd(json!({"secret_uuid": secret.id, "access_mode": "ro"}));
    node.done("instance.attach_volume", attach(&other, &volume, &only)).await;
    assert_eq!(sum(&mut node, &other, &volume, 1).await, written);
    let line = format!("{} cat /sys/block/$d/ro", find(&volume));
    assert_eq!(node.shell(&other, &line).await, "1");
    node.done("instance.detach_volume", json!({"id": other, "volume": volume})).await;
    forgotten(&mut node, &volume).await;
    assert!(virsh(&["secret-list"]).await.contains(&secret.id));

    // To this node, under the guest.
    node.done("instance.attach_volume", attach(&one, &volume, &by_key)).await;
    let made = node.done("volume.create", json!({"name": "new", "size": 16 * MIB})).await;
    let new = made["subject"]["volume"].as_str().unwrap().to_owned();
    let machine = node.qemu(&one);
    let swap = json!({"id": one, "volume": volume, "new": new});
    node.done("instance.swap_volume", swap).await;
    assert_eq!(node.qemu(&one), machine, "the same QEMU");
    assert_eq!(status(&mut node, &new).await, "in-use");
    forgotten(&mut node, &volume).await;
    drop(ceph);
    assert_eq!(sum(&mut node, &one, &volume, 1).await, written);
    write(&mut node, &one, &volume, "without", 2).await;
    assert_eq!(read(&mut node, &one, &volume, 2).await, "without");
    node.delete(&one).await;
    node.delete(&other).await;
    node.done("volume.delete", json!({"id": new})).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Ceph, which only make long installs"]
async fn a_cluster_that_does_not_answer_holds_up_who_has_its_volume_alone() {
    need_root!();
    let ceph = Ceph::start().await;
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let volume = new_id();
    let connection = rbd(json!({"keyring": ceph.keyring()}));
    node.done("instance.attach_volume", attach(&one, &volume, &connection)).await;
    write(&mut node, &one, &volume, "before", 1).await;

    // What the guest writes waits, and nothing else in it.
    ceph.signal(Signal::SIGSTOP, &["osd", "mon"]);
    let begin = "(yes waited | head -c 1048576 | dd of=/dev/$d bs=64k seek=2M oflag=seek_bytes \
                 conv=fsync,notrunc 2>/dev/null && touch /tmp/written) >/dev/null 2>&1 &";
    node.shell(&one, &format!("{} {begin}", find(&volume))).await;
    assert_eq!(node.shell(&one, "[ -e /tmp/written ] || echo waits").await, "waits");

    // Nobody else stands still, whichever part says nothing, and whoever keeps the key.
    let secret = Kept::with(&ceph.key(), "no").await;
    let by_secret = rbd(json!({"secret_uuid": secret.id}));
    let second = new_id();
    for (part, connection) in [("mon", &connection), ("osd", &connection), ("osd", &by_secret)] {
        ceph.signal(Signal::SIGCONT, &["mon", "osd"]);
        ceph.signal(Signal::SIGSTOP, &[part]);
        let over = node.tried("instance.attach_volume", attach(&other, &second, connection)).await;
        let said = over["error"]["message"].to_string();
        assert_eq!(over["state"], "undone", "{part}: {over:#}");
        assert!(said.contains("volumes/volume-1") && said.contains("does not answer"), "{said}");
        forgotten(&mut node, &second).await;
        assert_eq!(node.shell(&other, "ls /sys/block | grep -c '^vd'").await, "1");
    }
    ceph.signal(Signal::SIGCONT, &["mon", "osd"]);
    node.shell(&one, "until [ -e /tmp/written ]; do sleep 0.1; done").await;
    assert_eq!(read(&mut node, &one, &volume, 2).await, "waited");

    // It is gone for good.
    drop(ceph);
    let over = node.tried("instance.attach_volume", attach(&other, &second, &connection)).await;
    let said = over["error"].to_string();
    assert_eq!(over["state"], "undone", "{over:#}");
    assert!(said.contains(&format!("{ADDRESS}:{PORT}")), "{said}");
    forgotten(&mut node, &second).await;
    assert_eq!(node.shell(&other, "echo on").await, "on");
    node.shell(&one, &format!("{} {begin}", find(&volume))).await;
    node.done("instance.stop", json!({"id": one, "manner": "hard"})).await;
    // QEMU waits for the cluster, and is waited for until a start is given up.
    let over = node.tried("instance.start", json!({"id": one})).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    assert_eq!(node.qemu(&one), None);
    node.delete(&one).await;
    forgotten(&mut node, &volume).await;
    node.delete(&other).await;
}
