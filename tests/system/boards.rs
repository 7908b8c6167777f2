//! Boards that an image or a boot asks for, as guests find them: UEFI with secure boot and a TPM,
//! the classic PC, other buses and NICs; and what their state outlives.

use std::path::PathBuf;

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root, virsh};

/// UEFI's own variable: whether it starts signed code only.
const SECURE: &str = "SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// One that the guest writes.
const OURS: &str = "Ostler-3d8c1f0a-5d0e-4d35-9f21-6f73746c6572";
const MOUNT: &str = "modprobe -q efivarfs; \
                     mount -t efivarfs efivarfs /sys/firmware/efi/efivars 2>/dev/null; \
                     cd /sys/firmware/efi/efivars";

impl Node {
    /// The image whose guests have our agent, again under another name and with these properties.
    async fn image_with(&mut self, name: &str, more: &[(&str, &str)]) -> String {
        let mut properties = json!({"kernel": "kernel", "ramdisk": "ramdisk",
                                    "command_line": self.image.cmdline(Mode::Ostler)});
        for (key, value) in more {
            properties[*key] = json!(value);
        }
        let source = self.image.root.clone();
        let import = json!({"name": name, "source": source, "format": "qcow2",
                            "properties": properties});
        self.done("image.import", import).await;
        name.to_owned()
    }

    /// Boot an instance of this image; its id.
    async fn boot_of(&mut self, image: &str, more: &[(&str, Value)]) -> String {
        let network = self.network.clone();
        let mut params = self.boot_params("board", Mode::Ostler, &[&network]).await;
        params["image"] = json!(image);
        params["memory"] = json!(384u64 << 20);
        for (key, value) in more {
            params[*key] = value.clone();
        }
        let id = params["id"].as_str().unwrap().to_owned();
        self.done("instance.boot", params).await;
        id
    }

    /// How often the guest's TPM was started, by its own count, which it keeps.
    async fn tpm_starts(&mut self, id: &str) -> u32 {
        // TPM2_ReadClock; the count is after a header of 10 bytes and three clocks of 8, of which
        // the first two are before it.
        let line = "exec 3<>/dev/tpm0; printf '\\200\\001\\0\\0\\0\\012\\0\\0\\001\\201' >&3; \
                    dd bs=64 count=1 <&3 2>/dev/null | hexdump -v -e '1/1 \"%02x\"'";
        let answer = self.shell(id, line).await;
        assert_eq!(&answer[12..20], "00000000", "the TPM answers {answer}");
        u32::from_str_radix(&answer[52..60], 16).unwrap()
    }
}

async fn secure_boot(node: &mut Node, id: &str) -> String {
    node.shell(id, &format!("{MOUNT}; hexdump -v -e '1/1 \"%02x\"' {SECURE} | tail -c 2")).await
}

