//! A folder of one's own, gone when dropped.
//!
//! Not simply a [`tempfile::TempDir`]: QEMU runs as another user and must be
//! able to pass through, so it is `0711`, and it is not under the build
//! folder, which may lie in a home nobody else may enter.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::{Error, Result};

/// A private folder, removed with all that is in it when dropped.
#[derive(Debug)]
pub struct Place {
    folder: TempDir,
    keep: bool,
}

impl Place {
    /// Make one; `what` is part of its name. With `OSTLER_KEEP` set it is left
    /// behind, to be looked at.
    ///
    /// # Errors
    /// If the system's folder for temporary files cannot be written.
    pub fn new(what: &str) -> Result<Self> {
        let folder = tempfile::Builder::new()
            // short: a UNIX socket's path has at most 107 bytes
            .prefix(&format!("ostler-{what}-"))
            .tempdir()
            .map_err(Error::io(format!("making a folder for {what}")))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o711))
            .map_err(Error::path("opening to QEMU", folder.path()))?;
        Ok(Self { folder, keep: std::env::var_os("OSTLER_KEEP").is_some() })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A path inside.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A folder inside, made if it is not there, open to QEMU too.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn folder(&self, name: &str) -> Result<PathBuf> {
        let path = self.join(name);
        fs::create_dir_all(&path).map_err(Error::path("making", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o711))
            .map_err(Error::path("opening to QEMU", &path))?;
        Ok(path)
    }

    /// Write a file inside.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.join(name);
        fs::write(&path, content).map_err(Error::path("writing", &path))?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.folder.disable_cleanup(self.keep);
    }
}
