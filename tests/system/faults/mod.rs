//! The fault bench: every step of every operation is cut off, by `kill -9` and by whatever else can
//! happen, and each time the operation has to be finished or undone, the instance in a stable
//! state, the user's data where they were, and nothing on the machine that the journal does not
//! know.
//!
//! ```text
//!   scenarios   for each kind of operation: what comes first, what is asked for, what must follow
//!   points      accepted, before and after each step, settling, settled; the same in an undo
//!   harm        full disks, dead QEMUs, cut wires, ... while the agent stands still before a step
//!   audit       the machine compared with the journal
//!   volumes     the same for volumes, and what they hold
//!   lane        a node to try that on; several at a time
//!   tally       what it came to
//! ```
//!
//! The steps are those of the accepted operation; `rpc.discover` tells all there are, and one that
//! was not cut off is an error. The ordinary test crashes each operation at all its points, one
//! after the other, in one go; `make faults` tries each point by itself, and all other faults.

mod audit;
mod elsewhere;
mod harm;
mod lane;
mod networks;
mod points;
mod ports;
mod scenarios;
mod tally;
mod volumes;
mod wire;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ostler_protocol::rpc::operation::Kind;
use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::services::Broker;
use serde_json::Value;
use tempfile::TempDir;

use crate::node::need_root;
use harm::{Harm, set_clock};
use lane::{Frailty, Lane};
use scenarios::Scenario;
use tally::Tally;
use wire::Wire;

/// Lanes at a time: most of a point is waiting for programs to start and to end.
const LANES: usize = 3;
/// How long what went wrong may take to be over.
const AFRESH: Duration = Duration::from_secs(90);
/// What there is for the state of a node whose disk is to be filled.
const SMALL: u64 = 192 << 20;
/// Where Debian has the library that tells a program another time.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

/// What is done to a scenario.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// A crash at each point, each with an operation of its own.
    Crashes,
    /// All crashes in one operation.
    CrashAfterCrash,
    /// Each step fails.
    Fails,
    /// Something else, at each step.
    Harmed(Harm),
}

impl Trial {
    const fn name(self) -> &'static str {
        match self {
            Self::Crashes => "crashes",
            Self::CrashAfterCrash => "crash after crash",
            Self::Fails => "the step fails",
            Self::Harmed(harm) => harm.name(),
        }
    }
}

/// What is to be tried: every trial with every scenario it concerns; less, where
/// `OSTLER_FAULTS_ONLY` has a part of a scenario's name, or `OSTLER_FAULTS_TRIAL` one of a trial's.
fn jobs(trials: &[Trial]) -> VecDeque<(Trial, Scenario)> {
    let only = std::env::var("OSTLER_FAULTS_ONLY").unwrap_or_default();
    let with = std::env::var("OSTLER_FAULTS_TRIAL").unwrap_or_default();
    let mut jobs = VecDeque::new();
    for trial in trials.iter().filter(|trial| trial.name().contains(&with)) {
        for scenario in scenarios::all() {
            let scenario = match trial {
                Trial::CrashAfterCrash if scenario.more => continue,
                Trial::Crashes | Trial::CrashAfterCrash | Trial::Fails => scenario,
                Trial::Harmed(harm) if !harm.concerns(&scenario) => continue,
                Trial::Harmed(Harm::GuestHangs) => scenario.in_guest(Mode::Mute),
                Trial::Harmed(_) => scenario,
            };
            if scenario.name().contains(&only) {
                jobs.push_back((*trial, scenario));
            }
        }
    }
    jobs
}

/// Whether all is tried that there is.
fn is_whole() -> bool {
    ["OSTLER_FAULTS_ONLY", "OSTLER_FAULTS_TRIAL"]
        .iter()
        .all(|name| std::env::var_os(name).is_none())
}

/// Work through the jobs on these lanes.
async fn work(lanes: Vec<Lane>, jobs: VecDeque<(Trial, Scenario)>, tally: &RefCell<Tally>) {
    let queue = &RefCell::new(jobs);
    let begun = Instant::now();
    join_all(lanes.into_iter().map(async |mut lane| {
        loop {
            let Some((trial, scenario)) = queue.borrow_mut().pop_front() else { break };
            let mut own = Tally::default();
            match trial {
                Trial::Crashes => lane.crashes(&scenario, &mut own).await,
                Trial::CrashAfterCrash => lane.crash_after_crash(&scenario, &mut own).await,
                Trial::Fails => lane.fails(&scenario, &mut own).await,
                Trial::Harmed(harm) => lane.harmed(harm, &scenario, &mut own).await,
            }
            tally.borrow_mut().add(own);
            let (seconds, left) = (begun.elapsed().as_secs(), queue.borrow().len());
            eprintln!("{seconds:>5} s  {}: {}; {left} to go", trial.name(), scenario.name());
        }
        if let Err(wrong) = lane.drop_instance().await {
            eprintln!("the last instance could not be deleted: {wrong}");
        }
    }))
    .await;
}

