//! Volumes that are kept elsewhere, on real servers and guests: what was synced is there for the
//! next who has it, a server that dies takes nobody else along, and no secret is seen anywhere.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::{Daemon, Run, command};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{BOOT, Node, need_root, virsh};
use crate::volumes::{find, read, size, status, write};

const MIB: u64 = 1 << 20;

/// A port of the loopback that nobody listens at now.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn disk(folder: &Path) -> PathBuf {
    let file = folder.join("disk.raw");
    fs::File::create(&file).unwrap().set_len(16 * MIB).unwrap();
    file
}

/// A server that ends with the test.
pub(crate) struct Server {
    daemon: Option<Daemon>,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill_group_blocking();
        }
    }
}

impl Server {
    fn start(name: &str, folder: TempDir, args: &[&str]) -> Self {
        let mut program = command(name);
        program.args(args).env("TGT_IPC_SOCKET", folder.path().join("control"));
        let daemon = Daemon::start(name, program, &folder.path().join("log")).unwrap();
        Self { daemon: Some(daemon), folder }
    }

    fn nbd(at: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        Self::nbd_with(folder, &file, at)
    }

    fn nbd_with(folder: TempDir, file: &Path, at: &[&str]) -> Self {
        let args = ["--persistent", "--shared=0", "--format=raw", "--export-name=data"];
        let args = [&args, at, &[file.to_str().unwrap()]].concat();
        Self::start("qemu-nbd", folder, &args)
    }

    async fn answers(mut self, is: impl Fn() -> bool) -> Self {
        let daemon = self.daemon.as_mut().unwrap();
        poll::until("the server answers", BOOT, async || match (daemon.check(), is()) {
            (Err(ended), _) => panic!("{ended}"),
            (Ok(()), true) => Ok(()),
            (Ok(()), false) => Err("it does not".to_owned()),
        })
        .await
        .unwrap();
        self
    }

    async fn nbd_at(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        Self::tcp(folder, &file, port).await
    }

    /// One of this file, byte for byte.
    pub(crate) async fn nbd_of(file: &Path, port: u16) -> Self {
        Self::tcp(tempfile::tempdir().unwrap(), file, port).await
    }

