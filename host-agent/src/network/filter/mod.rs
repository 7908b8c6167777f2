//! What guests may send: a table of our own in nftables, in the bridge family.
//!
//! ```text
//!   a frame from a guest ── prerouting ── by the tap it came through ──> from-TAP: its port's rules
//!                                                                          │
//!                                             dropped, and counted by why <┴> goes on
//! ```
//!
//! The rules stand by the name of the tap, so they are there before it is. [`rules`] writes them,
//! purely; [`Nft`] has `nft` put them in place, each change as one transaction. Other tables are neither
//! read nor touched, and nothing of ours is in them.
//!
//! `nft` rather than netlink: its language is what operators read in `nft list`, it is on every node that
//! has nftables, and a transaction is one run of it.

mod error;
mod fake;
mod nft;
mod rules;

use std::future::Future;

use ostler_protocol::rpc::port::AddressPair;
use ostler_protocol::rpc::values::{MacAddress, Prefix};

pub use error::FilterError;
pub use fake::FakeFilters;
pub use nft::Nft;

use crate::network::LinkName;

/// What the guest behind a tap may send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guard {
    /// The tap.
    pub tap: LinkName,
    /// The MAC it sends from.
    pub mac: MacAddress,
    /// Its addresses. Those of a family are held against what it sends if one is known.
    pub addresses: Vec<Prefix>,
    /// What it may send from besides.
    pub pairs: Vec<AddressPair>,
}

/// What was dropped, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The word for why, as in `mac`.
    pub reason: String,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Whether all rules are in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InPlace {
    /// They were.
    Found,
    /// They were not, and are now.
    Mended,
}

/// The rules of the node. Each call may be repeated, and is done whole or not at all.
pub trait Filters: Send + Sync + 'static {
    /// Have these guards in place, whatever there was for their taps; others stay. It waits for the first
    /// [`sync`](Self::sync), which tells of the others.
    fn put(&self, guards: &[Guard]) -> impl Future<Output = Result<(), FilterError>> + Send;

    /// Leave nothing for these taps; none there is as wanted.
    fn remove(&self, taps: &[LinkName]) -> impl Future<Output = Result<(), FilterError>> + Send;

    /// Have these guards in place, and no others: what somebody changed or dropped is put back, and
    /// all counters begin anew then. It is asked which those are while nothing else is put in place.
    fn sync(
        &self,
        guards: impl FnOnce() -> Vec<Guard> + Send,
    ) -> impl Future<Output = Result<InPlace, FilterError>> + Send;

    /// Until somebody may have changed the rules since the last look at them.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// What was dropped of what came through a tap; nothing if there are no rules for it.
    fn dropped(
        &self,
        tap: &LinkName,
    ) -> impl Future<Output = Result<Vec<Dropped>, FilterError>> + Send;
}
