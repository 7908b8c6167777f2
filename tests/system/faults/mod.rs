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
//!   lane        a node to try that on; several at a time
//!   tally       what it came to
//! ```
//!
//! The steps are those of the accepted operation; `rpc.discover` tells all there are, and one that
//! was not cut off is an error. The ordinary test crashes each operation at all its points, one
//! after the other, in one go; `make faults` tries each point by itself, and all other faults.

mod audit;
mod harm;
mod lane;
mod points;
mod scenarios;
mod tally;
mod wire;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use ostler_tests::agent::Setup;
use ostler_tests::guest_image::Mode;
use ostler_tests::services::Broker;
use serde_json::Value;

use crate::node::need_root;
use harm::Harm;
use lane::Lane;
use scenarios::Scenario;
use tally::Tally;
use wire::Wire;

/// Lanes at a time: most of a point is waiting for programs to start and to end.
const LANES: usize = 3;
/// How long what went wrong may take to be over.
const AFRESH: Duration = Duration::from_secs(90);

/// The scenarios to try: those whose name has the word of `OSTLER_FAULTS_ONLY`.
fn chosen(all: Vec<Scenario>) -> VecDeque<Scenario> {
    let only = std::env::var("OSTLER_FAULTS_ONLY").unwrap_or_default();
    all.into_iter().filter(|scenario| scenario.name().contains(&only)).collect()
}

fn is_whole() -> bool {
    std::env::var_os("OSTLER_FAULTS_ONLY").is_none()
}

/// Work through the scenarios on these lanes.
async fn work(
    lanes: Vec<Lane>,
    scenarios: VecDeque<Scenario>,
    tally: &RefCell<Tally>,
    each: impl AsyncFn(&mut Lane, &Scenario, &mut Tally),
) {
    let queue = RefCell::new(scenarios);
    let begun = Instant::now();
    let (queue, each) = (&queue, &each);
    join_all(lanes.into_iter().map(async |mut lane| {
        loop {
            let Some(scenario) = queue.borrow_mut().pop_front() else { break };
            let mut own = Tally::default();
            each(&mut lane, &scenario, &mut own).await;
            tally.borrow_mut().add(own);
            eprintln!(
                "{:>5} s  {}; {} to go",
                begun.elapsed().as_secs(),
                scenario.name(),
                queue.borrow().len()
            );
        }
        if let Err(wrong) = lane.drop_instance().await {
            eprintln!("the last instance could not be deleted: {wrong}");
        }
    }))
    .await;
}

async fn lanes(many: usize) -> Vec<Lane> {
    let mut lanes = Vec::new();
    for _ in 0..many {
        lanes.push(Lane::with(Setup::default()).await);
    }
    lanes
}

/// The table, and the verdict.
fn close(tally: &Tally) {
    eprintln!("{}", tally.table());
    assert!(tally.wrong().is_empty(), "{} points went wrong:\n{}", tally.wrong().len(), tally.wrong().join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_every_step_of_every_operation_leaves_nothing_half_done() {
    need_root!();
    let tally = RefCell::new(Tally::default());
    let mut lanes = lanes(2).await;
    let plans = lanes[0].call("rpc.discover", Value::Null).await.unwrap()["x-plans"].clone();
    work(lanes, chosen(scenarios::all()), &tally, async |lane, scenario, tally| {
        lane.crash_after_crash(scenario, tally).await;
    })
    .await;
    let tally = tally.into_inner();
    if is_whole() {
        assert_eq!(tally.missed(&plans), [""; 0], "steps that were not cut off");
    }
    close(&tally);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_kill() {
    need_root!();
    let tally = RefCell::new(Tally::default());
    let mut lanes = lanes(LANES).await;
    let plans = lanes[0].call("rpc.discover", Value::Null).await.unwrap()["x-plans"].clone();
    work(lanes, chosen(scenarios::all()), &tally, async |lane, scenario, tally| {
        lane.crashes(scenario, tally).await;
    })
    .await;
    let tally = tally.into_inner();
    if is_whole() {
        assert_eq!(tally.missed(&plans), [""; 0], "steps that were not cut off");
    }
    close(&tally);
}

/// Try a harm on lanes made for it.
async fn harms(
    lanes: Vec<Lane>,
    harm: impl AsyncFn(&Lane) -> Harm,
    scenarios: Vec<Scenario>,
) -> Tally {
    let tally = RefCell::new(Tally::default());
    work(lanes, chosen(scenarios), &tally, async |lane, scenario, tally| {
        let harm = harm(lane).await;
        if harm.concerns(scenario) {
            lane.harmed(&harm, scenario, tally).await;
        }
    })
    .await;
    tally.into_inner()
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_cancel() {
    need_root!();
    close(&harms(lanes(LANES).await, async |_| Harm::Cancel, scenarios::all()).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_delete() {
    need_root!();
    close(&harms(lanes(LANES).await, async |_| Harm::Delete, scenarios::all()).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_qemu() {
    need_root!();
    close(&harms(lanes(LANES).await, async |_| Harm::QemuDies, scenarios::all()).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_image() {
    need_root!();
    close(&harms(lanes(LANES).await, async |_| Harm::ImageGone, scenarios::all()).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_disk() {
    need_root!();
    let mut lanes = Vec::new();
    for _ in 0..LANES {
        let small = Setup { state_size: Some(192 << 20), ..Setup::default() };
        lanes.push(Lane::with(small).await);
    }
    close(&harms(lanes, async |_| Harm::DiskFull, scenarios::all()).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_guest() {
    need_root!();
    let scenarios = scenarios::all().into_iter().filter(|scenario| Harm::GuestHangs.concerns(scenario));
    let scenarios = scenarios.map(|scenario| scenario.in_guest(Mode::Mute)).collect();
    close(&harms(lanes(LANES).await, async |_| Harm::GuestHangs, scenarios).await);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_broker() {
    need_root!();
    let broker = Broker::ensure().await.unwrap();
    let mut lanes = Vec::new();
    let mut wires = Vec::new();
    for _ in 0..LANES {
        let (wire, uri) = Wire::to(broker.uri()).await;
        lanes.push(Lane::with(Setup::with_broker(&uri)).await);
        wires.push((lanes[lanes.len() - 1].bridge.clone(), wire));
    }
    let of = async |lane: &Lane| {
        let wire = wires.iter().find(|(bridge, _)| *bridge == lane.bridge);
        Harm::BrokerGone(wire.unwrap().1.clone())
    };
    close(&harms(lanes, of, scenarios::all()).await);
}

/// Where Debian has the library that tells a program another time.
const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make faults"]
async fn faults_clock() {
    need_root!();
    if !std::path::Path::new(FAKETIME).exists() {
        eprintln!("skipped: libfaketime is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut lanes = Vec::new();
    let mut clocks = Vec::new();
    for n in 0..LANES {
        let clock = folder.path().join(n.to_string());
        harm::set_clock(&clock, "+0");
        let env = [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME_TIMESTAMP_FILE", clock.to_str().unwrap()),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let env = env.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        lanes.push(Lane::with(Setup { env, ..Setup::default() }).await);
        clocks.push((lanes[n].bridge.clone(), clock));
    }
    let of = async |lane: &Lane| {
        let clock = clocks.iter().find(|(bridge, _)| *bridge == lane.bridge);
        Harm::ClockJumps(clock.unwrap().1.clone())
    };
    close(&harms(lanes, of, scenarios::all()).await);
}
