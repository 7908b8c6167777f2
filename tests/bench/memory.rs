//! Resident memory: of the host agent with nothing to do and with a node full of small guests, and
//! of the guest agents inside a guest, read over its serial console.

use std::fs;
use std::path::Path;
use std::time::Duration;

use ostler_tests::console::{Console, Session};
use ostler_tests::guest_image::{Mode, ROOT};
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::services::SYSTEM;

use crate::echo;
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::{Booted, Lab, PATIENCE, Stand};
use crate::starts::Arrival;

/// Looks at a process that agree before it counts as settled.
const STEADY: usize = 5;

/// What a process keeps in memory, KiB.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Resident {
    /// Everything mapped and present.
    rss: f64,
    /// The same, what is shared divided by its users.
    pss: f64,
}

/// Look at all of them.
///
/// # Errors
/// If a guest does not come up, or a process is gone.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut section = Section::new("Resident memory");
    hosts(lab, &mut section).await?;
    guests(lab, &mut section).await?;
    section.note("PSS divides what is shared among those who share it");
    section
        .note("the bare echo runs on one thread, and has tokio, lapin and libvirt's library in it");
    Ok(section)
}

async fn hosts(lab: &Lab, section: &mut Section) -> Result<()> {
    let mut stand = Stand::open(lab, &[Mode::Ostler]).await?;
    let place = Place::new("memory")?;
    let path = place.join("echo.sock");
    let mut arrival = Arrival::of(place.path())?;
    let mut floor = echo::on_socket(&path, 100, &place.join("echo.log"))?;
    drop(arrival.connected(&path, || floor.check()).await?);
    let pid = stand.agent.pid().unwrap_or_default();

    let floor_has = settled(floor.pid()).await?;
    let idle = settled(pid).await?;
    crate::tell(&format!("booting {} instances", lab.settings.instances));
    stand.boot_many(Mode::Ostler, lab.settings.instances).await?;
    let full = settled(pid).await?;
    let count = lab.settings.instances as f64;

    let kib = Unit::Kibibytes;
    let of = floor_has.named().into_iter().zip(idle.named()).zip(full.named());
    for (((name, floor), (_, idle)), (_, full)) in of {
        let (floor, before) = (Series::one(floor), Series::one(idle));
        let line = Line::new(format!("host agent, no instances, {name}"), kib, &before);
        section.line(line.against("bare echo", &floor));
        let what = format!("host agent, {count} instances, {name}");
        let line = Line::new(what, kib, &Series::one(full));
        section.line(line.against("itself, no instances", &before));
        let each = Series::one((full - idle) / count);
        section.line(Line::new(format!("  for each instance, {name}"), kib, &each));
    }
    stand.close(lab).await
}

impl Resident {
    /// Both, by their names.
    pub(crate) fn named(self) -> [(&'static str, f64); 2] {
        [("RSS", self.rss), ("PSS", self.pss)]
    }
}

/// What a process has once it has stopped growing.
///
/// # Errors
/// If it is gone, or grows on.
pub(crate) async fn settled(pid: u32) -> Result<Resident> {
    let mut last = Resident::default();
    let mut same = 0;
    poll::until("a process stops growing", Duration::from_secs(30), async || {
        let now = of_process(pid).map_err(|error| error.told())?;
        same = if now.rss <= last.rss * 1.001 { same + 1 } else { 0 };
        last = now;
        if same >= STEADY { Ok(now) } else { Err(format!("{now:?}")) }
    })
    .await
    .map_err(Error::from)
}

fn of_process(pid: u32) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(Path::new(&path)).map_err(Error::io(path))?;
    read(&text)
}

/// From `smaps_rollup`.
fn read(text: &str) -> Result<Resident> {
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<f64>().ok())
            .ok_or_else(|| Error::Garbled { what: "smaps_rollup", text: text.to_owned() })
    };
    Ok(Resident { rss: field("Rss:")?, pss: field("Pss:")? })
}

