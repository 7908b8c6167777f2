//! The files that a file system's devices lie in.
//!
//! The kernel's device tree says what a block device is made of: a partition of its whole, LVM, RAID
//! and encryption of other devices, a loop device of a file. Followed to the bottom, what remains are
//! files, and those lie in other file systems, which must be frozen later.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::commands::mount::Mount;

/// The device tree.
#[derive(Clone, Debug)]
pub(super) struct Devices {
    root: PathBuf,
}

impl Devices {
    /// The tree at `root`, which is `/sys` except in tests.
    pub(super) fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The files below the devices of what is mounted there.
    pub(super) fn files_below(&self, mount: &Mount) -> Vec<PathBuf> {
        let mut found = Found::default();
        for device in self.devices(mount) {
            found.follow(&device);
        }
        found.files
    }

    /// The block devices of a file system.
    fn devices(&self, mount: &Mount) -> Vec<PathBuf> {
        let (major, minor) = mount.device;
        if major != 0 {
            let link = self.root.join(format!("dev/block/{major}:{minor}"));
            return fs::canonicalize(link).into_iter().collect();
        }
        // one that spans devices has a number of its own, and names one of them
        let Some(first) = mount.source.file_name().and_then(|name| self.named(name)) else {
            return Vec::new();
        };
        let others = self.entries("fs/btrfs").into_iter().find_map(|filesystem| {
            let devices = entries(&filesystem.join("devices"));
            let has_first = |device: &PathBuf| device.file_name() == first.file_name();
            devices.iter().any(has_first).then_some(devices)
        });
        let mut all: Vec<_> = others
            .into_iter()
            .flatten()
            .flat_map(|device| self.named(device.file_name()?))
            .collect();
        all.push(first);
        all
    }

    /// A device by its name, or by that of its mapping.
    fn named(&self, name: &OsStr) -> Option<PathBuf> {
        fs::canonicalize(self.root.join("class/block").join(name)).ok().or_else(|| {
            self.entries("class/block").into_iter().find_map(|device| {
                let mapping = fs::read(device.join("dm/name")).ok()?;
                (mapping.trim_ascii_end() == name.as_encoded_bytes()).then_some(())?;
                fs::canonicalize(device).ok()
            })
        })
    }

    fn entries(&self, folder: &str) -> Vec<PathBuf> {
        entries(&self.root.join(folder))
    }
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[derive(Default)]
struct Found {
    seen: BTreeSet<PathBuf>,
    files: Vec<PathBuf>,
}

impl Found {
    fn follow(&mut self, device: &Path) {
        let mut left = vec![device.to_owned()];
        while let Some(mut device) = left.pop() {
            if device.join("partition").exists() {
                device.pop();
            }
            if !self.seen.insert(device.clone()) {
                continue;
            }
            if let Ok(mut file) = fs::read(device.join("loop/backing_file")) {
                if file.last() == Some(&b'\n') {
                    file.pop();
                }
                self.files.push(std::ffi::OsString::from_vec(file).into());
            }
            let slaves = entries(&device.join("slaves"));
            left.extend(slaves.iter().filter_map(|slave| fs::canonicalize(slave).ok()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::mount;
    use std::os::unix::fs::symlink;

    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        fn link(&self, path: &str, target: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            symlink(self.0.path().join(target), path).unwrap();
        }

        fn files(&self, line: &str) -> Vec<PathBuf> {
            let mounts = mount::parse(line.as_bytes());
            let mut files = Devices::new(self.0.path()).files_below(&mounts[0]);
            files.sort();
            files
        }
    }

    fn stack() -> Tree {
        let tree = Tree::new();
        tree.file("devices/loop0/loop/backing_file", "/srv/a b.img\n");
        tree.file("devices/loop0/loop0p1/partition", "1\n");
        tree.file("devices/loop1/loop/backing_file", "/srv/other.img\n");
        tree.file("devices/sda/size", "1\n");
        tree.file("devices/md0/size", "1\n");
        tree.link("devices/md0/slaves/loop0p1", "devices/loop0/loop0p1");
        tree.link("devices/md0/slaves/sda", "devices/sda");
        tree.file("devices/dm-0/dm/name", "vg-data\n");
        tree.link("devices/dm-0/slaves/md0", "devices/md0");
        tree.link("devices/dm-0/slaves/loop1", "devices/loop1");
        for (number, device) in [("7:0", "loop0"), ("253:0", "dm-0"), ("8:0", "sda")] {
            tree.link(&format!("dev/block/{number}"), &format!("devices/{device}"));
        }
        tree.link("dev/block/259:0", "devices/loop0/loop0p1");
        for device in ["loop0", "loop1", "dm-0", "sda"] {
            tree.link(&format!("class/block/{device}"), &format!("devices/{device}"));
        }
        tree
    }

    #[test]
    fn a_stack_is_followed_to_the_files_at_its_bottom() {
        let tree = stack();
        let files = tree.files("1 0 253:0 / /data rw - xfs /dev/mapper/vg-data rw");
        assert_eq!(files, ["/srv/a b.img", "/srv/other.img"].map(PathBuf::from));
        let files = tree.files("1 0 259:0 / /part rw - ext4 /dev/loop0p1 rw");
        assert_eq!(files, [PathBuf::from("/srv/a b.img")]);
        assert!(tree.files("1 0 8:0 / / rw - ext4 /dev/sda rw").is_empty());
        assert!(tree.files("1 0 9:9 / / rw - ext4 /dev/gone rw").is_empty());
    }

    #[test]
    fn a_file_system_that_spans_devices_is_followed_from_each() {
        let tree = stack();
        tree.link("fs/btrfs/1234/devices/dm-0", "devices/dm-0");
        tree.link("fs/btrfs/1234/devices/sda", "devices/sda");
        tree.link("fs/btrfs/5678/devices/loop1", "devices/loop1");
        for source in ["/dev/sda", "/dev/mapper/vg-data"] {
            let files = tree.files(&format!("1 0 0:40 /@ / rw - btrfs {source} rw"));
            assert_eq!(files, ["/srv/a b.img", "/srv/other.img"].map(PathBuf::from), "{source}");
        }
        let files = tree.files("1 0 0:41 / /b rw - btrfs /dev/loop1 rw");
        assert_eq!(files, [PathBuf::from("/srv/other.img")]);
        assert!(tree.files("1 0 0:50 / /run rw - btrfs tmpfs rw").is_empty());
    }
}
