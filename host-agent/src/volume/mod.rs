//! Volumes: disks that are not an instance's own, in pools.
//!
//! ```text
//!   compute ── Volumes ──> pools    which pool, by its name
//!                            └── directory   a folder for each volume: layers, and a manifest
//!                                  manifest    what the layers are; pure
//!                                  holders     who on this node has a file open
//!                            └── nfs         a directory that is mounted first
//!                            └── lvm         a logical volume for each; its tags say what it is
//!          ──> elsewhere           what is in no pool of ours: whether it can be reached
//! ```
//!
//! A pool says of a volume where QEMU finds it ([`Opened`]), and keeps what it needs to know beside
//! the volume, not in the journal: a pool can be moved to another node. Nothing here ever reads
//! what a guest wrote: formats are in the manifest, and every program is told them.

mod directory;
pub mod elsewhere;
mod error;
mod holders;
mod lvm;
mod manifest;
mod nfs;
mod pools;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::{Bytes, Name, Secret, VolumeId};
use ostler_protocol::rpc::volume::Format;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use self::directory::Directory;
pub use self::error::VolumeError;
pub use self::lvm::Lvm;
pub use self::nfs::{Mounter, Nfs};
pub use self::pools::{Pool, Pools};
use crate::disk::{Base, Ensured, Removed};
use crate::host::Space;

/// A volume: which, and in which pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The volume.
    pub id: VolumeId,
    /// The pool it is in.
    pub pool: Name,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVolume {
    /// Which, and where.
    pub place: Place,
    /// Its size: whole sectors, not less than its content's.
    pub size: Bytes,
    /// How its file is laid out; the pool's setting if none.
    pub format: Option<Format>,
    /// What is on it.
    pub content: Content,
    /// What opens it, if its format is LUKS.
    pub passphrase: Option<Secret>,
}

/// What is on a new volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Nothing: it reads as zeros.
    Empty,
    /// An image in the cache, which must stay as long as the volume.
    Image(Base),
    /// What another volume holds, which nobody writes to meanwhile, or what it held at a snapshot.
    Volume {
        /// The volume.
        place: Place,
        /// The snapshot.
        snapshot: Option<Name>,
    },
}

/// What QEMU opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum At {
    /// A file.
    File(PathBuf),
    /// A block device of the node.
    Device(PathBuf),
}

/// Where QEMU finds a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opened {
    /// What it opens.
    pub at: At,
    /// Its format: as it was made, never as it looks.
    pub format: Format,
    /// The disk's size.
    pub size: Bytes,
    /// Whether it can be read past the node's page cache.
    pub direct: bool,
}

impl Opened {
    /// Its path on the node.
    pub fn path(&self) -> &Path {
        match &self.at {
            At::File(path) | At::Device(path) => path,
        }
    }
}

/// A pool, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolFacts {
    /// What it is called.
    pub name: Name,
    /// What kind it is.
    pub driver: &'static str,
    /// Whether its room is that of the instances' disks.
    pub is_shared: bool,
}

/// The volumes that this node can reach.
///
/// Every method is idempotent, and safe to repeat after a crash at any instant. There is no fake:
/// [`Pools`] with a [`Directory`] in a temporary folder takes its place in tests.
pub trait Volumes: Send + Sync + 'static {
    /// The pools; the first is where volumes are made unless told.
    fn pools(&self) -> Vec<PoolFacts>;

    /// Which pool a block device of the node is of: a volume's, or what the pool is made of.
    fn pool_of(
        &self,
        device: &Path,
    ) -> impl Future<Output = Result<Option<Name>, VolumeError>> + Send;

    /// How much room a pool has.
    fn room(&self, pool: &Name) -> impl Future<Output = Result<Space, VolumeError>> + Send;

    /// What the volumes of the pool that shares the instances' room take of it now.
    fn allocated(&self) -> impl Future<Output = Result<Bytes, VolumeError>> + Send;

    /// Make a volume. One that is there is left as it is.
    ///
    /// `progress` is told bytes copied, of how many. After `cancel` the answer is
    /// [`VolumeError::Cancelled`], and nothing is left.
    fn create(
        &self,
        volume: &NewVolume,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Ensured, VolumeError>> + Send;

    /// Have a volume hold what another disk holds, which nobody writes to meanwhile. What is behind
    /// that, if the volume is larger, stays. Nobody has it open.
    ///
    /// After `cancel`, or an error, the volume holds part of both.
    fn fill(
        &self,
        place: &Place,
        from: &Opened,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<(), VolumeError>> + Send;

    /// Remove a volume with its snapshots. One that somebody on this node has open stays, and that
    /// is [`VolumeError::Open`].
    fn delete(&self, place: &Place) -> impl Future<Output = Result<Removed, VolumeError>> + Send;

    /// Whether there is a volume, or something of one.
    fn exists(&self, place: &Place) -> impl Future<Output = Result<bool, VolumeError>> + Send;

    /// Where QEMU finds a volume.
    fn open(&self, place: &Place) -> impl Future<Output = Result<Opened, VolumeError>> + Send;

    /// Leave nothing of a volume connected. One that somebody on this node has open is
    /// [`VolumeError::Open`].
    fn close(&self, place: &Place) -> impl Future<Output = Result<(), VolumeError>> + Send;

    /// Make a volume at least so large. Nobody has it open.
    fn extend(
        &self,
        place: &Place,
        size: Bytes,
    ) -> impl Future<Output = Result<Ensured, VolumeError>> + Send;

    /// Have room for a volume that the QEMU that has it open is about to make so large.
    fn widen(
        &self,
        place: &Place,
        size: Bytes,
    ) -> impl Future<Output = Result<(), VolumeError>> + Send;

    /// Note that a volume was made so large by the QEMU that has it open.
    fn note_size(
        &self,
        place: &Place,
        size: Bytes,
    ) -> impl Future<Output = Result<(), VolumeError>> + Send;

    /// Keep what a volume holds now under a name. From then on it may be opened elsewhere: whoever
    /// has it open is to go on there, and until then writes to what is kept.
    fn snapshot(
        &self,
        place: &Place,
        name: &Name,
    ) -> impl Future<Output = Result<Ensured, VolumeError>> + Send;

    /// Take back a snapshot that nobody went on from.
    fn undo_snapshot(
        &self,
        place: &Place,
        name: &Name,
    ) -> impl Future<Output = Result<(), VolumeError>> + Send;

    /// Forget a snapshot. What of it other layers need is put into them, while nobody has the
    /// volume open.
    fn delete_snapshot(
        &self,
        place: &Place,
        name: &Name,
    ) -> impl Future<Output = Result<Removed, VolumeError>> + Send;

    /// Have a volume be as it was at a snapshot: what was written since is lost. Its size stays.
    /// Nobody has it open.
    fn revert(
        &self,
        place: &Place,
        name: &Name,
    ) -> impl Future<Output = Result<(), VolumeError>> + Send;
}
