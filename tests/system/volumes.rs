//! Volumes on real guests: what a guest synced is there, byte for byte, whatever happens to the
//! volume, to QEMU and to the agent.

use std::path::PathBuf;

use ostler_tests::guest_image::Mode;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use crate::node::{Node, need_root, virsh};

const MIB: u64 = 1 << 20;

/// Finds a volume in the guest, by its serial number: once the link to it is there.
pub(crate) fn find(volume: &str) -> String {
    let link = format!("/dev/disk/by-id/virtio-{}", &volume[..20]);
    format!("until d=$(readlink {link}); do sleep 0.1; done; d=${{d##*/}};")
}

/// Write a pattern, and have it on the disk.
pub(crate) async fn write(node: &mut Node, id: &str, volume: &str, word: &str, at_mib: u64) {
    let fill = format!("yes '{word}' | head -c 1048576");
    let line = format!(
        "{} {fill} | dd of=/dev/$d bs=64k seek={at_mib}M oflag=seek_bytes conv=fsync,notrunc 2>/dev/null",
        find(volume)
    );
    node.shell(id, &line).await;
}

pub(crate) async fn read(node: &mut Node, id: &str, volume: &str, at_mib: u64) -> String {
    let line = format!(
        "{} dd if=/dev/$d bs=64k skip={at_mib}M iflag=skip_bytes count=16 2>/dev/null | sort -u",
        find(volume)
    );
    // The last line of a pattern may be cut.
    let found = node.shell(id, &line).await;
    found.lines().last().unwrap_or_default().to_owned()
}

pub(crate) async fn size(node: &mut Node, id: &str, volume: &str) -> u64 {
    let sectors = node.shell(id, &format!("{} cat /sys/block/$d/size", find(volume))).await;
    sectors.parse::<u64>().unwrap() * 512
}

async fn create(node: &mut Node, params: Value) -> String {
    let over = node.done("volume.create", params).await;
    over["subject"]["volume"].as_str().unwrap().to_owned()
}

async fn empty(node: &mut Node, format: &str) -> String {
    create(node, json!({"name": "data", "size": 16 * MIB, "format": format})).await
}

pub(crate) async fn status(node: &mut Node, volume: &str) -> String {
    let shown = node.ask("volume.show", json!({"id": volume})).await;
    shown["status"].as_str().unwrap().to_owned()
}

