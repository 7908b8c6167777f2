//! Room that the journal keeps for what frees: on a full disk a delete could not be written down,
//! and so the disk would stay full.
//!
//! A file beside the journal, given up by slices: the guests write to the same file system, and
//! would take the whole at once. It is made whole again when something has been freed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use nix::fcntl::{FallocateFlags, fallocate};

/// The whole: some thirty writes.
const WHOLE: u64 = 4 << 20;
/// What one write may take: an operation, an instance, their indices, the log's growth.
const SLICE: u64 = 128 << 10;

/// The file.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// The reserve of the journal at this path, as far as there is room.
    pub(super) fn of(journal: &Path) -> Self {
        let this = Self { path: journal.with_extension("reserve") };
        this.fill();
        this
    }

    /// Make it whole, as far as there is room.
    pub(super) fn fill(&self) {
        let whole = || {
            let file = self.open()?;
            let mut length = file.metadata()?.len();
            while length < WHOLE {
                fallocate(&file, FallocateFlags::empty(), length as i64, SLICE as i64)?;
                length += SLICE;
            }
            Ok::<_, std::io::Error>(())
        };
        if let Err(error) = whole() {
            tracing::debug!(%error, "the journal's reserve is not whole");
        }
    }

    /// Give up a slice: whether there was one.
    pub(super) fn give(&self) -> bool {
        let shorter = || {
            let file = self.open()?;
            let length = file.metadata()?.len();
            file.set_len(length.saturating_sub(SLICE))?;
            Ok::<_, std::io::Error>(length > 0)
        };
        shorter().unwrap_or(false)
    }

    fn open(&self) -> std::io::Result<File> {
        OpenOptions::new().create(true).truncate(false).write(true).open(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_is_given_up_by_slices_and_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let reserve = Reserve::of(&folder.path().join("journal.db"));
        let slices = std::iter::from_fn(|| reserve.give().then_some(())).count();
        assert_eq!(slices as u64, WHOLE / SLICE);
        reserve.fill();
        assert_eq!(std::fs::metadata(&reserve.path).unwrap().len(), WHOLE);
    }
}
