//! What can be read without waiting for anything: no disk, no server, nobody's program.
//!
//! A thread for a job takes longer than most of what is read, and yet a read may hang. So each read is
//! tried here first, in a way in which the kernel gives up instead of waiting:
//!
//! - of `/proc` and `/sys`, which the kernel answers from its memory, what does not lie on another file
//!   system that somebody put there;
//! - of `/` and `/run`, if they lie on a file system known to be local, what the kernel has in memory,
//!   on a disk the path to it included.
//!
//! All else is the business of a thread: what is not in memory, links to another file system, whatever
//! kernels before 5.12 are asked, and everything before [`Trees::find`] has been called.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use nix::libc;
use nix::sys::statfs::{
    BTRFS_SUPER_MAGIC, EXT4_SUPER_MAGIC, F2FS_SUPER_MAGIC, FsType, PROC_SUPER_MAGIC, SYSFS_MAGIC,
    TMPFS_MAGIC, fstatfs,
};

use crate::worker::Workers;

/// What is read is no longer than this; a longer file is read on a thread.
const LONGEST: usize = 1 << 20;
/// So much of a file is read at a time.
const PIECE: usize = 4 << 10;
/// Not named for each C library.
const XFS_SUPER_MAGIC: FsType = FsType(0x5846_5342);
/// Where to look, the root last: it has the others in it.
const PLACES: [&str; 4] = ["/proc", "/sys", "/run", ROOT];
const ROOT: &str = "/";

/// Who answers a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answerer {
    /// The kernel, from what it knows.
    Kernel,
    /// The same for names; what is in a file may have been put out to a disk.
    Memory,
    /// A disk, or the kernel's memory of it.
    Disk,
}

#[derive(Debug)]
struct Tree {
    place: &'static str,
    folder: OwnedFd,
    answerer: Answerer,
}

/// The file systems that are known to answer at once, or to say that they cannot.
#[derive(Clone, Debug, Default)]
pub struct Trees(Arc<Found>);

#[derive(Debug, Default)]
struct Found {
    asked: AtomicBool,
    trees: OnceLock<Vec<Tree>>,
}

impl Trees {
    /// Has them found, once. It may hang, so it is done on a thread, and nobody waits for it.
    pub(crate) fn find(&self, workers: &Workers) {
        if self.0.asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let found = self.clone();
        if workers.begin("looking at the file systems", move || found.fill()).is_err() {
            self.0.asked.store(false, Ordering::Relaxed);
        }
    }

    fn fill(&self) {
        self.0.trees.get_or_init(|| PLACES.into_iter().filter_map(tree).collect());
    }

    /// A file's bytes; `None` if they would have to be waited for.
    pub(crate) fn read(&self, path: &str) -> Option<io::Result<Vec<u8>>> {
        let (tree, rest) = self.of(path)?;
        let read = tree.file(rest).and_then(|file| tree.read(&file));
        match read {
            Err(error) if error.kind() != io::ErrorKind::NotFound => None,
            read => Some(read),
        }
    }

    /// Whether the names in a folder are not waited for, nor what the kernel says in its own.
    pub(crate) fn has_folder(&self, path: &str) -> bool {
        self.of(path).is_some_and(|(tree, rest)| match tree.answerer {
            Answerer::Kernel | Answerer::Memory => tree.folder(rest).is_ok(),
            Answerer::Disk => false,
        })
    }

    fn of<'p>(&self, path: &'p str) -> Option<(&Tree, &'p Path)> {
        let path = Path::new(path);
        self.0
            .trees
            .get()?
            .iter()
            .find_map(|tree| Some((tree, path.strip_prefix(tree.place).ok()?)))
    }
}

fn tree(place: &'static str) -> Option<Tree> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let folder = openat2(AT_FDCWD, place, OpenHow::new().flags(flags)).ok()?;
    let answerer = match fstatfs(&folder).ok()?.filesystem_type() {
        PROC_SUPER_MAGIC | SYSFS_MAGIC => Answerer::Kernel,
        TMPFS_MAGIC => Answerer::Memory,
        kind if is_local(kind) => Answerer::Disk,
        _ => return None,
    };
    Some(Tree { place, folder, answerer })
}

