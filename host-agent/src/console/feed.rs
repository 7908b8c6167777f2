//! One instance's console, for as long as somebody has a session on it.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_protocol::rpc::console::State;
use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};

use super::SWEEP;
use super::line::Line;
use super::ring::Ring;
use crate::guest::budget::Budget;
use crate::hypervisor::{Events, Hypervisor, HypervisorEvent, PowerState};

/// What is kept of what the guest printed.
const KEPT: usize = 256 << 10;
/// What may wait to be typed.
const QUEUED: usize = 16 << 10;
/// Bytes read at once.
const CHUNK: usize = 16 << 10;
/// What a guest may print, bytes a second and at once. A serial line of its day had 11,520.
const RATE: (u32, u32) = (1 << 20, 256 << 10);
/// What a read costs beside its bytes, so that single bytes are not the cheapest way to be a burden.
const READ_COST: usize = 256;
/// How often a console that is not there is looked for when nothing tells of it.
const LOOK: Duration = Duration::from_secs(2);

/// How far a feed is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Progress {
    pub(super) end: u64,
    pub(super) state: State,
    /// How much was passed on of what was typed.
    typed: u64,
}

/// What was printed, and whether more can come now.
pub(super) struct Printed {
    /// How much is lost, and the bytes behind that.
    pub(super) bytes: (u64, Vec<u8>),
    pub(super) state: State,
}

/// What is kept of a console and what is to be typed into it.
pub(super) struct Feed {
    ring: Mutex<Ring>,
    input: Mutex<VecDeque<u8>>,
    typed: Notify,
    progress: watch::Sender<Progress>,
    over: CancellationToken,
}

impl Feed {
    /// Nothing yet; over when `shutdown` is.
    pub(super) fn new(shutdown: &CancellationToken) -> Self {
        Self {
            ring: Mutex::new(Ring::new(KEPT)),
            input: Mutex::default(),
            typed: Notify::new(),
            progress: watch::Sender::new(Progress { end: 0, state: State::Waiting, typed: 0 }),
            over: shutdown.child_token(),
        }
    }

    /// Ends it.
    pub(super) fn end(&self) {
        self.over.cancel();
    }

    /// Waits for its end.
    pub(super) fn ended(&self) -> WaitForCancellationFuture<'_> {
        self.over.cancelled()
    }

    pub(super) fn changes(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// The place behind what was printed, and whether there is a console.
    pub(super) fn end_and_state(&self) -> (u64, State) {
        let now = *self.progress.borrow();
        (now.end, now.state)
    }

    pub(super) fn printed(&self, at: u64, most: usize) -> Printed {
        Printed { bytes: self.ring().from(at, most), state: self.progress.borrow().state }
    }

    /// Queues what there is room for; how much that is. Nothing is typed into a console that is
    /// not there: the next guest to have it would read it.
    pub(super) fn type_in(&self, bytes: &[u8]) -> usize {
        let mut input = self.input();
        if self.progress.borrow().state == State::Waiting {
            return 0;
        }
        let taken = bytes.len().min(QUEUED - input.len());
        input.extend(&bytes[..taken]);
        if taken > 0 {
            self.typed.notify_one();
        }
        taken
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn input(&self) -> MutexGuard<'_, VecDeque<u8>> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_state(&self, state: State) {
        let mut input = self.input();
        // What was meant for one console is not typed into the next.
        input.clear();
        self.progress.send_modify(|progress| progress.state = state);
    }

    fn push(&self, bytes: &[u8]) {
        let end = {
            let mut ring = self.ring();
            ring.push(bytes);
            ring.end()
        };
        self.progress.send_modify(|progress| progress.end = end);
    }

    /// Some of what is to be typed next.
    fn next_typed(&self) -> Vec<u8> {
        self.input().iter().take(4096).copied().collect()
    }

    fn passed_on(&self, bytes: usize) {
        let mut input = self.input();
        let bytes = bytes.min(input.len());
        input.drain(..bytes);
        self.progress.send_modify(|progress| progress.typed += bytes as u64);
    }
}

/// Feeds until it is over: finds the console, passes bytes both ways, finds the next one.
pub(super) async fn run<H: Hypervisor>(
    feed: &Feed,
    id: InstanceId,
    hypervisor: &H,
    sweep: impl Fn(),
) {
    // Subscribed to before the first look, so that no start is missed in between.
    let mut events = hypervisor.events();
    let mut sweeps = interval(SWEEP);
    sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut budget = Budget::new(RATE.0, RATE.1, Instant::now());
    let work = async {
        loop {
            if let Some(line) = attach(hypervisor, id).await {
                feed.set_state(State::Attached);
                if let Err(error) = pass(feed, &line, &mut budget).await {
                    tracing::debug!(instance = %id, %error, "the console ended");
                }
                feed.set_state(State::Waiting);
            }
            something_new(&mut events, id).await;
        }
    };
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = feed.ended() => break,
            _ = sweeps.tick() => sweep(),
            () = &mut work => {}
        }
    }
    feed.set_state(State::Waiting);
}

/// The console, if there is one.
async fn attach<H: Hypervisor>(hypervisor: &H, id: InstanceId) -> Option<Line> {
    let path = hypervisor.console(id).await.ok()?;
    let line = Line::open(&path)
        .inspect_err(|error| {
            tracing::warn!(instance = %id, path = %path.display(), %error, "no console");
        })
        .ok()?;
    // The numbers of ptys are given again. Only one that is still this domain's after it was
    // opened was this domain's when it was.
    let still: PathBuf = hypervisor.console(id).await.ok()?;
    (still == path).then_some(line)
}

/// Waits until it is worth while to look for the console again.
async fn something_new(events: &mut Events, id: InstanceId) {
    let told = async {
        loop {
            match events.next().await {
                Some(HypervisorEvent::Lifecycle { id: of, power: PowerState::Running, .. })
                    if of == id =>
                {
                    return;
                }
                Some(HypervisorEvent::LinkUp | HypervisorEvent::Lagged { .. }) => return,
                Some(
                    HypervisorEvent::Lifecycle { .. }
                    | HypervisorEvent::Removed { .. }
                    | HypervisorEvent::Rebooted { .. }
                    | HypervisorEvent::Unplugged { .. }
                    | HypervisorEvent::Kept { .. }
                    | HypervisorEvent::AgentConnected { .. }
                    | HypervisorEvent::LinkDown,
                ) => {}
                // the driver is gone, and the feed with it soon
                None => std::future::pending().await,
            }
        }
    };
    tokio::select! {
        () = told => {}
        () = sleep(LOOK) => {}
    }
}

/// Passes bytes both ways until the pty ends.
async fn pass(feed: &Feed, line: &Line, budget: &mut Budget) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK].into_boxed_slice();
    let mut typed = feed.next_typed();
    loop {
        let wait = budget.wait(Instant::now());
        tokio::select! {
            read = line.read(&mut buffer), if wait.is_none() => {
                let read = read?;
                if read == 0 {
                    return Ok(());
                }
                budget.spend(read + READ_COST, Instant::now());
                feed.push(&buffer[..read]);
            }
            () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            wrote = line.write(&typed), if !typed.is_empty() => {
                feed.passed_on(wrote?);
                typed = feed.next_typed();
            }
            () = feed.typed.notified(), if typed.is_empty() => typed = feed.next_typed(),
        }
    }
}
