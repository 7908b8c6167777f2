//! File systems that are frozen and thawed together.
//!
//! ```text
//!  gather ---> freeze, one after the other ---> (frozen) ---> thaw, the other way round
//!     |              |                                          ^
//!     |              +-- one fails, hangs, or is called off ----+
//!     +-- a thread for thawing is made now, and waits
//! ```
//!
//! Thawing must need nothing that freezing may have taken away: all is open before, and the thread is
//! there. The kernel can hang in either call. One that hangs in freezing thaws what it froze itself,
//! as soon as it comes back; one that hangs in thawing is left, and another goes on behind it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc as threads};
use std::time::Duration;

use nix::errno::Errno;
use tokio::sync::{mpsc, watch};

use super::kernel::{Kernel, Opened};

/// Enough for a few system calls.
const STACK: usize = 128 << 10;
/// A file system that is thawed more often is being frozen by somebody all the time.
const THAWS: usize = 1000;
/// A freeze that is called off may come back by itself.
const GRACE: Duration = Duration::from_secs(1);
/// So many that hang in thawing are gone around.
const HELPERS: usize = 8;

/// A file system that takes part.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) opened: Opened,
    /// Whether it is to be frozen. One that is not is thawed all the same: others may have frozen it.
    pub(super) wanted: bool,
}

/// Why freezing stopped.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stop {
    /// The kernel refused one.
    #[error("failed to freeze {name}")]
    Refused {
        /// Where it is mounted.
        name: String,
        /// Why.
        source: Errno,
    },
    /// The kernel did not come back from one.
    #[error("failed to freeze {name}: it did not end within {} s", .limit.as_secs())]
    Hung {
        /// Where it is mounted.
        name: String,
        /// How long it had.
        limit: Duration,
    },
    /// It was to be undone before it was done.
    #[error("the freeze was called off by guest-fsfreeze-thaw")]
    CalledOff,
    /// All together took too long.
    #[error("freezing took longer than the {} s that file systems may stay frozen", .0.as_secs())]
    Slow(Duration),
    /// There is no thread for it.
    #[error("freezing was not begun")]
    Thread(#[source] std::io::Error),
}

/// Whose freezes are undone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThawScope {
    /// This batch's.
    ThisBatch,
    /// All, whoever froze.
    All,
}

/// What thawing came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Thawed {
    /// How many were frozen, and are no longer.
    pub(super) count: i64,
    /// Those that still are, for all that is known.
    pub(super) left: Vec<String>,
}

/// The file systems, in the order in which they are frozen.
#[derive(Debug)]
pub(super) struct Batch {
    kernel: Arc<dyn Kernel>,
    members: Vec<Member>,
    progress: Mutex<Progress>,
    /// Begins the thawing on the thread that waits for it.
    waiting: Mutex<Option<threads::Sender<Job>>>,
}

#[derive(Debug, Default)]
struct Progress {
    /// Freezing is over: what is frozen from now on is thawed by whoever froze it.
    abandoned: bool,
    /// The kernel is at this one.
    freezing: Option<usize>,
    frozen: Vec<usize>,
}

struct Job {
    batch: Arc<Batch>,
    scope: ThawScope,
    next: Arc<AtomicUsize>,
    notes: mpsc::UnboundedSender<Note>,
}

enum Note {
    Begun(usize),
    /// Whether it was frozen, if it is not any longer.
    Ended(usize, Result<bool, Errno>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Due,
    Begun,
    Hung,
    Left,
    Thawed,
}

fn thread(work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().stack_size(STACK).spawn(work).map(drop)
}

impl Batch {
    /// Joins them, and makes the thread that will thaw them.
    pub(super) fn new(kernel: Arc<dyn Kernel>, members: Vec<Member>) -> std::io::Result<Arc<Self>> {
        let (sender, receiver) = threads::channel::<Job>();
        thread(move || {
            if let Ok(job) = receiver.recv() {
                job.run();
            }
        })?;
        let progress = Progress { frozen: Vec::with_capacity(members.len()), ..Default::default() };
        Ok(Arc::new(Self {
            kernel,
            members,
            progress: Mutex::new(progress),
            waiting: Mutex::new(Some(sender)),
        }))
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are to be frozen.
    pub(super) fn wanted(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| member.wanted)
    }

    /// The one that the kernel has not come back from freezing.
    pub(super) fn stuck(&self) -> Option<&str> {
        self.progress().freezing.map(|at| self.members[at].opened.name.as_str())
    }

    /// Writes out what waits to be written, so that freezing itself is short.
    pub(super) fn sync(&self, at: usize) {
        if let Some(member) = self.members.get(at).filter(|member| member.wanted) {
            // what cannot be written is told again by freezing
            let _ = self.kernel.sync(&member.opened);
        }
    }

    /// How many take part.
    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// What one is called.
    pub(super) fn name(&self, at: usize) -> &str {
        self.members.get(at).map_or("", |member| &member.opened.name)
    }

