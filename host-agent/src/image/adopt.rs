//! Snapshots into the cache: files that were made on this node, and are moved rather than copied.
//!
//! ```text
//!   snapshot.qcow2 ── judged ── made read-only ── hashed ── linked as <sha256>.qcow2
//!        │                                                          │
//!        └────────── replaced by a receipt: the digest ─────────────┘
//! ```
//!
//! Whoever is stopped between the last two does it again, and the file says the same. Whoever is
//! stopped after them finds the receipt in the file's place and answers from it: were the file
//! just gone, nobody could tell a snapshot that is in the cache from one that was lost.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::{getegid, geteuid, linkat};
use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::{Bytes, Name, Sha256};
use serde::{Deserialize, Serialize};
use sha2::Digest;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::local::{self, Copy};
use super::part::Part;
use super::source::Source;
use super::sparse::{Piece, Reader, hash_zeros};
use super::{Cache, ImageError, Images, Imported, Progress, Stored, Unfit, qemu_img, verify};
use crate::durable::{Unfinished, remove_if_there, sync_folder};
use crate::qcow2;

/// However large the disk inside: nobody but us made it.
const ANY_SIZE: Bytes = Bytes(u64::MAX);

/// No disk is as short as a receipt.
const LONGEST_RECEIPT: u64 = 256;

/// What stands in a file's place when it is in the cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Receipt {
    adopted: Sha256,
    already_there: bool,
}

/// What was found in the file's place.
#[derive(Debug)]
enum Found {
    Receipt(Receipt),
    /// An open file, and its beginning.
    File(File, Vec<u8>),
}

/// How linking went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Linked {
    As(Stored),
    /// The cache is on another file system.
    Elsewhere,
}

impl Cache {
    /// [`Images::adopt`]
    pub(super) async fn take_over(
        &self,
        file: &Path,
        name: &Name,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        let cancelled = || ImageError::Cancelled { path: file.to_owned() };
        let source: Source = file
            .to_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| ImageError::Gone { path: file.to_owned() })?;
        let key = source.key();
        let lock = self.lock(&key).lock_owned();
        let lock = cancel.run_until_cancelled(lock).await.ok_or_else(cancelled)?;
        let turn = cancel.run_until_cancelled(self.turns.take()).await;
        let _turn = turn.ok_or_else(cancelled)?;

        let path = file.to_owned();
        let (open, beginning) = match self.write(file, move || look(&path)).await? {
            Found::File(open, beginning) => (open, beginning),
            Found::Receipt(receipt) => return self.answer(file, &receipt, claim).await,
        };
        let length = Bytes(open.metadata().map_err(ImageError::io("examine", file))?.len());
        let unfit = |source| ImageError::Unfit { source_shown: file.display().to_string(), source };
        let judge = verify::beginning(Format::Qcow2, &beginning, length, ANY_SIZE);
        let virtual_size = judge.map_err(unfit)?;
        let limits = self.limits();
        let judge = qemu_img::judge(&limits.qemu_img, file, virtual_size);
        let said = cancel.run_until_cancelled(judge).await;
        said.ok_or_else(cancelled)??.map_err(unfit)?;

        // A hashing thread goes on until it hears of it: also when nobody waits for it any more.
        let ends = cancel.child_token();
        let _ends_with_us = ends.clone().drop_guard();
        let (path, told) = (file.to_owned(), progress.clone());
        let hash = move || hash(open, &path, &told, &ends);
        let (open, sha256) = self.write(file, hash).await?;

