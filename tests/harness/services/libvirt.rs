//! libvirtd: the running one, systemd's, or one started here.
//!
//! There is one libvirtd on a machine and there may be many tests, in threads
//! and in processes, so what is started here is shared: every user holds a
//! shared lock on one file, and whoever can turn it into an exclusive one is
//! the last and stops what the lab (never anybody else) started. A test that
//! was killed holds no lock, so the next last one cleans up after it. Nobody
//! stops it while others use it: that is for [`OwnLibvirt`](super::OwnLibvirt).

use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::process::{Run, command};
use crate::{Error, Result, poll, programs};

/// Where the libvirtd is that all share.
pub const SYSTEM: &str = "qemu:///system";
const PATIENCE: Duration = Duration::from_secs(30);

/// A libvirtd that answers, for as long as this is held.
#[derive(Debug)]
pub struct Libvirt {
    /// Released by `drop`.
    users: Option<Flock<File>>,
}

impl Libvirt {
    /// Have a libvirtd: one that answers already, else systemd's, else one of
    /// our own.
    ///
    /// # Errors
    /// If none can be had.
    pub async fn ensure() -> Result<Self> {
        let users = tokio::task::block_in_place(|| lock("users", FlockArg::LockShared))?;
        let held = Self { users: Some(users) };
        {
            let _one_starts =
                tokio::task::block_in_place(|| lock("start", FlockArg::LockExclusive))?;
            if answers().await.is_err() {
                start().await?;
            }
        }
        Ok(held)
    }

    /// The connection URI for it.
    pub fn uri(&self) -> &'static str {
        SYSTEM
    }

    /// Whether it runs because the lab started it.
    pub fn is_ours(&self) -> bool {
        let ours = read_pid(&note("libvirtd"));
        ours.is_some() && running("libvirtd") == ours
    }
}

impl Drop for Libvirt {
    fn drop(&mut self) {
        let Ok(_one_stops) = lock("start", FlockArg::LockExclusive) else { return };
        drop(self.users.take());
        if lock("users", FlockArg::LockExclusiveNonblock).is_err() {
            // somebody else is using it
            return;
        }
        for name in ["libvirtd", "virtlogd"] {
            stop_ours(name);
        }
    }
}

/// Ends a daemon the lab started, and only such a one.
fn stop_ours(name: &str) {
    let Some(ours) = read_pid(&note(name)) else { return };
    if running(name) == Some(ours) && signal(ours, Signal::SIGTERM).is_ok() {
        poll::until_blocking(PATIENCE, || running(name) != Some(ours));
    }
    forget(name);
}

async fn answers() -> Result<String> {
    let version = ["-c", SYSTEM, "-q", "version", "--daemon"];
    Run::new("virsh").args(version).patience(Duration::from_secs(10)).stdout().await
}

async fn start() -> Result<()> {
    if systemd() {
        Run::new("systemctl").args(["start", "libvirtd.service"]).stdout().await?;
    } else {
        if !Uid::effective().is_root() {
            return Err(Error::Missing {
                what: "libvirtd".to_owned(),
                remedy: "none runs here, and only root can start one".to_owned(),
            });
        }
        for name in ["virtlogd", "libvirtd"] {
            if running(name).is_none() {
                start_ours(name).await?;
            }
        }
    }
    poll::until("libvirtd answers", PATIENCE, async || {
        answers().await.map(drop).map_err(|error| error.to_string())
    })
    .await
}

/// Starts a daemon, and notes that it is the lab's.
async fn start_ours(name: &str) -> Result<()> {
    let mut daemon = command(programs::of_the_lab("lab-reaper")?);
    if name == "libvirtd" && kvm_misleads() {
        // In a mount namespace of its own /dev/kvm cannot be opened by anybody.
        let hide = "mount --bind -o nodev /dev/kvm /dev/kvm && exec libvirtd -d";
        daemon.args(["unshare", "-m", "--propagation", "slave", "sh", "-c", hide]);
    } else {
        daemon.args([name, "-d"]);
    }
    daemon.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mut reaper = daemon.spawn().map_err(Error::io(format!("starting {name}")))?;
    let pid = poll::until(&format!("{name} runs"), PATIENCE, async || match running(name) {
        Some(pid) => Ok(pid),
        None => Err(match reaper.try_wait() {
            Ok(None) => "it is starting".to_owned(),
            Ok(Some(_)) | Err(_) => "it has ended; its own log says why".to_owned(),
        }),
    })
    .await?;
    let note = note(name);
    fs::write(&note, pid.to_string()).map_err(Error::path("writing", &note))
}

/// Whether there is a /dev/kvm that libvirtd can open and QEMU's user cannot.
/// libvirt then takes its own probe of QEMU for outdated at every start of a
/// guest, and repeats it ten times, which takes seconds.
pub(super) fn kvm_misleads() -> bool {
    let usable = |user: &str| {
        let mut test = command("setpriv");
        test.args(["--reuid", user, "--init-groups", "test", "-w", "/dev/kvm"]);
        test.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
    };
    Path::new("/dev/kvm").exists() && !["libvirt-qemu", "qemu"].into_iter().any(usable)
}

/// Whether systemd is in charge of this machine.
fn systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The process of a daemon, by its own pid file; the name is checked, since a
/// pid file may outlive its process.
fn running(name: &str) -> Option<i32> {
    let pid = read_pid(Path::new(&format!("/run/{name}.pid")))?;
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let zombie = stat.contains(") Z ");
    (comm.trim() == name && !zombie).then_some(pid)
}

fn read_pid(path: &Path) -> Option<i32> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

fn signal(pid: i32, signal: Signal) -> Result<()> {
    match kill(Pid::from_raw(pid), signal) {
        Ok(()) | Err(Errno::ESRCH) => Ok(()),
        Err(errno) => Err(Error::errno(format!("sending {signal} to process {pid}"))(errno)),
    }
}

/// Where the lab notes what it started.
fn folder() -> PathBuf {
    std::env::temp_dir().join(format!("ostler-lab-{}", Uid::effective()))
}

fn note(name: &str) -> PathBuf {
    folder().join(format!("{name}.pid"))
}

fn forget(name: &str) {
    let _not_there = fs::remove_file(note(name));
}

fn lock(name: &str, how: FlockArg) -> Result<Flock<File>> {
    let folder = folder();
    fs::create_dir_all(&folder).map_err(Error::path("making", &folder))?;
    let path = folder.join(format!("{name}.lock"));
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(Error::path("opening", &path))?;
    Flock::lock(file, how)
        .map_err(|(_, errno)| Error::errno(format!("locking {}", path.display()))(errno))
}
