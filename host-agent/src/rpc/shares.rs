//! Who may wait, and how many at once: shares, so that whoever waits for much keeps nobody else from
//! being answered.
//!
//! A request has a place while it waits. Places are counted by what is waited for, so that those who
//! wait for operations do not stand in the way of those who ask guests; and of each kind one caller has
//! half at most. What is answered at once needs no place.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::method::Call;

use super::service::{Asked, Service};
use crate::compute::Outside;

/// Requests of a kind that wait at a time; more are refused as `busy`.
const PLACES: usize = 512;
/// How many of them may be one caller's.
const OWN: usize = PLACES / 2;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    /// An operation that goes on.
    Operation,
    /// A program that runs in a guest.
    Program,
    /// Something to come from a console.
    Console,
    /// A guest.
    Guest,
    /// The node: libvirt, links, files.
    Node,
}

/// The places of one way in.
#[derive(Debug, Default)]
pub(super) struct Shares(Mutex<HashMap<Kind, HashMap<String, usize>>>);

/// A place; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    shares: Arc<Shares>,
    kind: Kind,
    caller: String,
}

impl Shares {
    /// A place for a request of this caller.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn place(self: &Arc<Self>, kind: Kind, caller: &str) -> Result<Place, Fault> {
        let mut places = self.places();
        let taken = places.entry(kind).or_default();
        let text = if taken.values().sum::<usize>() >= PLACES {
            "busy: too many requests of this kind are waiting on this node"
        } else if taken.get(caller).is_some_and(|own| *own >= OWN) {
            "busy: too many requests of this kind and this caller are waiting on this node"
        } else {
            *taken.entry(caller.to_owned()).or_default() += 1;
            return Ok(Place { shares: Arc::clone(self), kind, caller: caller.to_owned() });
        };
        Err(Fault::new(Reason::Busy, text).next("ask again later"))
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Kind, HashMap<String, usize>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.shares.places();
        let Some(taken) = places.get_mut(&self.kind) else { return };
        let Some(own) = taken.get_mut(&self.caller) else { return };
        *own -= 1;
        if *own == 0 {
            taken.remove(&self.caller);
        }
    }
}

impl<O: Outside> Service<O> {
    /// What the answer to a request has to wait for; none if it is there at once.
    pub(super) fn waits(&self, asked: &Asked) -> Option<Kind> {
        let compute = self.compute();
        let (kind, waits) = match &asked.call {
            Call::OperationWait(wait) => (Kind::Operation, compute.reads().has_to_wait(wait)),
            Call::GuestExecWait(wait) => (Kind::Program, wait.timeout != Some(0)),
            Call::ConsoleRead(read) => (Kind::Console, read.wait.is_some_and(|wait| wait > 0)),
            Call::GuestReport(query) => (Kind::Guest, !query.cached),
            Call::GuestExec(_)
            | Call::GuestFileRead(_)
            | Call::GuestFileWrite(_)
            | Call::GuestTime(_)
            | Call::GuestSyncTime(_)
            | Call::GuestSshKeys(_)
            | Call::GuestTrim(_)
            | Call::ConsoleWrite(_) => (Kind::Guest, true),
            Call::NetworkList(_)
            | Call::InstanceXml(_)
            | Call::InstanceDiagnostics(_)
            | Call::InstanceVnc(_)
            | Call::InstanceVncOpen(_)
            | Call::InstanceConsoleLog(_) => (Kind::Node, true),
            Call::ConsoleOpen(_)
            | Call::ConsoleClose(_)
            | Call::HostPing(_)
            | Call::HostShow(_)
            | Call::Discover(_)
            | Call::InstanceBoot(_)
            | Call::InstanceList(_)
            | Call::InstanceShow(_)
            | Call::InstanceStart(_)
            | Call::InstanceStop(_)
            | Call::InstanceReboot(_)
            | Call::InstancePause(_)
            | Call::InstanceUnpause(_)
            | Call::InstanceSuspend(_)
            | Call::InstanceResume(_)
            | Call::InstanceRebuild(_)
            | Call::InstanceReset(_)
            | Call::InstanceRescue(_)
            | Call::InstanceUnrescue(_)
            | Call::InstanceResize(_)
            | Call::InstanceConfirmResize(_)
            | Call::InstanceRevertResize(_)
            | Call::InstanceAdjust(_)
            | Call::InstanceSnapshot(_)
            | Call::InstanceShelve(_)
            | Call::InstanceOffload(_)
            | Call::InstanceUnshelve(_)
            | Call::InstanceUpdate(_)
            | Call::InstanceLock(_)
            | Call::InstanceUnlock(_)
            | Call::InstanceRestore(_)
            | Call::InstanceDelete(_)
            | Call::InstancePassword(_)
            | Call::OperationGet(_)
            | Call::OperationList(_)
            | Call::OperationCancel(_)
            | Call::ImageImport(_)
            | Call::ImageList(_)
            | Call::ImageRemove(_)
            | Call::NetworkEnsure(_)
            | Call::NetworkRemove(_) => return None,
        };
        waits.then_some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_a_caller_nor_a_kind_uses_up_what_others_have() {
        let shares = Arc::new(Shares::default());
        let take = |kind, caller, count| -> Vec<Place> {
            (0..count).map(|_| shares.place(kind, caller).unwrap()).collect()
        };
        let mut greedy = take(Kind::Operation, "greedy", OWN);
        let refused = shares.place(Kind::Operation, "greedy").unwrap_err();
        assert_eq!(refused.data.reason, Reason::Busy);
        let _rest = take(Kind::Operation, "modest", PLACES - OWN);
        assert!(shares.place(Kind::Operation, "third").is_err(), "there is an end to a kind");
        let _other = take(Kind::Guest, "greedy", 1);
        greedy.pop();
        take(Kind::Operation, "third", 1);
        drop(greedy);
        take(Kind::Operation, "greedy", OWN);
    }
}
