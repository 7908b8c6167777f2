//! Runs `qemu-img info`: the one place of this agent that runs a program.
//!
//! Images come from strangers and qemu-img parses them as root, so it gets bounds: memory, CPU
//! time, no files written, few opened, no core; no environment; wall time and output capped here.
//! The bounds are set by util-linux's `prlimit`, which is on every distribution: it sets them
//! before qemu-img's first instruction, where setting them from here would need `unsafe`, or come
//! after the program had begun.

use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::error::ImageError;
use super::verify::{Info, Unfit};

/// What nova grants too: qemu-img needs far less, and an image that makes it need more is hostile.
const BOUNDS: [&str; 5] = ["--as=1073741824", "--cpu=30", "--fsize=0", "--nofile=64", "--core=0"];

/// Longer than its CPU time, as the disk may be slow.
const WALL: Duration = Duration::from_secs(60);

/// An honest answer has some hundred bytes.
const OUTPUT: u64 = 64 << 10;

/// What the program may rely on.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What ran: how it ended and what it said.
struct Ran {
    status: ExitStatus,
    said: Vec<u8>,
    complained: Vec<u8>,
}

/// Ask about a qcow2 file; `path` is absolute, so no part of it can be taken for an option or a
/// protocol.
pub(super) async fn info(qemu_img: &Path, path: &Path) -> Result<Result<Info, Unfit>, ImageError> {
    let ran = run(qemu_img, path, WALL).await.map_err(ImageError::QemuImg)?;
    if ran.status.success() {
        let info = serde_json::from_slice(&ran.said);
        return Ok(info.map_err(|_| Unfit::Unreadable("its answer is not understood".to_owned())));
    }
    let complaint = String::from_utf8_lossy(&ran.complained);
    let first = complaint.lines().next().unwrap_or_default();
    // prlimit's own exit codes, as a shell's: the program was not run at all.
    if matches!(ran.status.code(), Some(126 | 127)) {
        return Err(ImageError::QemuImg(io::Error::other(first.to_owned())));
    }
    // It names the file in the cache's workshop, of which the operator knows nothing.
    let first = first.replace(&*path.to_string_lossy(), "image");
    let said = if first.is_empty() { ran.status.to_string() } else { first };
    Ok(Err(Unfit::Unreadable(said.chars().take(200).collect())))
}

async fn run(qemu_img: &Path, path: &Path, wall: Duration) -> io::Result<Ran> {
    #[expect(clippy::disallowed_methods, reason = "this is the one home of programs")]
    let mut command = tokio::process::Command::new("prlimit");
    command
        .args(BOUNDS)
        .arg("--")
        .arg(qemu_img)
        .args(["info", "-f", "qcow2", "--output", "json"])
        .arg(path)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let talk = async {
        let (said, complained) = tokio::try_join!(read(stdout), read(stderr))?;
        let status = child.wait().await?;
        Ok(Ran { status, said, complained })
    };
    match tokio::time::timeout(wall, talk).await {
        Ok(Ok(ran)) => Ok(ran),
        // Still running, or saying more than is heard: it is ended and collected.
        Ok(Err(error)) => child.kill().await.and(Err(error)),
        Err(_) => {
            let late = format!("it did not end within {wall:?}");
            child.kill().await.and(Err(io::Error::new(io::ErrorKind::TimedOut, late)))
        }
    }
}

async fn read(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(pipe) = pipe {
        pipe.take(OUTPUT + 1).read_to_end(&mut bytes).await?;
    }
    if bytes.len() as u64 > OUTPUT {
        return Err(io::Error::other("it said more than is reasonable"));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program in qemu-img's place.
    fn stand_in(folder: &Path, script: &str) -> std::path::PathBuf {
        let path = folder.join("qemu-img");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "exec sleep 1000");
        let late = run(&program, Path::new("/x"), Duration::from_millis(200)).await;
        assert_eq!(late.err().unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_program_that_says_too_much_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "exec yes");
        assert!(run(&program, Path::new("/x"), WALL).await.is_err());
    }

    #[tokio::test]
    async fn the_program_runs_bounded_and_without_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "ulimit -v; ulimit -t; ulimit -n; env");
        let ran = run(&program, Path::new("/x"), WALL).await.unwrap();
        let said = String::from_utf8(ran.said).unwrap();
        assert!(said.starts_with("1048576\n30\n64\n"), "{said}");
        assert!(!said.contains("HOME=") && !said.contains("CARGO"), "{said}");
    }

    #[tokio::test]
    async fn a_missing_program_is_our_fault_not_the_images() {
        let missing = info(Path::new("/does/not/exist"), Path::new("/x")).await;
        assert!(matches!(missing, Err(ImageError::QemuImg(_))));
    }

    #[tokio::test]
    async fn a_refusal_is_the_images_fault_and_does_not_name_our_files() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "echo \"cannot open $6\" >&2; exit 1");
        let refused = info(&program, Path::new("/secret/place")).await.unwrap();
        assert_eq!(refused.unwrap_err(), Unfit::Unreadable("cannot open image".to_owned()));
    }
}
