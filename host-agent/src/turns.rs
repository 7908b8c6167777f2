//! So many at a time, which a reload of the configuration changes.
//!
//! What has a turn keeps it: where there are fewer from now on, those that end are not followed by
//! as many others.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of turns; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Turns {
    places: Arc<Semaphore>,
    limit: Arc<Mutex<usize>>,
}

impl Turns {
    pub(crate) fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        Self { places: Arc::new(Semaphore::new(limit)), limit: Arc::new(Mutex::new(limit)) }
    }

    /// Wait for a turn; it ends when it is dropped. None comes of an end of the turns, which there
    /// is not.
    pub(crate) async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).acquire_owned().await.ok()
    }

    /// So many from now on.
    pub(crate) fn resize(&self, to: usize) {
        let to = to.max(1);
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::replace(&mut *limit, to);
        if to >= was {
            return self.places.add_permits(to - was);
        }
        let owed = was - to - self.places.forget_permits(was - to);
        if let (Ok(owed @ 1..), places) = (u32::try_from(owed), Arc::clone(&self.places)) {
            // Those under way pay with their places, before anybody who waits later.
            tokio::spawn(async move {
                if let Ok(paid) = places.acquire_many(owed).await {
                    paid.forget();
                }
            });
        }
    }

    #[cfg(test)]
    pub(crate) fn free(&self) -> usize {
        self.places.available_permits()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn more_turns_are_there_at_once() {
        let turns = Turns::new(1);
        let _first = turns.take().await.unwrap();
        let mut second = Box::pin(turns.take());
        assert!(futures_util::poll!(&mut second).is_pending());
        turns.resize(2);
        assert!(second.await.is_some());
    }

    #[tokio::test]
    async fn fewer_turns_hold_when_those_under_way_have_ended() {
        let turns = Turns::new(3);
        let held = [turns.take().await, turns.take().await, turns.take().await];
        turns.resize(1);
        tokio::task::yield_now().await; // the debt is in line
        let [one, two, three] = held;
        let mut next = Box::pin(turns.take());
        drop((one, two));
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(&mut next).is_pending(), "one is still under way");
        drop(three);
        let _next = next.await;
        assert_eq!(turns.free(), 0, "one at a time");
        turns.resize(2);
        assert_eq!(turns.free(), 1);
    }
}
