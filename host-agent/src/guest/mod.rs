//! The host's side of the guests: whether each can be talked to, what it says, and what it is told.
//!
//! ```text
//!                     Guests  (registry; one entry per instance)
//!      summary, report  |  running, stopped, agent_connected
//!                       v
//!   entry: standing (state.rs) + knowledge (knowledge.rs) <---- observations
//!                       ^                                            |
//!                       | questions (inquiry.rs)                     |
//!                       v                                            |
//!   task of a running instance:  session.rs  <-- UNIX socket -->  org.ostler.guest.0
//!                                standard.rs <-- Hypervisor  -->  org.qemu.guest_agent.0
//! ```
//!
//! The agent on Ostler's own port speaks first: that it is ready, what its network and filesystems
//! are, that it lives. So a node knows its guests without asking, and knows that one is ready as soon
//! as its agent says so. Guests with a stock agent are asked through libvirt.
//!
//! A guest is not trusted. What it sends is bounded in size, depth, number and rate before it is
//! understood (link.rs, budget.rs), cleaned before it is kept (report.rs), and when too much of it is
//! not the protocol its port is closed and tried again later. Each guest has a task, a buffer and an
//! allowance of its own, so one that floods, babbles or says nothing is a burden to itself.
//!
//! What a guest said last is kept with its age, so that there is an answer when it hangs or is off.

pub(crate) mod budget;
mod clock;
mod entry;
pub mod error;
mod exec;
mod file;
mod freeze;
mod inquiry;
mod keys;
mod knowledge;
mod link;
mod pulse;
mod report;
mod request;
mod session;
pub mod settings;
mod standard;
mod state;
#[cfg(test)]
mod tests;
mod trim;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::power::{GuestShutdown, ShutdownArguments, ShutdownMode};
use ostler_protocol::qga::commands::sync::GuestPing;
use ostler_protocol::qga::commands::user::{GuestSetUserPassword, SetUserPasswordArguments};
use ostler_protocol::rpc::guest::{GuestState, GuestSummary, Report, Transport};
use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::values::{InstanceId, Timestamp};
use tokio::sync::{Notify, broadcast, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument as _;
use zeroize::Zeroize as _;

use self::entry::{Entry, Run, Seat};
pub use self::error::Error;
use self::exec::Execs;
use self::inquiry::Inquiry;
pub(crate) use self::keys::problem as key_problem;
pub use self::settings::GuestSettings;
use crate::hypervisor::Hypervisor;

/// Changes kept for the slowest listener.
const CHANGES: usize = 256;
/// Questions that may wait for their turn at one guest.
const QUEUE: usize = 32;

/// How many times longer than an answer what guests need time for may take: a freeze, a late open.
const LONGER: u32 = 3;

/// The guests of a node. A clone is another handle to the same.
pub struct Guests<H>(Arc<Inner<H>>);

struct Inner<H> {
    hypervisor: Arc<H>,
    settings: Arc<GuestSettings>,
    shutdown: CancellationToken,
    entries: Mutex<HashMap<InstanceId, Arc<Entry>>>,
    execs: Execs,
    changes: broadcast::Sender<(InstanceId, GuestSummary)>,
    tasks: TaskTracker,
}

impl<H> Clone for Guests<H> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<H> fmt::Debug for Guests<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guests").field("sessions", &self.0.tasks.len()).finish_non_exhaustive()
    }
}

