//! What an agent tells of its guest.

use serde_json::{Value, json};

use super::domain::{Domain, Seen};

/// Every key libvirt makes of what the agent tells, with its value where it is not the hour or a
/// number of bytes that changes.
pub(super) async fn guestinfo(domain: &mut Domain) -> Seen {
    let text = domain.virsh(&["guestinfo"]).await?;
    let changing = ["login-time", "used-bytes"];
    let lines = text.lines().map(|line| {
        let (key, value) = line.split_once(':').unwrap_or((line, ""));
        let (key, value) = (key.trim(), value.trim());
        if changing.iter().any(|end| key.ends_with(end)) {
            key.to_owned()
        } else {
            format!("{key}: {value}")
        }
    });
    let mut lines: Vec<_> = lines.collect();
    // libvirt numbers file systems and disks as they come, which is any order
    lines.sort();
    let wanted = [
        "os.kernel-release",
        "os.id",
        "timezone.offset",
        "hostname",
        "fs.count",
        "fs.0.mountpoint",
        "fs.0.total-bytes",
        "if.count",
        "user.count",
        "disk.count",
    ];
    for key in wanted {
        if !lines.iter().any(|line| line.starts_with(key)) {
            return Err(format!("no {key} in {lines:?}"));
        }
    }
    Ok(lines.join("\n"))
}

/// Mount points, devices and libvirt's own names of the disks.
pub(super) async fn domfsinfo(domain: &mut Domain) -> Seen {
    let text = domain.virsh(&["domfsinfo"]).await?;
    let mut lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    lines.sort();
    let text = lines.join("\n");
    for wanted in ["/ vda ext4 vda", "/mnt vdb ext4 vdb"] {
        if !text.contains(wanted) {
            return Err(format!("no {wanted} in {text}"));
        }
    }
    Ok(text)
}

/// The addresses of the guest's own interfaces.
pub(super) async fn domifaddr(domain: &mut Domain) -> Seen {
    let text = domain.virsh(&["domifaddr", "--source", "agent"]).await?;
    let lines: Vec<String> =
        text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    let text = lines.join("\n");
    for wanted in ["lo 00:00:00:00:00:00 ipv4 127.0.0.1/8", "52:54:00:12:34:56 ipv4"] {
        if !text.contains(wanted) {
            return Err(format!("no {wanted} in {text}"));
        }
    }
    Ok(text)
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
