//! Bytes of an image that are sent to the agent in pieces, to be imported from here.
//!
//! A piece names its place and may come again: who sends them need not know which of them arrived.
//! What is sent may be anything and may never be whole, so it is kept apart from the images, is
//! bounded in number and size, and goes when nobody has sent more for an hour.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use ostler_protocol::rpc::values::{Bytes, UploadId};

use super::cache::{Cache, PARTS_MODE};
use super::{ImageError, Limits};
use crate::durable::{self, remove_if_there};
use crate::host;

/// Uploads at once.
const MOST: usize = 16;

/// An upload that nobody went on with is removed after this long.
const KEEP: Duration = Duration::from_secs(3600);

/// A piece, and what it is to be part of.
struct Piece {
    id: UploadId,
    offset: u64,
    data: Vec<u8>,
}

impl Cache {
    /// Where an upload is, or would be.
    pub(super) fn upload_path(&self, id: UploadId) -> PathBuf {
        self.uploads.join(id.to_string())
    }

    pub(super) async fn take_piece(
        &self,
        id: UploadId,
        offset: u64,
        data: Vec<u8>,
    ) -> Result<Bytes, ImageError> {
        // One at a time, so that they can be counted.
        let _alone = self.lock("uploads").lock_owned().await;
        let (folder, limits) = (self.uploads.clone(), self.limits());
        let piece = Piece { id, offset, data };
        let written = self.threads.run(move || piece.write(&folder, &limits)).await;
        written.map_err(ImageError::io("write below", &self.uploads))?
    }

    /// Remove the uploads that nobody went on with for so long, and that no import waits for.
    pub(super) async fn sweep_old_uploads(
        &self,
        age: Option<Duration>,
        is_needed: impl Fn(UploadId) -> bool + Send + 'static,
    ) -> Result<usize, ImageError> {
        let _alone = self.lock("uploads").lock_owned().await;
        let (folder, age) = (self.uploads.clone(), age.unwrap_or(KEEP));
        let sweep = move || {
            let mut removed = 0;
            let entries = match fs::read_dir(folder) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
                Err(error) => return Err(error),
            };
            for entry in entries {
                let entry = entry?;
                let id = entry.file_name().to_str().and_then(|name| name.parse().ok());
                let touched = entry.metadata()?.modified()?;
                let is_old = SystemTime::now().duration_since(touched).is_ok_and(|it| it >= age);
                if is_old && !id.is_some_and(&is_needed) {
                    remove_if_there(&entry.path())?;
                    removed += 1;
                }
            }
            Ok(removed)
        };
        self.run("clear", &self.uploads, sweep).await
    }
}

impl Piece {
    fn write(&self, folder: &Path, limits: &Limits) -> Result<Bytes, ImageError> {
        let Self { id, offset, data } = self;
        let path = folder.join(id.to_string());
        let failed = |error| ImageError::io("write below", folder)(error);
        let have = match fs::symlink_metadata(&path) {
            Ok(meta) => Some(meta.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        if *offset > have.unwrap_or(0) {
            return Err(ImageError::UploadGap { id: *id, have: Bytes(have.unwrap_or(0)) });
        }
        let end = offset.saturating_add(data.len() as u64);
        if end > limits.size.0 {
            let source_shown = format!("upload {id}");
            return Err(ImageError::TooLarge { source_shown, cap: limits.size });
        }
        if have.is_none() {
            durable::folder(folder, PARTS_MODE).map_err(failed)?;
            if fs::read_dir(folder).map_err(failed)?.count() >= MOST {
                return Err(ImageError::ManyUploads { most: MOST });
            }
        }
        let needed = limits.keep_free.0.saturating_add(data.len() as u64);
        if host::space(folder).map_err(failed)?.free.0 < needed {
            return Err(failed(io::ErrorKind::StorageFull.into()));
        }
        let nofollow = nix::libc::O_NOFOLLOW;
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600).custom_flags(nofollow);
        let file = options.open(&path).map_err(failed)?;
        file.write_all_at(data, *offset).map_err(failed)?;
        file.metadata().map(|meta| Bytes(meta.len())).map_err(failed)
    }
}
