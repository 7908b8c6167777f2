//! Files that outlive a crash: each is there whole or not at all, and what is gone stays gone.
//!
//! It is written under another name, synced, then linked to its own. Linking, unlike renaming,
//! never replaces a disk that a guest has written to, and it is done by descriptor, so what gets
//! the name is what was written and synced, whatever the other name stands for by then. What a
//! crash leaves under the other name is removed by the next try, never written to: it might be a
//! link, or a second name of a finished file.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::unistd::linkat;

/// Its owner's alone. libvirt gives a disk to QEMU's user when the domain starts, and takes it back.
const MODE: u32 = 0o600;

/// A file without its name yet. Dropped, it goes.
#[derive(Debug)]
pub(crate) struct Unfinished {
    /// To be written.
    pub(crate) file: File,
    path: PathBuf,
    name: PathBuf,
}

impl Unfinished {
    /// Begin what is to be called `name`; what an earlier try left goes.
    pub(crate) fn begin(name: &Path) -> io::Result<Self> {
        let path = unfinished_name(name);
        remove_if_there(&path)?;
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(MODE).open(&path)?;
        Ok(Self { file, path, name: name.to_owned() })
    }

    /// Give it its name, which must be free, durably.
    pub(crate) fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        let opened = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        linkat(AT_FDCWD, opened.as_str(), AT_FDCWD, &self.name, AtFlags::AT_SYMLINK_FOLLOW)?;
        self.forget();
        sync_folder_of(&self.name)
    }

    /// Put it in the place of what has its name, durably.
    pub(crate) fn replace(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.path, &self.name)?;
        sync_folder_of(&self.name)
    }

    fn forget(&self) {
        // Another try may have taken over the name: its file is not ours to remove.
        let ours = self.file.metadata().map(|meta| (meta.dev(), meta.ino())).ok();
        let there = fs::symlink_metadata(&self.path).map(|meta| (meta.dev(), meta.ino())).ok();
        if ours.is_some() && ours == there {
            // Were it to stay, the next try removes it.
            fs::remove_file(&self.path).ok();
        }
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.forget();
    }
}

/// Make a folder that others pass through as `mode` says, whatever the umask: QEMU runs as another
/// user. What one that is there lacks of the mode, for a crash or an operator took it, it gets.
/// Whether it was made.
pub(crate) fn folder(path: &Path, mode: u32) -> io::Result<bool> {
    let made = match DirBuilder::new().mode(mode).create(path) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(error),
    };
    let is = fs::metadata(path)?.permissions().mode() & 0o7777;
    if is & mode != mode {
        fs::set_permissions(path, Permissions::from_mode(is | mode))?;
    }
    Ok(made)
}

/// What a file is called before it is `name`.
pub(crate) fn unfinished_name(name: &Path) -> PathBuf {
    let mut hidden = std::ffi::OsString::from(".");
    hidden.push(name.file_name().unwrap_or_default());
    hidden.push(".new");
    name.with_file_name(hidden)
}

/// Remove a file and what there is of it unfinished, durably; other names are left alone. Whether
/// it was there.
pub(crate) fn remove(name: &Path) -> io::Result<bool> {
    remove_if_there(&unfinished_name(name))?;
    let was_there = remove_if_there(name)?;
    if was_there {
        sync_folder_of(name)?;
    }
    Ok(was_there)
}

/// Remove a file; whether it was there.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Make durable which names there are beside this one.
pub(crate) fn sync_folder_of(name: &Path) -> io::Result<()> {
    sync_folder(name.parent().unwrap_or(Path::new("/")))
}

/// Make durable which names there are in a folder.
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_lets_through_whom_it_should_also_if_a_umask_or_a_crash_took_that() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("instances");
        let mode = || fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert!(folder(&path, 0o711).unwrap());
        for found in [0o700, 0o710, 0o644] {
            fs::set_permissions(&path, Permissions::from_mode(found)).unwrap();
            assert!(!folder(&path, 0o711).unwrap());
            assert_eq!(mode(), found | 0o711);
        }
    }
}
