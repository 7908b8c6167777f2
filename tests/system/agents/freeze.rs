//! Freezing under a writer, and what a snapshot taken meanwhile is worth.

use std::path::Path;

use ostler_tests::process::Run;
use serde_json::json;

use super::domain::{Domain, Seen, told};

/// Writes to /mnt and waits for the disk, over and over; /run/written counts.
const WRITER: &str = "i=0; while [ ! -e /run/enough ]; do \
    dd if=/dev/zero of=/mnt/writer bs=16k count=4 conv=fsync; i=$((i+1)); echo $i >/run/count; mv /run/count /run/written; done";

async fn start_writer(domain: &mut Domain) -> Seen {
    domain.ask("rm -f /run/enough /run/written").await?;
    domain.ask(&format!("({WRITER}) >/dev/null 2>&1 &")).await?;
    goes_on(domain).await
}

async fn stop_writer(domain: &mut Domain) -> Seen {
    domain.ask("touch /run/enough").await
}

async fn written(domain: &mut Domain) -> Seen<u64> {
    domain.ask("cat /run/written").await?.trim().parse().map_err(told)
}

/// The writer gets further.
async fn goes_on(domain: &mut Domain) -> Seen {
    domain.shows("[ -e /run/written ] && echo yes", "yes").await?;
    let so_far = written(domain).await?;
    let line = format!("[ $(cat /run/written) -gt {so_far} ] && echo on");
    domain.shows(&line, "on").await
}

/// The writer hangs in the kernel (state D), and does not get further while it does.
async fn is_held(domain: &mut Domain) -> Seen {
    domain
        .shows("grep -l '^State:.D' $(grep -l '^Name:.dd$' /proc/[0-9]*/status) | wc -l", "1")
        .await?;
    let then = written(domain).await?;
    domain.agent("guest-ping", json!({})).await?;
    let now = written(domain).await?;
    if then == now { Ok("held".to_owned()) } else { Err(format!("{then}, then {now}")) }
}

/// All file systems, then one of them; what is refused meanwhile.
pub(super) async fn freeze(domain: &mut Domain) -> Seen {
    start_writer(domain).await?;
    let mut seen = Vec::new();
    for mounts in [&[][..], &["--mountpoint", "/mnt"]] {
        let mut all = vec!["domfsfreeze"];
        all.extend(mounts);
        seen.push(domain.virsh(&all).await?);
        is_held(domain).await?;
        seen.push(domain.agent("guest-fsfreeze-status", json!({})).await?.to_string());
        let refused = domain.agent("guest-get-osinfo", json!({})).await;
        seen.push(refused.err().ok_or("a command ran while frozen")?);
        let refused = domain.agent("guest-fsfreeze-freeze", json!({})).await;
        seen.push(refused.err().ok_or("frozen twice")?);
        seen.push(domain.virsh(&["domfsthaw"]).await?);
        goes_on(domain).await?;
        seen.push(domain.agent("guest-fsfreeze-status", json!({})).await?.to_string());
    }
    // thawing what is not frozen is fine
    seen.push(domain.virsh(&["domfsthaw"]).await?);
    seen.push(
        domain.virsh(&["domfsfreeze", "--mountpoint", "/no/such"]).await.unwrap_or_else(|e| e),
    );
    seen.push(domain.agent("guest-fsfreeze-status", json!({})).await?.to_string());
    stop_writer(domain).await?;
    Ok(seen.join("\n"))
}

/// An external snapshot with `--quiesce` under a writer leaves file systems that need no journal.
pub(super) async fn snapshot(domain: &mut Domain) -> Seen {
    start_writer(domain).await?;
    // which this check would tell
    if is_clean(domain, "data.raw", "raw").await.is_ok() {
        return Err("a mounted file system looks clean".to_owned());
    }
    let path = |name: &str| domain.place.join(name).to_string_lossy().into_owned();
    let specs = [
        format!("vda,file={},snapshot=external", path("root.snapshot")),
        format!("vdb,file={},snapshot=external", path("data.snapshot")),
    ];
    domain
        .virsh(&[
            "snapshot-create-as",
            "--name",
            "quiet",
            "--disk-only",
            "--atomic",
            "--quiesce",
            "--no-metadata",
            "--diskspec",
            &specs[0],
            "--diskspec",
            &specs[1],
        ])
        .await?;
    // it is thawed again, and writes elsewhere now
    goes_on(domain).await?;
    stop_writer(domain).await?;
    let root = is_clean(domain, "root.qcow2", "qcow2").await?;
    let data = is_clean(domain, "data.raw", "raw").await?;
    Ok(format!("/ {root}, /mnt {data}"))
}

/// Whether a file system was left clean: nothing in its journal, and nothing for e2fsck to mend.
async fn is_clean(domain: &Domain, disk: &str, format: &str) -> Seen {
    let copy = domain.place.join("copy.raw");
    // the running guest holds it, if only to read
    Run::new("qemu-img")
        .args(["convert", "-U", "-f", format, "-O", "raw"])
        .args([domain.place.join(disk).as_path(), copy.as_path()])
        .stdout()
        .await
        .map_err(told)?;
    let found = look_into(&copy).await;
    let _gone = std::fs::remove_file(&copy);
    found
}

async fn look_into(disk: &Path) -> Seen {
    let header = Run::new("dumpe2fs").args(["-h".as_ref(), disk.as_os_str()]).stdout().await;
    let header = header.map_err(told)?;
    if header.contains("needs_recovery") {
        return Err("its journal is not empty".to_owned());
    }
    if !header.lines().any(|l| l.starts_with("Filesystem state:") && l.ends_with(" clean")) {
        return Err(header);
    }
    let check = Run::new("e2fsck").args(["-fn".as_ref(), disk.as_os_str()]).output().await;
    let check = check.map_err(told)?;
    if check.code == 0 { Ok("is clean".to_owned()) } else { Err(check.stdout) }
}

/// What is free is given back, by libvirt's call and by the command with its results.
pub(super) async fn trim(domain: &mut Domain) -> Seen {
    domain.virsh(&["domfstrim"]).await?;
    let reply = domain.agent("guest-fstrim", json!({})).await?;
    let mut paths: Vec<String> = reply["paths"]
        .as_array()
        .ok_or("no paths")?
        .iter()
        .map(|path| {
            let trimmed = if path["trimmed"].is_u64() { "trimmed" } else { "not trimmed" };
            format!("{} {trimmed} {}", path["path"], path["error"])
        })
        .collect();
    paths.sort();
    Ok(paths.join("\n"))
}
