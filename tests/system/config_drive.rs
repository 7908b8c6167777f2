//! Config drives, as guests find them: read by Linux's own FAT in a small guest, taken up by
//! Debian's own cloud-init in a large one.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_tests::agent::Setup;
use ostler_tests::cli::Cli;
use ostler_tests::guest_image::{GuestImage, Mode};
use ostler_tests::poll;
use ostler_tests::process::Run;
use serde_json::{Value, json};

use crate::node::{BOOT, Node, need_root, virsh};

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1FRhGlGE9uGKYhQ7YTeWl0b8yy4xJWvQJb8n0GxQJZ me@host";
const SECRET: &str = "correct-horse-battery-staple";

/// Mounts the drive, found by its serial number, and shows a file of it.
async fn read(node: &mut Node, id: &str, file: &str) -> String {
    let line = format!(
        "modprobe -a vfat nls_cp437 nls_ascii nls_utf8; mkdir -p /tmp/drive; \
         for disk in /sys/block/vd*; do \
           if [ \"$(cat $disk/serial)\" = config ]; then drive=${{disk##*/}}; fi; done; \
         [ \"$(cat /sys/block/$drive/ro)\" = 1 ] && \
         mount -t vfat -o ro /dev/$drive /tmp/drive && cat /tmp/drive/{file} && umount /tmp/drive"
    );
    node.shell(id, &line).await
}

