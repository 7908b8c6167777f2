//! What can go wrong with a volume, in the operator's words.

use std::io;
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::{Bytes, Name, VolumeId};

use crate::qcow2::OverlayError;

/// Why a call on volumes did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The configuration has no such pool.
    #[error("there is no pool {pool} on this node")]
    NoPool {
        /// The pool.
        pool: Name,
    },
    /// Another folder is where the pool was.
    #[error("{} is not the folder it was: its file system is gone, or another is mounted", path.display())]
    NotThere {
        /// Where the pool was.
        path: PathBuf,
    },
    /// The pool has no such volume.
    #[error("volume {id} is not in {}: somebody removed it", path.display())]
    Gone {
        /// The volume.
        id: VolumeId,
        /// Where it was.
        path: PathBuf,
    },
    /// The pool cannot be used now.
    #[error("pool {pool} ({place}) is not available: {why}")]
    Unavailable {
        /// The pool.
        pool: Name,
        /// Where it is.
        place: String,
        /// Why not.
        why: String,
    },
    /// This kind of pool cannot do it.
    #[error("pool {pool} cannot do that: {why}")]
    Unfit {
        /// The pool.
        pool: Name,
        /// Why not.
        why: &'static str,
    },
    /// A size that the pool cannot keep as it is.
    #[error("{size} is not a whole number of pieces of {piece}, of which the pool makes volumes")]
    NotWhole {
        /// The size asked for.
        size: Bytes,
        /// The size of a piece.
        piece: Bytes,
    },
    /// It was being made larger, and what it got may hold what others wrote.
    #[error("making volume {id} larger was cut off: what it got is not zeroed yet")]
    HalfGrown {
        /// The volume.
        id: VolumeId,
    },
    /// It is open, by none of the processes that can be seen.
    #[error("volume {id} is open on this node, and in no process that can be seen")]
    Held {
        /// The volume.
        id: VolumeId,
    },
    /// lvm was run and failed.
    #[error("lvm cannot {step} {what}: {said}")]
    Lvm {
        /// What it was to do.
        step: &'static str,
        /// To what.
        what: String,
        /// Why it could not.
        said: String,
    },
    /// The volume has no such snapshot.
    #[error("volume {id} has no snapshot {name}")]
    NoSnapshot {
        /// The volume.
        id: VolumeId,
        /// The snapshot.
        name: Name,
    },
    /// What is noted beside the volume cannot be read.
    #[error("{} cannot be used: {why}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// The volume cannot be.
    #[error("volume {id} cannot be made")]
    Impossible {
        /// The volume.
        id: VolumeId,
        /// Why.
        #[source]
        source: OverlayError,
    },
    /// The content does not fit.
    #[error("a volume of {size} cannot hold what it is to be made from, which needs {needs}")]
    TooSmall {
        /// The size asked for.
        size: Bytes,
        /// What is needed.
        needs: Bytes,
    },
    /// Too many layers.
    #[error("volume {id} has {most} layers, and cannot have more: delete snapshots first")]
    TooDeep {
        /// The volume.
        id: VolumeId,
        /// How many it may have.
        most: usize,
    },
    /// Somebody has it open.
    #[error("volume {id} is open in {by}")]
    Open {
        /// The volume.
        id: VolumeId,
        /// Who has it.
        by: String,
    },
    /// The server of a volume that is kept elsewhere does not answer.
    #[error("cannot reach {server}")]
    Unreachable {
        /// The server.
        server: String,
        /// The answer.
        #[source]
        source: io::Error,
    },
    /// An image in Ceph does not open.
    #[error("cannot open the image {name} in Ceph: {said}")]
    Unopened {
        /// The image.
        name: String,
        /// Why not.
        said: String,
    },
    /// What should be a block device of the node is not.
    #[error("{} is not a block device of this node", path.display())]
    NotADevice {
        /// The path.
        path: PathBuf,
    },
    /// A block device of the node that the node itself uses.
    #[error("{} is used by {by}: no guest can have it", path.display())]
    Used {
        /// The path.
        path: PathBuf,
        /// Who uses it.
        by: String,
    },
    /// qemu-img was run and failed.
    #[error("qemu-img cannot {step} {}: {said}", path.display())]
    QemuImg {
        /// What it was to do.
        step: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it could not.
        said: String,
    },
    /// It was called off; nothing was left behind.
    #[error("making volume {id} was called off")]
    Cancelled {
        /// The volume.
        id: VolumeId,
    },
    /// The pool is full, or would be; nothing was left behind.
    #[error("no space left for {}{}", path.display(), room(*needed, *free))]
    NoSpace {
        /// What did not fit.
        path: PathBuf,
        /// How much room it needs, where that is known.
        needed: Option<Bytes>,
        /// How much there is, where that is known.
        free: Option<Bytes>,
    },
    /// Anything else the file system said.
    #[error("cannot {step} {}", path.display())]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// The answer.
        #[source]
        source: io::Error,
    },
}

fn room(needed: Option<Bytes>, free: Option<Bytes>) -> String {
    match (needed, free) {
        (Some(needed), Some(free)) => format!(": {needed} are needed and {free} are free"),
        (Some(needed), None) => format!(": {needed} are needed"),
        (None, _) => String::new(),
    }
}

impl VolumeError {
    /// A failed step, full disks told apart.
    pub(super) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            if full.contains(&source.kind()) {
                Self::NoSpace { path, needed: None, free: None }
            } else {
                Self::Io { step, path, source }
            }
        }
    }
}
