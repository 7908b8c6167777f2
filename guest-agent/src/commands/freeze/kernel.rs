//! What the kernel is asked to do with file systems. All of it may block.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::libc;

use super::devices::Devices;
use super::plan::{self, Filesystem};
use crate::commands::{ioctl, mount};

/// A file system that is open.
#[derive(Debug)]
pub(crate) struct Opened {
    /// What it is called when speaking of it.
    pub(crate) name: String,
    /// Something in it.
    pub(crate) file: File,
}

/// The calls.
pub(crate) trait Kernel: fmt::Debug + Send + Sync {
    /// The file systems that can be frozen, in the order in which they are.
    fn filesystems(&self) -> io::Result<Vec<Filesystem>>;
    /// Opens one; none if none of its mounts can be reached.
    fn open(&self, filesystem: &Filesystem) -> io::Result<Option<Opened>>;
    /// Writes out what waits to be written.
    fn sync(&self, filesystem: &Opened) -> nix::Result<()>;
    /// Lets its writers wait from now on.
    fn freeze(&self, filesystem: &Opened) -> nix::Result<()>;
    /// Undoes one freeze.
    fn thaw(&self, filesystem: &Opened) -> nix::Result<()>;
}

/// The kernel that runs this guest.
#[derive(Debug)]
pub(crate) struct Linux;

impl Kernel for Linux {
    fn filesystems(&self) -> io::Result<Vec<Filesystem>> {
        let mounts = mount::parse(&fs::read(mount::TABLE)?);
        let devices = Devices::new("/sys");
        Ok(plan::order(&mounts, |mount| devices.files_below(mount)))
    }

    fn open(&self, filesystem: &Filesystem) -> io::Result<Option<Opened>> {
        let mut failure = None;
        for (id, place) in &filesystem.places {
            match open(place) {
                // a mount that another hides leads into that other
                Ok(file) if leads_into(&file, *id) => {
                    return Ok(Some(Opened { name: place.display().to_string(), file }));
                }
                Ok(_) => {}
                Err(error) => failure = Some(error),
            }
        }
        failure.map_or(Ok(None), Err)
    }

    fn sync(&self, filesystem: &Opened) -> nix::Result<()> {
        nix::unistd::syncfs(&filesystem.file)
    }

    fn freeze(&self, filesystem: &Opened) -> nix::Result<()> {
        ioctl::freeze(&filesystem.file)
    }

    fn thaw(&self, filesystem: &Opened) -> nix::Result<()> {
        ioctl::thaw(&filesystem.file)
    }
}

fn open(place: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(place)
}

/// Whether a file was opened through a mount. Where that cannot be told, it is taken to be so.
fn leads_into(file: &File, mount: u64) -> bool {
    fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()))
        .ok()
        .and_then(|text| {
            let id = text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?;
            id.trim().parse::<u64>().ok()
        })
        .is_none_or(|id| id == mount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_is_the_mount_that_was_meant() {
        let mounts = mount::parse(&fs::read(mount::TABLE).unwrap());
        let root = mount::holding(&mounts, Path::new("/")).unwrap();
        let proc = mount::holding(&mounts, Path::new("/proc")).unwrap();
        let file = open(Path::new("/proc")).unwrap();
        assert!(leads_into(&file, proc.id));
        assert!(!leads_into(&file, root.id));
        // as if the one at / were hidden by the one at /proc
        let filesystem = Filesystem {
            device: root.device,
            places: vec![(root.id, "/proc".into())],
            read_only: false,
        };
        assert!(Linux.open(&filesystem).unwrap().is_none());
    }
}