/// Whether a file system has no server and no program behind it.
pub(crate) fn is_local(kind: FsType) -> bool {
    let local =
        [EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC, F2FS_SUPER_MAGIC, TMPFS_MAGIC];
    local.contains(&kind)
}

impl Tree {
    fn folder(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)
    }

    fn file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK;
        Ok(self
            .open(
                path,
                match self.answerer {
                    Answerer::Kernel | Answerer::Memory => flags,
                    // to note when a file was read may take the disk
                    Answerer::Disk => flags | OFlag::O_NOATIME,
                },
            )?
            .into())
    }

    fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        let mut resolve = ResolveFlag::RESOLVE_NO_XDEV;
        match self.answerer {
            Answerer::Kernel | Answerer::Memory => {}
            Answerer::Disk => resolve |= ResolveFlag::from_bits_retain(libc::RESOLVE_CACHED),
        }
        if self.place == ROOT {
            // or no link that is an absolute path is followed
            resolve |= ResolveFlag::RESOLVE_IN_ROOT;
        }
        let how = OpenHow::new().flags(flags | OFlag::O_CLOEXEC).resolve(resolve);
        Ok(openat2(&self.folder, path, how)?)
    }

    fn read(&self, mut file: &File) -> io::Result<Vec<u8>> {
        if !file.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut bytes = Vec::new();
        let mut piece = [0; PIECE];
        while bytes.len() < LONGEST {
            let got = match self.answerer {
                Answerer::Kernel => file.read(&mut piece),
                Answerer::Memory | Answerer::Disk => read_cached(file, &mut piece),
            }?;
            if got == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&piece[..got]);
        }
        Err(io::ErrorKind::FileTooLarge.into())
    }
}

/// Reads on, as far as the kernel has the file in memory. An error if it has not, or cannot tell.
pub(crate) fn read_cached(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    #[expect(unsafe_code, reason = "no safe crate that is here already has this call")]
    // SAFETY: the descriptor is open, and the one part lies within the buffer, which outlives the call
    let got = unsafe { libc::preadv2(file.as_raw_fd(), &raw const part, 1, -1, libc::RWF_NOWAIT) };
    usize::try_from(got).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn found() -> Trees {
        let trees = Trees::default();
        trees.fill();
        trees
    }

    #[test]
    fn nothing_is_read_before_it_is_known_what_hangs() {
        assert!(Trees::default().read("/proc/version").is_none());
        assert!(!Trees::default().has_folder("/sys/devices"));
    }

    #[test]
    fn what_the_kernel_knows_is_read_and_its_folders_are_told_from_others() {
        let trees = found();
        let version = trees.read("/proc/version").unwrap().unwrap();
        assert_eq!(version, fs::read("/proc/version").unwrap());
        assert!(trees.read("/proc/self/nothing").unwrap().is_err());
        assert!(trees.has_folder("/proc/self"));
        assert!(!trees.has_folder("/proc/self/cwd"), "it leads elsewhere");
        assert!(!trees.has_folder("/etc"));
        assert!(!trees.has_folder("/process"));
        assert!(!trees.has_folder("/proc/nothing"));
        assert!(trees.read("/proc/self").is_none(), "no regular file");
    }

    #[test]
    fn what_lies_on_another_file_system_or_is_no_file_is_left_to_a_thread() {
        let trees = found();
        let tree = trees.0.trees.get().unwrap();
        assert!(tree.iter().any(|tree| tree.place == "/proc"), "{tree:?}");
        // a link out of the tree, to what would be read if it lay in it
        assert!(trees.read("/proc/self/root/proc/version").is_none());
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(trees.read(pipe.to_str().unwrap()).is_none());
    }

    #[test]
    fn a_file_on_a_local_disk_is_read_whole_or_left_to_a_thread() {
        let trees = found();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for length in [0, 1, PIECE, PIECE + 1] {
            fs::write(&path, vec![7; length]).unwrap();
            if let Some(read) = trees.read(path.to_str().unwrap()) {
                assert_eq!(read.unwrap(), vec![7; length]);
            }
        }
        fs::write(&path, vec![7; LONGEST]).unwrap();
        assert!(trees.read(path.to_str().unwrap()).is_none(), "too long");
    }
}
