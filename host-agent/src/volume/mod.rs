//! Disks of instances, in a folder each:
//!
//! ```text
//!   <state>/instances/<instance id>/
//!       disk.qcow2      the root disk: an overlay on an image in the cache
//!       console.log     what the serial console said; QEMU's side writes it
//! ```
//!
//! The folder is the instance's whole estate on this node: removing the instance removes it and
//! all that is in it, and a folder without an instance is an orphan that
//! [`list`](Volumes::list) shows.
//!
//! An overlay is on the way of every boot, so making one starts no program and does not read the
//! base: [`crate::qcow2`] gives the bytes, and the caller knows the base's size from its import.

mod directory;
mod error;

use std::future::Future;
use std::path::PathBuf;

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::{Bytes, InstanceId};

pub use directory::Directory;
pub use error::VolumeError;

/// The disks of this node's instances.
///
/// Every method is idempotent, and safe to repeat after a crash at any instant. There is no fake:
/// [`Directory`] in a temporary folder takes its place in tests.
pub trait Volumes: Send + Sync + 'static {
    /// Make the root disk. One that is there already, over the same base and of the same size, is
    /// left as it is with all that the guest wrote; any other one is refused, never replaced.
    fn create_root(
        &self,
        root: &RootDisk,
    ) -> impl Future<Output = Result<Ensured, VolumeError>> + Send;

    /// Whether the root disk is there, over that base and of that size.
    fn root_exists(
        &self,
        root: &RootDisk,
    ) -> impl Future<Output = Result<Presence, VolumeError>> + Send;

    /// Remove the instance's folder and everything in it.
    fn remove_instance(
        &self,
        instance: InstanceId,
    ) -> impl Future<Output = Result<Removed, VolumeError>> + Send;

    /// The instances that have a folder.
    fn list(&self) -> impl Future<Output = Result<Vec<InstanceId>, VolumeError>> + Send;

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
    /// The log of the serial console.
    pub console_log: PathBuf,
}

/// What making sure of a disk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was not there and is now.
    Created,
    /// It was there.
    AlreadyThere,
}

/// What removing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Removed,
    /// It was not there.
    AlreadyGone,
}

/// How a disk compares with what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// There is none.
    Absent,
    /// It is there, as asked.
    Present,
    /// There is one, but another.
    Different {
        /// In what it differs.
        why: String,
    },
}
