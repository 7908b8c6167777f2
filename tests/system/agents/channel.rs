//! The port going away under an agent, and coming back.

use serde_json::json;

use super::domain::{Domain, STANDARD, Seen};

/// After libvirtd's restart: the agent answers the new one.
pub(super) async fn restart(domain: &mut Domain) -> Seen {
    domain.answers().await?;
    domain.virsh(&["guestinfo", "--hostname"]).await
}

/// The standard port is unplugged and plugged again, twice: the agent takes it up by itself.
pub(super) async fn replug(domain: &mut Domain) -> Seen {
    let plug = domain.file("plug.xml", STANDARD);
    let ports = "cat /sys/class/virtio-ports/*/name | grep -c org.qemu.guest_agent.0";
    for _ in 0..2 {
        // libvirt wants the channel as it is, socket and all
        let all = domain.virsh(&["dumpxml"]).await?;
        let channel = all
            .split_inclusive("</channel>")
            .find(|part| part.contains("org.qemu.guest_agent.0"))
            .and_then(|part| part.split_once("<channel"))
            .ok_or("no such channel")?;
        let unplug = domain.file("unplug.xml", &format!("<channel{}", channel.1));
        domain.virsh(&["detach-device", &unplug, "--live"]).await?;
        domain.shows(ports, "0").await?;
        domain.virsh(&["attach-device", &plug, "--live"]).await?;
        domain.shows(ports, "1").await?;
        domain.answers().await?;
    }
    Ok("taken up".to_owned())
}

/// The guest is saved to a file and restored from it.
pub(super) async fn restore(domain: &mut Domain) -> Seen {
    let file = domain.place.join("saved").to_string_lossy().into_owned();
    drop(domain.console().await?);
    domain.virsh(&["save", &file]).await?;
    domain.virsh_bare(&["restore", &file]).await?;
    domain.answers().await?;
    domain.agent("guest-get-osinfo", json!({})).await?;
    domain.log_in(ostler_tests::guest_image::ROOT).await?;
    Ok("answers".to_owned())
}