fn folder(node: &Node, volume: &str) -> PathBuf {
    node.agent.state_dir().join("volumes").join(volume)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_synced_stays_through_all_that_happens_to_its_volume() {
    need_root!();
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let other = node.boot("other", Mode::Ostler).await;
    for format in ["raw", "qcow2"] {
        let volume = empty(&mut node, format).await;
        let attach = |id: &str| json!({"id": id, "volume": volume});
        let over = node.done("instance.attach_volume", attach(&one)).await;
        assert_eq!(over["result"]["attached"]["device"], "vdb", "{over:#}");
        assert_eq!(status(&mut node, &volume).await, "in-use");
        write(&mut node, &one, &volume, "before", 1).await;

        // Limits, under the guest.
        let limits = json!({"id": volume, "qos": {"total_iops_sec": 5000}});
        node.done("volume.update", limits).await;
        let told = virsh(&["blkdeviotune", &one, "vdb", "--live"]).await;
        assert!(told.contains("total_iops_sec : 5000"), "{told}");

        // A snapshot while the guest writes on.
        node.done("volume.snapshot", json!({"id": volume, "name": "before"})).await;
        write(&mut node, &one, &volume, "after", 1).await;
        assert_eq!(read(&mut node, &one, &volume, 1).await, "after");

        // Larger, under the guest.
        node.done("volume.extend", json!({"id": volume, "size": 32 * MIB})).await;
        assert_eq!(size(&mut node, &one, &volume).await, 32 * MIB);
        write(&mut node, &one, &volume, "beyond", 20).await;

        // The agent and QEMU are killed; what was synced is there.
        node.agent.kill().await.unwrap();
        let qemu = node.qemu(&one).unwrap();
        Run::new("kill").args(["-KILL", &qemu.to_string()]).stdout().await.unwrap();
        node.agent.launch().unwrap();
        node.agent.ready().await.unwrap();
        node.reconnect().await;
        node.until(&one, "it is seen to be off", |shown| shown["status"] == "SHUTOFF").await;
        node.becomes("instance.start", json!({"id": one}), "ACTIVE").await;
        assert_eq!(read(&mut node, &one, &volume, 1).await, "after");
        assert_eq!(read(&mut node, &one, &volume, 20).await, "beyond");

        // To another instance.
        let (reason, text) = node.refused("instance.attach_volume", attach(&other)).await;
        assert_eq!((reason.as_str(), text.contains(&one)), ("in_use", true), "{text}");
        node.done("instance.detach_volume", attach(&one)).await;
        assert_eq!(status(&mut node, &volume).await, "available");
        let scsi = json!({"id": other, "volume": volume, "how": {"bus": "scsi"}});
        node.done("instance.attach_volume", scsi).await;
        // A SCSI disk has its serial number elsewhere.
        let seen = "dd if=/dev/sda bs=64k skip=1M iflag=skip_bytes count=1 2>/dev/null | head -n 1";
        node.until_shell(&other, seen, "after").await;
        node.done("instance.detach_volume", attach(&other)).await;

        // Back to the snapshot, and a volume from it.
        node.done("volume.revert", json!({"id": volume, "name": "before"})).await;
        let source = json!({"snapshot": {"volume": volume, "name": "before"}});
        let clone = create(&mut node, json!({"name": "copy", "source": source})).await;
        for volume in [&volume, &clone] {
            node.done("instance.attach_volume", json!({"id": one, "volume": volume})).await;
            assert_eq!(read(&mut node, &one, volume, 1).await, "before");
        }
        let (reason, _) = node.refused("volume.delete", json!({"id": volume})).await;
        assert_eq!(reason, "in_use");
        for volume in [volume, clone] {
            let asked = json!({"id": one, "volume": volume});
            node.done("instance.detach_volume", asked).await;
            node.done("volume.delete", json!({"id": volume})).await;
            assert!(!folder(&node, &volume).exists());
        }
        node.shell(&one, "[ \"$(ls /sys/block | grep -c '^vd')\" = 1 ]").await;
    }
    for id in [one, other] {
        node.delete(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_without_a_driver_keeps_its_volume_and_one_that_is_off_gives_it_back() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("deaf", Mode::Ostler).await;
    let volume = empty(&mut node, "qcow2").await;
    let asked = json!({"id": id, "volume": volume, "timeout": 3000});
    node.done("instance.attach_volume", json!({"id": id, "volume": volume})).await;
    // Its vCPUs stand still: nobody answers.
    node.becomes("instance.pause", json!({"id": id}), "PAUSED").await;
    let over = node.tried("instance.detach_volume", asked.clone()).await;
    assert_eq!(
        (&over["state"], &over["error"]["data"]["reason"]),
        (&json!("undone"), &json!("guest_failed"))
    );
    let said = over["error"].to_string();
    assert!(said.contains("vdb") && said.contains("unmount it"), "{said}");
    assert_eq!(status(&mut node, &volume).await, "in-use");
    node.becomes("instance.unpause", json!({"id": id}), "ACTIVE").await;
    node.done("instance.stop", json!({"id": id, "manner": "hard"})).await;
    node.done("instance.detach_volume", asked).await;
    node.done("volume.delete", json!({"id": volume})).await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_raw_volume_stays_raw_whatever_a_guest_writes_into_it() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("hostile", Mode::Ostler).await;
    let volume = empty(&mut node, "raw").await;
    let asked = json!({"id": id, "volume": volume});
    node.done("instance.attach_volume", asked.clone()).await;
    // The beginning of a qcow2 file whose base is a file of the node.
    let header = "printf 'QFI\\373\\0\\0\\0\\3\\0\\0\\0\\0\\0\\0\\1\\0\\0\\0\\0\\13\\0\\0\\0\\20\\0\\0\\0\\0\\0\\0\\2\\0'";
    let line = format!("{} {header} | dd of=/dev/$d conv=fsync,notrunc 2>/dev/null", find(&volume));
    node.shell(&id, &line).await;
    node.done("volume.snapshot", json!({"id": volume, "name": "a"})).await;
    node.done("volume.extend", json!({"id": volume, "size": 24 * MIB})).await;
    node.becomes("instance.reboot", json!({"id": id, "manner": "hard"}), "ACTIVE").await;
    let first = format!("{} dd if=/dev/$d bs=3 count=1 2>/dev/null", find(&volume));
    assert_eq!(node.shell(&id, &first).await, "QFI");
    assert_eq!(size(&mut node, &id, &volume).await, 24 * MIB);
    node.done("instance.detach_volume", asked.clone()).await;
    node.done("volume.revert", json!({"id": volume, "name": "a"})).await;
    let source = json!({"volume": volume});
    let clone = create(&mut node, json!({"name": "copy", "source": source, "format": "raw"})).await;
    node.done("volume.delete_snapshot", json!({"id": volume, "name": "a"})).await;
    for volume in [&volume, &clone] {
        node.done("instance.attach_volume", json!({"id": id, "volume": volume})).await;
        let first = format!("{} dd if=/dev/$d bs=3 count=1 2>/dev/null", find(volume));
        assert_eq!(node.shell(&id, &first).await, "QFI");
        assert_eq!(size(&mut node, &id, volume).await, 24 * MIB);
    }
    node.delete(&id).await;
    for volume in [volume, clone] {
        node.done("volume.delete", json!({"id": volume})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_on_a_volume_keeps_its_system_through_all_operations() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let mut params = node.boot_params("on-volume", Mode::Ostler, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    let image = params["image"].clone();
    params["volume_size"] = json!(256 * MIB);
    node.done("instance.boot", params).await;
    let shown = node.show(&id).await;
    let volume = shown["volumes"][0]["volume"].as_str().unwrap().to_owned();
    node.shell(&id, "echo mine >/root/mark && sync").await;
    for (method, more, status) in [
        ("instance.reboot", json!({"manner": "hard"}), "ACTIVE"),
        ("instance.rebuild", json!({"image": image}), "ACTIVE"),
        ("instance.resize", json!({"vcpus": 2}), "VERIFY_RESIZE"),
        ("instance.confirm_resize", json!({}), "ACTIVE"),
        ("instance.shelve", json!({}), "SHELVED_OFFLOADED"),
        ("instance.unshelve", json!({}), "ACTIVE"),
    ] {
        let mut params = more;
        params["id"] = json!(id);
        node.becomes(method, params, status).await;
        if status == "ACTIVE" {
            assert_eq!(node.shell(&id, "cat /root/mark").await, "mine", "after {method}");
        }
    }
    // During a rescue it is the second disk.
    node.becomes("instance.rescue", json!({"id": id}), "RESCUE").await;
    let seen = "mkdir -p /tmp/own && mount -o ro /dev/vdb /tmp/own && cat /tmp/own/root/mark";
    assert_eq!(node.shell(&id, seen).await, "mine");
    node.becomes("instance.unrescue", json!({"id": id}), "ACTIVE").await;
    node.delete(&id).await;

    // The volume outlives it, and another boots from it.
    assert_eq!(status(&mut node, &volume).await, "available");
    let mut params = node.boot_params("heir", Mode::Ostler, &[&lan]).await;
    let heir = params["id"].as_str().unwrap().to_owned();
    params.as_object_mut().unwrap().remove("image");
    params["volume"] = json!(volume);
    params["delete_on_termination"] = json!(true);
    node.done("instance.boot", params).await;
    assert_eq!(node.shell(&heir, "cat /root/mark").await, "mine");
    node.delete(&heir).await;
    assert!(!folder(&node, &volume).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_a_volume_as_it_was_asked_for() {
    need_root!();
    let mut node = Node::start().await;
    let id = node.boot("modes", Mode::Ostler).await;
    let mut volumes = Vec::new();
    // The last has a place of which libvirt would put it on a controller of its own.
    for (device, io) in [("sdb", "io_uring"), ("sdc", "threads"), ("sdzz", "native")] {
        let volume = empty(&mut node, "raw").await;
        let how = json!({"bus": "scsi", "device": device, "io": io, "cache": "none",
                         "discard": "ignore", "boot_index": volumes.len() + 1});
        let params = json!({"id": id, "volume": volume, "how": how});
        node.done("instance.attach_volume", params).await;
        volumes.push(volume);
    }
    let taken = json!({"id": id, "volume": empty(&mut node, "raw").await,
                       "how": {"boot_index": 2}});
    let (reason, text) = node.refused("instance.attach_volume", taken).await;
    assert_eq!((reason.as_str(), text.contains(&volumes[1])), ("conflict", true), "{text}");
    node.until_shell(&id, "ls -d /sys/block/sd* | wc -l", "3").await;
    for live in [true, false] {
        let domain = format!("ostler-{id}");
        let inactive: &[&str] = if live { &[] } else { &["--inactive"] };
        let xml = virsh(&[&["dumpxml", &domain], inactive].concat()).await;
        for said in [
            "cache='none' io='io_uring' discard='ignore'",
            "cache='none' io='threads' discard='ignore'",
            "cache='none' io='native' discard='ignore'",
            "<boot order='2'/>",
            "<boot order='4'/>",
        ] {
            assert!(xml.contains(said), "{said} is not in {xml}");
        }
        assert_eq!(xml.matches("<controller type='scsi'").count(), 1, "{xml}");
    }
    node.done("instance.reboot", json!({"id": id, "manner": "hard"})).await;
    node.until_shell(&id, "ls -d /sys/block/sd* | wc -l", "3").await;
    node.done("instance.detach_volume", json!({"id": id, "volume": volumes[1]})).await;
    node.until_shell(&id, "ls -d /sys/block/sd* | wc -l", "2").await;
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes where there is no KVM: make long"]
async fn a_guest_goes_on_with_another_volume_and_does_not_notice() {
    need_root!();
    let mut node = Node::start().await;
    let one = node.boot("one", Mode::Ostler).await;
    let two = node.boot("two", Mode::Ostler).await;
    for (format, other) in [("raw", "qcow2"), ("qcow2", "raw")] {
        let old = empty(&mut node, format).await;
        let new =
            create(&mut node, json!({"name": "new", "size": 16 * MIB, "format": other})).await;
        let attach = |id: &str, volume: &str| json!({"id": id, "volume": volume});
        node.done("instance.attach_volume", attach(&one, &old)).await;
        write(&mut node, &one, &old, "before", 1).await;

        // It writes all the while, each time until the node's disk has it, and says how far it is.
        let line = format!(
            "{} i=0; while [ ! -e /tmp/enough ]; do i=$((i+1)); \
             printf '%08d' $i | dd of=/dev/$d bs=8 seek=2M oflag=seek_bytes conv=fsync,notrunc \
             2>/dev/null || break; echo $i >/tmp/written; done; touch /tmp/stopped",
            find(&old)
        );
        node.shell(&one, &format!("rm -f /tmp/enough /tmp/stopped; ({line}) >/dev/null 2>&1 &"))
            .await;
        node.shell(&one, "until [ -e /tmp/written ]; do sleep 0.1; done").await;
        let machine = node.qemu(&one);
        let swap = json!({"id": one, "volume": old, "new": new});
        node.done("instance.swap_volume", swap).await;
        assert_eq!(
            (status(&mut node, &old).await, status(&mut node, &new).await),
            ("available".into(), "in-use".into())
        );
        // Larger, under the guest, as any other.
        node.done("volume.extend", json!({"id": new, "size": 24 * MIB})).await;
        let then = node.shell(&one, "cat /tmp/written").await;
        node.shell(&one, &format!("until [ $(cat /tmp/written) -gt {then} ]; do sleep 0.1; done"))
            .await;
        node.shell(&one, "touch /tmp/enough; until [ -e /tmp/stopped ]; do sleep 0.1; done").await;
        let last: u64 = node.shell(&one, "cat /tmp/written").await.parse().unwrap();
        assert_eq!(node.qemu(&one), machine, "the same QEMU");
        write(&mut node, &one, &old, "after", 3).await;
        node.shell(&one, "rm /tmp/written").await;

        // The guest knows it by the id it always did, also after another start.
        let counted = format!(
            "{} dd if=/dev/$d bs=8 skip=2M iflag=skip_bytes count=1 2>/dev/null",
            find(&old)
        );
        for start in [false, true] {
            if start {
                node.becomes("instance.reboot", json!({"id": one, "manner": "hard"}), "ACTIVE")
                    .await;
            }
            let shown = node.show(&one).await;
            assert_eq!(
                (&shown["volumes"][0]["volume"], &shown["volumes"][0]["serial"]),
                (&json!(new), &json!(old))
            );
            assert_eq!(shown["drift"], Value::Null, "{shown:#}");
            assert_eq!(read(&mut node, &one, &old, 1).await, "before");
            assert_eq!(node.shell(&one, &counted).await, format!("{last:08}"));
            assert_eq!(read(&mut node, &one, &old, 3).await, "after");
            assert_eq!(size(&mut node, &one, &old).await, 24 * MIB);
        }

        // The old one is free for another, with what it held at the switch, and not for this one.
        let (reason, text) = node.refused("instance.attach_volume", attach(&one, &old)).await;
        assert_eq!((reason.as_str(), text.contains(&new)), ("conflict", true), "{text}");
        node.done("instance.attach_volume", attach(&two, &old)).await;
        assert_eq!(read(&mut node, &two, &old, 1).await, "before");
        assert_eq!(read(&mut node, &two, &old, 3).await, "");
        node.done("instance.detach_volume", attach(&two, &old)).await;

        // Back again, off: what the guest wrote to the new one comes along.
        node.done("volume.extend", json!({"id": old, "size": 24 * MIB})).await;
        node.becomes("instance.stop", json!({"id": one, "manner": "hard"}), "SHUTOFF").await;
        node.done("instance.swap_volume", json!({"id": one, "volume": new, "new": old})).await;
        node.becomes("instance.start", json!({"id": one}), "ACTIVE").await;
        let shown = node.show(&one).await;
        assert_eq!(
            (&shown["volumes"][0]["volume"], &shown["volumes"][0]["serial"]),
            (&json!(old), &json!(old))
        );
        assert_eq!(read(&mut node, &one, &old, 3).await, "after");
        assert_eq!(node.shell(&one, &counted).await, format!("{last:08}"));
        node.done("instance.detach_volume", attach(&one, &old)).await;
        for volume in [old, new] {
            node.done("volume.delete", json!({"id": volume})).await;
        }
    }
    for id in [one, two] {
        node.delete(&id).await;
    }
}