        let _nobody_removes_it = self.hold(&sha256, Format::Qcow2).await;
        let path = self.path(&sha256, Format::Qcow2);
        let (shown, target, folder) = (file.to_owned(), path.clone(), self.folder.clone());
        let link = move || link(&open, &target, &folder).map_err(ImageError::io("adopt", &shown));
        let stored = match self.write(file, link).await? {
            Linked::As(stored) => stored,
            Linked::Elsewhere => {
                let part = Part::new(&self.parts, &key, lock);
                let copy = self.copy_in(file, &part, &sha256, &path);
                cancel.run_until_cancelled(copy).await.ok_or_else(cancelled)??
            }
        };
        self.leave_receipt(file, &path, &sha256, stored).await?;
        info!(image = %name, %sha256, size = %length, ?stored, "snapshot taken into the cache");
        let format = Format::Qcow2;
        let imported = Imported { sha256, path, format, size: length, virtual_size, stored };
        claim(&imported);
        Ok(imported)
    }

    /// What an earlier call found, whose answer did not arrive.
    async fn answer(
        &self,
        file: &Path,
        receipt: &Receipt,
        claim: impl FnOnce(&Imported) + Send,
    ) -> Result<Imported, ImageError> {
        let _nobody_removes_it = self.hold(&receipt.adopted, Format::Qcow2).await;
        let path = self.path(&receipt.adopted, Format::Qcow2);
        let gone = || ImageError::Gone { path: file.to_owned() };
        let target = path.clone();
        let (size, beginning) = match self.write(&path, move || look(&target)).await {
            Ok(Found::File(open, beginning)) => {
                let meta = open.metadata().map_err(ImageError::io("examine", &path))?;
                (Bytes(meta.len()), beginning)
            }
            Ok(Found::Receipt(_)) | Err(ImageError::Gone { .. }) => return Err(gone()),
            Err(error) => return Err(error),
        };
        let unfit =
            |source: Unfit| ImageError::Unfit { source_shown: path.display().to_string(), source };
        let judge = verify::beginning(Format::Qcow2, &beginning, size, ANY_SIZE);
        let virtual_size = judge.map_err(unfit)?;
        let stored = if receipt.already_there { Stored::AlreadyThere } else { Stored::New };
        let (sha256, format) = (receipt.adopted.clone(), Format::Qcow2);
        let imported = Imported { sha256, path, format, size, virtual_size, stored };
        claim(&imported);
        Ok(imported)
    }

    /// The way there is between file systems.
    async fn copy_in(
        &self,
        file: &Path,
        into: &Part,
        sha256: &Sha256,
        name: &Path,
    ) -> Result<Stored, ImageError> {
        let directories = file.parent().map(Path::to_owned).into_iter().collect();
        let (path, part, keep_free) = (file.to_owned(), into.clone(), self.limits().keep_free);
        let copy = Copy { path, part, directories, cap: ANY_SIZE, keep_free };
        // It was hashed once, and progress that goes back to zero is none.
        let untold = watch::Sender::new(Progress::default());
        let copied = match local::copy(&self.writers, copy, &untold).await {
            Ok(written) if written.sha256 == *sha256 => self.store(into, name).await,
            Ok(_) => Err(ImageError::ChangedWhileRead { path: file.to_owned() }),
            Err(error) => Err(error),
        };
        if copied.is_err() {
            let part = into.clone();
            self.run("clear", &self.parts, move || part.discard()).await?;
        }
        copied
    }

    async fn leave_receipt(
        &self,
        file: &Path,
        path: &Path,
        sha256: &Sha256,
        stored: Stored,
    ) -> Result<(), ImageError> {
        let already_there = stored == Stored::AlreadyThere;
        let receipt = Receipt { adopted: sha256.clone(), already_there };
        let (file, path) = (file.to_owned(), path.to_owned());
        let shown = file.clone();
        let leave = move || {
            let left = replace(&file, &receipt);
            if left.is_err() && stored == Stored::New {
                // As it was: the file is still in its place.
                remove_if_there(&path).ok();
            }
            left.map_err(ImageError::io("leave a receipt in the place of", &file))
        };
        self.write(&shown, leave).await
    }

    async fn write<T: Send + 'static>(
        &self,
        path: &Path,
        call: impl FnOnce() -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, ImageError> {
        self.writers.run(call).await.map_err(ImageError::io("start a thread for", path))?
    }
}

