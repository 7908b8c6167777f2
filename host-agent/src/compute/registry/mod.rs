//! The registry: what is known now, in memory, and told to whoever listens; the journal is its
//! durable copy. Every lock on what is known is short: no I/O happens under it.
//!
//! * [`Known`]: instances, images, networks, and what is under way on them.
//! * [`LiveOperation`]: an operation that is not over.

mod known;
mod live;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::event::{Event, News};
use ostler_protocol::rpc::instance::Status;
use ostler_protocol::rpc::values::{InstanceId, OperationId, Timestamp};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::stalled::stalled;
use crate::config::Settings;
use crate::journal::Journal;
use crate::refusal::Refusal;

pub(super) use known::{Known, Observed};
pub(super) use live::{Acceptance, LiveOperation, Volatile};

/// Events kept for listeners that lag; they tell what is, so a lost one is made good by the next.
const EVENTS: usize = 1024;

/// What is known, where it is written down, and who is told.
pub(super) struct Registry {
    known: Mutex<Known>,
    pub(super) journal: Journal,
    pub(super) settings: watch::Sender<Arc<Settings>>,
    /// Told whenever what is observed of an instance changes.
    pub(super) observed_changed: watch::Sender<()>,
    events: broadcast::Sender<Event<Refusal>>,
    pub(super) started: Timestamp,
    /// Set when the agent stops.
    pub(super) shutdown: CancellationToken,
}

impl Registry {
    pub(super) fn new(
        known: Known,
        journal: Journal,
        settings: Arc<Settings>,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            known: Mutex::new(known),
            journal,
            settings: watch::Sender::new(settings),
            observed_changed: watch::Sender::new(()),
            events: broadcast::Sender::new(EVENTS),
            started: Timestamp::now(),
            shutdown,
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        // A panic under the lock leaves what is still whole: each change is one insert.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The settings as they are now.
    pub(super) fn settings(&self) -> Arc<Settings> {
        Arc::clone(&self.settings.borrow())
    }

    /// The operation, if it is not over.
    pub(super) fn live(&self, id: OperationId) -> Option<Arc<LiveOperation>> {
        self.lock().live.get(&id).cloned()
    }

    /// Change what is observed of an instance; whether that made a difference.
    pub(super) fn observe(&self, id: InstanceId, change: impl FnOnce(&mut Observed)) -> bool {
        let changed = {
            let mut known = self.lock();
            let seen = known.observed.entry(id).or_insert(Observed::UNKNOWN);
            let before = seen.clone();
            change(seen);
            *seen != before
        };
        if changed {
            self.observed_changed.send_replace(());
        }
        changed
    }

    /// Events from now on.
    pub(super) fn events(&self) -> broadcast::Receiver<Event<Refusal>> {
        self.events.subscribe()
    }

    /// Tell listeners; nobody need be there.
    pub(super) fn tell(&self, news: News<Refusal>) {
        let event = Event { host: self.settings().host.to_string(), time: Timestamp::now(), news };
        let _ = self.events.send(event);
    }

    pub(super) fn tell_operation(&self, operation: &LiveOperation) {
        self.tell(News::Operation(Box::new(operation.operation())));
    }

    pub(super) fn tell_instance(&self, id: InstanceId) {
        let resumes = self.settings().resume_when_room;
        let news = {
            let known = self.lock();
            known.instances.get(&id).map(|record| {
                let seen = known.observed(id);
                News::Instance {
                    id,
                    status: Status::of(record.vm_state, record.task_state),
                    power_state: seen.power,
                    stalled: stalled(record, seen.stall, resumes),
                }
            })
        };
        if let Some(news) = news {
            self.tell(news);
        }
    }
}
