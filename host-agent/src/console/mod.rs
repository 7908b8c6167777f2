//! Serial consoles: sessions by request and reply, over either transport alike.
//!
//! ```text
//!   console.open, read, write, close
//!              |
//!              v
//!   Consoles: sessions (4 of an instance, 64 in all), each with its place in what it has typed
//!              |  one feed for each instance with a session
//!              v
//!   feed.rs:  ring of what was printed (ring.rs) <── task ──> pty (line.rs) <──> QEMU
//!             queue of what was typed
//! ```
//!
//! The pty is open only while somebody has a session. One task reads it, and all sessions of the
//! instance read what it has kept. When the pty ends (the instance is stopped, or restarted with a
//! new one) the task finds the next as soon as there is one, for as long as a session lives.
//!
//! What a guest prints is bounded in memory by the ring and in time by an allowance: the pty of a
//! guest that floods is simply full. What was logged while nobody had a session is in a file that
//! QEMU writes; [`log`] reads its end.

pub mod error;
mod feed;
mod line;
pub mod log;
mod ring;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_protocol::rpc::console::{
    Data, IDLE_MAX, Opened, Printed, READ_MAX, Read, State, Taken, WAIT_MAX, WRITE_MAX, Write,
};
use ostler_protocol::rpc::values::{ConsoleId, InstanceId};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::error::Error;
use self::feed::Feed;
use crate::hypervisor::Hypervisor;

/// Sessions on one instance.
const PER_INSTANCE: usize = 4;
/// Sessions in all.
const IN_ALL: usize = 64;
/// A session without a read for so long is closed.
const IDLE: Duration = Duration::from_millis(IDLE_MAX);
/// How often that is looked at.
const SWEEP: Duration = Duration::from_secs(5);
/// How long a write waits for a guest that does not read, or is off.
const WRITE_WAIT: Duration = Duration::from_secs(5);

/// The consoles of a node. A clone is another handle to the same.
pub struct Consoles<H>(Arc<Inner<H>>);

struct Inner<H> {
    hypervisor: Arc<H>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    sessions: Arc<Sessions>,
}

impl<H> Clone for Consoles<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// The sessions there are. Locks on it are short: nothing is waited for under them.
#[derive(Default)]
struct Sessions(Mutex<HashMap<ConsoleId, Session>>);

struct Session {
    instance: InstanceId,
    feed: Arc<Feed>,
    /// How much it has typed.
    typed: u64,
    read: Instant,
}

impl Sessions {
    fn lock(&self) -> MutexGuard<'_, HashMap<ConsoleId, Session>> {
        // a panic under the lock leaves a map that is still whole
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes a session; the last one of its instance ends the feed.
    fn close(&self, session: ConsoleId) {
        let mut sessions = self.lock();
        if let Some(closed) = sessions.remove(&session)
            && !sessions.values().any(|other| Arc::ptr_eq(&other.feed, &closed.feed))
        {
            closed.feed.end();
        }
    }

    /// Closes the sessions of an instance that nobody reads any more.
    fn sweep(&self, instance: InstanceId) {
        let stale: Vec<ConsoleId> = {
            let sessions = self.lock();
            let stale =
                |session: &Session| session.instance == instance && session.read.elapsed() > IDLE;
            sessions.iter().filter(|(_, session)| stale(session)).map(|(id, _)| *id).collect()
        };
        for session in stale {
            tracing::debug!(%instance, %session, "console session closed: nobody reads it");
            self.close(session);
        }
    }
}

impl<H: Hypervisor> Consoles<H> {
    /// No sessions yet. When `shutdown` is cancelled all end.
    pub fn new(hypervisor: Arc<H>, shutdown: &CancellationToken) -> Self {
        Self(Arc::new(Inner {
            hypervisor,
            shutdown: shutdown.child_token(),
            tasks: TaskTracker::new(),
            sessions: Arc::default(),
        }))
    }

