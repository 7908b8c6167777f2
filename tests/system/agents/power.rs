//! The clock, processors, sleep and the end.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ostler_tests::guest_image::ROOT;
use serde_json::json;

use super::System;
use super::domain::{Domain, Seen, told};
use crate::node::BOOT;

/// How far two clocks may be apart that are read one after the other on a busy machine.
const NEAR: u64 = 60;

fn near(what: &str, clock: u64, expected: u64) -> Seen<()> {
    if clock.abs_diff(expected) <= NEAR {
        return Ok(());
    }
    Err(format!("{what} is at {clock}, not {expected}"))
}

/// The guest's clock is told; set to a time, to the RTC's, to the host's; and the RTC follows.
pub(super) async fn time(domain: &mut Domain) -> Seen {
    let host = || SystemTime::now().duration_since(UNIX_EPOCH).map(|d| d.as_secs()).map_err(told);
    near("domtime", told_time(domain).await?, host()?)?;

    let past = 1_700_000_000;
    domain.virsh(&["domtime", "--time", &past.to_string()]).await?;
    near("the clock", clock(domain).await?, past)?;
    near("the RTC", rtc(domain).await?, past)?;

    domain.ask("date -u -s @1600000000").await?;
    near("the clock set aside", clock(domain).await?, 1_600_000_000)?;
    domain.virsh(&["domtime", "--sync"]).await?;
    near("the clock synchronized", clock(domain).await?, past)?;

    domain.virsh(&["domtime", "--now"]).await?;
    near("the clock", clock(domain).await?, host()?)?;
    near("the RTC", rtc(domain).await?, host()?)?;
    Ok("right".to_owned())
}

async fn told_time(domain: &Domain) -> Seen<u64> {
    let text = domain.virsh(&["domtime"]).await?;
    text.trim_start_matches("Time: ").trim().parse().map_err(told)
}

async fn clock(domain: &mut Domain) -> Seen<u64> {
    domain.ask("date +%s").await?.trim().parse().map_err(told)
}

async fn rtc(domain: &mut Domain) -> Seen<u64> {
    domain.ask("cat /sys/class/rtc/rtc0/since_epoch").await?.trim().parse().map_err(told)
}

/// A processor is taken off line and back, by both of libvirt's ways.
pub(super) async fn vcpus(domain: &mut Domain) -> Seen {
    const ONLINE: &str = "cat /sys/devices/system/cpu/online";
    let told = domain.virsh(&["guestvcpus"]).await?;
    domain.virsh(&["setvcpus", "1", "--guest"]).await?;
    domain.shows(ONLINE, "0").await?;
    let mut fewer = domain.agent("guest-get-vcpus", json!({})).await?;
    // in no order
    if let Some(fewer) = fewer.as_array_mut() {
        fewer.sort_by_key(|cpu| cpu["logical-id"].as_u64());
    }
    domain.virsh(&["setvcpus", "2", "--guest"]).await?;
    domain.shows(ONLINE, "0-1").await?;
    domain.virsh(&["guestvcpus", "--disable", "--cpulist", "1"]).await?;
    domain.shows(ONLINE, "0").await?;
    domain.virsh(&["guestvcpus", "--enable", "--cpulist", "1"]).await?;
    domain.shows(ONLINE, "0-1").await?;
    let refused = domain.virsh(&["guestvcpus", "--disable", "--cpulist", "0-1"]).await;
    let refused = refused.err().ok_or("every processor was taken off line")?;
    domain.shows(ONLINE, "0-1").await?;
    Ok(format!("{told}\n{fewer}\n{refused}"))
}

/// The guest sleeps, is woken, and its agent goes on.
pub(super) async fn suspend_to_memory(domain: &mut Domain) -> Seen {
    domain.virsh(&["dompmsuspend", "mem"]).await?;
    domain.reaches("pmsuspended").await?;
    domain.virsh(&["dompmwakeup"]).await?;
    domain.reaches("running").await?;
    domain.answers().await?;
    domain.shows("echo awake", "awake").await
}

const BOOT_ID: &str = "cat /proc/sys/kernel/random/boot_id";

/// The guest puts itself on its swap disk and ends; started again, it is where it was.
pub(super) async fn suspend_to_disk(domain: &mut Domain) -> Seen {
    domain.ask("swapon /dev/vdc").await?;
    let before = domain.ask(BOOT_ID).await?;
    drop(domain.console().await?);
    // with the disks it has now, after a snapshot
    let as_it_is = domain.virsh(&["dumpxml", "--migratable"]).await?;
    domain.file("domain.xml", &as_it_is);
    domain.virsh(&["dompmsuspend", "disk"]).await?;
    is_off(domain).await?;
    domain.start().await?;
    domain.answers().await?;
    domain.log_in(ROOT).await?;
    if domain.ask(BOOT_ID).await? != before {
        return Err(domain.ask("dmesg | grep -e PM: -e irtio_blk").await?);
    }
    Ok("as it was".to_owned())
}

/// The guest boots again.
pub(super) async fn reboot(domain: &mut Domain) -> Seen {
    // a second boot of a large guest shows nothing more
    if domain.system == System::Debian {
        return Ok("left out".to_owned());
    }
    boots_again(domain).await
}

/// The agent has the guest boot again, and answers when it has.
pub(super) async fn boots_again(domain: &mut Domain) -> Seen {
    let before = domain.ask(BOOT_ID).await?;
    let mut console = domain.console().await?;
    domain.virsh(&["reboot", "--mode", "agent"]).await?;
    console.expect(&["reboot: Restarting system"], BOOT).await.map_err(told)?;
    drop(console);
    domain.log_in(ROOT).await?;
    if domain.ask(BOOT_ID).await? == before {
        return Err("it has not booted again".to_owned());
    }
    domain.answers().await
}

/// The guest ends by itself.
pub(super) async fn shutdown(domain: &mut Domain) -> Seen {
    domain.virsh(&["shutdown", "--mode", "agent"]).await?;
    is_off(domain).await
}

async fn is_off(domain: &Domain) -> Seen {
    domain
        .until("the guest is off", async || match domain.virsh(&["domstate"]).await {
            Err(gone) if gone.contains("failed to get domain") => Ok("off".to_owned()),
            Err(other) => Err(other),
            Ok(state) => Err(state),
        })
        .await
}

/// Long enough for a guest that counts seconds on an emulated processor.
pub(super) const A_WHILE: Duration = Duration::from_secs(120);
