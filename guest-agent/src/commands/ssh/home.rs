//! The file of keys in a home, reached without following a link of its owner's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::PathBuf;

use nix::fcntl::{AtFlags, OFlag, open, openat, renameat};
use nix::sys::stat::{Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use crate::commands::account::Account;
use crate::commands::label;

const FOLDER: &str = ".ssh";
const FILE: &str = "authorized_keys";
const BESIDE: &str = "authorized_keys.ostler";
/// Thousands of keys.
const LARGEST: u64 = 1 << 20;

/// Why the file was not read or replaced.
#[derive(Debug, thiserror::Error)]
pub enum HomeError {
    /// It could not be read.
    #[error("failed to read '{}'", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder could not be made.
    #[error("failed to create directory '{}'", .path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It could not be replaced.
    #[error("failed to write '{}'", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It leads somewhere else, or is something else, or somebody else's.
    #[error("'{}' is not used: {why}", .path.display())]
    Refused {
        /// Which.
        path: PathBuf,
        /// What it is.
        why: &'static str,
    },
}

/// Whether an edit made something that was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Made {
    Something,
    Nothing,
}

/// A home.
#[derive(Clone, Debug)]
pub(super) struct Home {
    path: PathBuf,
    uid: u32,
    gid: u32,
}

impl Home {
    pub(super) fn of(account: &Account) -> Self {
        Self { path: account.home.clone(), uid: account.uid, gid: account.gid }
    }

    /// The folder of the file.
    pub(super) fn path(&self) -> PathBuf {
        self.path.join(FOLDER)
    }

    fn file_path(&self) -> PathBuf {
        self.path().join(FILE)
    }

    fn refused(&self, path: PathBuf, why: &'static str) -> HomeError {
        HomeError::Refused { path, why }
    }

    /// What the file has.
    pub(super) fn read(&self) -> Result<Vec<u8>, HomeError> {
        let missing =
            || HomeError::Read { path: self.file_path(), source: io::ErrorKind::NotFound.into() };
        let folder = self.folder()?.ok_or_else(missing)?;
        let (_, text) = self.file(&folder)?.ok_or_else(missing)?;
        Ok(text)
    }

    /// Replaces the file by what `change` makes of it. Where there is none, one is made if `make` says so.
    pub(super) fn edit(
        &self,
        make: bool,
        change: impl FnOnce(&[u8]) -> Vec<u8>,
    ) -> Result<Made, HomeError> {
        let (folder, mut made) = match self.folder()? {
            Some(folder) => (folder, Made::Nothing),
            None if make => (self.make_folder()?, Made::Something),
            None => return Ok(Made::Nothing),
        };
        let (old, text) = match self.file(&folder)? {
            Some((file, text)) => {
                let changed = change(&text);
                if changed == text {
                    return Ok(made);
                }
                (Some(file), changed)
            }
            None if make => {
                made = Made::Something;
                (None, change(&[]))
            }
            None => return Ok(made),
        };
        self.store(&folder, old.as_ref(), &text).map_err(|source| {
            let _ = unlinkat(&folder, BESIDE, UnlinkatFlags::NoRemoveDir);
            HomeError::Write { path: self.file_path(), source }
        })?;
        Ok(made)
    }

