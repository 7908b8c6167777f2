//! What was asked for and is not done.
//!
//! A command that was begun is carried out to its end, though its client has left or given it up. Such
//! ones are kept here, over all channels and sessions, so that their number is bounded: when too many
//! are stuck, further commands are refused until some have ended. So is the memory of requests that
//! wait for their turn: while they hold too much, none is read.

use std::cell::Cell;
use std::rc::Rc;

use tokio::sync::Notify;

/// How many may be left alone at a time.
const MOST: usize = 16;
/// A request of so many bytes is a large one, of which one may wait besides the one being carried out;
/// all the small ones together may have as many.
const LARGE: usize = 1 << 20;

/// The commands left alone, and the requests that are held.
#[derive(Clone, Debug, Default)]
pub struct Unfinished(Rc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    alone: Cell<usize>,
    /// How many large requests are held.
    large: Cell<usize>,
    /// What the small ones hold together.
    small: Cell<usize>,
    lighter: Notify,
}

/// Counts a request until it is dropped.
#[derive(Debug)]
pub struct Held {
    of: Rc<Counts>,
    size: usize,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.size >= LARGE {
            self.of.large.update(|count| count - 1);
        } else {
            self.of.small.update(|sum| sum - self.size);
        }
        self.of.lighter.notify_waiters();
    }
}

struct Alone(Rc<Counts>);

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.alone.update(|count| count - 1);
    }
}

impl Unfinished {
    /// Whether so many are stuck that no more may be begun.
    pub fn is_full(&self) -> bool {
        self.0.alone.get() >= MOST
    }

    /// Carries `rest` to its end, whoever leaves. Must be called within a `LocalSet`.
    pub fn leave_alone(&self, rest: impl Future<Output = ()> + 'static) {
        self.0.alone.update(|count| count + 1);
        let alone = Alone(self.0.clone());
        tokio::task::spawn_local(async move {
            rest.await;
            drop(alone);
        });
    }

    /// Counts a request of so many bytes.
    pub fn hold(&self, size: usize) -> Held {
        if size >= LARGE {
            self.0.large.update(|count| count + 1);
        } else {
            self.0.small.update(|sum| sum + size);
        }
        Held { of: self.0.clone(), size }
    }

    /// Whether requests hold so much that no more may be read.
    pub fn is_heavy(&self) -> bool {
        self.0.large.get() >= 2 || self.0.small.get() >= LARGE
    }

    /// Waits until a request is done with.
    pub async fn lighter(&self) {
        self.0.lighter.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_large_request_may_wait_besides_another_and_small_ones_up_to_a_sum() {
        let unfinished = Unfinished::default();
        let first = unfinished.hold(50 * LARGE);
        assert!(!unfinished.is_heavy());
        let second = unfinished.hold(LARGE);
        assert!(unfinished.is_heavy());
        drop(first);
        assert!(!unfinished.is_heavy());
        let small = [unfinished.hold(LARGE / 2), unfinished.hold(LARGE / 2)];
        assert!(unfinished.is_heavy());
        drop((second, small));
        assert!(!unfinished.is_heavy());
        assert_eq!((unfinished.0.small.get(), unfinished.0.large.get()), (0, 0));
    }
}
