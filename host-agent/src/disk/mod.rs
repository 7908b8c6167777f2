//! Disks of instances, in a folder each:
//!
//! ```text
//!   <state>/instances/<instance id>/
//!       disk.qcow2          the root disk: an overlay on an image in the cache
//!       disk.aside.qcow2    the root disk as it was, until an operation is confirmed or undone
//!       disk.rescue.qcow2   what a rescue boots: an overlay on another image
//!       config.img          the config drive: read-only, raw
//!       snapshot.qcow2      a snapshot on its way into the cache
//!       console.log         what the serial console said; QEMU's side writes it
//!       .NAME.new           one of these being written; of no use after a crash
//! ```
//!
//! The folder is the instance's whole estate on this node: removing the instance removes it and
//! all that is in it, and a folder without an instance is an orphan that
//! [`list`](Disks::list) shows.
//!
//! An overlay is on the way of every boot, so making one starts no program and does not read the
//! base: [`crate::qcow2`] gives the bytes, and the caller knows the base's size from its import.

mod aside;
mod convert;
mod directory;
mod error;
mod overlay;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use directory::Directory;
pub use error::DiskError;

/// Others may pass through to a file they know and have a right to (QEMU to its disk), but not
/// look around.
const FOLDER_MODE: u32 = 0o711;

/// The disks of this node's instances.
///
/// Every method is idempotent, and safe to repeat after a crash at any instant. There is no fake:
/// [`Directory`] in a temporary folder takes its place in tests.
pub trait Disks: Send + Sync + 'static {
    /// Make the root disk. One that is there already, over the same base and of the same size, is
    /// left as it is with all that the guest wrote; any other one is refused, never replaced.
    fn create_root(
        &self,
        root: &RootDisk,
    ) -> impl Future<Output = Result<Ensured, DiskError>> + Send;

    /// Make the folder of an instance that has no root disk here.
    fn create_folder(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Ensured, DiskError>> + Send;

    /// Make the disk a rescue boots from, like [`create_root`](Self::create_root).
    fn create_rescue(
        &self,
        root: &RootDisk,
    ) -> impl Future<Output = Result<Ensured, DiskError>> + Send;

    /// Write the config drive, in the place of the one there is. The instance is off meanwhile.
    fn write_config_drive(
        &self,
        instance: InstanceId,
        bytes: Vec<u8>,
    ) -> impl Future<Output = Result<(), DiskError>> + Send;

    /// Remove the disk a rescue booted from.
    fn remove_rescue(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Removed, DiskError>> + Send;

    /// Set the root disk aside, for another to be made in its place. Refused while one is aside:
    /// neither may be lost.
    fn set_aside(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Moved, DiskError>> + Send;

    /// Copy the root disk aside: whole or not at all, sharing its blocks where the file system
    /// can, else its data only. One that is aside already is kept, whatever the root disk has
    /// become since. The instance is off meanwhile.
    ///
    /// `progress` is told positions in the file: how far, of how much. After `cancel` the answer
    /// is [`DiskError::Cancelled`], and nothing is left.
    fn copy_aside(
        &self,
        instance: InstanceId,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Ensured, DiskError>> + Send;

    /// Put the disk that is aside back in the root disk's place; the one that is there is lost.
    /// None aside is as wanted.
    fn put_back(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Moved, DiskError>> + Send;

    /// Remove the disk that is aside, also if it is the only one.
    fn drop_aside(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Removed, DiskError>> + Send;

    /// Grow the root disk to at least `size`, in whole sectors; it never shrinks. The instance is
    /// off meanwhile. [`Ensured::Created`] says that it grew.
    fn grow_root(
        &self,
        instance: InstanceId,
        size: Bytes,
    ) -> impl Future<Output = Result<Ensured, DiskError>> + Send;

    /// Write what the root disk holds, its base included, to a qcow2 file of its own at `to`:
    /// whole or not at all. One that is there is kept if the root disk was not written to since
    /// it was made, and made anew otherwise. The instance is off meanwhile; `to` is absolute.
    ///
    /// `progress` is told bytes of the disk: how many, of how many. After `cancel` the answer is
    /// [`DiskError::Cancelled`], and nothing is left.
    fn export(
        &self,
        instance: InstanceId,
        to: &Path,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Ensured, DiskError>> + Send;

    /// Where a snapshot is made, on its way into the cache.
    fn snapshot_file(&self, instance: InstanceId) -> PathBuf;

    /// Remove what is at [`snapshot_file`](Self::snapshot_file), finished or not.
    fn remove_snapshot_file(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Removed, DiskError>> + Send;

    /// Remove the instance's folder and everything in it.
    fn remove_instance(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Removed, DiskError>> + Send;

    /// What the files of all instances take of the disk now; holes take nothing.
    fn allocated(&self) -> impl Future<Output = Result<Bytes, DiskError>> + Send;

    /// The instances that have a folder.
    fn list(&self) -> impl Future<Output = Result<Vec<InstanceId>, DiskError>> + Send;

    /// Where the instance's files are.
    fn files(&self, instance: InstanceId) -> Files;
}

/// A root disk, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootDisk {
    /// Whose it is.
    pub instance: InstanceId,
    /// What it is made from.
    pub base: Base,
    /// Its size: whole sectors, not less than the base's.
    pub size: Bytes,
}

/// An image in the cache that disks are made from. It must stay, unchanged, as long as they do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Base {
    /// The file: absolute.
    pub path: PathBuf,
    /// What its bytes are: a disk format.
    pub format: Format,
    /// The size of the disk inside, as its import found.
    pub virtual_size: Bytes,
}

/// Where an instance's files are, whether or not they exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The folder of all of them.
    pub folder: PathBuf,
    /// The root disk.
    pub root: PathBuf,
    /// The disk a rescue boots from.
    pub rescue: PathBuf,
    /// The config drive.
    pub config_drive: PathBuf,
    /// The root disk as it was before the operation under way.
    pub aside: PathBuf,
    /// The log of the serial console.
    pub console_log: PathBuf,
    /// The variables of UEFI.
    pub uefi: PathBuf,
    /// Those of UEFI with secure boot.
    pub secure_uefi: PathBuf,
}

/// What making sure of a disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was not there and is now.
    Created,
    /// It was there.
    AlreadyThere,
}

/// What moving a disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was elsewhere and is there now.
    Moved,
    /// It was there.
    AlreadySo,
}

/// What removing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Removed,
    /// It was not there.
    AlreadyGone,
}
