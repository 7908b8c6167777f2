//! What is remembered of each domain's job. libvirt remembers the last one's end, but not whose it
//! was; and of a save that failed, nothing. An entry goes with its domain.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::values::InstanceId;

use crate::hypervisor::{Change, Error, Job};

/// By domain.
#[derive(Default)]
pub(super) struct Outcomes(Mutex<HashMap<InstanceId, Watched>>);

/// What we have seen of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Watched {
    /// A copy was begun; libvirt knows the rest.
    Copying,
    /// It ended so.
    Ended(Job),
}

impl Outcomes {
    pub(super) fn copying(&self, id: InstanceId) {
        self.entries().insert(id, Watched::Copying);
    }

    pub(super) fn ended(&self, id: InstanceId, outcome: &Result<Change, Error>) {
        let job = match outcome {
            Ok(Change::Made | Change::AlreadySo) => Job::Completed,
            Err(error) => Job::Failed { reason: error.to_string() },
        };
        self.entries().insert(id, Watched::Ended(job));
    }

    pub(super) fn watched(&self, id: InstanceId) -> Option<Watched> {
        self.entries().get(&id).cloned()
    }

    pub(super) fn forget(&self, id: InstanceId) {
        self.entries().remove(&id);
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<InstanceId, Watched>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
