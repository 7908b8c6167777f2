//! Where our agent does something else than the stock one, and why. `docs/guest-agent.md` tells
//! users the same.

use super::System;
use super::domain::Seen;

/// What is expected of one of the two.
#[derive(Debug, Clone, Copy)]
pub(super) enum Outcome {
    /// The check sees what it should, and this is in what it tells.
    Does(&'static str),
    /// It does not, and this is in why.
    Fails(&'static str),
}

impl Outcome {
    pub(super) fn is(self, seen: &Seen) -> bool {
        match (self, seen) {
            (Self::Does(text), Ok(seen)) | (Self::Fails(text), Err(seen)) => seen.contains(text),
            (Self::Does(_), Err(_)) | (Self::Fails(_), Ok(_)) => false,
        }
    }
}

/// One difference.
pub(super) struct Difference {
    pub(super) check: &'static str,
    /// In all guests if not said.
    pub(super) system: Option<System>,
    pub(super) ours: Outcome,
    pub(super) stock: Outcome,
    /// Why it is meant to be so.
    #[expect(dead_code, reason = "for whoever reads the list")]
    pub(super) reason: &'static str,
}

impl Difference {
    pub(super) fn on(&self, system: System) -> bool {
        self.system.is_none_or(|only| only == system)
    }
}

pub(super) const DIFFERENCES: &[Difference] = &[];
