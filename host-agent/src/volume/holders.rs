//! Who has a file open: as `lsof` finds out, by the descriptors of all processes that may be looked
//! into; and by QEMU's image locks, which tell of every QEMU, on a shared file system of another
//! node's too. What may look into QEMU's processes may read their memory, so that the agent's unit
//! leaves that right out: there the locks tell.
//!
//! Of a descriptor the kernel is asked for the file's number first, which asks no server: one that
//! does not answer holds up only who looks for its own files.
//!
//! A file that is open is never removed.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

/// Where QEMU locks an image: 100 and what it does with it, 200 and what others may not do. QEMU's
/// `block/file-posix.c`.
const LOCKS_AT: i64 = 100;
const LOCKS: i64 = 200;

/// Who has one of the files open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Holder {
    Process {
        pid: u32,
        /// What it is called; empty if it is gone again.
        program: String,
    },
    /// A QEMU, of this node or another.
    Qemu,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { pid, program } if program.is_empty() => write!(f, "process {pid}"),
            Self::Process { pid, program } => write!(f, "process {pid} ({program})"),
            Self::Qemu => f.write_str("a QEMU, which has it locked"),
        }
    }
}

/// The first, other than this process, that has one of these files open.
pub(super) fn of(files: &[PathBuf]) -> io::Result<Option<Holder>> {
    let (mut wanted, mut devices) = (Vec::new(), Vec::new());
    for file in files {
        match fs::symlink_metadata(file) {
            Ok(meta) if meta.file_type().is_block_device() => devices.push(meta.rdev()),
            Ok(meta) => wanted.push((meta.dev(), meta.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    if wanted.is_empty() && devices.is_empty() {
        return Ok(None);
    }
    let own = std::process::id();
    let pids = fs::read_dir("/proc")?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.filter(|pid| *pid != own) {
        // One that ends meanwhile has nothing open.
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        let is_wanted = |entry: fs::DirEntry| {
            // QEMU has a /dev of its own, in which the same device is another file.
            let is_device = || fs::read_link(entry.path()).is_ok_and(|to| to.starts_with("/dev"));
            if !devices.is_empty() && is_device() {
                let meta = fs::metadata(entry.path()).ok()?;
                let same = meta.file_type().is_block_device() && devices.contains(&meta.rdev());
                return same.then_some(());
            }
            let number = inode(&format!("/proc/{pid}/fdinfo"), &entry);
            if number.is_some_and(|number| wanted.iter().all(|(_, ino)| *ino != number)) {
                return None;
            }
            let meta = fs::metadata(entry.path()).ok()?;
            wanted.contains(&(meta.dev(), meta.ino())).then_some(())
        };
        if descriptors.flatten().find_map(is_wanted).is_some() {
            let program = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Ok(Some(Holder::Process { pid, program: program.trim().to_owned() }));
        }
    }
    for file in files {
        if is_locked(file)? {
            return Ok(Some(Holder::Qemu));
        }
    }
    Ok(None)
}

/// Whether a QEMU has an image locked.
fn is_locked(path: &Path) -> io::Result<bool> {
    let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
    let file = match OpenOptions::new().read(true).custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: LOCKS_AT,
        l_len: LOCKS,
        l_pid: 0,
    };
    match fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)) {
        Ok(_) => Ok(lock.l_type != libc::F_UNLCK as libc::c_short),
        // A file system without locks has none.
        Err(Errno::EOPNOTSUPP | Errno::ENOLCK | Errno::EINVAL) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// The number of the file behind a descriptor; none from a kernel before 5.14, which does not tell.
fn inode(about: &str, descriptor: &fs::DirEntry) -> Option<u64> {
    let told = fs::read_to_string(Path::new(about).join(descriptor.file_name())).ok()?;
    told.lines().find_map(|line| line.strip_prefix("ino:")?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_has_a_file_open_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let (held, free) = (folder.path().join("held"), folder.path().join("free"));
        for file in [&held, &free] {
            fs::write(file, "x").unwrap();
        }
        #[expect(clippy::disallowed_methods, reason = "a test needs another process")]
        let mut child = Command::new("cat")
            .stdin(fs::File::open(&held).map(|_| Stdio::piped()).unwrap())
            .arg("-")
            .arg("/dev/null")
            .stdout(OpenOptions::new().append(true).open(&held).unwrap())
            .spawn()
            .unwrap();
        let found = of(std::slice::from_ref(&held)).unwrap().unwrap();
        assert!(matches!(found, Holder::Process { pid, .. } if pid == child.id()), "{found}");
        assert_eq!(of(&[free, folder.path().join("missing")]).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of(&[held]).unwrap(), None);
    }
    #[test]
    fn a_qemu_is_found_by_its_lock() {
        let folder = tempfile::tempdir().unwrap();
        let held = folder.path().join("held");
        fs::File::create(&held).unwrap().set_len(1 << 20).unwrap();
        for word in ["-r", "-dunmap"] {
            assert!(!is_locked(&held).unwrap());
            #[expect(clippy::disallowed_methods, reason = "a test needs another process")]
            let mut qemu = Command::new("qemu-io")
                .args(["-f", "raw", word])
                .arg(&held)
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            while !is_locked(&held).unwrap() {
                assert_eq!(qemu.try_wait().unwrap(), None);
            }
            qemu.kill().unwrap();
            qemu.wait().unwrap();
        }
    }
}