fn look(path: &Path) -> Result<Found, ImageError> {
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ImageError::Gone { path: path.to_owned() });
        }
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(ImageError::NotAFile { path: path.to_owned(), kind: "a link" });
        }
        Err(error) => return Err(ImageError::io("open", path)(error)),
    };
    let unreadable = || ImageError::io("read", path);
    let meta = file.metadata().map_err(unreadable())?;
    if !meta.is_file() {
        return Err(ImageError::NotAFile { path: path.to_owned(), kind: "something else" });
    }
    let mut beginning = Vec::new();
    let wanted = (&mut file).take(qcow2::HEADER_READ as u64);
    { wanted }.read_to_end(&mut beginning).map_err(unreadable())?;
    if meta.len() <= LONGEST_RECEIPT
        && let Ok(receipt) = serde_json::from_slice(&beginning)
    {
        return Ok(Found::Receipt(receipt));
    }
    Ok(Found::File(file, beginning))
}

/// Make it ours and read-only, and hash it.
fn hash(
    file: File,
    path: &Path,
    progress: &watch::Sender<(Bytes, Bytes)>,
    cancel: &CancellationToken,
) -> Result<(File, Sha256), ImageError> {
    let failed = || ImageError::io("hash", path);
    // libvirt may have given it to QEMU's user, who then could write to it.
    fchown(&file, Some(geteuid().as_raw()), Some(getegid().as_raw())).map_err(failed())?;
    file.set_permissions(Permissions::from_mode(0o444)).map_err(failed())?;
    let before = state(&file).map_err(failed())?;
    let length = Bytes(before.0);
    let mut hash = sha2::Sha256::new();
    let mut reader = Reader::new(&file, length.0);
    let mut at = 0;
    loop {
        progress.send_replace((Bytes(at), length));
        if cancel.is_cancelled() {
            return Err(ImageError::Cancelled { path: path.to_owned() });
        }
        at += match reader.next().map_err(failed())? {
            None => break,
            Some(Piece::Data(bytes)) => {
                hash.update(bytes);
                bytes.len() as u64
            }
            Some(Piece::Hole(count)) => {
                hash_zeros(&mut hash, count);
                count
            }
        };
    }
    if state(&file).map_err(failed())? != before || at != length.0 {
        return Err(ImageError::ChangedWhileRead { path: path.to_owned() });
    }
    file.sync_all().map_err(failed())?;
    let sha256 = format!("{:x}", hash.finalize()).parse();
    Ok((file, sha256.map_err(|error| failed()(io::Error::other(error)))?))
}

fn state(file: &File) -> io::Result<(u64, SystemTime)> {
    let meta = file.metadata()?;
    Ok((meta.len(), meta.modified()?))
}

/// Give the open file, and no other, its name in the cache.
fn link(file: &File, name: &PathBuf, folder: &Path) -> io::Result<Linked> {
    let opened = format!("/proc/self/fd/{}", file.as_raw_fd());
    let flags = AtFlags::AT_SYMLINK_FOLLOW;
    let stored = match linkat(AT_FDCWD, opened.as_str(), AT_FDCWD, name, flags) {
        Ok(()) => Stored::New,
        Err(nix::errno::Errno::EEXIST) => {
            let (there, ours) = (fs::symlink_metadata(name)?, file.metadata()?);
            // Ours, from a try that went no further, or the same bytes from elsewhere.
            let same = (there.dev(), there.ino()) == (ours.dev(), ours.ino());
            if same { Stored::New } else { Stored::AlreadyThere }
        }
        Err(nix::errno::Errno::EXDEV) => return Ok(Linked::Elsewhere),
        Err(errno) => return Err(errno.into()),
    };
    sync_folder(folder)?;
    Ok(Linked::As(stored))
}

/// Put the receipt in the file's place, in one step.
fn replace(file: &Path, receipt: &Receipt) -> io::Result<()> {
    let mut note = Unfinished::begin(file)?;
    note.file.write_all(&serde_json::to_vec(receipt)?)?;
    note.replace()
}

#[cfg(test)]
mod tests {
    use super::super::{Limits, Removed};
    use super::*;

