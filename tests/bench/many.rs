//! A node with many instances: what it holds in memory, how long a start takes until it knows how
//! all of them are, and a list of all of them.
//!
//! They are domains that are defined and do not run, as the agent defines them, on a libvirtd of
//! their own; an agent that is told to adopt what its journal does not know takes them up. What
//! each that runs needs beside that is in `memory`.

use std::time::Instant;

use ostler_tests::guest_image::Mode;
use ostler_tests::place::Place;
use ostler_tests::poll;
use ostler_tests::services::OwnLibvirt;
use serde_json::{Value, json};
use uuid::Uuid;
use virt::connect::Connect;
use virt::sys;

use crate::boot::open_libvirt;
use crate::echo;
use crate::error::{Error, Result};
use crate::figures::Series;
use crate::memory::settled;
use crate::reads::Lines;
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, PATIENCE, Stand};
use crate::starts::{Arrival, PING, first_answer};

/// Instances when memory is looked at.
const SOME: usize = 200;
/// Starts with all of them.
const STARTS: usize = 7;
/// Lists of all of them.
const LISTS: usize = 100;
/// Where a domain carries the agent's record.
const NAMESPACE: &str = "urn:ostler:instance:1";

/// Define, adopt, start and list.
///
/// # Errors
/// If the agent does not take them up.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let own = OwnLibvirt::start().await?;
    let adopt = "[instances]\norphans = \"adopt\"\n";
    let mut stand = Stand::open_on(lab, &[Mode::None], own.uri(), adopt).await?;
    let booted = stand.boot(Mode::None).await?;
    let stop = json!({"id": booted.id, "manner": "hard"});
    stand.change("instance.stop", stop).await?;
    let libvirt = open_libvirt(own.uri())?;
    let xml = tokio::task::block_in_place(|| {
        let domain = libvirt.lookup_domain_by_name(&booted.domain())?;
        domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE)
    });
    let xml = xml.map_err(Error::libvirt("reading a definition"))?;
    let shown = stand.call("instance.show", json!({"id": booted.id})).await?;
    let port = &shown["ports"][0];
    let of = Own::new(booted.id, text(port, "id")?, text(port, "mac")?);
    let mut many = Many { stand, libvirt, xml, of, ids: vec![booted.id] };
    let mut section = Section::new("Many instances, defined and not running");

    // started anew, as with many: a boot leaves memory behind
    many.stand.stop_agent().await?;
    many.stand.start_agent().await?;
    many.all_known().await?;
    let one = settled(many.pid()).await?;
    let some = SOME.min(lab.settings.defined);
    crate::tell(&format!("defining {some} instances"));
    many.grow_to(some).await?;
    let with_some = settled(many.pid()).await?;
    let count = lab.settings.defined;
    crate::tell(&format!("defining {count} instances"));
    many.grow_to(count).await?;
    many.starts(&mut section).await?;
    many.lists(&mut section).await?;
    let with_all = settled(many.pid()).await?;
    for (count, has) in [(some, with_some), (count, with_all)] {
        for ((name, kib), (_, one)) in has.named().into_iter().zip(one.named()) {
            let what = format!("host agent, {count} instances, {name}");
            let line = Line::new(what, Unit::Kibibytes, &Series::one(kib));
            section.line(line.against("itself, with one", &Series::one(one)));
        }
    }
    many.forget()?;
    let mut stand = many.stand;
    stand.stop_agent().await?;
    lab.broker.forget_host(stand.agent.host()).await?;
    section
        .note("beside a start: one connection lists all domains and asks each for state and mark");
    section.note("all known: the agent tells the power state of the last of them");
    Ok(section)
}

/// What is one instance's own in its definition.
struct Own {
    id: String,
    port: String,
    mac: String,
    tap: String,
}

impl Own {
    fn new(id: Uuid, port: String, mac: String) -> Self {
        let digits: String = port.chars().filter(char::is_ascii_hexdigit).take(11).collect();
        Self { id: id.to_string(), port, mac, tap: format!("tap{digits}") }
    }

    /// The definition of another, made this one's.
    fn instead_of(&self, other: &Self, xml: &str) -> String {
        xml.replace(&other.id, &self.id)
            .replace(&other.port, &self.port)
            .replace(&other.mac, &self.mac)
            .replace(&other.tap, &self.tap)
    }
}

fn text(of: &Value, name: &str) -> Result<String> {
    let text = of[name].as_str().map(str::to_owned);
    text.ok_or_else(|| Error::Garbled { what: "a port", text: of.to_string() })
}

/// The node that has many.
struct Many {
    stand: Stand,
    libvirt: Connect,
    /// The definition all of them have, but for what is each one's own.
    xml: String,
    of: Own,
    ids: Vec<Uuid>,
}

impl Many {
    fn pid(&self) -> u32 {
        self.stand.agent.pid().unwrap_or_default()
    }

