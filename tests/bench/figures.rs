//! Numbers about numbers. Pure.
//!
//! Ours and the peer's are measured in turn, A B A B, so the n-th of one was taken under the same
//! load as the n-th of the other. Hence the ratio: the median of the ratios of such pairs, with its
//! quartiles, rather than one median over another.

use std::time::Duration;

/// Values of one thing, in the order they were measured.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Series(Vec<f64>);

/// A median with the quartiles around it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Spread {
    /// A quarter is below.
    pub(crate) low: f64,
    /// Half is below.
    pub(crate) median: f64,
    /// Three quarters are below.
    pub(crate) high: f64,
}

impl Series {
    /// A single value.
    pub(crate) fn one(value: f64) -> Self {
        Self(vec![value])
    }

    /// One more value.
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// One more time, in milliseconds.
    pub(crate) fn took(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1000.0);
    }

    /// The values.
    pub(crate) fn values(&self) -> &[f64] {
        &self.0
    }

    /// The value that this part of all, 0 to 1, does not exceed; `None` if there are none.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let last = sorted.len().checked_sub(1)?;
        // between the two neighbours, in proportion
        let place = part.clamp(0.0, 1.0) * last as f64;
        let below = place.floor() as usize;
        let above = (below + 1).min(last);
        Some(sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor()))
    }

    /// The median with its quartiles; `None` if there are no values.
    pub(crate) fn spread(&self) -> Option<Spread> {
        Some(Spread {
            low: self.quantile(0.25)?,
            median: self.quantile(0.5)?,
            high: self.quantile(0.75)?,
        })
    }

    /// The ratios of each to the peer measured beside it.
    pub(crate) fn over(&self, peer: &Self) -> Self {
        let pairs = self.0.iter().zip(&peer.0);
        Self(pairs.filter(|(_, peer)| **peer > 0.0).map(|(ours, peer)| ours / peer).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn series(values: &[f64]) -> Series {
        Series(values.to_vec())
    }

    #[test]
    fn quantiles_lie_between_neighbours() {
        let series = series(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(series.quantile(0.0), Some(1.0));
        assert_eq!(series.quantile(0.5), Some(2.5));
        assert_eq!(series.quantile(1.0), Some(4.0));
    }

    #[test]
    fn nothing_has_no_median() {
        assert_eq!(Series::default().spread(), None);
    }

    #[test]
    fn a_load_that_slows_both_down_is_not_in_the_ratio() {
        let ours = series(&[11.0, 110.0, 11.0]);
        let peer = series(&[10.0, 100.0, 10.0]);
        let ratio = ours.over(&peer).spread().unwrap();
        assert!((ratio.low - 1.1).abs() < 1e-9 && (ratio.high - 1.1).abs() < 1e-9, "{ratio:?}");
    }

    #[test]
    fn a_peer_of_nothing_gives_no_ratio() {
        assert_eq!(series(&[1.0]).over(&series(&[0.0])), Series::default());
    }
}
