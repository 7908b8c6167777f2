//! One guest as the rest of the module shares it: its standing, what is known of it, and the session
//! that keeps both up to date.
//!
//! A session has a number. What it observes counts only while it is the current one, so a session that
//! is on its way out cannot say anything of the instance's next life.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::guest::{GuestState, GuestSummary, Transport};
use ostler_protocol::rpc::values::{InstanceId, Timestamp};
use tokio::sync::{Notify, Semaphore, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::knowledge::Knowledge;
use super::request::Ask;
use super::settings::GuestSettings;
use super::state::{Observation, Standing};

/// Pieces of work at a time; what is more waits, and is refused when its time is over.
const WORK: usize = 8;

/// A guest.
#[derive(Debug)]
pub(super) struct Entry {
    /// The instance.
    pub(super) id: InstanceId,
    /// One question at a time through libvirt, which holds its own lock for each.
    pub(super) turn: Semaphore,
    /// Pieces of work that go on although nobody may wait for them any more.
    pub(super) work: Arc<Semaphore>,
    standing: watch::Sender<Standing>,
    knowledge: Mutex<Knowledge>,
    /// When the agent last said that a freeze ended by itself.
    thawed: Mutex<Option<Timestamp>>,
    run: Mutex<Option<Run>>,
    session: AtomicU64,
    questions: AtomicU64,
    changes: broadcast::Sender<(InstanceId, GuestSummary)>,
}

/// The handle of a session.
#[derive(Debug)]
pub(super) struct Run {
    /// Where Ostler's port is.
    pub(super) socket: PathBuf,
    /// Ends it.
    pub(super) stop: CancellationToken,
    /// Takes questions.
    pub(super) asks: mpsc::Sender<Ask>,
    /// Makes it look again at once.
    pub(super) nudge: Arc<Notify>,
}

/// What a session acts on.
#[derive(Debug, Clone)]
pub(super) struct Seat {
    /// The guest.
    pub(super) entry: Arc<Entry>,
    /// The session's number.
    pub(super) session: u64,
    /// The bounds.
    pub(super) settings: Arc<GuestSettings>,
    /// Ends it.
    pub(super) stop: CancellationToken,
    /// Makes it look again at once.
    pub(super) nudge: Arc<Notify>,
}

impl Seat {
    /// Takes in an observation of this session.
    pub(super) fn observe(&self, observation: Observation) {
        self.entry.observe(self.session, observation);
    }
}

impl Entry {
    pub(super) fn new(
        id: InstanceId,
        changes: broadcast::Sender<(InstanceId, GuestSummary)>,
    ) -> Self {
        Self {
            id,
            turn: Semaphore::new(1),
            work: Arc::new(Semaphore::new(WORK)),
            standing: watch::Sender::new(Standing::default()),
            knowledge: Mutex::default(),
            thawed: Mutex::default(),
            run: Mutex::default(),
            session: AtomicU64::new(0),
            questions: AtomicU64::new(1),
            changes,
        }
    }

    /// The number of a new session, before which all is as when the instance was just started.
    pub(super) fn begin(&self) -> u64 {
        let mut session = 0;
        self.change(|standing, now| {
            session = self.session.fetch_add(1, Ordering::Relaxed) + 1;
            standing.observe(Observation::Restarted, now);
            standing.observe(Observation::Running, now);
            true
        });
        session
    }

    /// The instance is off; whatever session there was says nothing any more.
    pub(super) fn end(&self) {
        self.change(|standing, now| {
            self.session.fetch_add(1, Ordering::Relaxed);
            standing.observe(Observation::Stopped, now);
            true
        });
    }

    /// Takes in what the hypervisor said.
    pub(super) fn word(&self, open: bool) {
        self.change(|standing, now| {
            standing.observe(Observation::Word(open), now);
            true
        });
    }

    /// Takes in what this session observed, if it is still the current one.
    pub(super) fn observe(&self, session: u64, observation: Observation) {
        self.change(|standing, now| {
            let current = self.session.load(Ordering::Relaxed) == session;
            if current {
                standing.observe(observation, now);
            }
            current
        });
    }

    /// The current session's number; it changes only under the standing's lock.
    pub(super) fn session(&self) -> u64 {
        let _standing = self.standing.borrow();
        self.session.load(Ordering::Relaxed)
    }

    /// Changes the standing; tells listeners in the order of the changes.
    fn change(&self, change: impl FnOnce(&mut Standing, Timestamp) -> bool) {
        self.standing.send_if_modified(|standing| {
            let before = standing.clone();
            if !change(standing, Timestamp::now()) {
                return false;
            }
            if standing.differs(&before.summary()) {
                // nobody listening is fine
                let _ = self.changes.send((self.id, standing.summary()));
            }
            standing.counts_beside(&before)
        });
    }

    /// What is known of the channels, and its changes.
    pub(super) fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// What is told without asking.
    pub(super) fn summary(&self) -> GuestSummary {
        self.standing.borrow().summary()
    }

    /// The port to ask through, or why there is none.
    pub(super) fn transport(&self) -> Result<Transport, Error> {
        let standing = self.standing.borrow();
        standing.transport().ok_or_else(|| self.silence(standing.state()))
    }

    /// Why a guest in this state cannot be asked, and was not.
    pub(super) fn silence(&self, state: GuestState) -> Error {
        let why = match state {
            GuestState::Off => return Error::NotRunning { instance: self.id },
            GuestState::Waiting => "no agent has answered since it started",
            GuestState::Silent => "its agent does not answer any more",
            GuestState::Garbled => "what it sends is not the protocol",
            GuestState::Ready => "its agent does not answer on this port",
        };
        Error::Unavailable { instance: self.id, why: why.to_owned(), asked: false }
    }

    /// What the guest said of itself.
    pub(super) fn knowledge(&self) -> MutexGuard<'_, Knowledge> {
        self.knowledge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent said that a freeze ended by itself.
    pub(super) fn thawed(&self, at: Timestamp) {
        *self.thawed.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }

    /// When it last did.
    pub(super) fn last_thawed(&self) -> Option<Timestamp> {
        *self.thawed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session.
    pub(super) fn run(&self) -> MutexGuard<'_, Option<Run>> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number no question to this guest had yet.
    pub(super) fn question(&self) -> u64 {
        self.questions.fetch_add(1, Ordering::Relaxed)
    }
}
