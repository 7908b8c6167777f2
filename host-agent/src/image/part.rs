//! A file on its way into the cache: written and hashed in one pass, and taken up again where it
//! stopped.
//!
//! Hashing and writing block and take whole processor seconds, so they run on a thread of their
//! own, fed through a short channel: a slow disk slows the network down, not the runtime.
//!
//! A part can be resumed as long as the node did not restart: what the agent wrote before it
//! crashed is in the kernel's hands, but after a power cut a file may have lost blocks in its
//! middle. So the note beside it names the boot it was written in.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ostler_protocol::rpc::values::{Bytes, Name, Sha256, Sha512};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::task::JoinHandle;

use super::error::ImageError;
use super::sparse::{self, Reader, ZEROS, hash_zeros};
use crate::durable::remove_if_there;
use crate::host;
use crate::threads::Threads;

/// Chunks between network and disk, of some 16 to 64 KiB each.
const AHEAD: usize = 16;

/// Zeros are left out in pieces of this size.
const PIECE: usize = ZEROS.len();

/// The free space is looked at every so many bytes.
const LOOK_EVERY: u64 = 64 << 20;

/// Where a file on its way is, and the right to be the only one to write it.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) data: PathBuf,
    note: PathBuf,
    /// What is being made of it, to take its place.
    pub(super) made: PathBuf,
    /// Whether what is received is hashed by SHA-512 too.
    pub(super) sha512: bool,
    /// Held by the writing thread too: a cancelled import's thread may outlive it a little.
    _lock: Arc<OwnedMutexGuard<()>>,
}

/// All of a file, written and synced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) size: Bytes,
    pub(super) sha256: Sha256,
    /// If it was wanted.
    pub(super) sha512: Option<Sha512>,
}

/// What a download was of, so that its rest can be asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    boot: String,
    /// A strong entity tag or a date, as the server gave it.
    validator: String,
    /// The image it was to become: the key cannot be made again where the URL is not known whole.
    #[serde(default)]
    image: Option<Name>,
}

/// A download that can go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resumable {
    pub(super) have: u64,
    pub(super) validator: String,
}

impl Part {
    pub(super) fn new(folder: &Path, key: &str, lock: OwnedMutexGuard<()>) -> Self {
        let data = folder.join(format!("{key}.part"));
        let note = folder.join(format!("{key}.note"));
        let made = folder.join(format!("{key}.made"));
        Self { data, note, made, sha512: false, _lock: Arc::new(lock) }
    }

    /// Remove what there is of it.
    pub(super) fn discard(&self) -> io::Result<()> {
        remove_if_there(&self.note)?;
        remove_if_there(&self.made)?;
        remove_if_there(&self.data)?;
        Ok(())
    }

    /// Put what was made of it into its place: what was received is gone, and not resumed.
    pub(super) fn become_made(&self) -> io::Result<()> {
        remove_if_there(&self.note)?;
        fs::rename(&self.made, &self.data)
    }

    /// Note what the bytes about to be written are of, and for which image.
    pub(super) fn begin(&self, validator: Option<String>, image: &Name) -> io::Result<()> {
        self.discard()?;
        let Some(validator) = validator else { return Ok(()) };
        let note = Note { boot: boot_id()?, validator, image: Some(image.clone()) };
        fs::write(&self.note, serde_json::to_vec(&note)?)
    }

    /// Whether it is noted to be for this image.
    pub(super) fn is_for(&self, image: &Name) -> bool {
        self.noted().is_some_and(|note| note.image.as_ref() == Some(image))
    }

    fn noted(&self) -> Option<Note> {
        serde_json::from_slice(&fs::read(&self.note).ok()?).ok()
    }

    /// What is there to go on with; nothing, if in doubt.
    pub(super) fn resumable(&self) -> Option<Resumable> {
        let have = fs::symlink_metadata(&self.data).ok().filter(|meta| meta.is_file())?.len();
        let note = self.noted()?;
        let same_boot = boot_id().is_ok_and(|boot| boot == note.boot);
        (have > 0 && same_boot).then_some(Resumable { have, validator: note.validator })
    }
}

