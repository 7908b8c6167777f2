//! Every operation beside the libvirt calls it consists of: ours from the request on the socket until
//! `operation.wait` says that it is over, theirs on an open connection, on a twin of the machine.
//!
//! What the agent does beside libvirt is in ours alone: the journal's commits, the disk of a boot or
//! rebuild, bridges, the hash of a snapshot. That is the overhead.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::services::SYSTEM;
use serde_json::{Value, json};
use virt::connect::Connect;
use virt::domain::Domain;

use crate::boot::open_libvirt;
use crate::by_hand::{Machine, Template};
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, PATIENCE, Stand, virsh};

/// What is done to each machine, in this order, and the calls of libvirt's beside it.
const VERBS: [(&str, &str); 11] = [
    ("boot", "define, create"),
    ("pause", "suspend"),
    ("unpause", "resume, set the guest's time"),
    ("suspend", "managed save"),
    ("resume", "create, set the guest's time"),
    ("snapshot", "freeze, begin a backup, thaw, until its job is over"),
    ("reboot, hard", "destroy, define, create"),
    ("stop, hard", "destroy"),
    ("start", "define, create"),
    ("rebuild", "destroy, define, create"),
    ("delete", "destroy, undefine"),
];

/// The times of each verb, in the order of [`VERBS`].
type Times = [Series; VERBS.len()];

/// Do all of it, again and again, in turn.
///
/// # Errors
/// If something is refused.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut stand = Stand::open(lab, &[Mode::Ostler]).await?;
    let libvirt = open_libvirt(SYSTEM)?;
    let first = stand.boot(Mode::Ostler).await?;
    stand.ready(first.id).await?;
    let template = Template::of(&stand, &first).await?;
    stand.delete(first.id).await?;
    let (mut ours, mut theirs) = (Times::default(), Times::default());
    for turn in 0..lab.settings.cycles {
        crate::tell(&format!("all operations, {} of {}", turn + 1, lab.settings.cycles));
        // nobody always comes after the other
        for kind in 0..2 {
            match (turn + kind) % 2 {
                0 => by_us(&mut stand, &mut ours).await?,
                _ => by_libvirt(&template, &libvirt, &mut theirs).await?,
            }
        }
    }
    drop(template);
    stand.close(lab).await?;
    let mut section = Section::new("Every operation, beside libvirt's own calls");
    for (((verb, calls), ours), theirs) in VERBS.iter().zip(&ours).zip(&theirs) {
        let line = Line::new(*verb, Unit::Milliseconds, ours);
        section.line(line.against(*calls, theirs));
    }
    section.note("ours: from the request on the socket to the end of operation.wait");
    section.note("ours alone: commits of the journal, disks, bridges, the hash of a snapshot");
    Ok(section)
}

/// A machine's life by the agent.
async fn by_us(stand: &mut Stand, times: &mut Times) -> Result<()> {
    let [boot, pause, unpause, suspend, resume, snapshot, reboot, stop, start, rebuild, delete] =
        times;
    let begun = Instant::now();
    let id = stand.boot(Mode::Ostler).await?.id;
    boot.took(begun.elapsed());
    stand.ready(id).await?;
    let it = json!({"id": id});
    for (series, method) in [
        (pause, "instance.pause"),
        (unpause, "instance.unpause"),
        (suspend, "instance.suspend"),
        (resume, "instance.resume"),
    ] {
        change(stand, series, method, it.clone()).await?;
    }
    stand.ready(id).await?;
    let image = format!("snapshot-{}", id.simple());
    change(stand, snapshot, "instance.snapshot", json!({"id": id, "name": image})).await?;
    let hard = json!({"id": id, "manner": "hard"});
    change(stand, reboot, "instance.reboot", hard.clone()).await?;
    change(stand, stop, "instance.stop", hard).await?;
    change(stand, start, "instance.start", it).await?;
    let rebuilt = json!({"id": id, "image": Mode::Ostler.word()});
    change(stand, rebuild, "instance.rebuild", rebuilt).await?;
    let begun = Instant::now();
    stand.delete(id).await?;
    delete.took(begun.elapsed());
    stand.change("image.remove", json!({"name": image})).await.map(drop)
}

async fn change(stand: &mut Stand, series: &mut Series, method: &str, params: Value) -> Result<()> {
    let begun = Instant::now();
    stand.change(method, params).await?;
    series.took(begun.elapsed());
    Ok(())
}

