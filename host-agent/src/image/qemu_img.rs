//! What `qemu-img info` has to say of a qcow2 file that came from outside.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use super::error::ImageError;
use super::verify::{Info, Unfit};
use crate::qemu_img::{Bounds, Job, Output, late, run};

/// Longer than its CPU time, as the disk may be slow.
const WALL: Duration = Duration::from_secs(60);

/// Ask about a qcow2 file; `path` is absolute.
pub(super) async fn info(qemu_img: &Path, path: &Path) -> Result<Result<Info, Unfit>, ImageError> {
    let arguments = ["info", "-f", "qcow2", "--output", "json"].map(OsStr::new);
    let arguments = arguments.into_iter().chain([path.as_os_str()]).collect();
    let job = Job { program: qemu_img, arguments, bounds: Bounds::LOOK, stdin: None };
    let ran = run(job, Output::Answer, late(WALL)).await.map_err(ImageError::QemuImg)?;
    if ran.status.success() {
        let info = serde_json::from_slice(&ran.said);
        return Ok(info.map_err(|_| Unfit::Unreadable("its answer is not understood".to_owned())));
    }
    if !ran.began() {
        return Err(ImageError::QemuImg(io::Error::other(ran.complaint())));
    }
    // It names the file in the cache's workshop, of which the operator knows nothing.
    let said = ran.complaint().replace(&*path.to_string_lossy(), "image");
    Ok(Err(Unfit::Unreadable(said.chars().take(200).collect())))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_our_fault_not_the_images() {
        let missing = info(Path::new("/does/not/exist"), Path::new("/x")).await;
        assert!(matches!(missing, Err(ImageError::QemuImg(_))));
    }

    #[tokio::test]
    async fn a_refusal_is_the_images_fault_and_does_not_name_our_files() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu-img");
        fs::write(&program, "#!/bin/sh\necho \"cannot open $6\" >&2; exit 1\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let refused = info(&program, Path::new("/secret/place")).await.unwrap();
        assert_eq!(refused.unwrap_err(), Unfit::Unreadable("cannot open image".to_owned()));
    }
}
