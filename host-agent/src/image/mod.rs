//! Images: what disks are made from, fetched into the node's cache and checked before anything
//! uses them.
//!
//! ```text
//!   ImportSpec ──> source.rs   a path or a URL, credentials kept out of sight
//!                     │        (upload.rs: a file that was sent in pieces)
//!        local.rs ────┴──── fetch.rs      bytes in: capped, resumed, timed
//!                     │                   (sparse.rs: holes are not read)
//!                  part.rs                written and hashed as they come, in one pass
//!                     │   ├── unpack.rs   what was declared to be compressed, in a second one
//!                     │   └── convert.rs  vmdk, vhdx and vdi, judged by foreign.rs
//!                     │
//!                  verify.rs              is it what it was declared to be? (pure)
//!                     │   └── qemu_img.rs a second opinion, under limits
//!                     v
//!                  cache.rs               <cache>/<sha256>.<format>, read-only, once
//!                     ^
//!                  adopt.rs               a snapshot made on this node: judged, hashed, moved
//!
//!                  export.rs              from there to a server, or into a file of the node
//!                     └── place.rs        whose place nobody has
//! ```
//!
//! **The format is declared, never guessed.** Who writes to a raw disk can make it begin like a
//! qcow2 whose backing file is any file of the node; whoever guesses formats then reads that file
//! out to the guest. So the declared format is checked, written into everything made from the
//! image, and nothing here asks a program what a file might be. The same holds for its compression.
//!
//! Files are named by what they contain: two imports of the same bytes share one file, and a file
//! is never changed. Who needs which file is the caller's to know, and is asked under the file's
//! lock: a file that an import was told of is not removed before the import has claimed it, and
//! one that is being removed is not found by an import.

mod adopt;
mod cache;
mod convert;
mod error;
mod export;
mod fetch;
mod foreign;
mod local;
mod pace;
mod part;
mod place;
mod proxy;
mod qemu_img;
mod source;
mod sparse;
#[cfg(test)]
mod tests;
mod unpack;
mod upload;
mod verify;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::image::{Compression, Format};
use ostler_protocol::rpc::values::{Bytes, Name, Sha256, Sha512, Timestamp, UploadId};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use cache::Cache;
pub use error::{ImageError, Packed};
pub use export::{Destination, Export, ExportError, Exported, NotADestination};
pub use proxy::{NotAProxy, Proxy};
pub use source::{Source, SourceError};
pub use verify::Unfit;

/// Where the images come from that this node's disks are made from, and go to that are made of
/// them.
pub trait Images: Send + Sync + 'static {
    /// Bring an image here, telling how far it is. `claim` notes whose it is, before anybody can
    /// [remove](Self::remove) it; it is called if and only if the file is there.
    ///
    /// Dropping the future ends the import; it may go on from there when the same is imported
    /// again, unless it is [forgotten](Self::forget).
    fn import(
        &self,
        spec: &ImportSpec,
        progress: &watch::Sender<Progress>,
        claim: impl FnOnce(&Imported) + Send,
    ) -> impl Future<Output = Result<Imported, ImageError>> + Send;

    /// Drop what there is of an import that will not be resumed. Whoever imports the same source
    /// now keeps it: it is theirs.
    fn forget(&self, source: &Source) -> impl Future<Output = Result<(), ImageError>> + Send;

    /// The same for an import from before the agent started, whose source is not known whole any
    /// more: what can still be resumed says which image it is for.
    fn forget_image(&self, image: &Name) -> impl Future<Output = Result<(), ImageError>> + Send;

    /// Take a piece of what is to be imported, and tell how much of it is there. The same piece may
    /// come again.
    fn upload(
        &self,
        id: UploadId,
        offset: u64,
        data: Vec<u8>,
    ) -> impl Future<Output = Result<Bytes, ImageError>> + Send;

    /// Remove what was sent, if it is there.
    fn drop_upload(&self, id: UploadId) -> impl Future<Output = Result<(), ImageError>> + Send;

    /// Remove what was sent long ago and `is_needed` by no import; how many that were.
    fn sweep_uploads(
        &self,
        is_needed: impl Fn(UploadId) -> bool + Send + 'static,
    ) -> impl Future<Output = Result<usize, ImageError>> + Send;

    /// Take a finished qcow2 file of this node for an image: judged as an import is (but however
    /// large it is), hashed, and moved. Nobody may be writing to it. `claim` is as an import's.
    ///
    /// A small receipt takes the file's place, so that a repeat after a crash has the same answer;
    /// it is the caller's to remove when the answer is kept. A file that is gone, receipt and all,
    /// is [`ImageError::Gone`]. `progress` is told bytes hashed, of how many; after `cancel` the
    /// answer is [`ImageError::Cancelled`], and the file is where it was.
    fn adopt(
        &self,
        file: &Path,
        name: &Name,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
        claim: impl FnOnce(&Imported) + Send,
    ) -> impl Future<Output = Result<Imported, ImageError>> + Send;

    /// Write an image to where it shall go, telling bytes done, of how many. After `cancel`, the
    /// answer is [`ExportError::Cancelled`], and nothing is left in the file's place. A repeat after
    /// a crash finds what this export made, and takes no other file for it, until the export is
    /// [ended](Self::end_export).
    fn export(
        &self,
        sha256: &Sha256,
        format: Format,
        export: &Export,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<(), ExportError>> + Send;

    /// Have an export be over: the file that it made stays, or goes.
    fn end_export(
        &self,
        export: &Export,
        exported: Exported,
    ) -> impl Future<Output = Result<(), ExportError>> + Send;

    /// Remove an image's file, unless it `is_needed`, which is a use of it: asked when nobody can import the same until
    /// it is gone.
    fn remove(
        &self,
        sha256: &Sha256,
        format: Format,
        is_needed: impl FnOnce() -> bool + Send,
    ) -> impl Future<Output = Result<Removed, ImageError>> + Send;

    /// Note that something is made from an image now.
    fn note_use(
        &self,
        sha256: &Sha256,
        format: Format,
    ) -> impl Future<Output = Result<(), ImageError>> + Send;

    /// Where an image with this content is, or would be.
    fn path(&self, sha256: &Sha256, format: Format) -> PathBuf;

    /// All images that are here.
    fn list(&self) -> impl Future<Output = Result<Vec<Cached>, ImageError>> + Send;
}