    /// Freezes those that are wanted, and says how many could be. Whatever stops it, those that are
    /// frozen stay so: thawing is the caller's.
    pub(super) async fn freeze(
        self: &Arc<Self>,
        limit: Duration,
        lease: Duration,
        called_off: &mut watch::Receiver<bool>,
    ) -> Result<i64, Stop> {
        let (sender, mut outcomes) = mpsc::unbounded_channel();
        let batch = self.clone();
        thread(move || batch.freeze_each(&sender)).map_err(Stop::Thread)?;
        let work = self.follow(limit, &mut outcomes);
        let stop = tokio::select! {
            done = tokio::time::timeout(lease, work) => match done {
                Ok(Ok(count)) => return Ok(count),
                Ok(Err(stop)) => stop,
                Err(_) => Stop::Slow(lease),
            },
            _ = called_off.wait_for(|called_off| *called_off) => Stop::CalledOff,
        };
        self.progress().abandoned = true;
        let end = async { while outcomes.recv().await.is_some() {} };
        // if it does not come back now it is `stuck`
        let _ = tokio::time::timeout(GRACE, end).await;
        Err(stop)
    }

    async fn follow(
        &self,
        limit: Duration,
        outcomes: &mut mpsc::UnboundedReceiver<(usize, nix::Result<()>)>,
    ) -> Result<i64, Stop> {
        let mut count = 0;
        loop {
            match tokio::time::timeout(limit, outcomes.recv()).await {
                Ok(None) => return Ok(count),
                Ok(Some((_, Ok(())))) => count += 1,
                // it cannot be, or somebody else has done it
                Ok(Some((_, Err(Errno::EOPNOTSUPP | Errno::EBUSY)))) => {}
                Ok(Some((at, Err(source)))) => {
                    return Err(Stop::Refused { name: self.name(at).to_owned(), source });
                }
                Err(_) => {
                    let name = self.stuck().unwrap_or("a file system").to_owned();
                    return Err(Stop::Hung { name, limit });
                }
            }
        }
    }

    /// On a thread.
    fn freeze_each(&self, outcomes: &mpsc::UnboundedSender<(usize, nix::Result<()>)>) {
        for (at, member) in self.members.iter().enumerate().filter(|(_, member)| member.wanted) {
            {
                let mut progress = self.progress();
                if progress.abandoned {
                    return;
                }
                progress.freezing = Some(at);
            }
            let outcome = self.kernel.freeze(&member.opened);
            let mut progress = self.progress();
            if progress.abandoned {
                drop(progress);
                if outcome.is_ok() {
                    // if this fails too, a thaw by hand finds it
                    let _ = self.kernel.thaw(&member.opened);
                }
                self.progress().freezing = None;
                return;
            }
            progress.freezing = None;
            if outcome.is_ok() {
                progress.frozen.push(at);
            }
            drop(progress);
            if outcomes.send((at, outcome)).is_err() {
                return;
            }
            if !matches!(outcome, Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EBUSY)) {
                return;
            }
        }
    }

    /// Thaws all, last frozen first.
    pub(super) async fn thaw(self: &Arc<Self>, scope: ThawScope, limit: Duration) -> Thawed {
        let next = Arc::new(AtomicUsize::new(0));
        let (notes, mut noted) = mpsc::unbounded_channel();
        let job = || Job { batch: self.clone(), scope, next: next.clone(), notes: notes.clone() };
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut helpers = 0;
        let begun = match waiting.map(|waiting| waiting.send(job())) {
            Some(Ok(())) => Ok(()),
            // it has thawed before, and something was left
            Some(Err(_)) | None => {
                let job = job();
                thread(move || job.run())
            }
        };
        let mut states = vec![State::Due; self.members.len()];
        let mut count = 0;
        while begun.is_ok() && states.iter().any(|state| matches!(state, State::Due | State::Begun))
        {
            match tokio::time::timeout(limit, noted.recv()).await {
                Ok(Some(Note::Begun(at))) => states[at] = State::Begun,
                Ok(Some(Note::Ended(at, Ok(was_frozen)))) => {
                    states[at] = State::Thawed;
                    count += i64::from(was_frozen);
                }
                Ok(Some(Note::Ended(at, Err(_)))) => states[at] = State::Left,
                Ok(None) => break,
                Err(_) => {
                    for state in states.iter_mut().filter(|state| **state == State::Begun) {
                        *state = State::Hung;
                    }
                    helpers += 1;
                    let job = job();
                    if helpers > HELPERS || thread(move || job.run()).is_err() {
                        break;
                    }
                }
            }
        }
        let left = states.iter().zip(&self.members).filter(|(state, _)| **state != State::Thawed);
        Thawed { count, left: left.map(|(_, member)| member.opened.name.clone()).collect() }
    }

    /// On a thread: thaws one, as often as it was frozen.
    fn thaw_one(&self, at: usize, scope: ThawScope) -> Result<bool, Errno> {
        let ours = {
            let progress = self.progress();
            if progress.freezing == Some(at) {
                return Err(Errno::EBUSY);
            }
            progress.frozen.contains(&at)
        };
        match scope {
            ThawScope::ThisBatch if !ours => return Ok(false),
            ThawScope::ThisBatch | ThawScope::All => {}
        }
        let opened = &self.members[at].opened;
        for thaws in 0..THAWS {
            match self.kernel.thaw(opened) {
                Ok(()) => {}
                Err(Errno::EINVAL) => return Ok(thaws > 0),
                Err(_) if thaws > 0 => return Ok(true),
                Err(errno) if ours => return Err(errno),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }
}

impl Job {
    fn run(self) {
        let Self { batch, scope, next, notes } = self;
        loop {
            let claimed = next.fetch_add(1, Ordering::Relaxed);
            let Some(at) = batch.members.len().checked_sub(claimed + 1) else { return };
            // nobody may listen any longer: it is to be thawed all the same
            let _ = notes.send(Note::Begun(at));
            let outcome = batch.thaw_one(at, scope);
            let _ = notes.send(Note::Ended(at, outcome));
        }
    }
}
