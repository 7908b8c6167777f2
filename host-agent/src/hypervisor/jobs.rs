//! What takes long: saving a domain's memory and copying its disks.
//!
//! ```text
//!   save ───────────────────────────> off, memory saved      blocks until it is through
//!   begin_copy ──> Running ... ─────> Completed | Failed     returns when it is under way
//!                     └ abort_job ──> None                   either of them
//! ```
//!
//! A domain has one job at a time, and it goes on without us: whoever was restarted meanwhile
//! saves again, which waits for the outcome, or aborts a copy and begins anew.

use std::path::Path;

use ostler_protocol::rpc::values::{Bytes, InstanceId};

use super::{Change, Error};

/// What a domain's job has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// There is none, and none was watched.
    None,
    /// It goes on.
    Running {
        /// So much is through.
        done: Bytes,
        /// Of so much, where that is known. A guest that goes on writing makes it more.
        total: Option<Bytes>,
    },
    /// The last one is through.
    Completed,
    /// The last one failed.
    Failed {
        /// The hypervisor's words, or ours where it has none.
        reason: String,
    },
}

/// The driver's jobs.
pub trait Jobs: Send + Sync + 'static {
    /// Saves the memory of a running or paused domain to disk and stops it; the next
    /// [`start`](super::Hypervisor::start) goes on from there. Blocks until done, be that an hour,
    /// and waits for a save that is under way. `AlreadySo` if the domain is off with memory saved;
    /// refused if it is off without.
    ///
    /// One that was aborted or failed leaves the domain as it was.
    fn save(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Begins to copy a disk, as in `vda`, of a running or paused domain, as it is when this returns, into a new
    /// qcow2 file that needs no other. The guest may go on writing meanwhile. Refused if another
    /// job is on, if the domain is off, and if the file is there and holds anything.
    ///
    /// The file is complete when [`job`](Self::job) says so, and not before. A guest that goes off
    /// ends the job, which then has failed.
    fn begin_copy(
        &self,
        id: InstanceId,
        device: &str,
        to: &Path,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// The job on the domain: none, how far it is, or how the last one ended since the driver
    /// watched.
    fn job(&self, id: InstanceId) -> impl Future<Output = Result<Job, Error>> + Send;

    /// Ends the job on the domain, waits until it is gone, and forgets how the last one ended. None
    /// is as wanted. A save so ended leaves the domain as it was; a copy's file may be left behind,
    /// and is worth nothing.
    ///
    /// A save that has not begun yet is not found: whoever waits for one repeats this until it has
    /// returned.
    fn abort_job(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;
}
