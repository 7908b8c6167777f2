//! The driver's connections to libvirt: the only way to make a call.
//!
//! There are several, because libvirtd serves five requests at a time of each and queues the rest:
//! a lane that is full of hung calls leaves the others working. Changes have more than one, and
//! take the least loaded: a handful of instances whose QEMU is stuck keep nobody else from
//! starting. [`Link::Up`] means all of them stand and events are subscribed to, so that nothing
//! that happens after it is missed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use virt::connect::Connect;

use super::connection::Connection;
use super::event_loop::EventLoop;
use super::events;
use super::ffi::EventSink;
use super::lane::{Full, Lane, Opener, Plan, Report};
use super::mark::{self, Illegible};
use super::outcomes::Outcomes;
use crate::hypervisor::event::EVENT_CAPACITY;
use crate::hypervisor::{Error, HypervisorEvent, Link};

/// How many idle turns are kept before they are swept.
const TURNS_SWEPT_AT: usize = 256;

/// How long a thread waits for a call before it ends.
const THREAD_IDLE: Duration = Duration::from_secs(30);

/// How to reach libvirt, and how much to ask of it at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// `qemu:///system`, if nothing speaks for another.
    pub uri: String,
    /// This node, as the marks of its domains name it.
    pub node: String,
    /// Connections for changes, at least one.
    pub control_connections: usize,
    /// Changes at once on each of them. libvirtd serves five of one connection.
    pub control_threads: usize,
    /// Connections for queries, at least one.
    pub stats_connections: usize,
    /// Queries at once on each of them.
    pub stats_threads: usize,
    /// Connections for guest agent commands, at least one.
    pub guest_connections: usize,
    /// Guest agent commands at once on each of them.
    pub guest_threads: usize,
    /// Saves and restores at once; there is one connection for them.
    pub save_threads: usize,
    /// Calls that may wait in each lane.
    pub queue: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            uri: "qemu:///system".to_owned(),
            node: String::new(),
            control_connections: 3,
            control_threads: 4,
            stats_connections: 2,
            stats_threads: 4,
            guest_connections: 2,
            guest_threads: 4,
            save_threads: 4,
            queue: 128,
        }
    }
}

/// Which lanes a call takes, and with which others it takes turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Traffic {
    /// Changes.
    Control,
    /// The plug: with the changes, but never behind one that hangs on the same domain. Killing
    /// QEMU is what ends such a call.
    Destroy,
    /// The end of a job: with the changes, but never behind the one whose job it is.
    Abort,
    /// Memory on its way to disk or back, which takes long: by itself.
    Save,
    /// Queries.
    Stats,
    /// Lists: with the queries, but one at a time, because one domain can hold up a list and must
    /// not hold up the queries about others.
    List,
    /// Whatever waits for a guest's agent.
    GuestAgent,
}

/// The driver; see the module's documentation. Clones share everything.
#[derive(Clone)]
pub struct Libvirt(Arc<Inside>);

struct Inside {
    node: Arc<str>,
    control: Vec<Lane>,
    stats: Vec<Lane>,
    guest_agent: Vec<Lane>,
    save: Vec<Lane>,
    /// No calls: it is there for its connection.
    _events: Lane,
    turns: Turns,
    outcomes: Arc<Outcomes>,
    illegible: Illegible,
    link: watch::Receiver<Link>,
    events: broadcast::Sender<HypervisorEvent>,
    /// Closes when the last thread of every lane has ended.
    ended: tokio::sync::Mutex<mpsc::Receiver<()>>,
}

impl Libvirt {
    /// Starts the driver, with or without a libvirtd: [`Link`] tells when there is one.
    pub fn start(settings: &Settings) -> Result<Self, Error> {
        let event_loop = EventLoop::shared()?;
        let (events, _) = broadcast::channel(EVENT_CAPACITY);
        let (link, link_watch) = watch::channel(Link::Down);
        let (alive, ended) = mpsc::channel(1);
        let control = settings.control_connections.max(1);
        let stats = settings.stats_connections.max(1);
        let guests = settings.guest_connections.max(1);
        let board = Arc::new(LinkBoard {
            // events and saves have one each
            expected: 2 + control + stats + guests,
            standing: Mutex::new(0),
            link,
            events: events.clone(),
        });
        let lane = |name, threads, sink: Option<EventSink>| {
            Lane::start(Plan {
                name,
                threads,
                idle: THREAD_IDLE,
                queue: settings.queue,
                open: opener(settings.uri.clone(), Arc::clone(&event_loop), sink),
                report: LinkBoard::reporter(&board),
                alive: alive.clone(),
            })
        };
        let lanes = |name, count: usize, threads: usize| {
            (0..count).map(|_| lane(name, threads.max(1), None)).collect::<Result<Vec<_>, _>>()
        };
        let told = events.clone();
        let outcomes = Arc::new(Outcomes::default());
        let remembered = Arc::clone(&outcomes);
        let sink: EventSink = Arc::new(move |event| {
            if let Some(event) = events::translate(event) {
                if let HypervisorEvent::Removed { id } = event {
                    remembered.forget(id);
                }
                // no receiver is no error: nobody wants to know
                drop(told.send(event));
            }
        });
        Ok(Self(Arc::new(Inside {
            node: settings.node.as_str().into(),
            _events: lane("libvirt-event", 0, Some(sink))?,
            control: lanes("libvirt-control", control, settings.control_threads)?,
            stats: lanes("libvirt-stats", stats, settings.stats_threads)?,
            guest_agent: lanes("libvirt-guest", guests, settings.guest_threads)?,
            save: lanes("libvirt-save", 1, settings.save_threads)?,
            turns: Turns::default(),
            outcomes,
            illegible: Illegible::default(),
            link: link_watch,
            events,
            ended: tokio::sync::Mutex::new(ended),
        })))
    }

