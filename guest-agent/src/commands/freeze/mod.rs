//! Freezing file systems, and seeing to it that they are thawed again.
//!
//! ```text
//!            freeze: hook, open, write out, note          thaw, or the lease lapses
//!  thawed ----------------------------------> freezing -> frozen -----------------> thawed
//!     ^                                          |                                    |
//!     +------- hook <- thaw <-- fails, hangs, or a thaw calls it off        hook <----+
//! ```
//!
//! [`plan`] decides what is frozen and in which order, [`batch`] carries it out on threads, [`lease`]
//! keeps the time. A freeze or thaw that was begun goes on if its client leaves, so nothing stays half
//! done. While file systems are frozen nothing is written: not to the log either, which may lie in
//! one of them.
//!
//! The agent takes part in the frozen state as long as something may be left of it: file systems that
//! could not be thawed are tried again, and it says that it is frozen meanwhile.

pub(crate) mod batch;
mod devices;
#[cfg(test)]
mod fake;
pub(crate) mod kernel;
mod lease;
pub(crate) mod plan;
#[cfg(test)]
mod tests;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::freeze::{
    FreezeArguments, FreezeListArguments, FreezeStatus, GuestFsfreezeFreeze,
    GuestFsfreezeFreezeList, GuestFsfreezeStatus, GuestFsfreezeThaw, LONGEST_LEASE,
};
use ostler_protocol::qga::events::Thawed;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::AbortHandle;

use super::hook::{Hook, HookError, Step};
use super::{Agent, CommandError, Handle};
use crate::log::chain;
use crate::settings::Settings;
use crate::worker::{WorkerError, Workers};
use batch::{Batch, Member, Stop, ThawScope};
use kernel::{Kernel, Linux};
use lease::{Lease, Note};

/// Why file systems were not frozen, or not thawed.
#[derive(Debug, thiserror::Error)]
pub enum FreezeError {
    /// A lease out of bounds.
    #[error("Parameter 'lease' expects a number of seconds from 1 to {LONGEST_LEASE}")]
    Lease,
    /// Another command is at it.
    #[error("file systems are being frozen or thawed already")]
    Busy,
    /// The program that is told.
    #[error(transparent)]
    Hook(#[from] HookError),
    /// The table of mounts.
    #[error("failed to read the table of mounts")]
    Mounts(#[source] std::io::Error),
    /// A file system could not be opened.
    #[error("failed to open {name}")]
    Open {
        /// Where it is mounted.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A file system did not answer in time.
    #[error("failed to freeze {name}")]
    Late {
        /// Where it is mounted.
        name: String,
        /// Why.
        source: WorkerError,
    },
    /// A thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// The thread that thaws.
    #[error("there is no thread to thaw file systems with")]
    Thread(#[source] std::io::Error),
    /// Freezing itself.
    #[error("{0}")]
    Stopped(String),
    /// Nobody thawed in time.
    #[error(
        "the freeze had lapsed: file systems were thawed after {0} s; \
         what was copied of them since is not consistent"
    )]
    Lapsed(u64),
    /// Some are still frozen.
    #[error("failed to thaw {0}: it is tried again until it succeeds")]
    Left(String),
    /// It failed, and so did undoing it.
    #[error("{0}; then: {1}")]
    Both(String, String),
    /// What carried it out is gone.
    #[error("freezing or thawing was given up")]
    Lost,
}

impl From<Stop> for FreezeError {
    fn from(stop: Stop) -> Self {
        Self::Stopped(chain(&stop))
    }
}

/// How long the kernel may take with one file system.
#[derive(Clone, Copy, Debug)]
struct Limits {
    open: Duration,
    freeze: Duration,
    thaw: Duration,
    /// Until what could not be thawed is tried again.
    retry: Duration,
}

impl Limits {
    const USUAL: Self = Self {
        open: Duration::from_secs(10),
        freeze: Duration::from_secs(60),
        thaw: Duration::from_secs(10),
        retry: Duration::from_secs(10),
    };
}

/// What is frozen.
#[derive(Debug)]
struct Held {
    /// The file systems; none if an agent before this one froze them.
    batch: Option<Arc<Batch>>,
    lease: Lease,
    /// What waits for the lease to lapse.
    timer: Option<AbortHandle>,
    hook: HookDue,
}

/// Whether the hook was told to freeze and not yet to thaw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HookDue {
    Yes,
    No,
}

/// Why a timer was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timer {
    /// To end the lease.
    Lease,
    /// To thaw what was left.
    Retry,
}

