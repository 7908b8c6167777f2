//! What an agent tells of its guest.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::domain::{Domain, Seen};

/// Every key libvirt makes of what the agent tells, with its value where it is not the hour or a
/// number of bytes that changes.
pub(super) async fn guestinfo(domain: &mut Domain) -> Seen {
    let text = domain.virsh(&["guestinfo"]).await?;
    let changing = ["login-time", "used-bytes"];
    // File systems, disks and the like are numbered as they come, which is any order: each is one
    // line, of all its keys without the number.
    let mut lines: BTreeMap<(&str, &str), Vec<String>> = BTreeMap::new();
    for line in text.lines() {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        let mut parts = key.splitn(3, '.');
        let (topic, number) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let (number, name) = match parts.next() {
            Some(name) => (number, name),
            None => ("", number),
        };
        let value = if changing.iter().any(|end| key.ends_with(end)) { "..." } else { value };
        lines.entry((topic, number)).or_default().push(format!("{name}={value}"));
    }
    let mut lines: Vec<String> = lines
        .into_iter()
        .map(|((topic, _), mut fields)| {
            fields.sort();
            format!("{topic}: {}", fields.join(" "))
        })
        .collect();
    lines.sort();
    let text = lines.join("\n");
    for wanted in [
        "kernel-release=",
        "id=",
        "offset=0",
        "hostname",
        "fs: count=2",
        "mountpoint=/ ",
        "mountpoint=/mnt ",
        "if: count=2",
        "user: count=1",
        "disk: count=3",
        "disk.0.alias=vdb",
    ] {
        if !text.contains(wanted) {
            return Err(format!("no {wanted} in {text}"));
        }
    }
    Ok(text)
}

/// Mount points, devices and libvirt's own names of the disks.
pub(super) async fn domfsinfo(domain: &mut Domain) -> Seen {
    let text = domain.virsh(&["domfsinfo"]).await?;
    let text = table(&text);
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    let text = lines.join("\n");
    for wanted in ["/ vda ext4 vda", "/mnt vdb ext4 vdb"] {
        if !text.contains(wanted) {
            return Err(format!("no {wanted} in {text}"));
        }
    }
    Ok(text)
}

/// The addresses of the guest's own interfaces; the last of them comes a while after a boot.
pub(super) async fn domifaddr(domain: &mut Domain) -> Seen {
    domain
        .until("every address is told", async || {
            let text = table(&domain.virsh(&["domifaddr", "--source", "agent"]).await?);
            for wanted in [
                "lo 00:00:00:00:00:00 ipv4 127.0.0.1/8",
                "52:54:00:12:34:56 ipv4",
                "ipv6 fec0::5054:ff:fe12:3456/64",
            ] {
                if !text.contains(wanted) {
                    return Err(format!("no {wanted} in {text}"));
                }
            }
            Ok(text)
        })
        .await
}

/// One of virsh's tables, without what is there for the eye.
fn table(text: &str) -> String {
    let rows =
        text.lines().skip(2).map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    rows.collect::<Vec<_>>().join("\n")
}

pub(super) async fn domhostname(domain: &mut Domain) -> Seen {
    domain.virsh(&["domhostname", "--source", "agent"]).await
}

/// The names of the stock agent's commands, each of which has to be there and enabled.
pub(super) async fn commands(domain: &mut Domain) -> Seen {
    const STOCK: &[&str] = &[
        "guest-exec",
        "guest-exec-status",
        "guest-file-close",
        "guest-file-flush",
        "guest-file-open",
        "guest-file-read",
        "guest-file-seek",
        "guest-file-write",
        "guest-fsfreeze-freeze",
        "guest-fsfreeze-freeze-list",
        "guest-fsfreeze-status",
        "guest-fsfreeze-thaw",
        "guest-fstrim",
        "guest-get-cpustats",
        "guest-get-disks",
        "guest-get-diskstats",
        "guest-get-fsinfo",
        "guest-get-host-name",
        "guest-get-memory-block-info",
        "guest-get-memory-blocks",
        "guest-get-osinfo",
        "guest-get-time",
        "guest-get-timezone",
        "guest-get-users",
        "guest-get-vcpus",
        "guest-info",
        "guest-network-get-interfaces",
        "guest-ping",
        "guest-set-memory-blocks",
        "guest-set-time",
        "guest-set-user-password",
        "guest-set-vcpus",
        "guest-shutdown",
        "guest-ssh-add-authorized-keys",
        "guest-ssh-get-authorized-keys",
        "guest-ssh-remove-authorized-keys",
        "guest-suspend-disk",
        "guest-suspend-hybrid",
        "guest-suspend-ram",
        "guest-sync",
        "guest-sync-delimited",
    ];
    let info = domain.agent("guest-info", json!({})).await?;
    let commands = info["supported_commands"].as_array().ok_or("no list of commands")?;
    let enabled = |name: &str| {
        commands.iter().any(|command| command["name"] == name && command["enabled"] == true)
    };
    let missing: Vec<_> = STOCK.iter().filter(|name| !enabled(name)).collect();
    if missing.is_empty() {
        Ok("all there".to_owned())
    } else {
        Err(format!("without {missing:?}"))
    }
}

/// The shape (names of keys, types of values) of what libvirt does not ask for.
pub(super) async fn reports(domain: &mut Domain) -> Seen {
    let mut lines = Vec::new();
    for command in [
        "guest-get-cpustats",
        "guest-get-disks",
        "guest-get-diskstats",
        "guest-get-fsinfo",
        "guest-get-memory-block-info",
        "guest-get-memory-blocks",
        "guest-get-osinfo",
        "guest-get-timezone",
        "guest-get-users",
        "guest-get-vcpus",
        "guest-network-get-interfaces",
    ] {
        let shape = match domain.agent(command, json!({})).await {
            Ok(reply) => shape(&reply),
            Err(error) => format!("error: {error}"),
        };
        lines.push(format!("{command} {shape}"));
    }
    Ok(lines.join("\n"))
}

/// What a value looks like, without its content; of an array, every shape that occurs in it.
fn shape(value: &Value) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(_) => "bool".to_owned(),
        Value::Number(_) => "number".to_owned(),
        Value::String(_) => "string".to_owned(),
        Value::Array(items) => {
            let mut shapes: Vec<_> = items.iter().map(shape).collect();
            shapes.sort();
            shapes.dedup();
            format!("[{}]", shapes.join(" | "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> =
                fields.iter().map(|(name, value)| format!("{name}: {}", shape(value))).collect();
            fields.sort();
            format!("{{{}}}", fields.join(", "))
        }
    }
}
