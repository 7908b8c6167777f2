//! Which files a config drive has, and what is in them.
//!
//! OpenStack's are those nova writes, of the metadata version `2018-08-27`, the newest that
//! cloud-init asks for. NoCloud's are cloud-init's own; its YAML is written as JSON, which it is.

use std::io;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_protocol::rpc::instance::DriveLayout;
use ostler_protocol::rpc::values::Secret;
use serde_json::{Map, Value, json};

use super::Facts;

/// The metadata version, beside `latest`.
const VERSION: &str = "2018-08-27";

/// A file: its path, and its bytes.
pub(super) type File = (String, Vec<u8>);

/// The label of the file system, by which it is found.
pub(super) const fn label(layout: DriveLayout) -> &'static str {
    match layout {
        DriveLayout::Openstack => "config-2",
        DriveLayout::Nocloud => "cidata",
    }
}

/// All files.
pub(super) fn files(facts: &Facts<'_>) -> io::Result<Vec<File>> {
    match facts.drive.layout {
        DriveLayout::Openstack => openstack(facts),
        DriveLayout::Nocloud => nocloud(facts),
    }
}

fn openstack(facts: &Facts<'_>) -> io::Result<Vec<File>> {
    let vendor_data = match decoded(facts.drive.vendor_data.as_ref())? {
        None => json!({}),
        // As nova has them: an object; what is none is cloud-init's part of one.
        Some(bytes) => match serde_json::from_slice::<Map<String, Value>>(&bytes) {
            Ok(object) => Value::Object(object),
            Err(_) => json!({"cloud-init": String::from_utf8_lossy(&bytes)}),
        },
    };
    let mut all = vec![
        ("meta_data.json", meta_data(facts).to_string().into_bytes()),
        ("network_data.json", network_data(facts).to_string().into_bytes()),
        ("vendor_data.json", vendor_data.to_string().into_bytes()),
    ];
    all.extend(decoded(facts.drive.user_data.as_ref())?.map(|bytes| ("user_data", bytes)));
    let below = |folder| {
        let place = move |(name, bytes): &(&str, Vec<u8>)| {
            (format!("openstack/{folder}/{name}"), bytes.clone())
        };
        all.iter().map(place)
    };
    Ok(below("latest").chain(below(VERSION)).collect())
}

fn meta_data(facts: &Facts<'_>) -> Value {
    let keys = facts.drive.ssh_keys.iter().enumerate();
    let keys: Vec<(String, &String)> = keys.map(|(n, key)| (format!("key-{n}"), key)).collect();
    let listed =
        |(name, key): &(String, &String)| json!({"name": name, "type": "ssh", "data": key});
    json!({
        "uuid": facts.id,
        "name": facts.name,
        "hostname": facts.drive.hostname,
        "launch_index": 0,
        // nova's word where no zone is set up
        "availability_zone": "nova",
        "project_id": facts.owner,
        "public_keys": keys.iter().map(|(name, key)| (name.clone(), json!(key))).collect::<Map<_, _>>(),
        "keys": keys.iter().map(listed).collect::<Vec<_>>(),
        "meta": facts.metadata,
        "random_seed": STANDARD.encode(facts.random_seed),
        "devices": [],
    })
}

fn network_data(facts: &Facts<'_>) -> Value {
    let link = |n: usize| format!("nic{n}");
    let links = facts.nics.iter().enumerate().map(|(n, nic)| {
        json!({"id": link(n), "type": "phy", "ethernet_mac_address": nic.mac,
               "mtu": nic.mtu, "vif_id": nic.port})
    });
    let networks = (0..facts.nics.len())
        .map(|n| json!({"id": format!("network{n}"), "link": link(n), "type": "ipv4_dhcp"}));
    json!({
        "links": links.collect::<Vec<_>>(),
        "networks": networks.collect::<Vec<_>>(),
        "services": [],
    })
}

fn nocloud(facts: &Facts<'_>) -> io::Result<Vec<File>> {
    let meta_data = json!({
        "instance-id": facts.id,
        "local-hostname": facts.drive.hostname,
        "public-keys": facts.drive.ssh_keys,
        "meta": facts.metadata,
    });
    let ethernets = facts.nics.iter().enumerate().map(|(n, nic)| {
        let mut ethernet = json!({"match": {"macaddress": nic.mac}, "dhcp4": true});
        if let Some(mtu) = nic.mtu {
            ethernet["mtu"] = json!(mtu);
        }
        (format!("nic{n}"), ethernet)
    });
    let network = json!({"version": 2, "ethernets": ethernets.collect::<Map<_, _>>()});
    let mut all = vec![
        ("meta-data".to_owned(), yaml(&meta_data)),
        ("network-config".to_owned(), yaml(&network)),
        // without it cloud-init passes the drive over
        ("user-data".to_owned(), decoded(facts.drive.user_data.as_ref())?.unwrap_or_default()),
    ];
    let vendor_data = decoded(facts.drive.vendor_data.as_ref())?;
    all.extend(vendor_data.map(|bytes| ("vendor-data".to_owned(), bytes)));
    Ok(all)
}

/// JSON that is YAML too: some characters, such as U+2028, are line breaks there, and surrogates
/// none of its escapes. All that are not ASCII are within texts.
fn yaml(value: &Value) -> Vec<u8> {
    let escaped = |c: char| match c {
        c if c.is_ascii() => c.to_string(),
        c => format!("\\U{:08x}", u32::from(c)),
    };
    value.to_string().chars().map(escaped).collect::<String>().into_bytes()
}

/// The bytes behind base64.
fn decoded(data: Option<&Secret>) -> io::Result<Option<Vec<u8>>> {
    // what is wrong with it might quote it
    let not = |_| io::Error::other("its data are not base64");
    data.map(|data| STANDARD.decode(data.expose()).map_err(not)).transpose()
}
