//! A boot: from accepted to running against libvirt alone, from accepted to a guest that answers
//! against QEMU alone.
//!
//! Ours is timed by the operation's own timestamps and by events, which have milliseconds; the clock
//! of the rest is the same machine's.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ostler_tests::guest_image::Mode;
use ostler_tests::services::SYSTEM;
use serde_json::Value;
use virt::connect::Connect;

use crate::by_hand::Template;
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::{Booted, Lab, News, Stand};

/// All that is measured of boots.
#[derive(Debug, Default)]
struct Boots {
    running: Series,
    finished: Series,
    ready: Series,
    steps: Vec<(String, Series)>,
    virsh: Series,
    virsh_ready: Series,
    api: Series,
    qemu_ready: Series,
}

/// Boot, in turn, by all means.
///
/// # Errors
/// If one of them does not.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut stand = Stand::open(lab, &[Mode::Ostler]).await?;
    let mut news = stand.guest_events().await?;
    let libvirt = open_libvirt(SYSTEM)?;
    // the warm-up, which is also what the others boot
    let first = stand.boot(Mode::Ostler).await?;
    news.ready(first.id).await?;
    let template = Template::of(&stand, &first).await?;
    stand.delete(first.id).await?;

    let mut boots = Boots::default();
    crate::tell("starting domains");
    for turn in 0..lab.settings.runs {
        // nobody always comes after the same one
        for kind in 0..3 {
            match (turn + kind) % 3 {
                0 => boots.run_ours(&mut stand).await?,
                1 => boots.run_virsh(&template).await?,
                _ => boots.run_api(&template, &libvirt).await?,
            }
        }
    }
    for turn in 0..lab.settings.boots {
        crate::tell(&format!("boot {} of {}", turn + 1, lab.settings.boots));
        for kind in 0..3 {
            match (turn + kind) % 3 {
                0 => boots.boot_ours(&mut stand, &mut news).await?,
                1 => boots.boot_virsh(&template).await?,
                _ => boots.boot_qemu(&template).await?,
            }
        }
    }
    drop(template);
    let host = stand.call("host.show", Value::Null).await?;
    stand.close(lab).await?;
    let mut section = boots.section();
    let virt_type = host["virt_type"].as_str().unwrap_or("something unknown");
    section.note(format!("guests run on {virt_type}"));
    Ok(section)
}

/// A connection of the bench's own to this libvirtd.
///
/// # Errors
/// If libvirt does not answer.
#[expect(clippy::disallowed_methods, reason = "what libvirt takes by itself is measured here")]
pub(crate) fn open_libvirt(uri: &str) -> Result<Connect> {
    virt::error::clear_error_callback();
    tokio::task::block_in_place(|| Connect::open(Some(uri))).map_err(Error::libvirt("connecting"))
}

impl Boots {
    /// Ours until the domain runs.
    async fn run_ours(&mut self, stand: &mut Stand) -> Result<()> {
        let Booted { id, operation } = stand.boot(Mode::Ostler).await?;
        let accepted = stamp(&operation, "accepted")?;
        let steps = operation["steps"].as_array().cloned().unwrap_or_default();
        let last = steps.last().unwrap_or(&Value::Null);
        self.running.push(stamp(last, "finished")? - accepted);
        self.finished.push(stamp(&operation, "finished")? - accepted);
        for step in &steps {
            let name = step["name"].as_str().unwrap_or_default();
            let took = stamp(step, "finished")? - stamp(step, "started")?;
            match self.steps.iter_mut().find(|(known, _)| known == name) {
                Some((_, series)) => series.push(took),
                None => self.steps.push((name.to_owned(), Series::one(took))),
            }
        }
        stand.delete(id).await
    }

    /// `virsh create` until it returns.
    async fn run_virsh(&mut self, template: &Template) -> Result<()> {
        let machine = template.machine().await?;
        let file = machine.file()?;
        let begun = Instant::now();
        let domain = machine.virsh_create(&file).await?;
        self.virsh.took(begun.elapsed());
        tokio::task::block_in_place(|| drop(domain));
        Ok(())
    }

    /// libvirt's call until it returns.
    async fn run_api(&mut self, template: &Template, libvirt: &Connect) -> Result<()> {
        let machine = template.machine().await?;
        let xml = machine.xml();
        let begun = Instant::now();
        let domain = machine.api_create(libvirt, &xml)?;
        self.api.took(begun.elapsed());
        tokio::task::block_in_place(|| drop(domain));
        Ok(())
    }

    /// Ours until the guest is ready.
    async fn boot_ours(&mut self, stand: &mut Stand, news: &mut News) -> Result<()> {
        let Booted { id, operation } = stand.boot(Mode::Ostler).await?;
        news.ready(id).await?;
        self.ready.push(now() - stamp(&operation, "accepted")?);
        stand.delete(id).await
    }

    /// `virsh create` until the guest is ready.
    async fn boot_virsh(&mut self, template: &Template) -> Result<()> {
        let machine = template.machine().await?;
        let file = machine.file()?;
        let begun = Instant::now();
        let domain = machine.virsh_create(&file).await?;
        machine.ready().await?;
        self.virsh_ready.took(begun.elapsed());
        tokio::task::block_in_place(|| drop(domain));
        Ok(())
    }

    /// QEMU by hand until the guest is ready.
    async fn boot_qemu(&mut self, template: &Template) -> Result<()> {
        let machine = template.machine().await?;
        let begun = Instant::now();
        let qemu = machine.run_by_hand().await?;
        self.qemu_ready.took(begun.elapsed());
        tokio::task::block_in_place(|| drop(qemu));
        Ok(())
    }

    fn section(self) -> Section {
        let mut section = Section::new("Boot of an instance");
        let ms = Unit::Milliseconds;
        let running = Line::new("accepted -> domain running", ms, &self.running);
        section.line(running.clone().against("virsh create, same XML", &self.virsh).goal(1.15));
        section.line(running.against("libvirt's call alone, same XML", &self.api));
        section.line(Line::new("accepted -> operation over", ms, &self.finished));
        let ready = Line::new("accepted -> guest ready", ms, &self.ready);
        section
            .line(ready.clone().against("QEMU by hand, same devices", &self.qemu_ready).goal(1.05));
        section.line(ready.against("virsh create, same XML", &self.virsh_ready));
        let libvirts = Line::new("  virsh create -> guest ready", ms, &self.virsh_ready);
        section.line(libvirts.against("QEMU by hand, same devices", &self.qemu_ready));
        for (name, series) in &self.steps {
            section.line(Line::new(format!("  step: {name}"), ms, series));
        }
        section.note("the peers' disks are made beforehand; ours is made within the time");
        section.note("what libvirt alone takes longer than QEMU by hand is in ours too");
        section.note("ours is seen by an event through the broker, the peers' by the port itself");
        section
    }
}

/// A timestamp of the agent's, milliseconds since the epoch.
fn stamp(value: &Value, name: &str) -> Result<f64> {
    value[name]
        .as_f64()
        .ok_or_else(|| Error::Garbled { what: "a timestamp", text: value.to_string() })
}

fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    since.as_secs_f64() * 1000.0
}