/// What freezes and thaws.
#[derive(Debug)]
pub struct Freezer {
    kernel: Arc<dyn Kernel>,
    /// Its own: it must find a thread when others have taken all of theirs.
    workers: Workers,
    hook: Hook,
    lease: Duration,
    note: Note,
    limits: Limits,
    /// Held by whoever freezes or thaws.
    turn: Mutex<()>,
    /// Tells a freeze under way to stop.
    called_off: watch::Sender<bool>,
    held: RefCell<Option<Held>>,
    /// What a freeze that was called off has thawed, for who called it off.
    undone: RefCell<Option<Result<i64, FreezeError>>>,
    /// That a lease has lapsed, until somebody has been told.
    lapsed: watch::Sender<Option<Thawed>>,
}

impl Freezer {
    /// One for the file systems of this guest.
    pub fn new(settings: &Settings) -> Self {
        Self::with(settings, Arc::new(Linux), Limits::USUAL)
    }

    fn with(settings: &Settings, kernel: Arc<dyn Kernel>, limits: Limits) -> Self {
        Self {
            kernel,
            workers: Workers::new(),
            hook: Hook::new(settings.hook.clone(), settings.hook_timeout),
            lease: settings.freeze_lease,
            note: Note::within(&settings.state_directory),
            limits,
            turn: Mutex::new(()),
            called_off: watch::Sender::new(false),
            held: RefCell::new(None),
            undone: RefCell::new(None),
            lapsed: watch::Sender::new(None),
        }
    }

    /// Leases that lapse from now on, and one that has and nobody knows of.
    pub fn lapses(&self) -> watch::Receiver<Option<Thawed>> {
        let mut receiver = self.lapsed.subscribe();
        receiver.mark_changed();
        receiver
    }

    /// Everything up to the point where the kernel has frozen what is wanted.
    async fn attempt(
        &self,
        agent: &Agent,
        places: Option<Vec<String>>,
        length: Duration,
        hook: &mut HookDue,
    ) -> Result<i64, FreezeError> {
        let mut called_off = self.called_off.subscribe();
        let prepare = async {
            if let Err(error) = self.hook.run(Step::Freeze).await {
                if !error.has_run() {
                    *hook = HookDue::No;
                }
                return Err(error.into());
            }
            self.prepare(places).await
        };
        let batch = tokio::select! {
            batch = prepare => batch?,
            _ = called_off.wait_for(|called_off| *called_off) => return Err(Stop::CalledOff.into()),
        };
        if batch.wanted().next().is_none() {
            return Ok(0);
        }
        let lease = Lease::begin(length);
        let names: Vec<_> = batch.wanted().map(|member| member.opened.name.clone()).collect();
        agent.log.info(format_args!(
            "freezing {} file systems for {} s at most",
            names.len(),
            length.as_secs()
        ));
        let note = self.note.clone();
        let write = move || note.write(&lease, &names);
        match self.workers.run("noting the freeze", self.limits.open, write).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => agent.log.error(format_args!("the freeze is not noted: {error}")),
            Err(error) => agent.log.error(format_args!("the freeze is not noted: {error}")),
        }
        agent.set_frozen(true);
        let held = Held { batch: Some(batch.clone()), lease, timer: None, hook: HookDue::No };
        *self.held.borrow_mut() = Some(held);
        Ok(batch.freeze(self.limits.freeze, lease.left(), &mut called_off).await?)
    }

    /// Opens all there is, and has what is wanted written out.
    async fn prepare(&self, places: Option<Vec<String>>) -> Result<Arc<Batch>, FreezeError> {
        let batch = self.gather(places.as_deref()).await?;
        for at in 0..batch.len() {
            let work = batch.clone();
            self.workers
                .run("writing out", self.limits.freeze, move || work.sync(at))
                .await
                .map_err(|source| FreezeError::Late { name: batch.name(at).to_owned(), source })?;
        }
        Ok(batch)
    }

    /// Opens all file systems. Those at `places` are wanted, or all; those that nobody wants, or that
    /// nothing leads to, may be missing.
    async fn gather(&self, places: Option<&[String]>) -> Result<Arc<Batch>, FreezeError> {
        let kernel = self.kernel.clone();
        let filesystems = self
            .workers
            .run("looking for file systems", self.limits.open, move || kernel.filesystems())
            .await?
            .map_err(FreezeError::Mounts)?;
        let mut members = Vec::with_capacity(filesystems.len());
        let mut hung = false;
        for filesystem in filesystems {
            let wanted = places.is_none_or(|places| filesystem.is_at(places));
            if !wanted && hung {
                continue;
            }
            let name = filesystem.name();
            let kernel = self.kernel.clone();
            let open = move || kernel.open(&filesystem);
            match self.workers.run("opening", self.limits.open, open).await {
                Ok(Ok(Some(opened))) => members.push(Member { opened, wanted }),
                Ok(Ok(None)) => {}
                Ok(Err(source)) if wanted => return Err(FreezeError::Open { name, source }),
                Ok(Err(_)) => {}
                Err(source) if wanted => return Err(FreezeError::Late { name, source }),
                // one that hangs may be one of many
                Err(_) => hung = true,
            }
        }
        Batch::new(self.kernel.clone(), members).map_err(FreezeError::Thread)
    }

    /// Thaws whatever is frozen, by whomever.
    async fn thaw_everything(&self) -> Result<batch::Thawed, FreezeError> {
        let batch = self.gather(Some(&[])).await?;
        Ok(batch.thaw(ThawScope::All, self.limits.thaw).await)
    }
}

