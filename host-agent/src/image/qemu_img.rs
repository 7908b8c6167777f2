//! What `qemu-img` has to say of a disk that came from outside: what it is, and whether it is
//! whole.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::Duration;

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::Bytes;

use super::error::ImageError;
use super::verify::{self, Info, Unfit};
use crate::qemu_img::{Bounds, Job, Output, Ran, late, run};

/// Longer than its CPU time, as the disk may be slow.
const WALL: Duration = Duration::from_secs(60);

/// Ask about a qcow2 file whose header says that its disk has this size; `path` is absolute.
pub(super) async fn judge(
    qemu_img: &Path,
    path: &Path,
    virtual_size: Bytes,
) -> Result<Result<(), Unfit>, ImageError> {
    match second_opinion(qemu_img, Format::Qcow2, path, virtual_size).await? {
        Ok(()) => check(qemu_img, path).await,
        Err(unfit) => Ok(Err(unfit)),
    }
}

/// Ask what a file is, of which we say that it is a disk of this format and size.
pub(super) async fn second_opinion(
    qemu_img: &Path,
    format: Format,
    path: &Path,
    virtual_size: Bytes,
) -> Result<Result<(), Unfit>, ImageError> {
    let said = info(qemu_img, format, path).await?;
    Ok(said.and_then(|info| verify::second_opinion(&info, format.as_str(), virtual_size)))
}

async fn info(
    qemu_img: &Path,
    format: Format,
    path: &Path,
) -> Result<Result<Info, Unfit>, ImageError> {
    let ran = ask(qemu_img, &["info", "-f", format.as_str(), "--output", "json"], path).await?;
    if ran.status.success() {
        let info = serde_json::from_slice(&ran.said);
        return Ok(info.map_err(|_| Unfit::Unreadable("its answer is not understood".to_owned())));
    }
    Ok(Err(unreadable(&ran, path)))
}

/// Whether all that its tables name is in the file. They are read, and no data: some megabytes for
/// the largest disk.
async fn check(qemu_img: &Path, path: &Path) -> Result<Result<(), Unfit>, ImageError> {
    let ran = ask(qemu_img, &["check", "-q", "-f", "qcow2"], path).await?;
    Ok(match ran.status.code() {
        // Clusters that nothing names waste room, and harm nobody.
        Some(0 | 3) => Ok(()),
        Some(2) => Err(Unfit::Corrupt),
        _ => Err(unreadable(&ran, path)),
    })
}

async fn ask(qemu_img: &Path, arguments: &[&str], path: &Path) -> Result<Ran, ImageError> {
    let arguments = arguments.iter().map(OsStr::new).chain([path.as_os_str()]).collect();
    let job = Job { program: qemu_img, arguments, bounds: Bounds::LOOK, stdin: None };
    let ran = run(job, Output::Answer, late(WALL)).await.map_err(ImageError::QemuImg)?;
    if ran.began() { Ok(ran) } else { Err(ImageError::QemuImg(io::Error::other(ran.complaint()))) }
}

/// What it complained of.
pub(super) fn unreadable(ran: &Ran, path: &Path) -> Unfit {
    // It names the file in the cache's workshop, of which the operator knows nothing.
    let said = ran.complaint().replace(&*path.to_string_lossy(), "image");
    Unfit::Unreadable(said.chars().take(200).collect())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_missing_program_is_our_fault_not_the_images() {
        let missing = judge(Path::new("/does/not/exist"), Path::new("/x"), Bytes(512)).await;
        assert!(matches!(missing, Err(ImageError::QemuImg(_))));
    }

    #[tokio::test]
    async fn a_refusal_is_the_images_fault_and_does_not_name_our_files() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("qemu-img");
        fs::write(&program, "#!/bin/sh\necho \"cannot open $6\" >&2; exit 1\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let refused = info(&program, Format::Qcow2, Path::new("/secret/place")).await.unwrap();
        assert_eq!(refused.unwrap_err(), Unfit::Unreadable("cannot open image".to_owned()));
    }
}