    /// Define more until there are so many, and have the agent adopt them.
    async fn grow_to(&mut self, count: usize) -> Result<()> {
        while self.ids.len() < count {
            let (id, port) = (Uuid::new_v4(), Uuid::new_v4());
            let [.., a, b, c] = port.into_bytes();
            let own = Own::new(id, port.to_string(), format!("52:54:00:{a:02x}:{b:02x}:{c:02x}"));
            let xml = own.instead_of(&self.of, &self.xml);
            tokio::task::block_in_place(|| self.libvirt.define_domain_xml(&xml))
                .map_err(Error::libvirt("defining a domain"))?;
            self.ids.push(id);
        }
        self.stand.stop_agent().await?;
        self.stand.start_agent().await?;
        let (stand, ids) = (&mut self.stand, &self.ids);
        poll::until("all are adopted", PATIENCE, async || {
            let counted = stand.call("host.show", Value::Null).await;
            let host = counted.map_err(|error| error.told())?;
            let counts = host["instances"].as_object().cloned().unwrap_or_default();
            let known: u64 = counts.values().filter_map(Value::as_u64).sum();
            if known == ids.len() as u64 { Ok(()) } else { Err(host.to_string()) }
        })
        .await?;
        // once more, so that they are its own and not just adopted
        self.stand.stop_agent().await?;
        self.stand.start_agent().await?;
        self.all_known().await
    }

    /// Wait until the power state of the last of them is known: they are seen to by their ids.
    async fn all_known(&mut self) -> Result<()> {
        let last = self.ids.iter().max().copied();
        let stand = &mut self.stand;
        poll::until("all power states are known", PATIENCE, async || {
            let shown = stand.call("instance.show", json!({"id": last})).await;
            let shown = shown.map_err(|error| error.told())?;
            let power = shown["power_state"].as_str().unwrap_or_default();
            if power == "shutdown" { Ok(()) } else { Err(power.to_owned()) }
        })
        .await
        .map_err(Error::from)
    }

    /// From exec until all are known, beside the same questions asked of libvirt by nobody else.
    async fn starts(&mut self, section: &mut Section) -> Result<()> {
        crate::tell("starts with all of them");
        let (mut known, mut answered, mut bare) = Default::default();
        for turn in 0..=STARTS {
            self.stand.stop_agent().await?;
            let socket = self.stand.agent.socket();
            // left by a stop, it would be connected to in vain
            let _gone = std::fs::remove_file(&socket);
            let mut arrival = Arrival::of(&self.stand.agent.run_dir())?;
            let begun = Instant::now();
            self.stand.agent.launch()?;
            let stream = arrival.connected(&socket, || Ok(())).await?;
            first_answer(stream, PING).await?;
            let first = begun.elapsed();
            self.stand.connect().await?;
            self.all_known().await?;
            let all = begun.elapsed();
            let begun = Instant::now();
            self.ask_libvirt()?;
            let asked = begun.elapsed();
            // the first warms up
            if turn > 0 {
                for (series, took) in
                    [(&mut answered, first), (&mut known, all), (&mut bare, asked)]
                {
                    Series::took(series, took);
                }
            }
        }
        let count = self.ids.len();
        let ms = Unit::Milliseconds;
        let line = Line::new(format!("{count} instances: exec -> host.ping"), ms, &answered);
        section.line(line);
        let line = Line::new(format!("{count} instances: exec -> all known"), ms, &known);
        section.line(line.against("libvirt's answers alone", &bare));
        Ok(())
    }

    /// What a reconciliation has to know, on one connection.
    fn ask_libvirt(&self) -> Result<()> {
        tokio::task::block_in_place(|| {
            for domain in self.libvirt.list_all_domains(0)? {
                domain.state()?;
                let kind = sys::VIR_DOMAIN_METADATA_ELEMENT as i32;
                domain.metadata(kind, Some(NAMESPACE), 0)?;
            }
            Ok(())
        })
        .map_err(Error::libvirt("asking about all domains"))
    }

    /// `instance.list` beside an echo that answers with as many bytes.
    async fn lists(&mut self, section: &mut Section) -> Result<()> {
        crate::tell("lists of all of them");
        let place = Place::new("many")?;
        let request = json!({"jsonrpc": "2.0", "id": "1", "method": "instance.list"});
        let line = format!("{request}\n");
        let mut ours = Lines::connect(&self.stand.agent.socket()).await?;
        let answer = ours.ask(&line).await?;
        let listed: Value = serde_json::from_str(&answer).unwrap_or_default();
        let count = listed["result"].as_array().map_or(0, Vec::len);
        if count != self.ids.len() {
            return Err(Error::Garbled { what: "the list", text: format!("{count} instances") });
        }
        let path = place.join("echo.sock");
        let mut arrival = Arrival::of(place.path())?;
        let mut echo = echo::on_socket(&path, answer.len(), &place.join("echo.log"))?;
        let mut peer = Lines::over(arrival.connected(&path, || echo.check()).await?);
        let (mut times, mut floor) = (Series::default(), Series::default());
        for _ in 0..LISTS {
            times.took(ours.timed(&line).await?);
            floor.took(peer.timed(&line).await?);
        }
        let what = format!("list of {count} over the socket, {} KiB", answer.len() / 1024);
        let line = Line::new(what, Unit::Milliseconds, &times);
        section.line(line.against("an echo of as many bytes", &floor));
        Ok(())
    }

    /// Take the definitions away.
    fn forget(&self) -> Result<()> {
        tokio::task::block_in_place(|| {
            for domain in self.libvirt.list_all_domains(0)? {
                domain.undefine()?;
            }
            Ok(())
        })
        .map_err(Error::libvirt("undefining all domains"))
    }
}