async fn guests(lab: &Lab, section: &mut Section) -> Result<()> {
    crate::tell("looking into two guests");
    let mut stand = Stand::open(lab, &[Mode::Ostler, Mode::QemuGa]).await?;
    let ours = stand.boot(Mode::Ostler).await?;
    let stock = stand.boot(Mode::QemuGa).await?;
    stand.ready(ours.id).await?;
    let (mut ours, mut stock) = (shell(&ours).await?, shell(&stock).await?);
    let our_memory = inside(&mut ours, "ostler-guest-agent").await?;
    let stock_memory = inside(&mut stock, "qemu-ga").await?;
    crate::tell("leaving their agents alone");
    stand.stop_agent().await?;
    let waking = tokio::try_join!(
        wake_ups(&mut ours, "pidof ostler-guest-agent"),
        wake_ups(&mut stock, SECOND)
    );
    stand.start_agent().await?;
    let (our_waking, stock_waking) = waking?;
    stand.close(lab).await?;
    let what = "guest agent, wake-ups a minute, the host away";
    let line = Line::new(what, Unit::Count, &Series::one(our_waking));
    section.line(line.against("qemu-ga, the same", &Series::one(stock_waking)).goal(0.5));
    for ((name, ours), (_, stock)) in our_memory.named().into_iter().zip(stock_memory.named()) {
        let what = format!("guest agent, in its guest, {name}");
        let line = Line::new(what, Unit::Kibibytes, &Series::one(ours));
        section.line(line.against("qemu-ga, in its guest", &Series::one(stock)));
    }
    Ok(())
}

/// How long an agent is left alone.
const WINDOW: u32 = 30;
/// A stock agent on the port whose host side is closed while the host agent is stopped.
const SECOND: &str = "mkdir -p /run/second; qemu-ga -m virtio-serial \
    -p /dev/virtio-ports/org.ostler.guest.0 -t /run/second -f /run/second/pid \
    >/dev/null 2>&1 & echo $!";

/// A root shell in a guest.
async fn shell(booted: &Booted) -> Result<Session> {
    let console = Console::of_domain(SYSTEM, &booted.domain()).await?;
    Ok(console.login(ROOT.user, ROOT.password).await?.session()?)
}

/// How often an agent wakes up in a minute: the one whose process id `who` tells.
async fn wake_ups(session: &mut Session, who: &str) -> Result<f64> {
    let pid = session.run(who).await?.text.trim().to_owned();
    let count = format!(
        "cat /proc/{pid}/task/*/status | awk '/^voluntary/ {{ n += $2 }} END {{ print n }}'"
    );
    // it has started, and is not asked meanwhile
    let line = format!("sleep 2; {count}; sleep {WINDOW}; {count}");
    let text = session.run_for(&line, PATIENCE).await?.text;
    let counts: Vec<f64> = text.split_whitespace().map_while(|word| word.parse().ok()).collect();
    let [before, after] = counts[..] else {
        return Err(Error::Garbled { what: "a count of wake-ups", text });
    };
    Ok((after - before) * 60.0 / f64::from(WINDOW))
}

/// What a program has in a guest.
async fn inside(session: &mut Session, program: &str) -> Result<Resident> {
    let line = format!("cat /proc/$(pidof {program} | cut -d ' ' -f 1)/smaps_rollup");
    let until = std::time::Instant::now() + PATIENCE;
    loop {
        let ran = session.run(&line).await?;
        match read(&ran.text) {
            Ok(resident) if ran.code == 0 => return Ok(resident),
            Ok(_) | Err(_) if std::time::Instant::now() < until => {}
            Ok(_) => return Err(Error::Nothing { what: format!("{program} in its guest") }),
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rss_and_pss_are_told_apart() {
        let text = "55e0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:    1234 kB\nPss:     567 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(read(text).unwrap(), Resident { rss: 1234.0, pss: 567.0 });
    }
}
