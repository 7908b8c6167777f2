//! The connections of the socket: so many at a time. When all places are taken the one that has
//! been idle for longest gives its own up; only where all are at work, or have just come, is the
//! next one told `busy`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// The places.
#[derive(Debug)]
pub(super) struct Seats {
    most: usize,
    /// How long one is left alone that does nothing: its request may be on its way.
    grace: Duration,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    seats: HashMap<u64, State>,
}

#[derive(Debug)]
struct State {
    /// Requests that are being answered.
    under_way: usize,
    /// Since when that is so.
    since: Instant,
    leave: CancellationToken,
}

/// A connection's place; given back when dropped.
#[derive(Debug)]
pub(super) struct Seat {
    seats: Arc<Seats>,
    id: u64,
    /// Set when somebody else gets it.
    pub(super) leave: CancellationToken,
}

/// A request is being answered, as long as this is held.
#[derive(Debug)]
pub(super) struct AtWork {
    seats: Arc<Seats>,
    id: u64,
}

impl Seats {
    pub(super) fn new(most: usize, grace: Duration) -> Arc<Self> {
        Arc::new(Self { most, grace, taken: Mutex::default() })
    }

    /// A place; none if all are at work.
    pub(super) fn take(self: &Arc<Self>) -> Option<Seat> {
        let mut taken = self.lock();
        if taken.seats.len() >= self.most {
            let is_idle = |seat: &State| seat.under_way == 0 && seat.since.elapsed() >= self.grace;
            let idle = taken.seats.iter().filter(|(_, seat)| is_idle(seat));
            let id = *idle.min_by_key(|(_, seat)| seat.since)?.0;
            taken.seats.remove(&id)?.leave.cancel();
        }
        let (id, leave) = (taken.next, CancellationToken::new());
        taken.next += 1;
        let state = State { under_way: 0, since: Instant::now(), leave: leave.clone() };
        taken.seats.insert(id, state);
        Some(Seat { seats: Arc::clone(self), id, leave })
    }

    fn work(&self, id: u64, change: impl FnOnce(&mut usize)) {
        if let Some(state) = self.lock().seats.get_mut(&id) {
            change(&mut state.under_way);
            state.since = Instant::now();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// A request has come.
    pub(super) fn at_work(&self) -> AtWork {
        self.seats.work(self.id, |under_way| *under_way += 1);
        AtWork { seats: Arc::clone(&self.seats), id: self.id }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.id);
    }
}

impl Drop for AtWork {
    fn drop(&mut self) {
        self.seats.work(self.id, |under_way| *under_way = under_way.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_idle_makes_room_and_none_that_is_at_work() {
        let seats = Seats::new(2, Duration::ZERO);
        let (first, second) = (seats.take().unwrap(), seats.take().unwrap());
        let work = first.at_work();
        let third = seats.take().unwrap();
        assert!(second.leave.is_cancelled() && !first.leave.is_cancelled());
        let _work = third.at_work();
        assert!(seats.take().is_none());
        drop(work);
        let _fourth = seats.take().unwrap();
        assert!(first.leave.is_cancelled());
        drop((first, second));
        assert_eq!(seats.lock().seats.len(), 2);
    }

    #[test]
    fn one_that_has_just_come_is_left_to_say_what_it_wants() {
        let seats = Seats::new(1, Duration::from_secs(3600));
        let first = seats.take().unwrap();
        assert!(seats.take().is_none() && !first.leave.is_cancelled());
    }
}