impl<H: Hypervisor> Guests<H> {
    /// No guests yet. When `shutdown` is cancelled all sessions end.
    pub fn new(hypervisor: Arc<H>, settings: GuestSettings, shutdown: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            hypervisor,
            settings: Arc::new(settings),
            // its own child, so that draining ends the sessions and nobody else
            shutdown: shutdown.child_token(),
            entries: Mutex::default(),
            execs: Execs::default(),
            changes: broadcast::Sender::new(CHANGES),
            tasks: TaskTracker::new(),
        }))
    }

    /// The instance runs, and Ostler's port of it is at `socket`: keeps a session to its agent.
    /// Saying it again only makes the session look at once.
    pub fn running(&self, id: InstanceId, socket: PathBuf) {
        let entry = Arc::clone(
            self.entries()
                .entry(id)
                .or_insert_with(|| Arc::new(Entry::new(id, self.0.changes.clone()))),
        );
        let mut run = entry.run();
        match &*run {
            Some(run) if run.socket == socket && !run.asks.is_closed() => run.nudge.notify_one(),
            Some(_) | None => self.launch(&entry, &mut run, socket),
        }
    }

    /// The instance started again from its firmware within the same QEMU: its agent is waited for
    /// afresh.
    pub fn restarted(&self, id: InstanceId) {
        let Some(entry) = self.entry(id) else { return };
        let mut run = entry.run();
        if let Some(socket) = run.as_ref().map(|run| run.socket.clone()) {
            self.launch(&entry, &mut run, socket);
        }
    }

    /// The instance is off. Its session ends; what it last said is kept.
    pub fn stopped(&self, id: InstanceId) {
        if let Some(entry) = self.entry(id) {
            end(&entry);
        }
    }

    /// The instance is gone, and what it said with it.
    pub fn forget(&self, id: InstanceId) {
        let entry = self.entries().remove(&id);
        if let Some(entry) = entry {
            end(&entry);
        }
    }

    /// The hypervisor's word on whether the standard port is open in the guest. Of instances not said
    /// to run it means nothing.
    pub fn agent_connected(&self, id: InstanceId, connected: bool) {
        let Some(entry) = self.entry(id) else { return };
        let run = entry.run();
        if let Some(run) = &*run {
            entry.word(connected);
            run.nudge.notify_one();
        }
    }

    /// What is known without asking; of an unknown instance, that it is off.
    pub fn summary(&self, id: InstanceId) -> GuestSummary {
        self.entry(id).map_or(
            GuestSummary { state: GuestState::Off, transport: None, agent: None, heard: None },
            |entry| entry.summary(),
        )
    }

    /// What the guest says of itself, asked now, after waiting at most `wait` for an agent that has
    /// not answered yet. If it cannot be asked or does not answer: its last report, whose age says how
    /// old it is. With `cached` the last report at once. An error if there never was one.
    pub async fn report(
        &self,
        id: InstanceId,
        wait: Duration,
        cached: bool,
    ) -> Result<Report, Error> {
        let entry = self.known(id)?;
        let last = |error: Error| {
            let state = entry.summary().state;
            entry.knowledge().report(id, state, Timestamp::now()).ok_or(error)
        };
        if cached {
            return last(entry.silence(entry.summary().state));
        }
        if !wait.is_zero() {
            let mut standing = entry.standing();
            let settled = standing.wait_for(|standing| standing.is_ready() || standing.is_off());
            // that it did not come in time is told below
            let _ = timeout(wait, settled).await;
        }
        let inquiry = match self.inquiry(&entry) {
            Ok(inquiry) => inquiry,
            Err(error) => return last(error),
        };
        let gathered = inquiry.gather().await;
        if let Some(failure) = gathered.failure() {
            return last(failure.clone());
        }
        entry.knowledge().gathered(gathered, Timestamp::now());
        last(entry.silence(GuestState::Waiting))
    }

    /// Sets an account's password in the guest. No error of it repeats the word.
    pub async fn set_password(&self, id: InstanceId, user: &str, word: &Word) -> Result<(), Error> {
        let entry = self.known(id)?;
        let inquiry = self.inquiry(&entry)?;
        let (secret, crypted) = match word {
            Word::Crypted(secret) => (secret, true),
            Word::Plain(secret) => (secret, false),
        };
        let mut arguments = SetUserPasswordArguments {
            username: user.to_owned(),
            password: STANDARD.encode(secret.expose()),
            crypted,
        };
        let secrets = [secret.expose(), arguments.password.as_str()];
        let outcome = inquiry.ask::<GuestSetUserPassword>(&arguments, &secrets).await;
        arguments.password.zeroize();
        outcome.map(|_| ())
    }

    /// Asks the guest to shut down. Success has no answer: it means that the guest was told and did
    /// not object, not that it is off.
    pub async fn shutdown(&self, id: InstanceId, mode: ShutdownMode) -> Result<(), Error> {
        let entry = self.known(id)?;
        let arguments = ShutdownArguments { mode: Some(mode.as_str().to_owned()) };
        self.inquiry(&entry)?.tell::<GuestShutdown>(&arguments).await
    }

    /// How long the agent takes to answer, over the port that is used.
    pub async fn ping(&self, id: InstanceId) -> Result<Duration, Error> {
        let entry = self.known(id)?;
        ping(&self.inquiry(&entry)?).await
    }

    /// Changes of summaries from now on. A listener that is too slow is told how many it missed.
    pub fn changes(&self) -> broadcast::Receiver<(InstanceId, GuestSummary)> {
        self.0.changes.subscribe()
    }

    /// Ends all sessions and waits until they have.
    pub async fn drain(&self) {
        self.0.shutdown.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<InstanceId, Arc<Entry>>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry(&self, id: InstanceId) -> Option<Arc<Entry>> {
        self.entries().get(&id).cloned()
    }

    fn known(&self, id: InstanceId) -> Result<Arc<Entry>, Error> {
        self.entry(id).ok_or(Error::NotRunning { instance: id })
    }

    fn inquiry<'a>(&'a self, entry: &'a Entry) -> Result<Inquiry<'a, H>, Error> {
        Ok(self.over(entry, entry.transport()?))
    }

    fn over<'a>(&'a self, entry: &'a Entry, over: Transport) -> Inquiry<'a, H> {
        let settings = &*self.0.settings;
        let deadline = Instant::now() + settings.answer_timeout;
        Inquiry { hypervisor: &self.0.hypervisor, settings, entry, over, deadline }
    }

    /// A deadline for something that takes guests longer than a question.
    fn patience(&self) -> Instant {
        Instant::now() + self.0.settings.answer_timeout * LONGER
    }

    /// Carries out what must not stop half way, even when nobody waits for it any more: until the
    /// agent stops. Whoever asks waits until `deadline`.
    async fn see_through<T, W>(
        &self,
        entry: &Arc<Entry>,
        command: &'static str,
        deadline: Instant,
        work: W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let place = timeout_at(deadline, Arc::clone(&entry.work).acquire_owned()).await;
        // the semaphore is never closed
        let Ok(Ok(place)) = place else {
            let why = format!("too much is under way in the guest of {}", entry.id);
            return Err(Error::Busy { why });
        };
        let (tell, told) = oneshot::channel();
        let shutdown = self.0.shutdown.clone();
        let task = async move {
            let outcome = tokio::select! {
                () = shutdown.cancelled() => return,
                outcome = work => outcome,
            };
            drop(place);
            // whoever asked may be gone
            let _ = tell.send(outcome);
        };
        self.0.tasks.spawn(task.in_current_span());
        match timeout_at(deadline, told).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) => Err(Error::NotRunning { instance: entry.id }),
            Err(_) => {
                if let Some(run) = &*entry.run() {
                    run.nudge.notify_one();
                }
                Err(Error::Timeout { command })
            }
        }
    }

    /// Starts a session in the place of whatever session there was.
    fn launch(&self, entry: &Arc<Entry>, run: &mut Option<Run>, socket: PathBuf) {
        if let Some(old) = run.take() {
            old.stop.cancel();
        }
        let (asks, questions) = mpsc::channel(QUEUE);
        let seat = Seat {
            entry: Arc::clone(entry),
            session: entry.begin(),
            settings: Arc::clone(&self.0.settings),
            stop: self.0.shutdown.child_token(),
            nudge: Arc::new(Notify::new()),
        };
        *run = Some(Run {
            socket: socket.clone(),
            stop: seat.stop.clone(),
            asks,
            nudge: Arc::clone(&seat.nudge),
        });
        let hypervisor = Arc::clone(&self.0.hypervisor);
        let span = tracing::info_span!("guest", instance = %entry.id);
        let task = async move {
            tokio::join!(
                session::keep(seat.clone(), &socket, questions),
                standard::watch(seat, &*hypervisor),
            );
        };
        self.0.tasks.spawn(task.instrument(span));
    }
}

fn end(entry: &Entry) {
    let mut run = entry.run();
    if let Some(run) = run.take() {
        run.stop.cancel();
    }
    entry.end();
}

async fn ping<H: Hypervisor>(inquiry: &Inquiry<'_, H>) -> Result<Duration, Error> {
    let start = Instant::now();
    inquiry.ask::<GuestPing>(&Nothing {}, &[]).await?;
    Ok(start.elapsed())
}
