//! What can go wrong with a disk, in the operator's words.

use std::io;
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::{Bytes, InstanceId};

use crate::qcow2::OverlayError;

/// Why a call on disks did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The base image's file is missing or of the wrong kind.
    #[error("base image {} cannot be used", path.display())]
    Base {
        /// Its path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The path cannot stand in a disk's header.
    #[error("base image {path:?} cannot be used: its path must be absolute and valid UTF-8")]
    BasePath {
        /// Its path.
        path: PathBuf,
    },
    /// Kernels and ramdisks are no disks.
    #[error("a {} image is not a disk: use a qcow2 or raw one", format.as_str())]
    NotADisk {
        /// The image's format.
        format: Format,
    },
    /// The base does not fit.
    #[error("a root disk of {size} is smaller than its image, which needs {base}")]
    TooSmall {
        /// The size asked for.
        size: Bytes,
        /// The base's.
        base: Bytes,
    },
    /// The disk cannot be.
    #[error("instance {instance}: the root disk cannot be made")]
    Impossible {
        /// Whose disk.
        instance: InstanceId,
        /// Why.
        #[source]
        source: OverlayError,
    },
    /// There is another disk in its place.
    #[error("instance {instance} already has another {disk}: {why}")]
    Different {
        /// Whose disk.
        instance: InstanceId,
        /// Its file's name.
        disk: String,
        /// In what it differs.
        why: String,
    },
    /// There is no root disk to work on.
    #[error("instance {instance} has no root disk: rebuild or delete it")]
    NoRoot {
        /// Whose disk.
        instance: InstanceId,
    },
    /// One root disk is there and another is aside: neither must be lost.
    #[error(
        "instance {instance} has a disk aside from an earlier operation: put it back, or drop it"
    )]
    Occupied {
        /// Whose disks.
        instance: InstanceId,
    },
    /// A link, folder or device in a disk's place.
    #[error("{} is not a regular file: move away what was put there", path.display())]
    NotAFile {
        /// The place.
        path: PathBuf,
    },
    /// The disk's own bytes are not as they must be.
    #[error("{} cannot be used as a disk: {why}", path.display())]
    Unusable {
        /// The disk.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// Somebody wrote to the disk while it was copied.
    #[error("{} changed while it was copied: try again when the instance is off", path.display())]
    Changed {
        /// The disk.
        path: PathBuf,
    },
    /// qemu-img was run and failed.
    #[error("qemu-img cannot {step} {}: {said}", path.display())]
    QemuImg {
        /// What it was to do.
        step: &'static str,
        /// To which disk.
        path: PathBuf,
        /// Why it could not.
        said: String,
    },
    /// It was called off; nothing was left behind.
    #[error("copying {} was called off", path.display())]
    Cancelled {
        /// What was copied.
        path: PathBuf,
    },
    /// The file system is full, or would be; nothing was left behind.
    #[error("no space left for {}", path.display())]
    NoSpace {
        /// What did not fit.
        path: PathBuf,
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

impl DiskError {
    /// A failed step, full disks told apart.
    pub(super) fn io(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| {
            let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded];
            if full.contains(&source.kind()) {
                Self::NoSpace { path }
            } else {
                Self::Io { step, path, source }
            }
        }
    }

    /// Whether the same call may succeed later with nothing about it changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoSpace { .. } | Self::Changed { .. } => true,
            Self::Base { .. }
            | Self::BasePath { .. }
            | Self::NotADisk { .. }
            | Self::TooSmall { .. }
            | Self::Impossible { .. }
            | Self::Different { .. }
            | Self::NoRoot { .. }
            | Self::Occupied { .. }
            | Self::NotAFile { .. }
            | Self::Unusable { .. }
            | Self::QemuImg { .. }
            | Self::Cancelled { .. }
            | Self::Io { .. } => false,
        }
    }
}