    async fn tcp(folder: TempDir, file: &Path, port: u16) -> Self {
        let at = ["--bind=127.0.0.1".to_owned(), format!("--port={port}")];
        let server = Self::nbd_with(folder, file, &[&at[0], &at[1]]);
        server.answers(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await
    }

    async fn kill(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.signal(Signal::SIGKILL).unwrap();
        daemon.ended(BOOT).await.unwrap();
    }
}

pub(crate) fn new_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

fn attach(id: &str, volume: &str, connection: &Value) -> Value {
    json!({"id": id, "volume": volume, "connection": connection})
}

fn nbd(port: u16) -> Value {
    json!({"driver_volume_type": "nbd", "access_mode": "rw",
           "data": {"host": "127.0.0.1", "port": port, "export": "data", "qos_specs": null}})
}

/// Nobody has the volume, and nothing here knows of it.
pub(crate) async fn forgotten(node: &mut Node, volume: &str) {
    let (reason, _) = node.refused("volume.show", json!({"id": volume})).await;
    assert_eq!(reason, "not_found");
    let secrets = virsh(&["secret-list"]).await;
    assert!(!secrets.contains(volume), "{secrets}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nbd_volume_goes_from_guest_to_guest_and_its_server_dies_alone() {
    need_root!();
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let (port, volume) = (free_port(), new_id());
    let mut server = Server::nbd_at(port).await;
    let connection = nbd(port);
    let over = node.done("instance.attach_volume", attach(&one, &volume, &connection)).await;
    assert_eq!(over["result"]["attached"]["device"], "vdb", "{over:#}");
    assert_eq!(status(&mut node, &volume).await, "in-use");
    let shown = node.ask("volume.show", json!({"id": volume})).await;
    assert_eq!(shown["size"], 16 * MIB, "{shown:#}");
    assert_eq!(shown["elsewhere"], format!("nbd 127.0.0.1:{port} data"), "{shown:#}");
    assert_eq!(size(&mut node, &one, &volume).await, 16 * MIB);
    write(&mut node, &one, &volume, "across", 1).await;

    // It is somebody else's to change, and one guest's to have.
    for (method, params) in [
        ("volume.delete", json!({"id": volume, "force": true})),
        ("volume.extend", json!({"id": volume, "size": 32 * MIB})),
        ("volume.snapshot", json!({"id": volume, "name": "a"})),
        ("volume.revert", json!({"id": volume, "name": "a"})),
    ] {
        let (reason, text) = node.refused(method, params).await;
        assert_eq!((reason.as_str(), text.contains("control plane")), ("conflict", true), "{text}");
    }
    let (reason, _) =
        node.refused("instance.attach_volume", attach(&other, &volume, &connection)).await;
    assert_eq!(reason, "in_use");

    // It outlives a stop and a start, and goes to another guest.
    node.done("instance.stop", json!({"id": one, "manner": "hard"})).await;
    node.done("instance.start", json!({"id": one})).await;
    assert_eq!(read(&mut node, &one, &volume, 1).await, "across");
    node.done("instance.detach_volume", json!({"id": one, "volume": volume})).await;
    forgotten(&mut node, &volume).await;
    node.done("instance.attach_volume", attach(&other, &volume, &connection)).await;
    assert_eq!(read(&mut node, &other, &volume, 1).await, "across");

    // The server dies: who has the volume is told, and nobody else notices.
    server.kill().await;
    let line = format!(
        "{} if dd if=/dev/zero of=/dev/$d bs=4k count=1 oflag=direct 2>/dev/null; \
         then echo written; else echo failed; fi",
        find(&volume)
    );
    assert_eq!(node.shell(&other, &line).await, "failed");
    assert_eq!(node.shell(&one, "echo on").await, "on");
    let second = new_id();
    let over = node.tried("instance.attach_volume", attach(&one, &second, &connection)).await;
    let said = over["error"].to_string();
    assert_eq!(
        (&over["state"], said.contains(&port.to_string())),
        (&json!("undone"), true),
        "{said}"
    );
    forgotten(&mut node, &second).await;
    let has = node.ask("instance.list_volumes", json!({"id": one})).await;
    assert_eq!(has, json!([]));
    assert_eq!(node.shell(&one, "ls /sys/block | grep -c '^vd'").await, "1");
    node.done("instance.stop", json!({"id": other, "manner": "hard"})).await;
    let over = node.tried("instance.start", json!({"id": other})).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    node.delete(&other).await;
    forgotten(&mut node, &volume).await;
    node.delete(&one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nbd_volume_for_several_is_one_disk_to_its_guests_and_stays_with_the_other() {
    need_root!();
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let (port, volume) = (free_port(), new_id());
    let _server = Server::nbd_at(port).await;
    let mut connection = nbd(port);
    connection["multiattach"] = json!(true);
    for id in [&one, &other] {
        node.done("instance.attach_volume", attach(id, &volume, &connection)).await;
        let xml = virsh(&["dumpxml", &format!("ostler-{id}")]).await;
        assert!(xml.contains("<shareable/>"), "{xml}");
    }
    // What one has synced the other reads, and the other way round.
    write(&mut node, &one, &volume, "from-one", 1).await;
    assert_eq!(read(&mut node, &other, &volume, 1).await, "from-one");
    write(&mut node, &other, &volume, "from-other", 2).await;
    assert_eq!(read(&mut node, &one, &volume, 2).await, "from-other");

    node.done("instance.detach_volume", json!({"id": one, "volume": volume})).await;
    assert_eq!(status(&mut node, &volume).await, "in-use");
    write(&mut node, &other, &volume, "alone", 3).await;
    node.done("instance.stop", json!({"id": other, "manner": "hard"})).await;
    node.done("instance.start", json!({"id": other})).await;
    assert_eq!(read(&mut node, &other, &volume, 3).await, "alone");
    node.delete(&other).await;
    forgotten(&mut node, &volume).await;
    node.delete(&one).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_nbd_volume_at_a_socket_is_had_by_a_guest_that_may_only_read_it() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("reader", Mode::Ostler).await;
    let folder = node.agent.run_dir().join("nbd");
    fs::create_dir(&folder).unwrap();
    let socket = folder.join("data.sock");
    let server = Server::nbd(&[&format!("--socket={}", socket.display())]);
    let _server = server.answers(|| socket.exists()).await;
    // QEMU may be another user.
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
    let volume = new_id();
    let data = json!({"socket": socket, "export": "data", "access_mode": "ro"});
    let connection = json!({"driver_volume_type": "nbd", "data": data});
    node.done("instance.attach_volume", attach(&id, &volume, &connection)).await;
    let line = format!("{} cat /sys/block/$d/ro", find(&volume));
    assert_eq!(node.shell(&id, &line).await, "1");
    node.done("instance.detach_volume", json!({"id": id, "volume": volume})).await;
    forgotten(&mut node, &volume).await;
    node.delete(&id).await;
}

const TARGET: &str = "iqn.2026-11.org.example:data";
const USER: &str = "ostler";
const WORD: &str = "correct-horse-battery";

impl Server {
    async fn iscsi(port: u16) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = disk(folder.path());
        let portal = format!("portal=127.0.0.1:{port}");
        let server = Self::start("tgtd", folder, &["--foreground", "--iscsi", &portal]);
        let server =
            server.answers(|| std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        let target = ["--mode", "target", "--tid", "1"];
        let unit = ["--mode", "logicalunit", "--tid", "1", "--lun", "1", "--backing-store"];
        server.set("new", &target, &["--targetname", TARGET]).await;
        server.set("new", &unit, &[file.to_str().unwrap()]).await;
        let account = ["--mode", "account", "--user", USER];
        server.set("new", &account, &["--password", WORD]).await;
        server.set("bind", &account, &["--tid", "1"]).await;
        server.set("bind", &target, &["--initiator-address", "ALL"]).await;
        server
    }

    async fn set(&self, op: &str, what: &[&str], more: &[&str]) {
        let run = Run::new("tgtadm").env("TGT_IPC_SOCKET", self.folder.path().join("control"));
        let args = [&["--lld", "iscsi", "--op", op], what, more].concat();
        run.args(args).stdout().await.unwrap();
    }
}

fn iscsi(port: u16, word: &str) -> Value {
    json!({"driver_volume_type": "iscsi", "data": {
        "target_discovered": false, "target_portal": format!("127.0.0.1:{port}"),
        "target_iqn": TARGET, "target_lun": 1, "volume_id": 7, "auth_method": "CHAP",
        "auth_username": USER, "auth_password": word, "encrypted": false, "access_mode": "rw"}})
}

/// Where in these folders a word is, in a file's bytes.
pub(crate) fn holding(word: &str, folders: &[&Path]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = folders.iter().map(|folder| folder.to_path_buf()).collect();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap().flatten() {
            let (path, kind) = (entry.path(), entry.file_type().unwrap());
            if kind.is_dir() {
                folders.push(path);
            } else if kind.is_file() && entry.metadata().is_ok_and(|meta| meta.len() < 64 * MIB) {
                let bytes = fs::read(&path).unwrap_or_default();
                if bytes.windows(word.len()).any(|seen| seen == word.as_bytes()) {
                    found.push(path);
                }
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn an_iscsi_volume_is_had_by_chap_and_its_password_is_seen_nowhere() {
    need_root!();
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let (port, volume) = (free_port(), new_id());
    let mut server = Server::iscsi(port).await;

    let wrong = "wrong-horse-battery";
    let asked = attach(&one, &volume, &iscsi(port, wrong));
    let over = node.tried("instance.attach_volume", asked).await;
    let said = over.to_string();
    assert_eq!((&over["state"], said.contains(wrong)), (&json!("undone"), false), "{said}");
    assert!(said.to_lowercase().contains("auth"), "{said}");
    forgotten(&mut node, &volume).await;

    let right = iscsi(port, WORD);
    node.done("instance.attach_volume", attach(&one, &volume, &right)).await;
    assert!(virsh(&["secret-list"]).await.contains(&format!("ostler-{volume}")));
    write(&mut node, &one, &volume, "across", 1).await;
    node.done("instance.detach_volume", json!({"id": one, "volume": volume})).await;
    forgotten(&mut node, &volume).await;
    node.done("instance.attach_volume", attach(&other, &volume, &right)).await;
    assert_eq!(read(&mut node, &other, &volume, 1).await, "across");

    // libvirt has the password, so the guest starts again though the agent does not.
    node.done("instance.stop", json!({"id": other, "manner": "hard"})).await;
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    node.done("instance.start", json!({"id": other})).await;
    assert_eq!(read(&mut node, &other, &volume, 1).await, "across");
    for word in [WORD, wrong] {
        let logs = Path::new("/var/log/libvirt/qemu");
        assert_eq!(holding(word, &[node.agent.folder(), logs]), Vec::<PathBuf>::new());
        let domain = format!("ostler-{other}");
        for how in [&["dumpxml", &domain][..], &["dumpxml", "--inactive", &domain]] {
            assert!(!virsh(how).await.contains(word));
        }
        let qemu = node.qemu(&other).unwrap();
        let line = fs::read(format!("/proc/{qemu}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains(word));
    }

    server.kill().await;
    assert_eq!(node.shell(&one, "echo on").await, "on");
    node.done("instance.stop", json!({"id": other, "manner": "hard"})).await;
    node.delete(&other).await;
    forgotten(&mut node, &volume).await;
    node.delete(&one).await;
}
