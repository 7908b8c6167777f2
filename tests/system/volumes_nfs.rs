//! A volume on a real NFS server in user space, which has a network of its own: its port mapper has a
//! port that is the node's too.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::{Daemon, Run, command};
use serde_json::json;
use tempfile::TempDir;

use crate::node::{BOOT, Node, need_root, virsh};
use crate::volumes::{read, size, write};
use crate::volumes_connected::{forgotten, new_id};

const MIB: u64 = 1 << 20;
const SERVER: &str = "10.213.77.2";

/// A server with its network, gone when dropped.
struct Server {
    daemon: Option<Daemon>,
    network: String,
    folder: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.kill_group_blocking();
        }
        // The port mapper has gone into the background.
        let left = command("ip").args(["netns", "pids", &self.network]).output().unwrap();
        for pid in String::from_utf8_lossy(&left.stdout).split_whitespace() {
            let _gone = kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL);
        }
        let _gone = command("ip").args(["netns", "del", &self.network]).status();
    }
}

async fn ip(line: &str) {
    Run::new("ip").args(line.split_whitespace()).stdout().await.unwrap();
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let network = format!("onfs{}", std::process::id());
        ip(&format!("netns add {network}")).await;
        ip(&format!("link add onfs0 type veth peer name onfs1 netns {network}")).await;
        ip("addr add 10.213.77.1/30 dev onfs0").await;
        ip("link set onfs0 up").await;
        for line in ["addr add 10.213.77.2/30 dev onfs1", "link set onfs1 up", "link set lo up"] {
            ip(&format!("-n {network} {line}")).await;
        }
        let export = folder.path().join("export");
        fs::create_dir(&export).unwrap();
        let file = export.join("volume-1");
        fs::File::create(&file).unwrap().set_len(16 * MIB).unwrap();
        // QEMU comes as its own user.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        fs::set_permissions(&export, fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let settings = format!(
            "NFS_CORE_PARAM {{ mount_path_pseudo = true; Protocols = 3; Enable_NLM = false; \
             Enable_RQUOTA = false; }}\n\
             EXPORT {{ Export_Id = 1; Path = {}; Pseudo = /export; Access_Type = RW; \
             Squash = No_Root_Squash; SecType = sys; Protocols = 3; Transports = TCP; \
             FSAL {{ Name = VFS; }} }}\n",
            export.display()
        );
        let config = folder.path().join("ganesha.conf");
        fs::write(&config, settings).unwrap();
        let script = format!(
            "mount -t tmpfs run /run && mkdir -p /run/rpcbind /run/ganesha && rpcbind -w && \
             exec ganesha.nfsd -F -f {} -L {} -p /run/ganesha.pid",
            config.display(),
            folder.path().join("ganesha.log").display(),
        );
        let mut program = command("ip");
        program.args(["netns", "exec", &network, "unshare", "-m", "sh", "-c", &script]);
        let daemon = Daemon::start("ganesha", program, &folder.path().join("log")).unwrap();
        let server = Self { daemon: Some(daemon), network, folder };
        poll::until("the NFS server answers", BOOT, async || {
            let url = format!("nfs://{SERVER}/export/volume-1");
            let run = Run::new("qemu-img").args(["info", "-U", "-f", "raw", &url]);
            run.stdout().await.map_err(|error| error.to_string())
        })
        .await
        .unwrap();
        server
    }

    fn holds(&self, word: &str) -> bool {
        let bytes = fs::read(self.folder.path().join("export/volume-1")).unwrap();
        bytes.windows(word.len()).any(|seen| seen == word.as_bytes())
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs an NFS server, which only make long installs"]
async fn an_nfs_volume_is_reached_by_qemu_itself() {
    need_root!();
    let server = Server::start().await;
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    let volume = new_id();
    let data = json!({"export": format!("{SERVER}:/export"), "name": "volume-1",
                      "options": null, "format": "raw", "encrypted": false});
    let connection = json!({"driver_volume_type": "nfs", "data": data});
    let attach = |id: &str| json!({"id": id, "volume": volume, "connection": connection});
    node.done("instance.attach_volume", attach(&one)).await;
    assert_eq!(size(&mut node, &one, &volume).await, 16 * MIB);
    write(&mut node, &one, &volume, "across", 1).await;
    assert!(server.holds("across"));
    node.done("instance.reboot", json!({"id": one, "manner": "hard"})).await;
    assert_eq!(read(&mut node, &one, &volume, 1).await, "across");
    let xml = virsh(&["dumpxml", &format!("ostler-{one}")]).await;
    assert!(xml.contains("protocol='nfs'"), "{xml}");
    node.done("instance.detach_volume", json!({"id": one, "volume": volume})).await;
    forgotten(&mut node, &volume).await;
    node.done("instance.attach_volume", attach(&other)).await;
    assert_eq!(read(&mut node, &other, &volume, 1).await, "across");
    node.done("instance.detach_volume", json!({"id": other, "volume": volume})).await;

    drop(server);
    let over = node.tried("instance.attach_volume", attach(&one)).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    forgotten(&mut node, &volume).await;
    node.delete(&one).await;
    node.delete(&other).await;
}
