//! A lane: one connection, a bounded queue and a bounded number of threads that carry calls out.
//!
//! ```text
//!   submit ──> queue (bounded) ──> worker 0..n ──> libvirt
//!                                       │  broken?
//!   close notice ───────────────────────┴──> keeper: close, back off, open again
//! ```
//!
//! Threads are started as jobs need them, and end when they have had none for a while: a node that
//! nobody changes needs one or two, and each keeps a stack and what it has freed last.
//!
//! A full queue refuses. A job whose caller has gone or whose deadline has passed is dropped
//! unstarted: a late command is never run. While there is no connection every job is answered at
//! once; waiting for better times is the caller's decision.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use uuid::Uuid;
use virt::connect::Connect;

use super::connection::Connection;
use crate::hypervisor::Error;

/// How often a connection is looked at when nobody complains about it.
const INSPECTION: Duration = Duration::from_secs(5);
const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MOST: Duration = Duration::from_secs(5);

/// What a job is given: the connection, or why there is none.
pub(super) type Job = Box<dyn FnOnce(Result<&Connect, String>) + Send>;

/// Makes a connection and everything that lives as long as it does.
pub(super) type Opener = Box<dyn Fn(&LaneHandle) -> Result<Arc<Connection>, String> + Send>;

/// Told each time the lane gets or loses its connection.
pub(super) type Report = Box<dyn Fn(bool) + Send>;

/// How a lane is built.
pub(super) struct Plan {
    pub(super) name: &'static str,
    /// The most there are at a time.
    pub(super) threads: usize,
    /// How long a thread waits for a job before it ends.
    pub(super) idle: Duration,
    pub(super) queue: usize,
    pub(super) open: Opener,
    pub(super) report: Report,
    /// Held by every thread of the lane, so that its closing shows that they have ended.
    pub(super) alive: mpsc::Sender<()>,
}

/// A running lane. Dropping it stops it; a thread inside a call ends when libvirt answers.
pub(super) struct Lane {
    handle: LaneHandle,
    name: &'static str,
    capacity: usize,
    threads: usize,
    idle: Duration,
    alive: mpsc::Sender<()>,
}

/// A way to tell a lane that its connection is no good.
#[derive(Clone)]
pub(super) struct LaneHandle(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Signalled when there is work, or no more.
    work: Condvar,
    /// Signalled when the keeper should look.
    upkeep: Condvar,
}

struct State {
    queue: VecDeque<Queued>,
    connection: Result<Arc<Connection>, String>,
    /// Jobs on a thread now.
    running: usize,
    /// Threads there are, and those of them that wait for a job.
    workers: usize,
    waiting: usize,
    suspect: bool,
    stopping: bool,
}

struct Queued {
    deadline: Instant,
    job: Job,
}

impl Lane {
    /// Starts the lane; the connection is made by and by.
    pub(super) fn start(plan: Plan) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: VecDeque::new(),
                connection: Err("not connected yet".to_owned()),
                running: 0,
                workers: 0,
                waiting: 0,
                suspect: false,
                stopping: false,
            }),
            work: Condvar::new(),
            upkeep: Condvar::new(),
        });
        let lane = Self {
            handle: LaneHandle(shared),
            name: plan.name,
            capacity: plan.queue,
            threads: plan.threads,
            idle: plan.idle,
            alive: plan.alive.clone(),
        };
        let handle = lane.handle.clone();
        spawn(format!("{}-link", plan.name), move || {
            keep(&handle, &plan);
            drop(plan);
        })?;
        Ok(lane)
    }

    /// Jobs that wait or run, those included that nobody waits for any more.
    pub(super) fn load(&self) -> usize {
        let state = self.handle.state();
        state.queue.len() + state.running
    }

    /// Queues a job, unless the lane has no room for it.
    pub(super) fn submit(&self, deadline: Instant, job: Job) -> Result<(), Full> {
        let mut state = self.handle.state();
        if state.queue.len() >= self.capacity {
            return Err(Full);
        }
        // Each that waits takes one of those that are queued.
        if state.queue.len() >= state.waiting && state.workers < self.threads {
            match self.start_worker() {
                Ok(()) => state.workers += 1,
                Err(error) => {
                    tracing::warn!(lane = self.name, %error, "cannot start a thread");
                    if state.workers == 0 {
                        return Err(Full);
                    }
                }
            }
        }
        state.queue.push_back(Queued { deadline, job });
        drop(state);
        self.handle.0.work.notify_one();
        Ok(())
    }

    fn start_worker(&self) -> Result<(), Error> {
        let (handle, idle, alive) = (self.handle.clone(), self.idle, self.alive.clone());
        spawn(self.name.to_owned(), move || {
            work(&handle, idle);
            drop(alive);
        })
    }
}

