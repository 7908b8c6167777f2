//! A disk of a running domain that moves to another place, under its guest.
//!
//! ```text
//!   begin_mirror ──> Copying ... ──> Same ── switch_to_mirror ──> the disk is in its new place
//!                       └────────────────┴── drop_mirror ───────> it is where it was
//! ```
//!
//! While the two are the same, what the guest writes goes to both. A mirror goes on without us, and
//! goes with its domain: one that goes off is where it was.

use ostler_protocol::rpc::values::{Bytes, InstanceId};

use super::plug::LiveDisk;
use super::spec::Disk;
use super::{Change, Error};

/// How far a mirror is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mirroring {
    /// There is none; or it failed.
    None,
    /// It is being filled.
    Copying {
        /// So much is through.
        done: Bytes,
        /// Of so much. A guest that goes on writing makes it more.
        total: Bytes,
    },
    /// Both hold the same, and will.
    Same,
}

/// Moves of a running domain's disks; part of what a [`Hypervisor`](super::Hypervisor) does.
///
/// All but [`defined_disks`](Self::defined_disks) are [`Error::Refused`] of a domain that does not
/// run, unless they say otherwise.
pub trait Mirror: Send + Sync + 'static {
    /// Begins to copy the disk of this device to where `disk` says, which is there, is of the same
    /// size and is overwritten, and to have there what the guest writes from now on. One to the same place
    /// that is under way is as wanted.
    fn begin_mirror(
        &self,
        id: InstanceId,
        disk: &Disk,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// How far the mirror of this device is.
    fn mirroring(
        &self,
        id: InstanceId,
        device: &str,
    ) -> impl Future<Output = Result<Mirroring, Error>> + Send;

    /// Has the domain go on, on the disk of this device, in the place it is mirrored to, which is
    /// `disk`'s; in its persistent definition too. If it is there already, that is as wanted.
    /// Refused unless both are the same.
    fn switch_to_mirror(
        &self,
        id: InstanceId,
        disk: &Disk,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Ends the mirror of this device: the disk stays where it is. None is as wanted, and so is a
    /// domain that is off or absent.
    fn drop_mirror(
        &self,
        id: InstanceId,
        device: &str,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// The disks that a domain starts with the next time.
    fn defined_disks(
        &self,
        id: InstanceId,
    ) -> impl Future<Output = Result<Vec<LiveDisk>, Error>> + Send;
}