    /// A qcow2 file without backing file: an overlay's bytes with that taken out.
    fn qcow2_file(path: &Path) {
        let overlay = qcow2::overlay(Bytes::gib(1), "/b", "raw").unwrap();
        let mut bytes = vec![0; overlay.length as usize];
        for (at, piece) in overlay.pieces {
            bytes[at as usize..at as usize + piece.len()].copy_from_slice(&piece);
        }
        bytes[8..20].fill(0);
        bytes[112..160].fill(0);
        fs::write(path, bytes).unwrap();
    }

    async fn adopt(cache: &Cache, file: &Path) -> Result<Imported, ImageError> {
        let name = "snapshot".parse().unwrap();
        let (progress, cancel) = (watch::Sender::default(), CancellationToken::new());
        let mut claimed = None;
        let claim = |imported: &Imported| claimed = Some(imported.clone());
        let adopted = cache.adopt(file, &name, &progress, &cancel, claim).await;
        assert_eq!(adopted.as_ref().ok(), claimed.as_ref());
        adopted
    }

    async fn bench() -> (tempfile::TempDir, Cache, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        // What is made here may be larger than what may come from elsewhere.
        let limits =
            Limits { keep_free: Bytes(0), virtual_size: Bytes::mib(1), ..Limits::default() };
        let cache = Cache::open(&folder.path().join("images"), limits).await.unwrap();
        let file = folder.path().join("snapshot.qcow2");
        (folder, cache, file)
    }

    #[tokio::test]
    async fn a_snapshot_is_moved_and_a_repeat_has_the_same_answer() {
        let (_folder, cache, file) = bench().await;
        qcow2_file(&file);
        let inode = fs::metadata(&file).unwrap().ino();
        let first = match adopt(&cache, &file).await {
            Err(ImageError::QemuImg(error)) => return println!("skipped: no qemu-img ({error})"),
            adopted => adopted.unwrap(),
        };
        let meta = fs::metadata(&first.path).unwrap();
        assert_eq!((meta.ino(), meta.nlink(), meta.mode() & 0o777), (inode, 1, 0o444));
        assert_eq!((first.stored, first.virtual_size), (Stored::New, Bytes::gib(1)));
        assert!(fs::metadata(&file).unwrap().len() <= LONGEST_RECEIPT);
        assert_eq!(adopt(&cache, &file).await.unwrap(), first);
        // Stopped between the link and the receipt.
        fs::remove_file(&file).unwrap();
        fs::hard_link(&first.path, &file).unwrap();
        assert_eq!(adopt(&cache, &file).await.unwrap(), first);
        // The same bytes from elsewhere.
        fs::remove_file(&file).unwrap();
        qcow2_file(&file);
        assert_eq!(adopt(&cache, &file).await.unwrap().stored, Stored::AlreadyThere);
        let removed = cache.remove(&first.sha256, Format::Qcow2, || false).await.unwrap();
        assert_eq!(removed, Removed::Removed);
        // A receipt for what is not there, and nothing at all.
        assert!(matches!(adopt(&cache, &file).await, Err(ImageError::Gone { .. })));
        fs::remove_file(&file).unwrap();
        assert!(matches!(adopt(&cache, &file).await, Err(ImageError::Gone { .. })));
    }

    #[tokio::test]
    async fn what_is_no_snapshot_is_refused_and_stays_where_it_was() {
        let (folder, cache, file) = bench().await;
        fs::write(&file, "not a disk").unwrap();
        assert!(matches!(adopt(&cache, &file).await, Err(ImageError::Unfit { .. })));
        assert_eq!(fs::read(&file).unwrap(), b"not a disk");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(matches!(adopt(&cache, &link).await, Err(ImageError::NotAFile { .. })));
        qcow2_file(&file);
        let (cancel, name) = (CancellationToken::new(), "snapshot".parse().unwrap());
        cancel.cancel();
        let cancelled = cache.adopt(&file, &name, &watch::Sender::default(), &cancel, |_| {}).await;
        assert!(matches!(cancelled, Err(ImageError::Cancelled { .. })));
        assert_eq!(cache.list().await.unwrap(), []);
    }
}