/// The queue has no room.
#[derive(Debug)]
pub(super) struct Full;

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.handle.state();
        state.stopping = true;
        state.queue.clear();
        drop(state);
        self.handle.0.work.notify_all();
        self.handle.0.upkeep.notify_all();
    }
}

impl LaneHandle {
    /// Has the keeper replace the connection.
    pub(super) fn suspect(&self) {
        self.state().suspect = true;
        self.0.upkeep.notify_all();
    }

    /// A panic while the lock is held leaves the state as it was: nothing is changed in steps.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> Result<(), Error> {
    thread::Builder::new().name(name).spawn(body).map(drop).map_err(|error| Error::Failed {
        step: "start a libvirt thread",
        domain: None,
        message: error.to_string(),
    })
}

/// Carries jobs out until there is none for so long, or no more at all.
fn work(lane: &LaneHandle, idle: Duration) {
    loop {
        let (queued, connection) = {
            let mut state = lane.state();
            loop {
                if state.stopping {
                    return;
                }
                if let Some(queued) = state.queue.pop_front() {
                    state.running += 1;
                    break (queued, state.connection.clone());
                }
                state.waiting += 1;
                let (woken, waited) =
                    lane.0.work.wait_timeout(state, idle).unwrap_or_else(PoisonError::into_inner);
                state = woken;
                state.waiting -= 1;
                if waited.timed_out() && state.queue.is_empty() {
                    state.workers -= 1;
                    return;
                }
            }
        };
        if Instant::now() < queued.deadline {
            run(queued.job, &connection);
        }
        lane.state().running -= 1;
        if let Ok(connection) = connection
            && !connection.is_alive()
        {
            lane.suspect();
        }
    }
}

fn run(job: Job, connection: &Result<Arc<Connection>, String>) {
    let given = match connection {
        Ok(connection) => Ok(connection.connect()),
        Err(why) => Err(why.clone()),
    };
    // virt panics when libvirt cannot count a reference; the caller sees its answer missing
    if catch_unwind(AssertUnwindSafe(|| job(given))).is_err() {
        tracing::error!("a libvirt call panicked");
    }
}

fn keep(lane: &LaneHandle, plan: &Plan) {
    let mut attempt = 0;
    loop {
        lane.state().suspect = false;
        match (plan.open)(lane) {
            Ok(connection) => {
                attempt = 0;
                lane.state().connection = Ok(Arc::clone(&connection));
                (plan.report)(true);
                let stopped = wait_until_broken(lane, &connection);
                lane.state().connection = Err("the connection broke".to_owned());
                (plan.report)(false);
                // not under the lock: closing talks to libvirt
                connection.retire();
                drop(connection);
                if stopped {
                    return;
                }
            }
            Err(why) => {
                if attempt == 0 {
                    tracing::warn!(lane = plan.name, %why, "libvirt cannot be reached");
                }
                lane.state().connection = Err(why);
            }
        }
        if pause(lane, backoff(attempt, jitter())) {
            return;
        }
        attempt += 1;
    }
}

/// Waits for a complaint that is true, or for the end; true if it is the end.
fn wait_until_broken(lane: &LaneHandle, connection: &Connection) -> bool {
    let mut state = lane.state();
    loop {
        if state.stopping {
            return true;
        }
        if state.suspect {
            return false;
        }
        let (next, _) =
            lane.0.upkeep.wait_timeout(state, INSPECTION).unwrap_or_else(PoisonError::into_inner);
        state = next;
        if !state.suspect && !state.stopping {
            drop(state);
            let alive = connection.is_alive();
            state = lane.state();
            state.suspect |= !alive;
        }
    }
}

/// Waits so long, or for the end; true if it is the end.
fn pause(lane: &LaneHandle, wait: Duration) -> bool {
    let state = lane.state();
    let (state, _) = lane
        .0
        .upkeep
        .wait_timeout_while(state, wait, |state| !state.stopping)
        .unwrap_or_else(PoisonError::into_inner);
    state.stopping
}

