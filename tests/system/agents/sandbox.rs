//! Our agent in the sandbox of each narrower profile, as the package brings them, in a Debian under its
//! own systemd: what the profile permits is answered as without the sandbox, and nothing else is.

use ostler_tests::guest_image::{GuestImage, Mode};
use ostler_tests::services::OwnLibvirt;
use serde_json::{Value, json};

use super::domain::{Domain, Seen};
use super::{System, account, freeze, power};
use crate::node::need_root;

/// What `observe` permits and libvirt does not say by itself, as it does `guest-sync`.
const LOOKS: &[&str] = &[
    "guest-fsfreeze-status",
    "guest-get-cpustats",
    "guest-get-disks",
    "guest-get-diskstats",
    "guest-get-fsinfo",
    "guest-get-host-name",
    "guest-get-load",
    "guest-get-memory-block-info",
    "guest-get-memory-blocks",
    "guest-get-osinfo",
    "guest-get-time",
    "guest-get-timezone",
    "guest-get-users",
    "guest-get-vcpus",
    "guest-network-get-interfaces",
    "guest-network-get-route",
    "guest-ping",
    "guest-ssh-get-authorized-keys",
];
const LIBVIRTS: &[&str] = &["guest-info", "guest-sync", "guest-sync-delimited"];

/// What `manage` refuses.
const COMMANDS: &[&str] = &[
    "guest-exec",
    "guest-exec-status",
    "guest-file-write",
    "guest-ssh-add-authorized-keys",
    "guest-ssh-remove-authorized-keys",
];

/// The rights that the kernel may still give to what runs in the sandbox: a bit for each.
const OBSERVE_RIGHTS: u64 = 0x0000_0004;
const MANAGE_RIGHTS: u64 = 0x2320_00e7;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make long"]
async fn in_the_sandbox_of_its_profile_the_agent_answers_as_without_one() {
    need_root!();
    let image = GuestImage::bake_debian().await.unwrap();
    let libvirt = OwnLibvirt::start().await.unwrap();
    let mut domain = Domain::boot(libvirt.uri(), &image, System::Debian, Mode::Ostler).await;
    let domain = &mut domain;

    prepare(domain).await.unwrap();
    let looked = look(domain).await;
    let managed = manage(domain).await;

    put(domain, "manage").await.unwrap();
    domain.ask("systemctl restart ostler-guest-agent").await.unwrap();
    is_held(domain, MANAGE_RIGHTS).await.unwrap();
    assert_eq!(look(domain).await, looked);
    assert_eq!(manage(domain).await, managed);
    let permitted = permitted(domain).await.unwrap();
    assert!(!permitted.iter().any(|name| COMMANDS.contains(&&**name)), "{permitted:?}");
    assert!(permitted.iter().any(|name| name == "guest-shutdown"), "{permitted:?}");
    refuses(domain, "guest-exec", json!({"path": "/bin/true"}), "manage").await;
    let write = json!({"path": "/run/new", "mode": "w"});
    let refused = domain.agent("guest-file-open", write).await.unwrap_err();
    assert!(refused.contains("manage"), "{refused}");
    power::suspend_to_memory(domain).await.unwrap();
    power::suspend_to_disk(domain).await.unwrap();

    // from the guest's start on, before most file systems and the network are there
    put(domain, "observe").await.unwrap();
    power::boots_again(domain).await.unwrap();
    is_held(domain, OBSERVE_RIGHTS).await.unwrap();
    domain.ask("mount /dev/vdb /mnt").await.unwrap();
    domain.shows("grep -c ^fec0 /proc/net/if_inet6", "1").await.unwrap();
    assert_eq!(look(domain).await, looked);
    let mut expected = [LOOKS, LIBVIRTS].concat();
    expected.sort_unstable();
    assert_eq!(self::permitted(domain).await.unwrap(), expected);
    refuses(domain, "guest-shutdown", json!({}), "observe").await;

    put(domain, "manage").await.unwrap();
    domain.ask("systemctl restart ostler-guest-agent").await.unwrap();
    is_held(domain, MANAGE_RIGHTS).await.unwrap();
    power::shutdown(domain).await.unwrap();
}