/// What the cache puts up with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Imports at once; more wait for their turn.
    pub concurrent: usize,
    /// The largest file.
    pub size: Bytes,
    /// The largest disk inside a file. A qcow2 of a few kilobytes can claim exabytes.
    pub virtual_size: Bytes,
    /// Left free on the file system for the instances' own writes.
    pub keep_free: Bytes,
    /// A server gets this long to accept a connection.
    pub connect: Duration,
    /// A server gets this long for the next bytes.
    pub idle: Duration,
    /// A whole download gets this long, retries included; what the bandwidth kept it waiting comes
    /// on top.
    pub total: Duration,
    /// A download is taken up again so often without having got on.
    pub retries: u32,
    /// How many redirects are followed.
    pub redirects: usize,
    /// Bytes a second that all downloads together may take; as many as come, if none.
    pub bandwidth: Option<Bytes>,
    /// What servers are asked through; as the environment says, if none.
    pub proxy: Option<Proxy>,
    /// Where images may be read from on this node: at or below these directories.
    pub directories: Vec<PathBuf>,
    /// Where images may be exported to on this node: at or below these directories.
    pub export_directories: Vec<PathBuf>,
    /// What judges qcow2 files.
    pub qemu_img: PathBuf,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            concurrent: 2,
            size: Bytes::gib(64),
            virtual_size: Bytes::gib(2048),
            keep_free: Bytes::gib(1),
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(30),
            total: Duration::from_secs(2 * 3600),
            retries: 4,
            redirects: 5,
            bandwidth: None,
            proxy: None,
            directories: Vec::new(),
            export_directories: Vec::new(),
            qemu_img: PathBuf::from("qemu-img"),
        }
    }
}

/// An image to bring into the cache.
#[derive(Debug, Clone)]
pub struct ImportSpec {
    /// What it is called; for logs only, files are named by content.
    pub name: Name,
    /// Where it comes from.
    pub source: Source,
    /// What its bytes are, unpacked, as declared by whoever imports it.
    pub format: Format,
    /// How they are compressed, as declared too.
    pub compression: Option<Compression>,
    /// What the bytes received must hash to.
    pub sha256: Option<Sha256>,
    /// The same by SHA-512.
    pub sha512: Option<Sha512>,
    /// A cap on the file's size below the cache's own.
    pub size_cap: Option<Bytes>,
}

impl ImportSpec {
    /// Whether what comes is compared with a digest.
    fn is_proved(&self) -> bool {
        self.sha256.is_some() || self.sha512.is_some()
    }

    /// The largest file: the cap is for what is received, and for what is unpacked from it.
    fn cap(&self, limits: &Limits) -> Bytes {
        self.size_cap.map_or(limits.size, |cap| cap.min(limits.size))
    }
}

/// An image in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// Of the bytes as they are kept.
    pub sha256: Sha256,
    /// The file: read-only, named by its content.
    pub path: PathBuf,
    /// What its bytes are.
    pub format: Format,
    /// Bytes of the file.
    pub size: Bytes,
    /// Bytes of the disk inside, rounded up to whole sectors; of the file if it is no disk.
    pub virtual_size: Bytes,
    /// Whether this import brought it.
    pub stored: Stored,
}

/// Whether an import brought a file or found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// The file is new: undoing the import removes it, if nobody else imported the same since.
    New,
    /// The same bytes were in the cache.
    AlreadyThere,
}

/// How far an import is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// What it is doing.
    pub phase: Phase,
    /// Bytes received so far.
    pub received: Bytes,
    /// Bytes to receive, where the source tells.
    pub total: Option<Bytes>,
}

/// The phases of an import, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// For its turn, or for another import of the same source.
    Waiting,
    /// Bytes are coming in.
    Receiving,
    /// The bytes are all there and are being checked, and unpacked.
    Checking,
}

impl Default for Progress {
    fn default() -> Self {
        Self { phase: Phase::Waiting, received: Bytes(0), total: None }
    }
}

/// What removing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Removed,
    /// It was not there.
    AlreadyGone,
    /// It stays: something needs it.
    Needed,
}

/// A file in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cached {
    /// What its bytes hash to, by its name.
    pub sha256: Sha256,
    /// What they are.
    pub format: Format,
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub size: Bytes,
    /// When it was last used: the time the file bears.
    pub used: Timestamp,
}

/// What a sweep came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files of interrupted imports that were removed.
    pub removed: usize,
    /// Interrupted downloads that were kept, to be resumed.
    pub kept: usize,
}