/// Doubles from the first to the most, then takes off up to half by `jitter` (0 to 1), so that
/// lanes and hosts that lost their libvirtd together do not come back together.
fn backoff(attempt: u32, jitter: f64) -> Duration {
    let full = BACKOFF_FIRST.saturating_mul(1 << attempt.min(16)).min(BACKOFF_MOST);
    full.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

fn jitter() -> f64 {
    let random = Uuid::new_v4();
    f64::from(u16::from_le_bytes([random.as_bytes()[0], random.as_bytes()[1]]))
        / f64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backing_off_grows_to_five_seconds() {
        assert_eq!(backoff(0, 0.0), BACKOFF_FIRST);
        assert_eq!(backoff(1, 0.0), BACKOFF_FIRST * 2);
        assert_eq!(backoff(0, 1.0), BACKOFF_FIRST / 2);
        for attempt in 6..u32::from(u8::MAX) {
            assert_eq!(backoff(attempt, 0.0), BACKOFF_MOST);
        }
        assert!((0.0..=1.0).contains(&jitter()));
    }

    fn unreachable(threads: usize, queue: usize) -> (Lane, mpsc::Receiver<()>) {
        let (alive, ended) = mpsc::channel(1);
        let plan = Plan {
            name: "test",
            threads,
            idle: Duration::from_millis(1),
            queue,
            open: Box::new(|_| Err("no libvirtd here".to_owned())),
            report: Box::new(|_| {}),
            alive,
        };
        (Lane::start(plan).unwrap(), ended)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_full_queue_refuses() {
        let (lane, _ended) = unreachable(0, 1);
        lane.submit(soon(), Box::new(|_| {})).unwrap();
        assert!(lane.submit(soon(), Box::new(|_| {})).is_err());
    }

    #[tokio::test]
    async fn a_late_job_is_never_run() {
        let (lane, _ended) = unreachable(1, 8);
        let (late, late_ran) = tokio::sync::oneshot::channel();
        let (other, other_ran) = tokio::sync::oneshot::channel();
        lane.submit(Instant::now(), Box::new(move |_| late.send(()).unwrap())).unwrap();
        lane.submit(soon(), Box::new(move |given| other.send(given.is_err()).unwrap())).unwrap();
        assert!(late_ran.await.is_err(), "a job past its deadline was run");
        assert_eq!(other_ran.await, Ok(true), "without a connection the job is told so");
    }

    #[tokio::test]
    async fn a_panicking_job_leaves_its_thread_working() {
        let (lane, _ended) = unreachable(1, 8);
        let (done, ran) = tokio::sync::oneshot::channel();
        lane.submit(soon(), Box::new(|_| panic!("as virt does"))).unwrap();
        lane.submit(soon(), Box::new(move |_| done.send(()).unwrap())).unwrap();
        assert_eq!(ran.await, Ok(()));
    }

    /// A job that ends when its sender is used or dropped, and what tells that it has begun.
    fn hold(lane: &Lane) -> (std::sync::mpsc::Sender<()>, tokio::sync::oneshot::Receiver<()>) {
        let (end, held) = std::sync::mpsc::channel();
        let (begin, begun) = tokio::sync::oneshot::channel();
        let job = move |_: Result<&Connect, String>| {
            begin.send(()).unwrap();
            let _ended = held.recv();
        };
        lane.submit(soon(), Box::new(job)).unwrap();
        (end, begun)
    }

    #[tokio::test]
    async fn threads_are_started_for_their_jobs_and_end_when_there_are_none() {
        let (lane, _ended) = unreachable(2, 8);
        assert_eq!(lane.handle.state().workers, 0, "nobody has asked for anything");
        for _ in 0..2 {
            let (first, begun) = hold(&lane);
            begun.await.unwrap();
            let (second, begun) = hold(&lane);
            begun.await.unwrap();
            let (third, begun) = hold(&lane);
            assert_eq!(lane.handle.state().workers, 2, "no more than there may be");
            drop((first, second));
            begun.await.unwrap();
            drop(third);
            let none = async {
                while lane.handle.state().workers > 0 {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(10), none).await.unwrap();
        }
    }

    #[tokio::test]
    async fn threads_end_with_their_lane() {
        let (lane, mut ended) = unreachable(3, 8);
        let (job, begun) = hold(&lane);
        begun.await.unwrap();
        drop((lane, job));
        assert_eq!(ended.recv().await, None);
    }
}
