//! Drives as a guest finds them: read back by `fatfs`.

use std::io::{Cursor, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use fatfs::{FileSystem, FsOptions};
use ostler_protocol::rpc::instance::DriveLayout;
use ostler_protocol::rpc::values::Secret;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const KEY: &str = "ssh-ed25519 AAAA me@host";

fn record(layout: DriveLayout) -> ConfigDriveRecord {
    ConfigDriveRecord {
        layout,
        hostname: "web".to_owned(),
        ssh_keys: vec![KEY.to_owned()],
        user_data: Some(Secret::new(STANDARD.encode("#cloud-config\n"))),
        vendor_data: Some(Secret::new(STANDARD.encode("#cloud-config\nvendor: 1\n"))),
    }
}

fn facts<'a>(drive: &'a ConfigDriveRecord, metadata: &'a BTreeMap<String, String>) -> Facts<'a> {
    let nic = |last: u8, mtu| Nic {
        port: "0f8fad5b-d9cb-469f-a165-70867728950f".parse().unwrap(),
        mac: MacAddress::in_qemu_range(0, 0, last),
        mtu,
    };
    Facts {
        id: "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap(),
        name: "Web",
        owner: Some("t1"),
        metadata,
        drive,
        nics: vec![nic(1, Some(1450)), nic(2, None)],
        random_seed: [7; SEED_BYTES],
    }
}

/// The label of a drive, and its files.
fn read(bytes: Vec<u8>) -> (String, BTreeMap<String, Vec<u8>>) {
    let system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
    let mut found = BTreeMap::new();
    let mut folders = vec![String::new()];
    while let Some(folder) = folders.pop() {
        let root = system.root_dir();
        let dir = if folder.is_empty() { root } else { root.open_dir(&folder).unwrap() };
        for entry in dir.iter().map(Result::unwrap) {
            let name = entry.file_name();
            let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
            if entry.is_dir() && name != "." && name != ".." {
                folders.push(path);
            } else if entry.is_file() {
                let mut bytes = Vec::new();
                entry.to_file().read_to_end(&mut bytes).unwrap();
                found.insert(path, bytes);
            }
        }
    }
    (system.read_volume_label_from_root_dir().unwrap().unwrap(), found)
}

fn json_of(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
    serde_json::from_slice(&files[path]).unwrap()
}

#[test]
fn the_openstack_layout_is_novas() {
    let drive = record(DriveLayout::Openstack);
    let metadata = BTreeMap::from([("role".to_owned(), "web".to_owned())]);
    let (label, files) = read(bytes(&facts(&drive, &metadata)).unwrap());
    assert_eq!(label, "config-2");
    for version in ["latest", "2018-08-27"] {
        let at = |name: &str| format!("openstack/{version}/{name}");
        assert_eq!(
            json_of(&files, &at("meta_data.json")),
            json!({
                "uuid": "0f8fad5b-d9cb-469f-a165-70867728950e",
                "name": "Web",
                "hostname": "web",
                "launch_index": 0,
                "availability_zone": "nova",
                "project_id": "t1",
                "public_keys": {"key-0": KEY},
                "keys": [{"name": "key-0", "type": "ssh", "data": KEY}],
                "meta": {"role": "web"},
                "random_seed": STANDARD.encode([7; 512]),
                "devices": [],
            })
        );
        let port = "0f8fad5b-d9cb-469f-a165-70867728950f";
        assert_eq!(
            json_of(&files, &at("network_data.json")),
            json!({
                "links": [
                    {"id": "nic0", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:01",
                     "mtu": 1450, "vif_id": port},
                    {"id": "nic1", "type": "phy", "ethernet_mac_address": "52:54:00:00:00:02",
                     "mtu": null, "vif_id": port},
                ],
                "networks": [
                    {"id": "network0", "link": "nic0", "type": "ipv4_dhcp"},
                    {"id": "network1", "link": "nic1", "type": "ipv4_dhcp"},
                ],
                "services": [],
            })
        );
        let wrapped = json!({"cloud-init": "#cloud-config\nvendor: 1\n"});
        assert_eq!(json_of(&files, &at("vendor_data.json")), wrapped);
        assert_eq!(files[&at("user_data")], b"#cloud-config\n");
    }
    assert_eq!(files.len(), 8);
}

#[test]
fn vendor_data_that_are_an_object_are_kept_as_they_are() {
    let mut drive = record(DriveLayout::Openstack);
    drive.vendor_data = Some(Secret::new(STANDARD.encode(r#"{"static": {"a": 1}}"#)));
    let (_, files) = read(bytes(&facts(&drive, &BTreeMap::new())).unwrap());
    let vendor_data = json_of(&files, "openstack/latest/vendor_data.json");
    assert_eq!(vendor_data, json!({"static": {"a": 1}}));
}

#[test]
fn without_data_there_is_no_user_data_in_one_layout_and_an_empty_one_in_the_other() {
    for layout in [DriveLayout::Openstack, DriveLayout::Nocloud] {
        let drive = ConfigDriveRecord { user_data: None, vendor_data: None, ..record(layout) };
        let (_, files) = read(bytes(&facts(&drive, &BTreeMap::new())).unwrap());
        match layout {
            DriveLayout::Openstack => {
                assert!(!files.contains_key("openstack/latest/user_data"));
                assert_eq!(files["openstack/latest/vendor_data.json"], b"{}");
            }
            DriveLayout::Nocloud => {
                assert_eq!(files["user-data"], b"");
                assert!(!files.contains_key("vendor-data"));
            }
        }
    }
}

#[test]
fn the_nocloud_layout_is_cloud_inits() {
    let drive = record(DriveLayout::Nocloud);
    let metadata = BTreeMap::from([("role".to_owned(), "\u{2028}😀".to_owned())]);
    let (label, files) = read(bytes(&facts(&drive, &metadata)).unwrap());
    assert_eq!(label, "cidata");
    let names: Vec<&str> = files.keys().map(String::as_str).collect();
    assert_eq!(names, ["meta-data", "network-config", "user-data", "vendor-data"]);
    assert_eq!(files["user-data"], b"#cloud-config\n");
    assert_eq!(files["vendor-data"], b"#cloud-config\nvendor: 1\n");
    let text = String::from_utf8(files["meta-data"].clone()).unwrap();
    assert!(text.contains(r#""role":"\U00002028\U0001f600""#), "{text}");
    let meta: Value = serde_json::from_str(&text.replace("\\U", "U")).unwrap();
    assert_eq!(meta["instance-id"], "0f8fad5b-d9cb-469f-a165-70867728950e");
    assert_eq!(meta["local-hostname"], "web");
    assert_eq!(meta["public-keys"], json!([KEY]));
    assert_eq!(
        json_of(&files, "network-config"),
        json!({"version": 2, "ethernets": {
            "nic0": {"match": {"macaddress": "52:54:00:00:00:01"}, "dhcp4": true, "mtu": 1450},
            "nic1": {"match": {"macaddress": "52:54:00:00:00:02"}, "dhcp4": true},
        }})
    );
}

#[test]
fn the_largest_drive_there_can_be_is_made() {
    // control characters: six bytes of JSON each
    let data = Secret::new(STANDARD.encode([1; 49_149]));
    let quotes = |n: usize| "\"".repeat(n);
    let metadata = (0..128).map(|n| (format!("{n:03}{}", quotes(252)), quotes(255))).collect();
    for layout in [DriveLayout::Openstack, DriveLayout::Nocloud] {
        let drive = ConfigDriveRecord {
            ssh_keys: vec![quotes(16 << 10); 16],
            user_data: Some(data.clone()),
            vendor_data: Some(data.clone()),
            ..record(layout)
        };
        let made = bytes(&facts(&drive, &metadata)).unwrap();
        assert!(made.len() < 8 << 20, "{}", made.len());
        read(made);
    }
}

#[test]
fn the_same_facts_make_the_same_drive() {
    let drive = record(DriveLayout::Openstack);
    let metadata = BTreeMap::new();
    let facts = facts(&drive, &metadata);
    let made = bytes(&facts).unwrap();
    assert_eq!(made, bytes(&facts).unwrap());
    assert!(made.len() <= 256 << 10, "{}", made.len());
}

#[test]
fn what_may_be_secret_is_not_shown() {
    let drive = record(DriveLayout::Openstack);
    let shown = format!("{drive:?}");
    let data = drive.user_data.as_ref().unwrap().expose();
    assert!(!shown.contains(data) && !shown.contains("cloud-config"), "{shown}");
}

proptest! {
    #[test]
    fn any_metadata_survive(
        metadata in prop::collection::btree_map("\\PC{1,40}", "\\PC{0,40}", 0..8),
    ) {
        let drive = record(DriveLayout::Openstack);
        let (_, files) = read(bytes(&facts(&drive, &metadata)).unwrap());
        let meta = json_of(&files, "openstack/latest/meta_data.json");
        prop_assert_eq!(&meta["meta"], &json!(metadata));
    }
}
