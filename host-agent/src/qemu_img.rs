//! Runs `qemu-img`. The node's own programs are run by [`program`](crate::program).
//!
//! Images come from strangers and qemu-img parses them as root, so it gets bounds: memory, CPU
//! time, bytes of a file, open files, no core; no environment; time and output capped here. The
//! bounds are set by util-linux's `prlimit`, which is on every distribution: it sets them before
//! qemu-img's first instruction, where setting them from here would need `unsafe`, or come after
//! the program had begun. `setpriv` ends qemu-img with the agent: one that outlived it would keep
//! a disk locked that the next agent is about to start a guest on.
//!
//! Formats are always named in the arguments, so nothing is probed, and paths are absolute, so
//! that no part of one can be taken for an option or a protocol.

pub(crate) mod convert;

use std::ffi::OsStr;
use std::fs::File;
use std::future::Future;
use std::io;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use ostler_protocol::rpc::values::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tracing::warn;

/// An honest answer has some hundred bytes.
const OUTPUT: u64 = 64 << 10;

/// A line of progress has some twenty.
const LINE: usize = 128;

/// A killed program gets this long to be gone: one that waits for a dead disk is not, ever.
const GONE: Duration = Duration::from_secs(10);

/// What the program may rely on.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The path by which a program knows its standard input.
pub(crate) const STDIN: &str = "/proc/self/fd/0";

/// A run of the program.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    /// qemu-img.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) arguments: Vec<&'a OsStr>,
    /// What it may use.
    pub(crate) bounds: Bounds,
    /// A file it gets open, as [`STDIN`]: what that name stands for cannot be exchanged.
    pub(crate) stdin: Option<File>,
}

/// The most files it has open: a disk may lie on 64 others.
const FILES: u32 = 256;

/// What a run may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Of address space.
    pub(crate) memory: Bytes,
    /// Of processor time.
    pub(crate) cpu: Duration,
    /// The length of a file it writes.
    pub(crate) file: Bytes,
}

impl Bounds {
    /// What nova grants too: to look at an image, qemu-img needs far less, and an image that makes
    /// it need more is hostile.
    pub(crate) const LOOK: Self =
        Self { memory: Bytes(1 << 30), cpu: Duration::from_secs(30), file: Bytes(0) };

    fn arguments(&self) -> [String; 5] {
        let Self { memory, cpu, file } = self;
        let (memory, cpu, file) = (memory.0, cpu.as_secs(), file.0);
        [
            format!("--as={memory}"),
            format!("--cpu={cpu}"),
            format!("--fsize={file}"),
            format!("--nofile={FILES}"),
            "--core=0".to_owned(),
        ]
    }
}

/// What ran: how it ended and what it said.
#[derive(Debug)]
pub(crate) struct Ran {
    /// How it ended.
    pub(crate) status: ExitStatus,
    /// Its output, unless that was progress.
    pub(crate) said: Vec<u8>,
    /// Its complaints.
    pub(crate) complained: Vec<u8>,
}

impl Ran {
    /// Why it failed, in one line, for an operator.
    ///
    /// All it said: of a full disk it complains about what it cannot delete first.
    pub(crate) fn complaint(&self) -> String {
        let complaint = String::from_utf8_lossy(&self.complained);
        let lines: Vec<&str> =
            complaint.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let said = if lines.is_empty() { self.status.to_string() } else { lines.join("; ") };
        said.chars().take(600).collect()
    }

    /// Whether the program was run at all: these are `prlimit`'s own exit codes, as a shell's.
    pub(crate) fn began(&self) -> bool {
        !matches!(self.status.code(), Some(126 | 127))
    }
}

/// What becomes of the program's output.
pub(crate) enum Output<'a> {
    /// It is the answer.
    Answer,
    /// It is the progress of `-p`: how much is done, from 0 to 1.
    Progress(&'a mut (dyn FnMut(f64) + Send)),
}

/// An end to wait no longer than `wall` for.
pub(crate) async fn late(wall: Duration) -> io::Error {
    tokio::time::sleep(wall).await;
    io::Error::new(io::ErrorKind::TimedOut, format!("it did not end within {wall:?}"))
}

/// Run it until it ends, or until `stop` says why it must: then it is gone when this returns.
pub(crate) async fn run(
    job: Job<'_>,
    output: Output<'_>,
    stop: impl Future<Output = io::Error>,
) -> io::Result<Ran> {
    let mut child = spawn(job)?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let talk = async {
        let (said, complained) = tokio::try_join!(hear(stdout, output), complaints(stderr))?;
        let status = child.wait().await?;
        Ok(Ran { status, said, complained })
    };
    let failed = tokio::select! {
        ran = talk => match ran {
            Ok(ran) => return Ok(ran),
            // It says more than is heard, and may be running still.
            Err(error) => error,
        },
        why = stop => why,
    };
    end(&mut child).await;
    Err(failed)
}

fn spawn(job: Job<'_>) -> io::Result<Child> {
    #[expect(clippy::disallowed_methods, reason = "this is the one home of qemu-img")]
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "prlimit"])
        .args(job.bounds.arguments())
        .arg("--")
        .arg(job.program)
        .args(job.arguments)
        .env_clear()
        .env("PATH", PATH)
        .env("LC_ALL", "C")
        .current_dir("/")
        .stdin(job.stdin.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command.spawn()
}

