//! Who on this node has a file open: as `lsof` finds out, by the descriptors of all processes.
//!
//! Of a descriptor the kernel is asked for the file's number first, which asks no server: one that
//! does not answer holds up only who looks for its own files.
//!
//! A file that is open is never removed. QEMU's image locks would tell too, but not of a QEMU that
//! was started without them, nor of another program.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

/// A process that has one of the files open.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: u32,
    /// What it is called; empty if it is gone again.
    pub(super) program: String,
}

/// The first process, other than this one, that has one of these files open.
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
            return Ok(Some(Holder { pid, program: program.trim().to_owned() }));
        }
    }
    Ok(None)
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
            .stdout(fs::OpenOptions::new().append(true).open(&held).unwrap())
            .spawn()
            .unwrap();
        let found = of(std::slice::from_ref(&held)).unwrap().unwrap();
        assert_eq!(found.pid, child.id());
        assert_eq!(of(&[free, folder.path().join("missing")]).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(of(&[held]).unwrap(), None);
    }
}