fn boot_id() -> io::Result<String> {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// Writes and hashes. Blocks.
pub(super) struct Sink {
    file: File,
    folder: PathBuf,
    hash: Hash,
    at: u64,
    keep_free: Bytes,
    looked_at: u64,
}

impl Sink {
    /// Start anew.
    pub(super) fn create(part: &Part, keep_free: Bytes) -> io::Result<Self> {
        remove_if_there(&part.data)?;
        let mut sink = Self::open(&part.data, keep_free, OpenOptions::new().create_new(true))?;
        sink.hash = Hash::new(part.sha512);
        Ok(sink)
    }

    /// What another program made of a part.
    pub(super) fn made(part: &Part, keep_free: Bytes) -> io::Result<Self> {
        Self::open(&part.made, keep_free, &mut OpenOptions::new())?.caught_up()
    }

    /// Start what is made of a part.
    pub(super) fn make(part: &Part, keep_free: Bytes) -> io::Result<Self> {
        remove_if_there(&part.made)?;
        Self::open(&part.made, keep_free, OpenOptions::new().create_new(true))
    }

    /// Go on at the end of what is there.
    pub(super) fn resume(part: &Part, keep_free: Bytes) -> io::Result<Self> {
        let mut sink = Self::open(&part.data, keep_free, &mut OpenOptions::new())?;
        sink.hash = Hash::new(part.sha512);
        sink.caught_up()
    }

    /// At the end of what is there, and with it hashed.
    fn caught_up(mut self) -> io::Result<Self> {
        let mut reader = Reader::new(&self.file, self.file.metadata()?.len());
        while let Some(piece) = reader.next()? {
            match piece {
                sparse::Piece::Data(bytes) => {
                    self.hash.update(bytes);
                    self.at += bytes.len() as u64;
                }
                sparse::Piece::Hole(count) => {
                    self.hash.zeros(count);
                    self.at += count;
                }
            }
        }
        Ok(self)
    }

    fn open(path: &Path, keep_free: Bytes, options: &mut OpenOptions) -> io::Result<Self> {
        let nofollow = nix::libc::O_NOFOLLOW;
        let options = options.read(true).write(true).mode(0o600).custom_flags(nofollow);
        let file = options.open(path)?;
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        Ok(Self { file, folder, hash: Hash::new(false), at: 0, keep_free, looked_at: 0 })
    }

    /// How many bytes there are.
    pub(super) fn written(&self) -> Bytes {
        Bytes(self.at)
    }

    /// Take more bytes. Runs of zeros become holes: raw disks are mostly that.
    pub(super) fn push(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.at == 0 || self.at - self.looked_at > LOOK_EVERY {
            self.looked_at = self.at;
            if host::space(&self.folder)?.free < self.keep_free {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        for piece in bytes.chunks(PIECE) {
            if *piece != ZEROS[..piece.len()] {
                self.file.write_all_at(piece, self.at)?;
            }
            self.hash.update(piece);
            self.at += piece.len() as u64;
        }
        Ok(())
    }

    /// Take so many zeros.
    pub(super) fn skip(&mut self, count: u64) {
        self.hash.zeros(count);
        self.at += count;
    }

    /// It was all: make it durable and read-only.
    pub(super) fn finish(self) -> io::Result<Written> {
        self.file.set_len(self.at)?;
        self.file.set_permissions(Permissions::from_mode(0o444))?;
        self.file.sync_all()?;
        let size = Bytes(self.at);
        let sha256 = format!("{:x}", self.hash.sha256.finalize());
        let sha512 = self.hash.sha512.map(|hash| format!("{:x}", hash.finalize()).parse());
        Ok(Written {
            size,
            sha256: sha256.parse().map_err(io::Error::other)?,
            sha512: sha512.transpose().map_err(io::Error::other)?,
        })
    }
}

/// The digests of a file as it comes: SHA-256, which files are named by, and whatever is compared.
struct Hash {
    sha256: sha2::Sha256,
    sha512: Option<sha2::Sha512>,
}

impl Hash {
    fn new(sha512: bool) -> Self {
        Self { sha256: sha2::Sha256::new(), sha512: sha512.then(sha2::Sha512::new) }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        if let Some(sha512) = &mut self.sha512 {
            sha512.update(bytes);
        }
    }

    fn zeros(&mut self, count: u64) {
        hash_zeros(&mut self.sha256, count);
        if let Some(sha512) = &mut self.sha512 {
            hash_zeros(sha512, count);
        }
    }
}

/// A [`Sink`] on its own thread.
pub(super) struct Writer<B> {
    pieces: mpsc::Sender<Piece<B>>,
    thread: JoinHandle<io::Result<Option<Written>>>,
}

enum Piece<B> {
    Bytes(B),
    End,
}

/// Where a [`Writer`] begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Anew,
    Resume,
}

impl<B: AsRef<[u8]> + Send + 'static> Writer<B> {
    pub(super) fn start(threads: &Threads, part: &Part, start: Start, keep_free: Bytes) -> Self {
        let (pieces, mut incoming) = mpsc::channel::<Piece<B>>(AHEAD);
        let (threads, part) = (threads.clone(), part.clone());
        let write = move || {
            let mut sink = match start {
                Start::Anew => Sink::create(&part, keep_free)?,
                Start::Resume => Sink::resume(&part, keep_free)?,
            };
            while let Some(piece) = incoming.blocking_recv() {
                match piece {
                    Piece::Bytes(bytes) => sink.push(bytes.as_ref())?,
                    Piece::End => return sink.finish().map(Some),
                }
            }
            // Given up: what there is may be resumed, so it must have its true length.
            sink.file.set_len(sink.at).map(|()| None)
        };
        let thread = tokio::spawn(async move { threads.run(write).await.flatten() });
        Self { pieces, thread }
    }

    /// Hand bytes on; false once the thread has failed, of which [`finish`](Self::finish) tells.
    pub(super) async fn push(&self, bytes: B) -> bool {
        self.pieces.send(Piece::Bytes(bytes)).await.is_ok()
    }

    /// It was all.
    pub(super) async fn finish(self) -> io::Result<Written> {
        self.pieces.send(Piece::End).await.ok();
        drop(self.pieces);
        let ended = self.thread.await.map_err(io::Error::other)??;
        ended.ok_or_else(|| io::Error::other("the writing thread was not told the end"))
    }

    /// Stop, and keep what there is.
    pub(super) async fn abandon(self) -> io::Result<()> {
        drop(self.pieces);
        self.thread.await.map_err(io::Error::other)?.map(drop)
    }
}

/// An error of writing a part, named for the cache as a whole.
pub(super) fn writing(part: &Part) -> impl FnOnce(io::Error) -> ImageError {
    let folder = part.data.parent().unwrap_or(Path::new("/"));
    ImageError::io("write below", folder)
}
