//! What one stuck thing does to the others: the same questions and changes with it and without it,
//! round by round in turn. And without it once more: what two rounds differ by when nothing does is
//! in no number of one run, and the tails of a busy machine differ by a lot.
//!
//! ```text
//!   without: ask, ask, ... │ with: ask, ask, ... │ again: ask, ask, ... │ without ...
//!                          └ trouble made        └ and unmade, waited for
//! ```

use std::time::Instant;

use ostler_tests::guest_image::Mode;
use ostler_tests::poll;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::figures::Series;
use crate::reads::{Asker, Target, pong, request};
use crate::report::{Line, Section, Unit};
use crate::stand::{Lab, PATIENCE, Stand};
use crate::trouble::Trouble;

/// Of each kind, in a round with or without trouble. A hung call of libvirt's is given up after a
/// minute, so a round is to be over by then.
const PINGS: usize = 200;
const SHOWS: usize = 1000;
const LOOKS: usize = 100;
const QUESTIONS: usize = 200;
const UPDATES: usize = 30;

/// How far a 99th percentile may move.
const GOAL: f64 = 1.1;

/// What is asked of those that are not in trouble.
const KINDS: [&str; 5] = [
    "host.ping, broker",
    "instance.show, socket",
    "instance.diagnostics, neighbour",
    "guest.time, neighbour",
    "instance.update, neighbour",
];

type Times = [Series; KINDS.len()];

/// Make each trouble, again and again.
///
/// # Errors
/// If somebody who is not in trouble does not answer.
pub(crate) async fn measure(lab: &Lab) -> Result<Section> {
    let mut stand = Stand::open(lab, &[Mode::Ostler]).await?;
    let neighbour = stand.boot(Mode::Ostler).await?.id;
    let victim = stand.boot(Mode::Ostler).await?.id;
    stand.ready(neighbour).await?;
    stand.ready(victim).await?;
    let mut well = Well {
        asker: Asker::connect(lab.broker.uri()).await?,
        host: Target::host(stand.agent.host()),
        request: request(),
        neighbour,
    };
    let mut section = Section::new("Isolation: others, with one thing stuck, beside without it");
    // warm up
    well.round(&mut stand, &mut Times::default()).await?;
    for trouble in Trouble::ALL {
        let (mut with, mut without, mut again): (Times, Times, Times) = Default::default();
        for round in 0..lab.settings.rounds {
            crate::tell(&format!("{}, {} of {}", trouble.name(), round + 1, lab.settings.rounds));
            well.round(&mut stand, &mut without).await?;
            let stuck = trouble.begin(&mut stand, victim).await?;
            well.round(&mut stand, &mut with).await?;
            stuck.end(&mut stand).await?;
            recovered(&mut stand, victim).await?;
            well.round(&mut stand, &mut again).await?;
        }
        for (at, kind) in KINDS.iter().enumerate() {
            let ms = Unit::Milliseconds;
            let line = Line::new(format!("{}: {kind}", trouble.name()), ms, &with[at]);
            section.line(line.against("without it", &without[at]).tail_goal(GOAL));
            let line = Line::new("  once more without it", ms, &again[at]);
            section.line(line.against("without it", &without[at]));
        }
    }
    stand.close(lab).await?;
    section
        .note("diagnostics are libvirt's and QEMU's, guest.time is the guest's over Ostler's port");
    section.note("an update is an operation: commits of the journal, and libvirt's metadata");
    section
        .note("a ratio counts as far as it exceeds that of once more without it: that is chance");
    Ok(section)
}

/// Wait until the victim is as it was.
async fn recovered(stand: &mut Stand, victim: Uuid) -> Result<()> {
    poll::until("the victim is itself again", PATIENCE, async || {
        let shown = stand.call("instance.show", json!({"id": victim})).await;
        let shown = shown.map_err(|error| error.told())?;
        let well = shown["status"] == "ACTIVE"
            && shown["power_state"] == "running"
            && shown["guest"]["state"] == "ready";
        if well { Ok(()) } else { Err(shown.to_string()) }
    })
    .await
    .map_err(Error::from)
}

/// Those that are not in trouble.
struct Well {
    asker: Asker,
    host: Target,
    request: String,
    neighbour: Uuid,
}

impl Well {
    async fn round(&mut self, stand: &mut Stand, times: &mut Times) -> Result<()> {
        let [pings, shows, looks, questions, updates] = times;
        for _ in 0..PINGS {
            let begun = Instant::now();
            let answer = self.asker.ask(&self.host, &self.request).await?;
            pings.took(begun.elapsed());
            pong(&answer)?;
        }
        let it = json!({"id": self.neighbour});
        for (series, method, count) in [
            (shows, "instance.show", SHOWS),
            (looks, "instance.diagnostics", LOOKS),
            (questions, "guest.time", QUESTIONS),
        ] {
            for _ in 0..count {
                let begun = Instant::now();
                let _answer: Value = stand.call(method, it.clone()).await?;
                series.took(begun.elapsed());
            }
        }
        for turn in 0..UPDATES {
            let update = json!({"id": self.neighbour, "metadata": {"turn": turn.to_string()}});
            let begun = Instant::now();
            stand.change("instance.update", update).await?;
            updates.took(begun.elapsed());
        }
        Ok(())
    }
}
