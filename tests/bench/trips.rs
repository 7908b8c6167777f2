//! A question to the guest and its answer: `guest-ping` over Ostler's port, over libvirt's path to our
//! agent, and over libvirt's path to the stock one.
//!
//! The host agent is stopped meanwhile, so that the port is free and nobody else asks. Its guests go
//! on.

use std::time::{Duration, Instant};

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use ostler_tests::services::SYSTEM;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;
use uuid::Uuid;
use virt::domain::Domain;

use crate::boot::open_libvirt;
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, PATIENCE, Stand};

const PING: &str = "{\"execute\":\"guest-ping\"}";
/// libvirt's patience with the guest, seconds.
const ANSWER: i32 = 10;
/// One of so many is for warming up.
const WARM_UP: usize = 10;

/// Ask both guests on all ways.
///
/// # Errors
/// If one does not answer.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut stand = Stand::open(lab, &[Mode::Ostler, Mode::QemuGa]).await?;
    crate::tell("booting two guests to be asked");
    let ours = stand.boot(Mode::Ostler).await?;
    let stock = stand.boot(Mode::QemuGa).await?;
    stand.ready(ours.id).await?;
    stand.stop_agent().await?;
    let libvirt = open_libvirt(SYSTEM)?;
    let lookup = |name: String| {
        tokio::task::block_in_place(|| libvirt.lookup_domain_by_name(&name))
            .map_err(Error::libvirt("looking for a guest"))
    };
    let (our_domain, stock_domain) = (lookup(ours.domain())?, lookup(stock.domain())?);
    answers(&our_domain).await?;
    answers(&stock_domain).await?;
    let mut port = Port::open(&stand, ours.id).await?;

    crate::tell("asking");
    let mut times: [Series; 3] = Default::default();
    for turn in 0..lab.settings.questions + lab.settings.questions / WARM_UP {
        let took = [port.ping(turn).await?, through(&our_domain)?, through(&stock_domain)?];
        if turn >= lab.settings.questions / WARM_UP {
            for (series, took) in times.iter_mut().zip(took) {
                series.took(took);
            }
        }
    }
    drop(port);
    stand.start_agent().await?;
    stand.close(lab).await?;

    let [own, standard, stock] = times;
    let mut section = Section::new("A question to the guest: guest-ping, one at a time");
    let ms = Unit::Milliseconds;
    let line = Line::new("over Ostler's port", ms, &own);
    section.line(line.clone().against("libvirt's path, our agent", &standard));
    section.line(line.against("libvirt's path, qemu-ga", &stock));
    let line = Line::new("libvirt's path, our agent", ms, &standard);
    section.line(line.against("libvirt's path, qemu-ga", &stock));
    section
        .note("libvirt's path is one open connection; it sends a guest-sync before each command");
    Ok(section)
}

/// Wait until the agent behind libvirt's path answers.
async fn answers(domain: &Domain) -> Result<()> {
    poll::until("the guest's agent answers libvirt", PATIENCE, async || {
        through(domain).map(drop).map_err(|error| error.told())
    })
    .await
    .map_err(Error::from)
}

fn through(domain: &Domain) -> Result<Duration> {
    let begun = Instant::now();
    tokio::task::block_in_place(|| domain.qemu_agent_command(PING, ANSWER, 0))
        .map_err(Error::libvirt("asking the guest"))?;
    Ok(begun.elapsed())
}

/// Ostler's port of a guest.
struct Port(BufReader<UnixStream>);

impl Port {
    async fn open(stand: &Stand, id: Uuid) -> Result<Self> {
        let stream = UnixStream::connect(stand.port(id)).await;
        Ok(Self(BufReader::new(stream.map_err(Error::io("opening Ostler's port"))?)))
    }

    async fn ping(&mut self, id: usize) -> Result<Duration> {
        let question = format!("{{\"execute\":\"guest-ping\",\"id\":{id}}}\n");
        let begun = Instant::now();
        self.0.write_all(question.as_bytes()).await.map_err(Error::io("asking the guest"))?;
        let answered = async {
            loop {
                let mut line = String::new();
                let read = self.0.read_line(&mut line).await;
                let took = begun.elapsed();
                if read.map_err(Error::io("reading Ostler's port"))? == 0 {
                    return Err(Error::Nothing { what: "an answer of the guest".to_owned() });
                }
                // events come between
                let message: Value = serde_json::from_str(&line).unwrap_or_default();
                if message["id"] == id && message["return"].is_object() {
                    return Ok(took);
                }
            }
        };
        let late = |_| Error::Nothing { what: "an answer of the guest, in time,".to_owned() };
        timeout(PATIENCE, answered).await.map_err(late)?
    }
}