impl HookError {
    /// Whether the hook may have done something.
    fn has_run(&self) -> bool {
        match self {
            Self::Access { .. } => false,
            Self::Failed { source, .. } => !source.is_spawn(),
        }
    }
}

/// Freezes; whatever goes wrong, or if there is nothing to freeze, all is thawed when this ends.
async fn freeze(
    agent: Rc<Agent>,
    places: Option<Vec<String>>,
    length: Duration,
) -> Result<i64, FreezeError> {
    let freezer = &agent.freezer;
    let _turn = freezer.turn.try_lock().map_err(|_| FreezeError::Busy)?;
    if agent.is_frozen() {
        return Err(FreezeError::Busy);
    }
    freezer.called_off.send_replace(false);
    freezer.undone.replace(None);
    freezer.lapsed.send_replace(None);
    let mut hook = HookDue::Yes;
    let outcome = freezer.attempt(&agent, places, length, &mut hook).await;
    if let Some(held) = &mut *freezer.held.borrow_mut() {
        held.hook = hook;
    }
    if let Ok(1..) = outcome {
        set_timer(&agent, Timer::Lease);
        return outcome;
    }
    let undone = undo(&agent, hook, ThawScope::ThisBatch).await;
    if outcome.is_err() && *freezer.called_off.borrow() {
        freezer.undone.replace(Some(undone));
        return outcome;
    }
    match (outcome, undone) {
        (outcome, Ok(_)) => outcome,
        (Ok(_), Err(error)) => Err(error),
        (Err(error), Err(undone)) => Err(FreezeError::Both(chain(&error), chain(&undone))),
    }
}

/// Thaws what the agent holds, if it does, and tells the hook if it is due.
async fn undo(agent: &Rc<Agent>, hook: HookDue, scope: ThawScope) -> Result<i64, FreezeError> {
    let freezer = &agent.freezer;
    let held = freezer.held.borrow_mut().take();
    let mut count = 0;
    let mut left = None;
    if let Some(mut held) = held {
        if let Some(timer) = held.timer.take() {
            timer.abort();
        }
        let thawed = match &held.batch {
            Some(batch) => Ok(batch.thaw(scope, freezer.limits.thaw).await),
            None => freezer.thaw_everything().await,
        };
        let error = match thawed {
            Ok(thawed) => {
                count = thawed.count;
                let names = thawed.left.join(", ");
                (!names.is_empty()).then_some(FreezeError::Left(names))
            }
            Err(error) => Some(error),
        };
        if let Some(error) = error {
            held.hook = HookDue::No;
            *freezer.held.borrow_mut() = Some(held);
            set_timer(agent, Timer::Retry);
            left = Some(error);
        } else {
            // before the agent says that all is thawed: one that is killed in between finds no note
            let note = freezer.note.clone();
            let remove = move || note.remove();
            let removed = freezer.workers.run("removing a note", freezer.limits.open, remove).await;
            agent.set_frozen(false);
            match removed {
                Ok(Ok(())) => {}
                Ok(Err(error)) => agent.log.error(format_args!("the note is left: {error}")),
                Err(error) => agent.log.error(format_args!("the note is left: {error}")),
            }
            agent.log.info(format_args!("{count} file systems are thawed"));
        }
    }
    let told = match hook {
        HookDue::Yes => freezer.hook.run(Step::Thaw).await,
        HookDue::No => Ok(()),
    };
    match (left, told) {
        (Some(left), _) => Err(left),
        (None, told) => Ok(told.map(|()| count)?),
    }
}

/// Thaws on request.
async fn thaw(agent: Rc<Agent>) -> Result<i64, FreezeError> {
    let freezer = &agent.freezer;
    let _turn = match freezer.turn.try_lock() {
        Ok(turn) => turn,
        Err(_) => {
            freezer.called_off.send_replace(true);
            freezer.turn.lock().await
        }
    };
    if let Some(undone) = freezer.undone.take() {
        return undone;
    }
    let held = freezer.held.borrow().as_ref().map(|held| held.hook);
    let outcome = match held {
        Some(hook) => Some(undo(&agent, hook, ThawScope::All).await),
        None => None,
    };
    if let Some(Thawed { lease, .. }) = freezer.lapsed.send_replace(None) {
        return Err(FreezeError::Lapsed(lease));
    }
    if let Some(outcome) = outcome {
        return outcome;
    }
    let thawed = freezer.thaw_everything().await?;
    freezer.hook.run(Step::Thaw).await?;
    if thawed.left.is_empty() {
        Ok(thawed.count)
    } else {
        Err(FreezeError::Left(thawed.left.join(", ")))
    }
}