    fn open_folder(&self) -> nix::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let home = open(&self.path, flags, Mode::empty())?;
        Ok(openat(&home, FOLDER, flags | OFlag::O_NOFOLLOW, Mode::empty())?.into())
    }

    fn folder(&self) -> Result<Option<File>, HomeError> {
        let path = self.path();
        let folder = match self.open_folder() {
            Ok(folder) => folder,
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(nix::Error::ELOOP | nix::Error::ENOTDIR) => {
                return Err(self.refused(path, "it is a link, or no folder"));
            }
            Err(errno) => return Err(HomeError::Read { path, source: errno.into() }),
        };
        let about =
            folder.metadata().map_err(|source| HomeError::Read { path: path.clone(), source })?;
        if about.uid() != self.uid && about.uid() != 0 {
            return Err(self.refused(path, "it belongs to another user"));
        }
        Ok(Some(folder))
    }

    fn make_folder(&self) -> Result<File, HomeError> {
        let path = self.path();
        let failed = |source| HomeError::Folder { path: path.clone(), source };
        let make = || {
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            let home = open(&self.path, flags, Mode::empty())?;
            mkdirat(&home, FOLDER, Mode::S_IRWXU)
        };
        make().map_err(|errno| failed(errno.into()))?;
        // what is there now may be another's doing
        let folder = self.folder()?.ok_or_else(|| failed(nix::Error::ENOENT.into()))?;
        fchown(&folder, Some(self.uid), Some(self.gid)).map_err(failed)?;
        folder.set_permissions(std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
        Ok(folder)
    }

    fn file(&self, folder: &File) -> Result<Option<(File, Vec<u8>)>, HomeError> {
        let path = self.file_path();
        let failed = |source| HomeError::Read { path: path.clone(), source };
        // a pipe by that name must not hold the agent
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file: File = match openat(folder, FILE, flags, Mode::empty()) {
            Ok(file) => file.into(),
            Err(nix::Error::ENOENT) => return Ok(None),
            Err(nix::Error::ELOOP) => return Err(self.refused(path, "it is a link")),
            Err(errno) => return Err(failed(errno.into())),
        };
        let about = file.metadata().map_err(failed)?;
        if !about.is_file() {
            return Err(self.refused(path, "it is no file"));
        }
        // a second name of a file of root's would tell what that has
        if about.uid() != self.uid && (about.uid() != 0 || about.nlink() > 1) {
            return Err(self.refused(path, "it belongs to another user"));
        }
        if about.len() > LARGEST {
            return Err(self.refused(path, "it is too large"));
        }
        let mut text = Vec::new();
        (&file).take(LARGEST).read_to_end(&mut text).map_err(failed)?;
        Ok(Some((file, text)))
    }

    fn store(&self, folder: &File, old: Option<&File>, text: &[u8]) -> io::Result<()> {
        match fstatat(folder, BESIDE, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Err(nix::Error::ENOENT) => {}
            _ => unlinkat(folder, BESIDE, UnlinkatFlags::NoRemoveDir)?,
        }
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file: File = openat(folder, BESIDE, flags, Mode::S_IRUSR | Mode::S_IWUSR)?.into();
        file.write_all(text)?;
        fchown(&file, Some(self.uid), Some(self.gid))?;
        file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
        if let Some(old) = old {
            label::copy(old, &file)?;
        }
        file.sync_all()?;
        renameat(folder, BESIDE, folder, FILE)?;
        folder.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    fn home(path: &Path) -> Home {
        let about = fs::metadata(path).unwrap();
        Home { path: path.to_owned(), uid: about.uid(), gid: about.gid() }
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn folder_and_file_are_made_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let home = home(folder.path());
        assert!(matches!(home.read(), Err(HomeError::Read { .. })));
        assert_eq!(home.edit(false, |_| b"x".to_vec()).unwrap(), Made::Nothing);
        assert!(!home.path().exists());
        assert_eq!(home.edit(true, |_| b"key\n".to_vec()).unwrap(), Made::Something);
        assert_eq!(home.read().unwrap(), b"key\n");
        assert_eq!((mode(&home.path()), mode(&home.file_path())), (0o700, 0o600));
        assert_eq!(home.edit(true, |_| b"other\n".to_vec()).unwrap(), Made::Nothing);
        assert_eq!(home.read().unwrap(), b"other\n");
        let left = fs::read_dir(home.path()).unwrap().count();
        assert_eq!(left, 1, "nothing is left beside it");
    }

    #[test]
    fn a_link_in_a_home_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let elsewhere = folder.path().join("elsewhere");
        let secret = elsewhere.join(FILE);
        fs::create_dir(&elsewhere).unwrap();
        fs::write(&secret, "root's").unwrap();

        let one = folder.path().join("one");
        fs::create_dir(&one).unwrap();
        symlink(&elsewhere, one.join(FOLDER)).unwrap();
        let two = folder.path().join("two");
        fs::create_dir_all(two.join(FOLDER)).unwrap();
        symlink(&secret, two.join(FOLDER).join(FILE)).unwrap();
        for path in [one, two] {
            let home = home(&path);
            assert!(matches!(home.read(), Err(HomeError::Refused { .. })));
            let error = home.edit(true, |_| b"key".to_vec()).unwrap_err();
            assert!(matches!(error, HomeError::Refused { .. }), "{error}");
        }
        // nor one that waits where the new file is written
        let three = folder.path().join("three");
        fs::create_dir_all(three.join(FOLDER)).unwrap();
        symlink(&secret, three.join(FOLDER).join(BESIDE)).unwrap();
        home(&three).edit(true, |_| b"key".to_vec()).unwrap();
        assert_eq!(fs::read(three.join(FOLDER).join(FILE)).unwrap(), b"key");
        assert_eq!(fs::read(&secret).unwrap(), b"root's");
    }

    #[test]
    fn what_is_no_file_or_anothers_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let ssh = folder.path().join(FOLDER);
        fs::create_dir(&ssh).unwrap();
        let home = home(folder.path());
        nix::unistd::mkfifo(&ssh.join(FILE), Mode::S_IRWXU).unwrap();
        assert!(matches!(home.read(), Err(HomeError::Refused { .. })));
        fs::remove_file(ssh.join(FILE)).unwrap();
        fs::write(ssh.join(FILE), vec![b'x'; usize::try_from(LARGEST).unwrap() + 1]).unwrap();
        assert!(matches!(home.read(), Err(HomeError::Refused { .. })));
        if nix::unistd::geteuid().is_root() {
            let stranger = Home { uid: 4242, ..home.clone() };
            fs::write(ssh.join(FILE), "k").unwrap();
            stranger.read().unwrap();
            fs::hard_link(ssh.join(FILE), folder.path().join("second")).unwrap();
            assert!(matches!(stranger.read(), Err(HomeError::Refused { .. })));
            std::os::unix::fs::chown(&ssh, Some(4343), None).unwrap();
            assert!(matches!(stranger.read(), Err(HomeError::Refused { .. })));
        }
    }
}
