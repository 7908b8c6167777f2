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
    /// What the answer to a request has to wait for; none if it is there at once, as that of every
    /// change is.
    pub(super) fn waits(&self, asked: &Asked) -> Option<Kind> {
        let call = &asked.call;
        let (kind, waits) = if let Call::OperationWait(wait) = call {
            (Kind::Operation, self.compute().reads().has_to_wait(wait))
        } else if let Call::GuestExecWait(wait) = call {
            (Kind::Program, wait.timeout != Some(0))
        } else if let Call::ConsoleRead(read) = call {
            (Kind::Console, read.wait.is_some_and(|wait| wait > 0))
        } else if let Call::GuestReport(query) = call {
            (Kind::Guest, !query.cached)
        } else if is_of_a_guest(call) {
            (Kind::Guest, true)
        } else {
            (Kind::Node, is_of_the_node(call))
        };
        waits.then_some(kind)
    }
}

/// Whether a guest answers it.
const fn is_of_a_guest(call: &Call) -> bool {
    matches!(
        call,
        Call::GuestExec(_)
            | Call::GuestFileRead(_)
            | Call::GuestFileWrite(_)
            | Call::GuestTime(_)
            | Call::GuestSyncTime(_)
            | Call::GuestSshKeys(_)
            | Call::GuestTrim(_)
            | Call::ConsoleWrite(_)
    )
}

/// Whether libvirt, the kernel or a file answers it.
const fn is_of_the_node(call: &Call) -> bool {
    matches!(
        call,
        Call::NetworkList(_)
            | Call::NetworkShow(_)
            | Call::InstanceXml(_)
            | Call::InstanceDiagnostics(_)
            | Call::InstanceVnc(_)
            | Call::InstanceVncOpen(_)
            | Call::InstanceConsoleLog(_)
    )
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
