//! The SELinux label of a file.
//!
//! A file that replaces another must have its label, or the programs that may read the one may not read
//! the other. Labels are read and written by descriptor: whoever owns the folder could change what a
//! path means meanwhile.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc;

const NAME: &CStr = c"security.selinux";
/// Labels are a few dozen bytes.
const LONGEST: usize = 4096;

/// The label of a file; nothing where there are none.
fn get(file: &File) -> io::Result<Option<Vec<u8>>> {
    let mut label = vec![0; LONGEST];
    #[expect(unsafe_code, reason = "no safe crate that is here already has this call")]
    // SAFETY: the descriptor is open, the name ends in NUL, and the buffer has the length that is told
    let length = unsafe {
        libc::fgetxattr(file.as_raw_fd(), NAME.as_ptr(), label.as_mut_ptr().cast(), label.len())
    };
    match usize::try_from(length) {
        Ok(length) => {
            label.truncate(length);
            Ok(Some(label))
        }
        Err(_) => {
            let errno = nix::Error::last();
            let none = [nix::Error::ENODATA, nix::Error::ENOTSUP, nix::Error::ENOSYS];
            if none.contains(&errno) { Ok(None) } else { Err(errno.into()) }
        }
    }
}

/// Gives a new file the label of the one it is to replace.
pub(super) fn copy(old: &File, new: &File) -> io::Result<()> {
    let Some(label) = get(old)? else { return Ok(()) };
    if get(new)?.as_ref() == Some(&label) {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "no safe crate that is here already has this call")]
    // SAFETY: the descriptor is open, the name ends in NUL, and the label has the length that is told
    let outcome = unsafe {
        libc::fsetxattr(new.as_raw_fd(), NAME.as_ptr(), label.as_ptr().cast(), label.len(), 0)
    };
    if outcome == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn a_new_file_gets_the_label_of_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        let old = folder.path().join("old");
        File::create(&old).unwrap();
        #[expect(clippy::disallowed_methods, reason = "sets what this reads")]
        let labelled = Command::new("python3")
            .args([
                "-c",
                "import os, sys; os.setxattr(sys.argv[1], 'security.selinux', b'a:b:c:s0\\0')",
            ])
            .arg(&old)
            .stderr(Stdio::null())
            .status();
        if !labelled.is_ok_and(|status| status.success()) {
            eprintln!("skipped: this file system or user cannot set labels");
            return;
        }
        let old = File::open(&old).unwrap();
        let new = File::create(folder.path().join("new")).unwrap();
        copy(&old, &new).unwrap();
        assert_eq!(get(&new).unwrap().unwrap(), b"a:b:c:s0\0");
    }

    #[test]
    fn a_file_without_a_label_gives_none() {
        let (old, new) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        copy(&old, &new).unwrap();
    }
}