/// Lanes that nothing but a test's own hand can harm.
async fn sound(many: usize) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for _ in 0..many {
        lanes.push(Lane::with(Setup::default(), None, None).await);
    }
    lanes
}

/// Lanes whose disk can be filled, whose wire to the broker can be cut, and whose clock can be set.
async fn frail(many: usize, broker: &Broker, state_size: Option<u64>) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for _ in 0..many {
        let (wire, uri) = Wire::to(broker.uri()).await;
        let folder = TempDir::with_prefix("ostler-clock-").unwrap();
        let clock = folder.path().join("clock");
        set_clock(&clock, "+0");
        let clock_file = clock.to_str().unwrap();
        let env = [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", clock_file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        // Without the library there is nothing to preload, and no clock to set.
        let env = if has_faketime() { env } else { Vec::new() };
        let setup = Setup { env, ..Setup::with_broker(&uri) };
        let frailty = Frailty { wire, clock, _folder: folder };
        lanes.push(Lane::with(setup, state_size, Some(frailty)).await);
    }
    lanes
}

fn has_faketime() -> bool {
    std::path::Path::new(FAKETIME).exists()
}

/// The table, and the verdict. `plans` are those that had to be tried.
fn close(tally: &Tally, plans: Option<&Value>) {
    eprintln!("{}", tally.table());
    let missed = plans.map(|plans| tally.missed(plans)).unwrap_or_default();
    let wrong = tally.wrong();
    assert!(missed.is_empty(), "steps that were never cut off: {missed:#?}");
    assert!(wrong.is_empty(), "{} points went wrong:\n{}", wrong.len(), wrong.join("\n"));
}

async fn plans(lane: &mut Lane) -> Option<Value> {
    let document = lane.call("rpc.discover", Value::Null).await.unwrap();
    assert!(document["x-plans"]["instance.boot"].is_array(), "no plans in rpc.discover");
    is_whole().then(|| document["x-plans"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_every_step_of_every_operation_leaves_nothing_half_done() {
    need_root!();
    let tally = RefCell::new(Tally::default());
    let mut lanes = sound(LANES).await;
    let plans = plans(&mut lanes[0]).await;
    work(lanes, jobs(&[Trial::CrashAfterCrash]), &tally).await;
    close(&tally.into_inner(), plans.as_ref());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_when_it_can_only_go_on_is_done_all_the_same() {
    need_root!();
    let tally = RefCell::new(Tally::default());
    let goes_on = [
        Kind::ConfirmResize,
        Kind::RevertResize,
        Kind::Offload,
        Kind::Delete,
        Kind::ImageRemove,
        Kind::VolumeDelete,
        Kind::VolumeDeleteSnapshot,
    ];
    let mut jobs = jobs(&[Trial::Fails]);
    jobs.retain(|(_, scenario)| goes_on.contains(&scenario.kind) && !scenario.more);
    work(sound(LANES).await, jobs, &tally).await;
    close(&tally.into_inner(), None);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes long: make faults"]
async fn faults_at_every_step_of_every_operation_leave_nothing_half_done() {
    need_root!();
    let tally = RefCell::new(Tally::default());
    let trials = [
        Trial::Fails,
        Trial::Crashes,
        Trial::Harmed(Harm::Cancel),
        Trial::Harmed(Harm::Delete),
        Trial::Harmed(Harm::QemuDies),
        Trial::Harmed(Harm::ImageGone),
        Trial::Harmed(Harm::GuestHangs),
        Trial::Harmed(Harm::LibvirtdGone),
        Trial::Harmed(Harm::LibvirtdHangs),
    ];
    let mut lanes = sound(LANES).await;
    let plans = plans(&mut lanes[0]).await;
    work(lanes, jobs(&trials), &tally).await;

    let mut trials = vec![Trial::Harmed(Harm::BrokerGone)];
    if has_faketime() {
        trials.push(Trial::Harmed(Harm::ClockJumps));
    } else {
        eprintln!("skipped: clock jumps, for libfaketime is not installed");
    }
    for (trials, size) in [(trials, None), (vec![Trial::Harmed(Harm::DiskFull)], Some(SMALL))] {
        let jobs = jobs(&trials);
        if jobs.is_empty() {
            continue;
        }
        let broker = Broker::ensure().await.unwrap();
        work(frail(LANES, &broker, size).await, jobs, &tally).await;
    }
    close(&tally.into_inner(), plans.as_ref());
}