    /// Closes the connections and waits for the threads; those still inside a call after `within`
    /// are left to end by themselves. Clones must be gone by then.
    pub async fn close(self, within: Duration) {
        let Ok(inside) = Arc::try_unwrap(self.0).map_err(|_| {
            tracing::warn!("the libvirt driver is still in use; it is closed by its last user");
        }) else {
            return;
        };
        let Inside { control, stats, guest_agent, save, _events, ended, .. } = inside;
        drop((control, stats, guest_agent, save, _events));
        let mut ended = ended.into_inner();
        if tokio::time::timeout(within, ended.recv()).await.is_err() {
            tracing::warn!("libvirt calls are still unanswered; they are left behind");
        }
    }

    pub(super) fn link_watch(&self) -> watch::Receiver<Link> {
        self.0.link.clone()
    }

    pub(super) fn subscribe(&self) -> broadcast::Receiver<HypervisorEvent> {
        self.0.events.subscribe()
    }

    /// What is remembered of jobs.
    pub(super) fn outcomes(&self) -> &Arc<Outcomes> {
        &self.0.outcomes
    }

    /// The domains whose mark could not be read.
    pub(super) fn illegible(&self) -> &Illegible {
        &self.0.illegible
    }

    /// Whether a call about the domain is on a thread now, waited for or not.
    pub(super) fn is_in_flight(&self, traffic: Traffic, domain: InstanceId) -> bool {
        self.0.turns.is_taken(traffic, Some(domain))
    }

    /// Makes one blocking call on a thread of its lane. Calls about one `domain` take turns within
    /// a lane: the next begins when libvirt has answered the last, even if nobody waited for that.
    /// A domain that does not carry our mark is refused as [`Error::NotOurs`], whatever the call.
    ///
    /// Dropping the future, or running out of time, does not stop a call that has begun.
    pub(super) async fn call<T, F>(
        &self,
        traffic: Traffic,
        domain: Option<InstanceId>,
        step: &'static str,
        within: Duration,
        work: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Connect) -> Result<T, Error> + Send + 'static,
    {
        let deadline = Instant::now() + within;
        let timeout = |_| Error::Timeout { step };
        let turn = match (traffic, domain) {
            (Traffic::List, _) | (_, Some(_)) => Some(
                timeout_at(deadline, self.0.turns.take(traffic, domain)).await.map_err(timeout)?,
            ),
            (_, None) => None,
        };
        let (reply, answer) = oneshot::channel();
        let node = Arc::clone(&self.0.node);
        let job = Box::new(move |connection: Result<&Connect, String>| {
            let _turn = turn;
            if reply.is_closed() {
                return;
            }
            let outcome = match connection {
                Ok(connection) => domain
                    .map_or(Ok(()), |domain| mark::prove(connection, step, domain, &node))
                    .and_then(|()| work(connection))
                    .map_err(|error| blame(connection, step, error)),
                Err(reason) => Err(Error::Unreachable { step, reason }),
            };
            // gone is gone: the caller ran out of time
            drop(reply.send(outcome));
        });
        let lanes = match traffic {
            Traffic::Control | Traffic::Destroy | Traffic::Abort => &self.0.control,
            Traffic::Save => &self.0.save,
            Traffic::Stats | Traffic::List => &self.0.stats,
            Traffic::GuestAgent => &self.0.guest_agent,
        };
        let busy =
            || Error::Busy { step, reason: "too many calls to libvirt are waiting".to_owned() };
        let lane = lanes.iter().min_by_key(|lane| lane.load()).ok_or_else(busy)?;
        lane.submit(deadline.into_std(), job).map_err(|Full| busy())?;
        match timeout_at(deadline, answer).await {
            Ok(Ok(outcome)) => outcome,
            // the job was dropped: late, or it panicked, or the driver is stopping
            Ok(Err(_)) if Instant::now() >= deadline => Err(Error::Timeout { step }),
            Ok(Err(_)) => {
                Err(Error::Unreachable { step, reason: "the call was given up".to_owned() })
            }
            Err(elapsed) => Err(timeout(elapsed)),
        }
    }
}

