//! Our agent where there is next to nothing: an initramfs without /etc/passwd, /run, udev or a
//! network, started before the port it is to serve is there. The stock agent is not tried: it ends
//! at once without its port.

use std::time::Duration;

use ostler_tests::guest_image::{GuestImage, Mode};
use ostler_tests::place::Place;
use ostler_tests::process::Run;
use ostler_tests::services::Libvirt;
use ostler_tests::{poll, programs};
use serde_json::json;
use uuid::Uuid;

use super::System;
use super::domain::Domain;
use crate::node::{BOOT, need_root};

/// The first program of the guest. The agent is started before the driver of its port is loaded,
/// and nothing makes /dev/virtio-ports but the last line.
const INIT: &str = "#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
/agent >/dev/console 2>&1 &
modprobe -a virtio_pci virtio_console
mount -t sysfs sys /sys
until [ -e \"$port/name\" ]; do usleep 50000; for port in /sys/class/virtio-ports/*; do :; done; done
read -r name <\"$port/name\"
busybox mkdir /dev/virtio-ports
busybox ln -s ../${port##*/} /dev/virtio-ports/$name
wait
";

/// The baked initramfs with this agent and this init, and no more.
async fn initramfs(image: &GuestImage, place: &Place) -> std::path::PathBuf {
    let tree = place.folder("early").unwrap();
    std::fs::copy(programs::guest_agent().unwrap(), tree.join("agent")).unwrap();
    place.write("early/init", INIT).unwrap();
    let made = place.join("initramfs");
    let pack = "chmod 755 init agent; (cat \"$0\"; printf 'agent\\ninit\\n' | \
                cpio --quiet -o -H newc -R 0:0) >\"$1\"; chmod 644 \"$1\"";
    Run::new("sh")
        .args(["-c", &format!("cd {} && {pack}", tree.display())])
        .args([image.initramfs.as_os_str(), made.as_os_str()])
        .stdout()
        .await
        .unwrap();
    made
}

#[tokio::test(flavor = "multi_thread")]
async fn our_agent_serves_an_initramfs_from_before_its_port_is_there() {
    need_root!();
    let libvirt = Libvirt::ensure().await.unwrap();
    let image = GuestImage::bake().await.unwrap();
    let place = Place::new("early").unwrap();
    let initramfs = initramfs(&image, &place).await;
    let id = Uuid::new_v4().to_string();
    let xml = format!(
        "<domain type='qemu'><name>ostler-early-{id}</name><uuid>{id}</uuid>
         <memory unit='MiB'>128</memory><vcpu>1</vcpu>
         <os><type machine='pc'>hvm</type>
         <kernel>{}</kernel><initrd>{}</initrd><cmdline>{}</cmdline></os>
         <features><acpi/></features><devices><serial type='pty'/>
         <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
         </devices></domain>",
        image.kernel.display(),
        initramfs.display(),
        image.cmdline(Mode::Ostler),
    );
    let mut domain = Domain::of(libvirt.uri(), id, System::Busybox, Mode::Ostler, place, &xml);
    domain.start().await.unwrap();
    domain.answers().await.unwrap();

    let os = domain.agent("guest-get-osinfo", json!({})).await.unwrap();
    assert!(os["kernel-release"].is_string(), "{os}");
    let mounts = domain.agent("guest-get-fsinfo", json!({})).await.unwrap();
    assert_eq!(mounts, json!([]), "no disk, no file system of one");
    let links = domain.agent("guest-network-get-interfaces", json!({})).await.unwrap();
    assert_eq!(links[0]["name"], "lo");
    assert_eq!(domain.agent("guest-get-users", json!({})).await.unwrap(), json!([]));

    let ran = json!({"path": "/bin/sh", "arg": ["-c", "busybox ls /"], "capture-output": true});
    let pid = domain.agent("guest-exec", ran).await.unwrap()["pid"].clone();
    poll::until("the program has ended", BOOT, async || {
        let status = domain.agent("guest-exec-status", json!({"pid": pid})).await?;
        if status["exited"] == true && status["exitcode"] == 0 {
            Ok(())
        } else {
            Err(status.to_string())
        }
    })
    .await
    .unwrap();
    // where its state is kept there is no folder
    let open = json!({"path": "/init", "mode": "r"});
    let handle = domain.agent("guest-file-open", open).await.unwrap();
    let read =
        domain.agent("guest-file-read", json!({"handle": handle, "count": 2})).await.unwrap();
    assert_eq!(read["buf-b64"], "IyE=", "the #! of the init");

    // what needs an account says that there is none, and the agent goes on
    for (command, arguments) in [
        (
            "guest-set-user-password",
            json!({"username": "root", "password": "eA==", "crypted": false}),
        ),
        ("guest-ssh-get-authorized-keys", json!({"username": "root"})),
    ] {
        let refused = domain.agent(command, arguments).await.unwrap_err();
        assert!(!refused.contains("has not been found"), "{refused}");
    }
    let limit = Duration::from_secs(20);
    tokio::time::timeout(limit, domain.answers()).await.expect("it answers").unwrap();
}
