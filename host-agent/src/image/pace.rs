//! How fast downloads may come in, all of them together. Changed while they do.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ostler_protocol::rpc::values::Bytes;
use tokio::sync::Notify;
use tokio::time::Instant;

/// A rate that is shared.
#[derive(Debug)]
pub(super) struct Pace {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Bytes a second; as fast as they come, if none.
    rate: Option<Bytes>,
    /// When what has come so far should have been here.
    due: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<Bytes>) -> Self {
        let state = State { rate, due: Instant::now() };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// This fast from now on; whoever waits goes on.
    pub(super) fn set(&self, rate: Option<Bytes>) {
        let mut state = self.state();
        if state.rate != rate {
            *state = State { rate, due: Instant::now() };
            self.changed.notify_waiters();
        }
    }

    /// So many bytes have come: wait until that is not too fast. `tell` is told before how long that
    /// is, at most.
    pub(super) async fn keep(&self, bytes: usize, tell: impl FnOnce(Duration)) {
        let began = Instant::now();
        // Before the rate is read: a change after that is not missed.
        let changed = self.changed.notified();
        let due = {
            let mut state = self.state();
            let Some(rate) = state.rate else { return };
            let takes = Duration::from_secs_f64(bytes as f64 / rate.0.max(1) as f64);
            state.due = state.due.max(began) + takes;
            state.due
        };
        tell(due - began);
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            () = changed => {}
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_together_are_as_fast_as_the_rate() {
        let pace = Pace::new(Some(Bytes(1000)));
        let began = Instant::now();
        tokio::join!(pace.keep(1500, drop), pace.keep(1500, drop));
        assert_eq!(began.elapsed().as_secs(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nobody_waits_and_who_waits_is_let_go_when_it_is_lifted() {
        let pace = Pace::new(None);
        let began = Instant::now();
        pace.keep(usize::MAX, drop).await;
        pace.set(Some(Bytes(1)));
        let mut told = Duration::ZERO;
        tokio::join!(pace.keep(1 << 20, |wait| told = wait), async { pace.set(None) });
        assert_eq!(told.as_secs(), 1 << 20);
        assert_eq!(began.elapsed(), Duration::ZERO);
    }
}