async fn end(child: &mut Child) {
    // An error means that it has ended.
    child.start_kill().ok();
    if tokio::time::timeout(GONE, child.wait()).await.is_err() {
        warn!(pid = child.id(), "qemu-img was killed and is not gone: its disk does not answer");
    }
}

async fn hear(pipe: Option<impl AsyncRead + Unpin>, output: Output<'_>) -> io::Result<Vec<u8>> {
    match output {
        Output::Answer => read(pipe).await,
        Output::Progress(tell) => follow(pipe, tell).await.map(|()| Vec::new()),
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

/// The first of what it complains of: of a file that is broken everywhere that is much.
async fn complaints(pipe: Option<impl AsyncRead + Unpin>) -> io::Result<Vec<u8>> {
    let Some(mut pipe) = pipe else { return Ok(Vec::new()) };
    let mut bytes = Vec::new();
    (&mut pipe).take(OUTPUT).read_to_end(&mut bytes).await?;
    tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    Ok(bytes)
}

/// Tell of each line of progress: `    (12.50/100%)`, ended by a carriage return.
async fn follow(
    pipe: Option<impl AsyncRead + Unpin>,
    tell: &mut (dyn FnMut(f64) + Send),
) -> io::Result<()> {
    let Some(mut pipe) = pipe else { return Ok(()) };
    let mut line = Vec::with_capacity(LINE);
    let mut buffer = [0; 512];
    loop {
        let count = pipe.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        for byte in &buffer[..count] {
            if matches!(byte, b'\r' | b'\n') {
                if let Some(done) = share(&line) {
                    tell(done);
                }
                line.clear();
            } else if line.len() < LINE {
                line.push(*byte);
            }
        }
    }
}

fn share(line: &[u8]) -> Option<f64> {
    let line = std::str::from_utf8(line).ok()?.trim();
    let percent: f64 = line.strip_prefix('(')?.strip_suffix("/100%)")?.parse().ok()?;
    (0.0..=100.0).contains(&percent).then_some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const WALL: Duration = Duration::from_secs(60);

    /// A program in qemu-img's place.
    fn stand_in(folder: &Path, script: &str) -> std::path::PathBuf {
        let path = folder.join("qemu-img");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn job(program: &Path) -> Job<'_> {
        Job { program, arguments: Vec::new(), bounds: Bounds::LOOK, stdin: None }
    }

    #[tokio::test]
    async fn a_program_that_does_not_end_is_ended() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "exec sleep 1000");
        let stop = late(Duration::from_millis(200));
        let ended = run(job(&program), Output::Answer, stop).await;
        assert_eq!(ended.err().unwrap().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_program_that_says_too_much_is_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "exec yes");
        assert!(run(job(&program), Output::Answer, late(WALL)).await.is_err());
    }

    #[tokio::test]
    async fn a_program_may_complain_at_length() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "head -c 1000000 /dev/zero >&2; exit 2");
        let ran = run(job(&program), Output::Answer, late(WALL)).await.unwrap();
        assert_eq!((ran.status.code(), ran.complained.len() as u64), (Some(2), OUTPUT));
    }

    #[tokio::test]
    async fn the_program_runs_bounded_and_without_our_environment() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), "ulimit -v; ulimit -t; ulimit -n; ulimit -f; env");
        let ran = run(job(&program), Output::Answer, late(WALL)).await.unwrap();
        let said = String::from_utf8(ran.said).unwrap();
        assert!(said.starts_with("1048576\n30\n256\n0\n"), "{said}");
        assert!(!said.contains("HOME=") && !said.contains("CARGO"), "{said}");
    }

    #[tokio::test]
    async fn progress_is_heard_however_much_is_said() {
        let folder = tempfile::tempdir().unwrap();
        let noise = "head -c 100000 /dev/zero; printf '\\r    (12.50/100%%)\\r(900/100%%)\\r'";
        let program =
            stand_in(folder.path(), &format!("{noise}; printf '    (100.00/100%%)\\r\\n'"));
        let mut heard = Vec::new();
        let mut tell = |done| heard.push(done);
        run(job(&program), Output::Progress(&mut tell), late(WALL)).await.unwrap();
        assert_eq!(heard, [0.125, 1.0]);
    }

    #[tokio::test]
    async fn the_file_it_is_given_is_the_one_it_writes() {
        let folder = tempfile::tempdir().unwrap();
        let program = stand_in(folder.path(), &format!("echo written > {STDIN}"));
        let path = folder.path().join("target");
        let file = File::create(&path).unwrap();
        // Somebody takes its place meanwhile.
        fs::rename(&path, folder.path().join("moved")).unwrap();
        fs::write(&path, "precious").unwrap();
        let bounds = Bounds { file: Bytes::mib(1), ..Bounds::LOOK };
        let job = Job { bounds, stdin: Some(file), ..job(&program) };
        assert!(run(job, Output::Answer, late(WALL)).await.unwrap().status.success());
        assert_eq!(fs::read(folder.path().join("moved")).unwrap(), b"written\n");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