/// Where swtpm keeps the state of an instance's TPM.
fn tpm_state(id: &str) -> PathBuf {
    PathBuf::from("/var/lib/libvirt/swtpm").join(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn uefi_variables_and_a_tpm_outlive_every_stop_and_go_with_the_instance() {
    need_root!();
    let mut node = Node::start().await;
    let wants =
        [("hw_firmware_type", "uefi"), ("os_secure_boot", "required"), ("hw_tpm_version", "2.0")];
    let image = node.image_with("signed", &wants).await;
    let host = node.ask("host.show", json!({})).await;
    assert_eq!(host["boards"]["q35"], json!({"uefi": true, "secure_boot": true}));
    assert_eq!(host["boards"]["tpm"], true);

    let id = node.boot_of(&image, &[]).await;
    let shown = node.show(&id).await;
    let made = &shown["hardware"];
    assert_eq!((&made["firmware"], &made["secure_boot"]), (&json!("uefi"), &json!(true)));
    assert_eq!(made["tpm"], "tpm-crb");
    assert_eq!(secure_boot(&mut node, &id).await, "01");
    let write = format!("{MOUNT}; printf '\\007\\000\\000\\000kept' > {OURS}");
    node.shell(&id, &write).await;
    let read = format!("{MOUNT}; tail -c 4 {OURS}");
    let first = node.tpm_starts(&id).await;
    assert_eq!(node.files(&id), ["disk.qcow2", "uefi-secure.fd"]);
    assert!(tpm_state(&id).exists());

    node.becomes("instance.reboot", json!({"id": id, "manner": "hard"}), "ACTIVE").await;
    assert_eq!(node.shell(&id, &read).await, "kept");
    node.becomes("instance.stop", json!({"id": id}), "SHUTOFF").await;
    node.becomes("instance.start", json!({"id": id}), "ACTIVE").await;
    assert_eq!(node.shell(&id, &read).await, "kept");
    assert!(node.tpm_starts(&id).await > first, "the TPM has forgotten that it was started");

    // From an image that wants nothing of it: by BIOS again.
    let plain = node.image(Mode::Ostler).await;
    node.becomes("instance.rebuild", json!({"id": id, "image": plain}), "ACTIVE").await;
    assert_eq!(node.show(&id).await["hardware"]["firmware"], "bios");
    let firmware = "ls -d /sys/firmware/efi 2>/dev/null; ls /sys/class/tpm";
    assert_eq!(node.shell(&id, firmware).await, "tpm0", "the TPM stays, UEFI does not");

    node.delete(&id).await;
    assert!(!tpm_state(&id).exists());
    let nvram = format!("/var/lib/libvirt/qemu/nvram/ostler-{id}_VARS.fd");
    assert!(!PathBuf::from(nvram).exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_classic_pc_has_the_nic_and_the_bus_its_image_wants() {
    need_root!();
    let mut node = Node::start().await;
    let command_line = format!("{} root=LABEL=ostler-root", node.image.cmdline(Mode::Ostler));
    let wants = [
        ("hw_machine_type", "pc"),
        ("hw_vif_model", "e1000e"),
        ("hw_disk_bus", "scsi"),
        ("hw_watchdog_action", "disabled"),
        ("hw_qemu_guest_agent", "no"),
        ("command_line", command_line.as_str()),
    ];
    let image = node.image_with("classic", &wants).await;
    let id = node.boot_of(&image, &[("config_drive", json!("nocloud"))]).await;
    // The bridge of a 440FX, and Intel's 82574.
    let cards = node.shell(&id, "cat /sys/bus/pci/devices/*/device").await;
    assert!(cards.contains("0x1237") && cards.contains("0x10d3"), "{cards}");
    let disks = "cd /sys/block; echo sd*; ls -d vd* 2>/dev/null || true";
    node.until_shell(&id, disks, "sda sdb").await;
    let xml = virsh(&["dumpxml", &format!("ostler-{id}")]).await;
    for absent in ["<watchdog", "org.qemu.guest_agent.0"] {
        assert!(!xml.contains(absent), "{absent} is in {xml}");
    }
    // Copied while it runs, and put back: both name the disk.
    node.done("instance.snapshot", json!({"id": id, "name": "shot"})).await;
    let images = node.ask("image.list", json!({})).await;
    let shot = images.as_array().unwrap().iter().find(|image| image["name"] == "shot").unwrap();
    assert_eq!(shot["properties"]["hw_machine_type"], "pc");
    node.becomes("instance.reset", json!({"id": id, "root_device": "sda"}), "ACTIVE").await;
    node.delete(&id).await;
}

/// Its kernel, from the disk that the firmware found; that one has no driver of SATA itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_disk_on_sata_boots_by_itself() {
    need_root!();
    let mut node = Node::start().await;
    let folder = node.image.root.parent().unwrap().to_owned();
    let out = folder.join("bootable.qcow2");
    std::fs::write(folder.join("cmdline"), node.image.cmdline(Mode::None)).unwrap();
    let script = ostler_tests::programs::workspace().join("tests/guests/bootable");
    Run::new(script)
        .args(["--guest".as_ref(), folder.as_os_str(), "--out".as_ref(), out.as_os_str()])
        .patience(BOOT)
        .stdout()
        .await
        .unwrap();
    let import = json!({"name": "sata", "source": out, "format": "qcow2",
                        "properties": {"hw_machine_type": "pc", "hw_disk_bus": "sata"}});
    node.done("image.import", import).await;
    let id = node.boot_of("sata", &[]).await;
    let log = node.agent.state_dir().join("instances").join(&id).join("console.log");
    poll::until("the kernel that is on the disk", BOOT, async || {
        let text = std::fs::read(&log).map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&text);
        let runs = text.contains("initramfs: no root file system");
        if runs { Ok(()) } else { Err(text.chars().take(2000).collect::<String>()) }
    })
    .await
    .unwrap();
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn properties_that_cannot_be_are_refused_by_name() {
    need_root!();
    let mut node = Node::start().await;
    let source = node.image.root.clone();
    for (key, value, said) in [
        ("hw_firmware_type", "efi", "`bios` or `uefi`"),
        ("hw_firmware", "uefi", "`hw_firmware_type`"),
        ("hw_tpm_version", "1.2", "`2.0`"),
        ("os_secure_boot", "required", "hw_firmware_type=uefi"),
        ("hw_tpm_model", "tpm-tis", "hw_tpm_version"),
    ] {
        let import = json!({"name": "wrong", "source": source, "format": "qcow2",
                            "properties": {key: value}});
        let (reason, message) = node.refused("image.import", import).await;
        assert_eq!(reason, "invalid_params", "{key}: {message}");
        assert!(message.contains(said), "{key}: {message}");
    }
    let mut boot = node.boot_params("wrong", Mode::Ostler, &[]).await;
    boot["secure_boot"] = json!(true);
    let (reason, message) = node.refused("instance.boot", boot).await;
    assert_eq!(reason, "invalid_params");
    assert!(message.contains("firmware uefi"), "{message}");
}
