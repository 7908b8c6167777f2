//! The last bytes of an endless stream, each known by its place in it.

use std::collections::VecDeque;

/// The ring.
#[derive(Debug)]
pub(super) struct Ring {
    bytes: VecDeque<u8>,
    limit: usize,
    /// The place behind the last byte.
    end: u64,
}

impl Ring {
    /// An empty one that keeps `limit` bytes.
    pub(super) fn new(limit: usize) -> Self {
        Self { bytes: VecDeque::new(), limit, end: 0 }
    }

    /// The place behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Appends; what is too old is forgotten.
    pub(super) fn push(&mut self, new: &[u8]) {
        self.end += new.len() as u64;
        let new = &new[new.len().saturating_sub(self.limit)..];
        let excess = (self.bytes.len() + new.len()).saturating_sub(self.limit);
        self.bytes.drain(..excess);
        self.bytes.extend(new);
    }

    /// At most `most` bytes from a place on, and how many before them are forgotten.
    pub(super) fn from(&self, at: u64, most: usize) -> (u64, Vec<u8>) {
        let start = self.end - self.bytes.len() as u64;
        let lost = start.saturating_sub(at);
        let skip = usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX);
        (lost, self.bytes.iter().skip(skip).take(most).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whatever comes in whatever pieces: what is read is what was there, and memory is bounded.
        #[test]
        fn it_is_a_window_on_the_stream(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..20),
            at in 0u64..400, most in 0usize..50,
        ) {
            let mut ring = Ring::new(32);
            pieces.iter().for_each(|piece| ring.push(piece));
            let stream = pieces.concat();
            prop_assert_eq!(ring.end(), stream.len() as u64);
            prop_assert!(ring.bytes.len() <= 32);
            let at = at.min(ring.end());
            let (lost, read) = ring.from(at, most);
            let from = (at + lost) as usize;
            prop_assert_eq!(&read, &stream[from..][..read.len()]);
            prop_assert_eq!(read.len(), most.min(stream.len() - from));
            prop_assert!(lost == 0 || from == stream.len() - 32);
        }
    }
}