    /// Ends all sessions and waits for their tasks.
    pub async fn drain(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// Begins a session at the end of what was printed so far. The instance need not run.
    ///
    /// # Errors
    /// [`Error::Full`].
    pub fn open(&self, instance: InstanceId) -> Result<Opened, Error> {
        let mut sessions = self.0.sessions.lock();
        let of_instance = sessions.values().filter(|session| session.instance == instance);
        let (count, feed) =
            of_instance.fold((0, None), |(count, _), s| (count + 1, Some(Arc::clone(&s.feed))));
        if count >= PER_INSTANCE || sessions.len() >= IN_ALL {
            let (open, of) = match count >= PER_INSTANCE {
                true => (count, "the instance"),
                false => (sessions.len(), "the node"),
            };
            return Err(Error::Full { open, of });
        }
        let feed = feed.unwrap_or_else(|| {
            let feed = Arc::new(Feed::new(&self.0.shutdown));
            let hypervisor = Arc::clone(&self.0.hypervisor);
            let (fed, sessions) = (Arc::clone(&feed), Arc::clone(&self.0.sessions));
            self.0.tasks.spawn(async move {
                feed::run(&fed, instance, &*hypervisor, || sessions.sweep(instance)).await;
            });
            feed
        });
        let (at, state) = feed.end_and_state();
        let session = ConsoleId::random();
        let opened = Session { instance, feed, typed: 0, read: Instant::now() };
        sessions.insert(session, opened);
        Ok(Opened { session, at, state })
    }

    /// The instance a session is on.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn instance(&self, session: ConsoleId) -> Result<InstanceId, Error> {
        let sessions = self.0.sessions.lock();
        sessions.get(&session).map(|s| s.instance).ok_or(Error::Unknown { session })
    }

    /// What was printed from a place on, waited for as long as is asked.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Ahead`].
    pub async fn read(&self, read: &Read) -> Result<Printed, Error> {
        let until =
            Instant::now() + Duration::from_millis(read.wait.unwrap_or(0).min(WAIT_MAX).into());
        let feed = self.touch(read.session)?;
        let mut changed = feed.changes();
        let known = read.state.unwrap_or(changed.borrow_and_update().state);
        let printed = loop {
            let now = *changed.borrow_and_update();
            if read.at > now.end {
                return Err(Error::Ahead { at: read.at, end: now.end });
            }
            if read.at < now.end || now.state != known {
                break feed.printed(read.at, READ_MAX);
            }
            tokio::select! {
                () = sleep_until(until) => break feed.printed(read.at, READ_MAX),
                () = feed.ended() => break feed.printed(read.at, READ_MAX),
                // the sender is in `feed`
                _ = changed.changed() => {}
            }
        };
        // The time waited is not idle time.
        self.touch(read.session)?;
        let (lost, data) = printed.bytes;
        let at = read.at + lost + data.len() as u64;
        Ok(Printed { at, data: Data::new(data), lost, state: printed.state })
    }

    /// Types into a session; takes what there is room for, and waits a moment if there is none.
    ///
    /// # Errors
    /// [`Error::Unknown`]; [`Error::Ahead`]; [`Error::TooMuch`].
    pub async fn write(&self, write: &Write) -> Result<Taken, Error> {
        let given = write.data.bytes();
        if given.len() > WRITE_MAX {
            return Err(Error::TooMuch { bytes: given.len() });
        }
        let until = Instant::now() + WRITE_WAIT;
        loop {
            let mut changed;
            let (typed, state, ended) = {
                let mut sessions = self.0.sessions.lock();
                let session = sessions
                    .get_mut(&write.session)
                    .ok_or(Error::Unknown { session: write.session })?;
                if write.at > session.typed {
                    return Err(Error::Ahead { at: write.at, end: session.typed });
                }
                changed = session.feed.changes();
                let state = changed.borrow_and_update().state;
                let known = usize::try_from(session.typed - write.at).unwrap_or(usize::MAX);
                let new = given.get(known..).unwrap_or_default();
                let taken = session.feed.type_in(new);
                session.typed += taken as u64;
                if taken > 0 || new.is_empty() {
                    return Ok(Taken { at: session.typed, state });
                }
                (session.typed, state, Arc::clone(&session.feed))
            };
            tokio::select! {
                () = sleep_until(until) => return Ok(Taken { at: typed, state }),
                () = ended.ended() => return Ok(Taken { at: typed, state }),
                _ = changed.changed() => {}
            }
        }
    }

    /// Ends a session.
    pub fn close(&self, session: ConsoleId) {
        self.0.sessions.close(session);
    }

    /// Whether a session has a console now.
    ///
    /// # Errors
    /// [`Error::Unknown`].
    pub fn state(&self, session: ConsoleId) -> Result<State, Error> {
        let sessions = self.0.sessions.lock();
        let session = sessions.get(&session).ok_or(Error::Unknown { session })?;
        Ok(session.feed.end_and_state().1)
    }

    /// The feed of a session that is read now.
    fn touch(&self, session: ConsoleId) -> Result<Arc<Feed>, Error> {
        let mut sessions = self.0.sessions.lock();
        let found = sessions.get_mut(&session).ok_or(Error::Unknown { session })?;
        found.read = Instant::now();
        Ok(Arc::clone(&found.feed))
    }
}
