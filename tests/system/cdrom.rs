//! Guests that boot from a CD: an ISO image, made here, of a kernel and of an initramfs in which our
//! agent runs; what such an instance can be asked for, and what it cannot.

use std::path::PathBuf;

use ostler_tests::guest_image::{GuestImage, Mode};
use ostler_tests::place::Place;
use ostler_tests::process::Run;
use ostler_tests::programs;
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root, virsh};
use crate::volumes::status;

/// The first program of the guest: nothing is mounted from a disk.
const INIT: &str = "#!/bin/sh
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
modprobe -a virtio_pci virtio_console virtio_blk virtio_scsi sd_mod
busybox mkdir /dev/virtio-ports
until [ -e /dev/virtio-ports/org.ostler.guest.0 ]; do
    for port in /sys/class/virtio-ports/*; do
        if read -r name <$port/name; then busybox ln -sf ../${port##*/} /dev/virtio-ports/$name; fi
    done
    usleep 50000
done
/agent >/dev/console 2>&1
";

/// The word by which a guest knows that it was started from the CD.
const WORD: &str = "ostler.from=cd";

/// A CD that boots into our agent, where QEMU can read it.
async fn cd(image: &GuestImage, place: &Place) -> PathBuf {
    let tree = place.folder("tree").unwrap();
    std::fs::copy(programs::guest_agent().unwrap(), tree.join("agent")).unwrap();
    place.write("tree/init", INIT).unwrap();
    let (initramfs, out) = (place.join("initramfs"), place.join("cd.iso"));
    let pack = "chmod 755 init agent; (cat \"$0\"; printf 'agent\\ninit\\n' | \
                cpio --quiet -o -H newc -R 0:0) >\"$1\"";
    Run::new("sh")
        .args(["-c", &format!("cd {} && {pack}", tree.display())])
        .args([image.initramfs.as_os_str(), initramfs.as_os_str()])
        .stdout()
        .await
        .unwrap();
    let cmdline = format!("{} {WORD}", image.cmdline(Mode::Ostler));
    Run::new(programs::workspace().join("tests/guests/cd"))
        .args(["--kernel".as_ref(), image.kernel.as_os_str()])
        .args(["--initramfs".as_ref(), initramfs.as_os_str()])
        .args(["--cmdline", cmdline.as_str()])
        .args(["--out".as_ref(), out.as_os_str()])
        .patience(BOOT)
        .stdout()
        .await
        .unwrap();
    out
}

/// Boot an instance of this image; its id.
async fn boot(node: &mut Node, image: &str, more: Value) -> String {
    let network = node.network.clone();
    let mut params = node.boot_params("cd", Mode::Ostler, &[&network]).await;
    params["image"] = json!(image);
    params["memory"] = json!(256u64 << 20);
    for (key, value) in more.as_object().unwrap() {
        params[key] = value.clone();
    }
    let id = params["id"].as_str().unwrap().to_owned();
    node.done("instance.boot", params).await;
    id
}

async fn is_from_cd(node: &mut Node, id: &str) {
    let cmdline = node.shell(id, "busybox cat /proc/cmdline").await;
    assert!(cmdline.contains(WORD), "{cmdline}");
}