async fn meta_data(node: &mut Node, id: &str) -> Value {
    let text = read(node, id, "openstack/latest/meta_data.json").await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The label of an instance's drive, as the node sees it.
async fn label(node: &Node, id: &str) -> String {
    let drive = node.agent.state_dir().join("instances").join(id).join("config.img");
    let told = Run::new("blkid").args(["-p", "-o", "export"]).args([drive]).stdout().await.unwrap();
    let value =
        |key: &str| told.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
    format!("{} {}", value("TYPE="), value("LABEL="))
}

/// That nobody but the guest and the journal has a secret.
async fn is_kept_secret(node: &mut Node, id: &str, operation: &Value) {
    let encoded = STANDARD.encode(SECRET);
    let log = std::fs::read_to_string(node.agent.log()).unwrap();
    let shown = node.show(id).await;
    let domain = format!("ostler-{id}");
    let xml = match shown["power_state"].as_str() {
        Some("none") => String::new(),
        _ => virsh(&["dumpxml", "--security-info", &domain]).await,
    };
    for told in [log, xml, shown.to_string(), operation.to_string()] {
        assert!(!told.contains(SECRET) && !told.contains(&encoded), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_has_its_config_drive_through_all_its_life() {
    need_root!();
    let mut node = Node::start().await;
    let lan = node.network.clone();
    let mut params = node.boot_params("Web_1", Mode::Ostler, &[&lan]).await;
    let id = params["id"].as_str().unwrap().to_owned();
    params["user_data"] = json!(STANDARD.encode(SECRET));
    params["ssh_keys"] = json!([KEY]);
    params["owner"] = json!("t1");
    params["metadata"] = json!({"role": "web"});
    let over = node.done("instance.boot", params).await;
    let shown = node.show(&id).await;
    assert_eq!(
        (&shown["config_drive"], &shown["hostname"]),
        (&json!("openstack"), &json!("web-1"))
    );
    assert_eq!(node.files(&id), ["config.img", "disk.qcow2"]);
    assert_eq!(label(&node, &id).await, "vfat config-2");

    let meta = meta_data(&mut node, &id).await;
    assert_eq!((&meta["uuid"], &meta["name"]), (&json!(id), &json!("Web_1")));
    assert_eq!((&meta["hostname"], &meta["project_id"]), (&json!("web-1"), &json!("t1")));
    assert_eq!(
        (&meta["public_keys"]["key-0"], &meta["meta"]["role"]),
        (&json!(KEY), &json!("web"))
    );
    assert_eq!(read(&mut node, &id, "openstack/2018-08-27/user_data").await, SECRET);
    let network = read(&mut node, &id, "openstack/latest/network_data.json").await;
    let network: Value = serde_json::from_str(&network).unwrap();
    assert_eq!(network["links"][0]["ethernet_mac_address"], shown["ports"][0]["mac"], "{network}");
    assert_eq!(network["links"][0]["mtu"], 1500, "{network}");
    is_kept_secret(&mut node, &id, &over).await;

    // It is there in a rescue, too; and made anew with the disk, as the instance is by then.
    let only = json!({"id": id});
    node.becomes("instance.rescue", only.clone(), "RESCUE").await;
    assert_eq!(meta_data(&mut node, &id).await, meta);
    node.becomes("instance.unrescue", only.clone(), "ACTIVE").await;
    node.done("instance.update", json!({"id": id, "metadata": {"role": "db"}})).await;
    assert_eq!(meta_data(&mut node, &id).await["meta"]["role"], "web");
    let image = shown["image"].clone();
    node.becomes("instance.rebuild", json!({"id": id, "image": image}), "ACTIVE").await;
    let anew = meta_data(&mut node, &id).await;
    assert_eq!((&anew["meta"]["role"], &anew["uuid"]), (&json!("db"), &meta["uuid"]));
    assert_ne!(anew["random_seed"], meta["random_seed"]);

    // It is no part of the image that is left of a shelved instance, and comes back with it; after
    // a restart of the agent, too.
    node.becomes("instance.shelve", json!({"id": id, "offload": true}), "SHELVED_OFFLOADED").await;
    assert_eq!(node.files(&id), [""; 0]);
    node.agent.kill().await.unwrap();
    node.agent.launch().unwrap();
    node.agent.ready().await.unwrap();
    node.reconnect().await;
    node.until(&id, "seen to be gone", |i| i["power_state"] == "none").await;
    let over = node.done("instance.unshelve", only.clone()).await;
    assert_eq!(read(&mut node, &id, "openstack/latest/user_data").await, SECRET);
    is_kept_secret(&mut node, &id, &over).await;

    // It goes with the instance.
    node.delete(&id).await;
    assert_eq!(node.show(&id).await["config_drive"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_makes_a_drive_of_files() {
    need_root!();
    let more = "[instances]\nconfig_drive = \"nocloud\"\n".to_owned();
    let mut node = Node::with(Setup { more, ..Setup::default() }).await;
    let image = node.image(Mode::Ostler).await;
    let cli = Cli::on(&node.agent).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let keys = file("keys", &format!("# mine\n{KEY}\n\n{KEY}-2\n"));
    let vendor = file("vendor", "#cloud-config\n{}\n");
    let id = uuid::Uuid::new_v4().to_string();
    node.adopt(&id);
    let memory = format!("{}M", crate::node::MEMORY >> 20);
    let boot = [
        "instance",
        "boot",
        "--name",
        "seeded",
        "--image",
        &image,
        "--vcpus",
        "1",
        "--memory",
        &memory,
        "--network",
        "lan",
        "--id",
        &id,
        "--config-drive",
        "--user-data",
        "-",
        "--vendor-data",
        &vendor,
        "--ssh-key",
        &keys,
        "--hostname",
        "web.example.org",
    ];
    let told = cli.output(&boot, "#!/bin/sh\necho hi\n").await.unwrap();
    assert_eq!(told.code, 0, "{}", told.stderr);
    let shown = cli.text(&["instance", "show", &id]).await.unwrap();
    assert!(shown.contains("nocloud") && shown.contains("web.example.org"), "{shown}");
    assert_eq!(label(&node, &id).await, "vfat cidata");
    assert_eq!(read(&mut node, &id, "user-data").await, "#!/bin/sh\necho hi");
    assert_eq!(read(&mut node, &id, "vendor-data").await, "#cloud-config\n{}");
    let meta: Value = serde_json::from_str(&read(&mut node, &id, "meta-data").await).unwrap();
    assert_eq!(meta["local-hostname"], "web.example.org");
    assert_eq!(meta["public-keys"], json!([KEY, format!("{KEY}-2")]));
    let network = read(&mut node, &id, "network-config").await;
    let mac = node.show(&id).await["ports"][0]["mac"].as_str().unwrap().to_owned();
    assert!(network.contains(&mac) && network.contains("dhcp4"), "{network}");
    node.delete(&id).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_drive_cannot_have_is_refused_by_name_and_not_repeated() {
    need_root!();
    let env =
        vec![("OSTLER_FAULTS".to_owned(), "before|instance.boot|start domain|fail".to_owned())];
    let mut node = Node::with(Setup { env, ..Setup::default() }).await;
    let boot = node.boot_params("seeded", Mode::None, &[]).await;
    let long = STANDARD.encode([b'x'; 49_150]);
    for (parameter, value) in [
        ("user_data", json!(SECRET)),
        ("user_data", json!(long)),
        ("vendor_data", json!(long)),
        ("vendor_data", json!(STANDARD.encode([0xff]))),
        ("ssh_keys", json!([SECRET])),
        ("ssh_keys", json!([format!("{KEY}\n{KEY}")])),
        ("ssh_keys", json!(vec![KEY; 17])),
        ("hostname", json!("a_b")),
        ("hostname", json!("a".repeat(64))),
    ] {
        let mut params = boot.clone();
        params[parameter] = value.clone();
        let (reason, text) = node.refused("instance.boot", params).await;
        assert_eq!((reason.as_str(), text.contains(parameter)), ("invalid_params", true), "{text}");
        assert!(!text.contains(SECRET), "{text}");
    }
    // Nor when it fails later.
    let mut params = boot.clone();
    params["user_data"] = json!(STANDARD.encode(SECRET));
    let over = node.tried("instance.boot", params).await;
    assert_eq!(over["state"], "undone", "{over:#}");
    let id = boot["id"].as_str().unwrap();
    assert_eq!(node.files(id), [""; 0]);
    is_kept_secret(&mut node, id, &over).await;
    node.delete(id).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes where there is no KVM: make long"]
async fn debians_cloud_init_takes_up_either_layout() {
    need_root!();
    let mut node = Node::start().await;
    node.image = GuestImage::bake_cloud_init().await.unwrap();
    let lan = node.network.clone();
    let user_data = "#cloud-config\nwrite_files:\n- {path: /root/written, content: by cloud-init}\n\
                     runcmd:\n- [sh, -c, 'echo ran >/root/ran']\n";
    let vendor_data = "#cloud-config\nbootcmd:\n- [sh, -c, 'echo vendor >/root/vendor']\n";
    let mut guests = Vec::new();
    for layout in ["openstack", "nocloud"] {
        let mut params = node.boot_params(layout, Mode::QemuGa, &[&lan]).await;
        params["memory"] = json!(512u64 << 20);
        params["config_drive"] = json!(layout);
        params["user_data"] = json!(STANDARD.encode(user_data));
        params["vendor_data"] = json!(STANDARD.encode(vendor_data));
        params["ssh_keys"] = json!([KEY]);
        params["hostname"] = json!(format!("by-{layout}"));
        guests.push((layout, params["id"].as_str().unwrap().to_owned()));
        // both at a time: what takes long is the guest
        node.done("instance.boot", params).await;
    }
    for (layout, id) in guests {
        let client = &mut node.client;
        poll::until("the guest's agent answers", BOOT * 4, async || {
            let shown = client.call("instance.show", json!({"id": id})).await;
            let shown = shown.map_err(|error| error.to_string())?;
            if shown["guest"]["state"] == "ready" { Ok(()) } else { Err(shown.to_string()) }
        })
        .await
        .unwrap();
        // asked for in the guest: it takes so many programs at a time, and no more
        let over = "timeout 50 sh -c 'until [ -e /run/cloud-init/result.json ]; do sleep 1; done' \
                    && echo over || echo runs";
        let begun = Instant::now();
        while node.shell(&id, over).await == "runs" {
            assert!(begun.elapsed() < BOOT * 4, "cloud-init is not over");
        }
        let result = node.shell(&id, "cat /run/cloud-init/result.json").await;
        let result: Value = serde_json::from_str(&result).unwrap();
        let source = result["v1"]["datasource"].as_str().unwrap();
        let expected = match layout {
            "openstack" => "DataSourceConfigDrive",
            _ => "DataSourceNoCloud",
        };
        assert!(source.starts_with(expected), "{result}");
        assert_eq!(result["v1"]["errors"], json!([]), "{layout}: {result}");
        assert_eq!(
            node.shell(&id, "cat /etc/hostname; hostname").await,
            format!("by-{layout}\nby-{layout}")
        );
        let keys = node.shell(&id, "cat /home/debian/.ssh/authorized_keys").await;
        assert!(keys.contains(KEY), "{layout}: {keys}");
        let files = node.shell(&id, "cat /root/written; echo; cat /root/ran /root/vendor").await;
        assert_eq!(files, "by cloud-init\nran\nvendor", "{layout}");
        let network = node.shell(&id, "cat /etc/systemd/network/10-cloud-init-*.network").await;
        let mac = node.show(&id).await["ports"][0]["mac"].as_str().unwrap().to_owned();
        assert!(network.contains(&mac) && network.contains("DHCP=ipv4"), "{layout}: {network}");
        let id_file = node.shell(&id, "cat /var/lib/cloud/data/instance-id").await;
        assert_eq!(id_file, id, "{layout}");
        node.delete(&id).await;
    }
}