/// Sees to it that what is held is thawed in time.
fn set_timer(agent: &Rc<Agent>, timer: Timer) {
    let lease = match (&*agent.freezer.held.borrow(), timer) {
        (Some(held), Timer::Lease) => held.lease,
        (_, Timer::Retry) => Lease::begin(agent.freezer.limits.retry),
        (None, Timer::Lease) => return,
    };
    let owner = agent.clone();
    let task = tokio::task::spawn_local(async move {
        lease.lapse().await;
        end(owner, timer).await;
    });
    if let Some(held) = &mut *agent.freezer.held.borrow_mut() {
        held.timer = Some(task.abort_handle());
    }
}

/// What a timer does.
async fn end(agent: Rc<Agent>, timer: Timer) {
    let freezer = &agent.freezer;
    // a thaw that has the turn aborts this
    let _turn = freezer.turn.lock().await;
    let Some((hook, lease)) = freezer.held.borrow_mut().as_mut().map(|held| {
        held.timer = None;
        (held.hook, held.lease)
    }) else {
        return;
    };
    let outcome = undo(&agent, hook, ThawScope::ThisBatch).await;
    let filesystems = *outcome.as_ref().unwrap_or(&0);
    let lease = lease.length.as_secs();
    match timer {
        Timer::Lease => {
            freezer.lapsed.send_replace(Some(Thawed { filesystems, lease }));
            if !agent.is_frozen() {
                agent.log.error(format_args!(
                    "file systems were thawed after {lease} s because nobody had thawed them"
                ));
            }
        }
        Timer::Retry => {}
    }
    if let Err(error) = outcome
        && !agent.is_frozen()
    {
        agent.log.error(format_args!("thawing was not as it should be: {}", chain(&error)));
    }
}

/// Takes over what an agent before this one has frozen, if it was killed before it could thaw. Must be
/// called within a local set, and before anything is served.
pub fn take_over(agent: &Rc<Agent>) {
    let freezer = &agent.freezer;
    match freezer.note.read(freezer.lease) {
        Some(lease) => {
            agent.log.info(format_args!(
                "file systems are frozen already; they are thawed in {} s",
                lease.left().as_secs()
            ));
            agent.set_frozen(true);
            let held = Held { batch: None, lease, timer: None, hook: HookDue::Yes };
            *freezer.held.borrow_mut() = Some(held);
            set_timer(agent, Timer::Lease);
        }
        None => {
            if let Err(error) = freezer.note.remove() {
                agent.log.info(format_args!("a note of an earlier boot is left: {error}"));
            }
        }
    }
}

/// Goes on with `work` even if whoever waits for it gives up.
async fn to_its_end<T: 'static>(
    work: impl Future<Output = Result<T, FreezeError>> + 'static,
) -> Result<T, CommandError> {
    let (sender, receiver) = oneshot::channel();
    tokio::task::spawn_local(async move {
        // nobody waits any longer: so be it
        let _ = sender.send(work.await);
    });
    Ok(receiver.await.unwrap_or(Err(FreezeError::Lost))?)
}

fn length(agent: &Agent, lease: Option<i64>) -> Result<Duration, FreezeError> {
    match lease {
        None => Ok(agent.freezer.lease),
        Some(seconds) if seconds > LONGEST_LEASE => Err(FreezeError::Lease),
        Some(seconds) => u64::try_from(seconds)
            .ok()
            .filter(|seconds| *seconds > 0)
            .map(Duration::from_secs)
            .ok_or(FreezeError::Lease),
    }
}

impl Handle for GuestFsfreezeStatus {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<FreezeStatus, CommandError> {
        Ok(if agent.is_frozen() { FreezeStatus::Frozen } else { FreezeStatus::Thawed })
    }
}

impl Handle for GuestFsfreezeFreeze {
    async fn handle(agent: Rc<Agent>, arguments: FreezeArguments) -> Result<i64, CommandError> {
        let length = length(&agent, arguments.lease)?;
        to_its_end(freeze(agent, None, length)).await
    }
}

impl Handle for GuestFsfreezeFreezeList {
    async fn handle(agent: Rc<Agent>, arguments: FreezeListArguments) -> Result<i64, CommandError> {
        let length = length(&agent, arguments.lease)?;
        to_its_end(freeze(agent, arguments.mountpoints, length)).await
    }
}

impl Handle for GuestFsfreezeThaw {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<i64, CommandError> {
        to_its_end(thaw(agent)).await
    }
}