/// The same life by libvirt alone.
async fn by_libvirt(template: &Template, libvirt: &Connect, times: &mut Times) -> Result<()> {
    let [boot, pause, unpause, suspend, resume, snapshot, reboot, stop, start, rebuild, delete] =
        times;
    let machine = template.machine().await?;
    let xml = machine.xml();
    let _gone = machine.domain();
    let run = || {
        let domain = libvirt.define_domain_xml(&xml)?;
        domain.create()?;
        Ok(domain)
    };
    let domain = called(boot, run)?;
    machine.ready().await?;
    // libvirt's own port of the guest is served a moment later
    answers(&domain).await?;
    called(pause, || domain.suspend())?;
    called(unpause, || domain.resume().and_then(|()| set_time(&domain)))?;
    called(suspend, || domain.managed_save(0).map(drop))?;
    // libvirt has to see first that the port is open in the guest; that is not counted
    let begun = Instant::now();
    tokio::task::block_in_place(|| domain.create()).map_err(Error::libvirt("a resume"))?;
    let restored = begun.elapsed();
    answers(&domain).await?;
    let begun = Instant::now();
    tokio::task::block_in_place(|| set_time(&domain)).map_err(Error::libvirt("a resume"))?;
    resume.took(restored + begun.elapsed());
    snapshot.took(backup(&domain, &machine).await?);
    called(reboot, || domain.destroy().and_then(|()| run().map(drop)))?;
    called(stop, || domain.destroy())?;
    called(start, || run().map(drop))?;
    called(rebuild, || domain.destroy().and_then(|()| run().map(drop)))?;
    called(delete, || domain.destroy().and_then(|()| domain.undefine()))?;
    Ok(())
}

/// Wait until the guest's agent answers libvirt.
async fn answers(domain: &Domain) -> Result<()> {
    let ping = r#"{"execute":"guest-ping"}"#;
    poll::until("the guest's agent answers libvirt", PATIENCE, async || {
        let answer = tokio::task::block_in_place(|| domain.qemu_agent_command(ping, 10, 0));
        answer.map(drop).map_err(|error| error.to_string())
    })
    .await
    .map_err(Error::from)
}

/// Time calls of libvirt's.
fn called<T>(
    series: &mut Series,
    calls: impl FnOnce() -> std::result::Result<T, virt::error::Error>,
) -> Result<T> {
    let begun = Instant::now();
    let done = tokio::task::block_in_place(calls).map_err(Error::libvirt("an operation"))?;
    series.took(begun.elapsed());
    Ok(done)
}

fn set_time(domain: &Domain) -> std::result::Result<(), virt::error::Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    domain.set_time(now.as_secs() as i64, now.subsec_nanos() as i32, 0).map(drop)
}

/// A copy of the disk while the machine runs. The `virt` crate does not know backups, so they are
/// begun by virsh, whose own start is taken off.
async fn backup(domain: &Domain, machine: &Machine<'_>) -> Result<Duration> {
    let name = format!("ostler-{}", machine.id());
    let to = machine.folder().join("copy.qcow2");
    let wish = machine.folder().join("backup.xml");
    let text = format!(
        "<domainbackup mode='push'><disks><disk name='vda' backup='yes' type='file'>\
         <target file='{}'/><driver type='qcow2'/></disk></disks></domainbackup>",
        to.display()
    );
    fs::write(&wish, text).map_err(Error::io("writing a backup's XML"))?;
    let begun = Instant::now();
    virsh(&["version"]).await?;
    let virsh_itself = begun.elapsed();
    let agent = |command: &str| {
        let line = format!("{{\"execute\":\"{command}\"}}");
        tokio::task::block_in_place(|| domain.qemu_agent_command(&line, 10, 0))
            .map_err(Error::libvirt("freezing the guest"))
    };
    let begun = Instant::now();
    agent("guest-fsfreeze-freeze")?;
    virsh(&["backup-begin", &name, &wish.to_string_lossy()]).await?;
    agent("guest-fsfreeze-thaw")?;
    poll::until("the backup is over", PATIENCE, async || {
        let job = tokio::task::block_in_place(|| domain.job_info());
        let job = job.map_err(|error| error.to_string())?;
        if job.r#type == NO_JOB { Ok(()) } else { Err(format!("{job:?}")) }
    })
    .await?;
    Ok(begun.elapsed().saturating_sub(virsh_itself))
}

/// libvirt's word for having no job.
const NO_JOB: i32 = 0;
