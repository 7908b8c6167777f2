//! What a guest may cost, and how its misbehaviour is counted. Pure: the clock is the caller's.

use std::time::Duration;

use tokio::time::Instant;

/// An allowance that refills with time. It may be overdrawn once: who spends learns how long to wait
/// before the next time.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    rate: f64,
    burst: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    /// `rate` a second, and at most `burst` saved up.
    pub(crate) fn new(rate: u32, burst: u32, now: Instant) -> Self {
        Self {
            rate: f64::from(rate.max(1)),
            burst: f64::from(burst),
            left: f64::from(burst),
            at: now,
        }
    }

    /// Spends so much, whether it is there or not.
    pub(crate) fn spend(&mut self, amount: usize, now: Instant) {
        self.refill(now);
        self.left -= amount as f64;
    }

    /// Gives so much back.
    pub(super) fn refund(&mut self, amount: usize) {
        self.left = (self.left + amount as f64).min(self.burst);
    }

    /// How long until there is something to spend; nothing if there is.
    pub(crate) fn wait(&mut self, now: Instant) -> Option<Duration> {
        self.refill(now);
        (self.left < 0.0)
            .then(|| Duration::from_secs_f64(-self.left / self.rate).max(Duration::from_millis(1)))
    }

    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * self.rate).min(self.burst);
        self.at = now;
    }
}

/// Bad messages less good ones, so that one torn line is forgiven and a stream of them is not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Conduct {
    bad: u32,
    most: u32,
}

impl Conduct {
    /// Clean, and `most` is too much.
    pub(super) fn new(most: u32) -> Self {
        Self { bad: 0, most: most.max(1) }
    }

    /// A sound message came.
    pub(super) fn good(&mut self) {
        self.bad = self.bad.saturating_sub(1);
    }

    /// Something else came; says whether that was one too many.
    #[must_use]
    pub(super) fn bad(&mut self) -> bool {
        self.bad += 1;
        self.bad >= self.most
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_overspent_is_waited_for() {
        let start = Instant::now();
        let mut budget = Budget::new(100, 50, start);
        budget.spend(50, start);
        assert_eq!(budget.wait(start), None);
        budget.spend(200, start);
        assert_eq!(budget.wait(start), Some(Duration::from_secs(2)));
        assert_eq!(budget.wait(start + Duration::from_secs(2)), None);
    }

    #[test]
    fn no_more_than_the_burst_is_saved_up() {
        let start = Instant::now();
        let mut budget = Budget::new(100, 50, start);
        let later = start + Duration::from_secs(1000);
        budget.spend(150, later);
        assert_eq!(budget.wait(later), Some(Duration::from_secs(1)));
    }

    #[test]
    fn one_torn_line_is_forgiven_and_a_stream_of_them_is_not() {
        let mut conduct = Conduct::new(3);
        for _ in 0..100 {
            assert!(!conduct.bad());
            conduct.good();
        }
        assert!(!conduct.bad() && !conduct.bad() && conduct.bad());
    }
}
