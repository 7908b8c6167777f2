//! What can go wrong with an image, in the operator's words.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::values::{Bytes, UploadId};

use super::verify::Unfit;

/// Why a call on images did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The node has no such file, or does not let the agent read it.
    #[error("cannot read image {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Something else than a file.
    #[error("{} is {kind}, not a regular file", path.display())]
    NotAFile {
        /// The path.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
    },
    /// The node's configuration does not allow reading there.
    #[error("{} is in none of images.directories ({})", path.display(), listed(directories))]
    NotAllowed {
        /// The path.
        path: PathBuf,
        /// Where images may be read from.
        directories: Vec<PathBuf>,
    },
    /// Somebody wrote to the file while it was read.
    #[error("{} changed while it was read: import it when it is complete", path.display())]
    ChangedWhileRead {
        /// The file.
        path: PathBuf,
    },
    /// The server said no.
    #[error("{url} answered {status}")]
    Status {
        /// The URL, without credentials.
        url: String,
        /// The HTTP status.
        status: u16,
    },
    /// The exchange broke.
    #[error("cannot fetch {url}")]
    Transfer {
        /// The URL, without credentials.
        url: String,
        /// How it broke.
        #[source]
        source: io::Error,
    },
    /// The server answered a question that was not asked.
    #[error("{url} answered wrongly: {what}")]
    Answer {
        /// The URL, without credentials.
        url: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Where the body ends is where the connection does, for whatever reason that does.
    #[error("{url} does not say how long the image is: one that breaks off would look whole")]
    NoEnd {
        /// The URL, without credentials.
        url: String,
    },
    /// Too many redirects, or one that must not be followed.
    #[error("{url} redirects too often, or from https to http")]
    Redirect {
        /// The URL, without credentials.
        url: String,
    },
    /// The server stopped sending.
    #[error("{url} sent nothing for {after:?}")]
    Stalled {
        /// The URL, without credentials.
        url: String,
        /// For how long.
        after: Duration,
    },
    /// The download took too long.
    #[error("{url} was not fetched within {after:?}; a repeat goes on where it stopped")]
    TooSlow {
        /// The URL, without credentials.
        url: String,
        /// The time it had.
        after: Duration,
    },
    /// The TLS roots or settings of the node are unusable.
    #[error("cannot make an HTTP client (are the node's CA certificates installed?)")]
    Client(#[source] io::Error),
    /// A piece that does not follow what is there.
    #[error("conflict: upload {id} has {} bytes: what follows these is next", have.0)]
    UploadGap {
        /// The upload.
        id: UploadId,
        /// What is there.
        have: Bytes,
    },
    /// Others have not been imported yet.
    #[error("busy: {most} images are being uploaded already")]
    ManyUploads {
        /// How many there can be.
        most: usize,
    },
    /// Larger than allowed.
    #[error("{source_shown} is larger than the {cap} allowed")]
    TooLarge {
        /// Where it comes from.
        source_shown: String,
        /// The cap.
        cap: Bytes,
    },
    /// Nothing there.
    #[error("{source_shown} is empty")]
    Empty {
        /// Where it comes from.
        source_shown: String,
    },
    /// Other bytes than asked for.
    #[error("{source_shown} has {kind} {found}, not {wanted}")]
    Digest {
        /// Where it comes from.
        source_shown: String,
        /// SHA-256 or SHA-512.
        kind: &'static str,
        /// The digest asked for.
        wanted: String,
        /// The digest of what came.
        found: String,
    },
    /// Not what it was declared to be, or not to be trusted.
    #[error("{source_shown} cannot be used")]
    Unfit {
        /// Where it comes from.
        source_shown: String,
        /// Why.
        #[source]
        source: Unfit,
    },
    /// Compressed in another way than declared, not whole, or a bomb.
    #[error("{source_shown} cannot be unpacked")]
    Packed {
        /// Where it comes from.
        source_shown: String,
        /// Why.
        #[source]
        source: Packed,
    },
    /// qemu-img could not be run, or did not come to an end.
    #[error("qemu-img could not judge the image")]
    QemuImg(#[source] io::Error),
    /// A file to be taken into the cache is not there, and nothing says that it was.
    #[error("{} is gone: make the snapshot again", path.display())]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// It was called off; the file is where it was.
    #[error("taking {} into the cache was called off", path.display())]
    Cancelled {
        /// The file.
        path: PathBuf,
    },
    /// The file system is full, or would be; nothing was left behind.
    #[error("no space left in {}", path.display())]
    NoSpace {
        /// The cache.
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

/// Why a compressed file cannot be unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Packed {
    /// Something else.
    #[error("it was declared to be compressed by {0}, but does not begin like that")]
    Not(&'static str),
    /// The end is missing.
    #[error("its {0} stream is cut short: fetch or copy it again")]
    CutShort(&'static str),
    /// The decoder does not go on.
    #[error("its {0} stream is damaged, or something else follows it: fetch or copy it again")]
    Damaged(&'static str),
    /// It was compressed with a larger window or dictionary.
    #[error("unpacking it takes more than 128 MiB of memory: compress it with a smaller window")]
    Memory,
    /// A mistake or a bomb.
    #[error("it is larger than the {0} allowed when it is unpacked")]
    TooLarge(Bytes),
    /// There is nothing in it.
    #[error("it is empty when it is unpacked")]
    Empty,
}

impl ImageError {
    /// A failed step on the cache, full disks told apart.
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

    /// Whether the same import may succeed later with nothing about it changed.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Transfer { .. }
            | Self::Stalled { .. }
            | Self::TooSlow { .. }
            | Self::QemuImg(_)
            | Self::NoSpace { .. }
            | Self::ManyUploads { .. }
            | Self::ChangedWhileRead { .. } => true,
            // Timeout, too many requests, and the server's own troubles.
            Self::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            Self::Unreadable { .. }
            | Self::UploadGap { .. }
            | Self::NotAFile { .. }
            | Self::NotAllowed { .. }
            | Self::Answer { .. }
            | Self::NoEnd { .. }
            | Self::Redirect { .. }
            | Self::Client(_)
            | Self::TooLarge { .. }
            | Self::Empty { .. }
            | Self::Digest { .. }
            | Self::Unfit { .. }
            | Self::Packed { .. }
            | Self::Gone { .. }
            | Self::Cancelled { .. }
            | Self::Io { .. } => false,
        }
    }
}

fn listed(directories: &[PathBuf]) -> String {
    let shown: Vec<_> =
        directories.iter().map(|directory| directory.display().to_string()).collect();
    shown.join(", ")
}