/// On a broken connection whatever libvirt said is about the connection.
fn blame(connection: &Connect, step: &'static str, error: Error) -> Error {
    match connection.is_alive() {
        Ok(true) => error,
        Ok(false) | Err(_) => Error::Unreachable { step, reason: error.to_string() },
    }
}

/// Holds the event loop for as long as its lane may open connections.
fn opener(uri: String, event_loop: Arc<EventLoop>, sink: Option<EventSink>) -> Opener {
    Box::new(move |lane| {
        let _running = &event_loop;
        let lane = lane.clone();
        Connection::open(&uri, Box::new(move || lane.suspect()), sink.as_ref()).map(Arc::new)
    })
}

/// How many connections stand, and what that means for the whole.
struct LinkBoard {
    expected: usize,
    standing: Mutex<usize>,
    link: watch::Sender<Link>,
    events: broadcast::Sender<HypervisorEvent>,
}

impl LinkBoard {
    fn reporter(board: &Arc<Self>) -> Report {
        let board = Arc::clone(board);
        Box::new(move |up| board.report(up))
    }

    /// Under one lock throughout, so that the watch and the events agree on the order.
    fn report(&self, up: bool) {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        *standing = if up { *standing + 1 } else { standing.saturating_sub(1) };
        let (now, event) = if *standing == self.expected {
            (Link::Up, HypervisorEvent::LinkUp)
        } else {
            (Link::Down, HypervisorEvent::LinkDown)
        };
        if self.link.send_if_modified(|link| std::mem::replace(link, now) != now) {
            tracing::info!(link = ?now, "libvirt");
            drop(self.events.send(event));
        }
    }
}

/// One turn per domain and kind of call.
#[derive(Default)]
struct Turns(Mutex<HashMap<Turn, Arc<Semaphore>>>);

/// Calls of one kind, about one domain or about all.
type Turn = (Traffic, Option<InstanceId>);

impl Turns {
    fn is_taken(&self, traffic: Traffic, domain: Option<InstanceId>) -> bool {
        let turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.get(&(traffic, domain)).is_some_and(|turn| turn.available_permits() == 0)
    }

    async fn take(
        &self,
        traffic: Traffic,
        domain: Option<InstanceId>,
    ) -> Option<OwnedSemaphorePermit> {
        let turn = {
            let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if turns.len() >= TURNS_SWEPT_AT {
                // nobody holds it, nobody waits for it
                turns.retain(|_, turn| Arc::strong_count(turn) > 1);
            }
            Arc::clone(
                turns.entry((traffic, domain)).or_insert_with(|| Arc::new(Semaphore::new(1))),
            )
        };
        // closed by nobody
        turn.acquire_owned().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_domain_has_one_turn_in_each_lane() {
        let turns = Turns::default();
        let (one, two) = (Some(InstanceId::random()), Some(InstanceId::random()));
        let held = turns.take(Traffic::Control, one).await;
        assert!(held.is_some());
        assert!(turns.is_taken(Traffic::Control, one) && !turns.is_taken(Traffic::Control, two));
        let free = [(Traffic::Stats, one), (Traffic::Control, two)];
        for (traffic, id) in free {
            assert!(turns.take(traffic, id).await.is_some());
        }
        let mut next = std::pin::pin!(turns.take(Traffic::Control, one));
        assert!(futures_util::poll!(next.as_mut()).is_pending());
        drop(held);
        assert!(next.await.is_some());
    }

    #[tokio::test]
    async fn idle_turns_are_not_kept() {
        let turns = Turns::default();
        for _ in 0..TURNS_SWEPT_AT * 2 {
            drop(turns.take(Traffic::Control, Some(InstanceId::random())).await);
        }
        assert!(turns.0.lock().unwrap().len() <= TURNS_SWEPT_AT);
    }

    #[test]
    fn the_link_is_up_when_every_lane_is() {
        let (events, mut told) = broadcast::channel(16);
        let (link, watched) = watch::channel(Link::Down);
        let standing = Mutex::new(0);
        let board = LinkBoard { expected: 4, standing, link, events };
        for _ in 0..4 {
            assert_eq!(*watched.borrow(), Link::Down);
            board.report(true);
        }
        assert_eq!(*watched.borrow(), Link::Up);
        board.report(false);
        board.report(false);
        assert_eq!(*watched.borrow(), Link::Down);
        assert_eq!(told.try_recv(), Ok(HypervisorEvent::LinkUp));
        assert_eq!(told.try_recv(), Ok(HypervisorEvent::LinkDown));
        assert!(told.try_recv().is_err(), "one change is told once");
    }
}