/// Something to read, and a hook that becomes another account, as that of a database does.
async fn prepare(domain: &mut Domain) -> Seen {
    let key = json!({"username": "demo", "keys": ["ssh-ed25519 AAAA demo@test"]});
    domain.agent("guest-ssh-add-authorized-keys", key).await?;
    domain.ask("su demo -c 'umask 77; echo hay >~/private'").await?;
    domain
        .ask(
            "printf '#!/bin/sh\\nsu demo -c \"echo $1 >>/tmp/told\"\\n' >/etc/qemu/fsfreeze-hook.d/demo; \
             chmod 755 /etc/qemu/fsfreeze-hook.d/demo",
        )
        .await
}

/// Puts a drop-in where the guest's owner puts it.
async fn put(domain: &mut Domain, profile: &str) -> Seen {
    domain
        .ask(&format!(
            "mkdir -p /etc/systemd/system/ostler-guest-agent.service.d && \
             ln -sf /usr/share/ostler-guest-agent/{profile}.conf \
             /etc/systemd/system/ostler-guest-agent.service.d/profile.conf && \
             systemctl daemon-reload && sync"
        ))
        .await
}

/// The agent answers, and has these rights at most.
async fn is_held(domain: &mut Domain, rights: u64) -> Seen {
    domain.answers().await?;
    let told = domain.ask("cat /proc/$(pidof ostler-guest-agent)/status").await?;
    for wanted in [format!("CapBnd:\t{rights:016x}"), "NoNewPrivs:\t1".into(), "Seccomp:\t2".into()]
    {
        if !told.lines().any(|line| line.trim() == wanted) {
            return Err(format!("no {wanted:?} in {told}"));
        }
    }
    Ok(told)
}

/// The commands that may be used.
async fn permitted(domain: &Domain) -> Seen<Vec<String>> {
    let info = domain.agent("guest-info", json!({})).await?;
    let commands = info["supported_commands"].as_array().ok_or("no list of commands")?;
    Ok(commands
        .iter()
        .filter(|command| command["enabled"] == true)
        .filter_map(|command| command["name"].as_str().map(str::to_owned))
        .collect())
}

async fn refuses(domain: &Domain, command: &str, arguments: Value, profile: &str) {
    let refused = domain.agent(command, arguments).await.unwrap_err();
    assert!(refused.contains(profile), "{command}: {refused}");
}

/// What the agent tells, without what changes by itself.
async fn look(domain: &Domain) -> Vec<String> {
    let mut seen = Vec::new();
    for &command in LOOKS {
        let arguments = match command {
            "guest-ssh-get-authorized-keys" => json!({"username": "demo"}),
            _ => json!({}),
        };
        let mut reply = domain.agent(command, arguments).await.unwrap();
        let counts =
            ["guest-get-cpustats", "guest-get-diskstats", "guest-get-load", "guest-get-time"];
        settle(&mut reply, counts.contains(&command));
        seen.push(format!("{command} {reply}"));
    }
    seen
}

/// Blots out what changes by itself: what counts or tells the time, or `all` numbers.
fn settle(value: &mut Value, all: bool) {
    match value {
        Value::Number(_) if all => *value = Value::Null,
        Value::Array(items) => items.iter_mut().for_each(|item| settle(item, all)),
        Value::Object(fields) => {
            for (name, value) in fields {
                let changes = ["used-bytes", "login-time", "statistics"].contains(&&**name);
                settle(value, all || changes);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// What `manage` permits beyond looking and goes on from: what came of each.
async fn manage(domain: &mut Domain) -> Vec<String> {
    let mut seen = vec![
        freeze::freeze(domain).await.unwrap(),
        domain.ask("cat /tmp/told; rm /tmp/told").await.unwrap(),
        freeze::trim(domain).await.unwrap(),
        account::password(domain).await.unwrap(),
        account::encrypted_password(domain).await.unwrap(),
        account::wrong_accounts(domain).await.unwrap(),
        power::time(domain).await.unwrap(),
        power::vcpus(domain).await.unwrap(),
    ];
    let blocks = domain.agent("guest-get-memory-blocks", json!({})).await.unwrap();
    let block = json!({"mem-blks": [{"phys-index": blocks[0]["phys-index"], "online": true}]});
    seen.push(domain.agent("guest-set-memory-blocks", block).await.unwrap().to_string());
    for path in ["/etc/shadow", "/home/demo/private"] {
        let open = json!({"path": path});
        let handle = domain.agent("guest-file-open", open).await.unwrap();
        let handle = json!({"handle": handle});
        let read = domain.agent("guest-file-read", handle.clone()).await.unwrap();
        domain.agent("guest-file-close", handle).await.unwrap();
        seen.push(format!("{path}: {} bytes", read["count"]));
    }
    seen
}