/// The one CD-ROM of a domain, as `virsh domblklist` shows it.
async fn cdrom(id: &str) -> String {
    let disks = virsh(&["domblklist", &format!("ostler-{id}"), "--details"]).await;
    let drives: Vec<&str> = disks.lines().filter(|line| line.contains("cdrom")).collect();
    assert_eq!(drives.len(), 1, "{disks}");
    drives[0].split_whitespace().nth(2).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_boots_from_an_iso_and_what_it_writes_is_on_a_volume() {
    need_root!();
    let mut node = Node::start().await;
    let place = Place::new("cd").unwrap();
    let source = cd(&node.image, &place).await;
    let import = |name: &str, properties: Value| json!({"name": name, "source": source, "format": "iso", "properties": properties});
    node.done("image.import", import("installer", json!({}))).await;
    node.done("image.import", import("on-scsi", json!({"hw_disk_bus": "scsi"}))).await;

    let id = boot(&mut node, "installer", json!({"config_drive": "nocloud"})).await;
    is_from_cd(&mut node, &id).await;
    assert_eq!(cdrom(&id).await, "sda");
    let volume = node.done("volume.create", json!({"name": "system", "size": 16 << 20})).await;
    let volume = volume["subject"]["volume"].as_str().unwrap().to_owned();
    node.done("instance.attach_volume", json!({"id": id, "volume": volume})).await;
    let write = "until [ -b /dev/vdb ]; do usleep 50000; done; \
                 echo installed | busybox dd of=/dev/vdb conv=fsync 2>/dev/null";
    node.shell(&id, write).await;
    node.becomes("instance.reboot", json!({"id": id, "manner": "hard"}), "ACTIVE").await;
    is_from_cd(&mut node, &id).await;
    let read = "busybox head -n 1 /dev/vda";
    node.until_shell(&id, read, "installed").await;

    // Nothing of a CD can be written, so that there is nothing to keep.
    for method in ["instance.snapshot", "instance.shelve"] {
        let params = match method {
            "instance.snapshot" => json!({"id": id, "name": "shot"}),
            _ => json!({"id": id, "offload": true}),
        };
        let (reason, text) = node.refused(method, params).await;
        assert_eq!((reason.as_str(), text.contains("CD-ROM")), ("conflict", true), "{text}");
    }
    let from = json!({"name": "no", "size": 1u64 << 30, "source": {"image": "installer"}});
    let (reason, text) = node.refused("volume.create", from).await;
    assert_eq!((reason.as_str(), text.contains("no CD-ROM")), ("invalid_params", true), "{text}");

    // Another size, and back to a disk: the volume stays where it is.
    node.becomes("instance.resize", json!({"id": id, "memory": 320u64 << 20}), "VERIFY_RESIZE")
        .await;
    is_from_cd(&mut node, &id).await;
    node.becomes("instance.confirm_resize", json!({"id": id}), "ACTIVE").await;
    assert_eq!(status(&mut node, &volume).await, "in-use");
    node.delete(&id).await;

    // On the classic board, and on SCSI, where the guest says what it sees: 5 is a CD-ROM.
    let id = boot(&mut node, "installer", json!({"machine": "pc"})).await;
    is_from_cd(&mut node, &id).await;
    assert_eq!(cdrom(&id).await, "hda");
    node.delete(&id).await;
    let id = boot(&mut node, "on-scsi", json!({})).await;
    is_from_cd(&mut node, &id).await;
    node.until_shell(&id, "busybox cat /sys/bus/scsi/devices/*/type", "5").await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_is_rescued_from_an_iso_and_rebuilt_from_one_and_back() {
    need_root!();
    let mut node = Node::start().await;
    let place = Place::new("cd").unwrap();
    let source = cd(&node.image, &place).await;
    let import = json!({"name": "installer", "source": source, "format": "iso"});
    node.done("image.import", import).await;
    let disk = node.image(Mode::Ostler).await;
    let id = boot(&mut node, &disk, json!({})).await;
    node.shell(&id, "echo kept >/kept && sync").await;

    let rescue = json!({"id": id, "image": "installer"});
    node.becomes("instance.rescue", rescue, "RESCUE").await;
    is_from_cd(&mut node, &id).await;
    assert_eq!(cdrom(&id).await, "sda");
    node.until_shell(&id, "cd /sys/block; echo vd*", "vda").await;
    node.becomes("instance.unrescue", json!({"id": id}), "ACTIVE").await;
    assert_eq!(node.shell(&id, "cat /kept").await, "kept");

    node.becomes("instance.rebuild", json!({"id": id, "image": "installer"}), "ACTIVE").await;
    is_from_cd(&mut node, &id).await;
    node.becomes("instance.rebuild", json!({"id": id, "image": disk}), "ACTIVE").await;
    node.shell(&id, "! test -e /kept").await;
    node.delete(&id).await;
}
