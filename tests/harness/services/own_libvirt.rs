//! A libvirtd of a test's own, beside the one all share: it can be stopped, hung and restarted, or
//! see a small file system, and no other test knows.
//!
//! It lives in a mount namespace where libvirt's folders are folders of the test; guests, bridges
//! and files are the machine's as ever.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::libvirt::kvm_misleads;
use crate::place::Place;
use crate::process::{Daemon, Run, command};
use crate::{Error, Result, poll, programs};

const PATIENCE: Duration = Duration::from_secs(30);

/// The folders of libvirt's that are its own, and what they are called in the test's.
const FOLDERS: [(&str, &str); 5] = [
    ("etc", "/etc/libvirt"),
    ("lib", "/var/lib/libvirt"),
    ("cache", "/var/cache/libvirt"),
    ("log", "/var/log/libvirt"),
    ("run", "/run/libvirt"),
];

/// A libvirtd that nobody else uses. Dropping it ends it, and not its guests.
#[derive(Debug)]
pub struct OwnLibvirt {
    // before the rest: ended first
    libvirtd: Option<Daemon>,
    /// Those of libvirtds that were stopped: they stay for their guests.
    reapers: Vec<Daemon>,
    virtlogd: Daemon,
    uri: String,
    place: Place,
}

impl OwnLibvirt {
    /// Start one and wait until it answers. File systems that are mounted later it does not see.
    ///
    /// # Errors
    /// If it does not come up; only root can do this.
    pub async fn start() -> Result<Self> {
        let place = Place::new("virt")?;
        for (name, theirs) in FOLDERS {
            place.folder(name)?;
            fs::create_dir_all(theirs).map_err(Error::path("making", Path::new(theirs)))?;
        }
        let settings = fs::read_to_string("/etc/libvirt/qemu.conf").unwrap_or_default();
        // two libvirtds would each take the other's control groups for their own
        place.write("etc/qemu.conf", settings + "\ncgroup_controllers = []\n")?;
        // what libvirt knows of this QEMU, which takes it seconds to find out
        let known = Path::new("/var/cache/libvirt/qemu/capabilities");
        if known.is_dir() {
            let to = place.folder("cache/qemu")?;
            Run::new("cp").args(["-a"]).args([known, &to]).stdout().await?;
        }
        let virtlogd = daemon("virtlogd", &place)?;
        let socket = place.join("run/libvirt-sock");
        let uri = format!("qemu:///system?socket={}", socket.display());
        let mut own = Self { libvirtd: None, reapers: Vec::new(), virtlogd, uri, place };
        let log_socket = own.place.join("run/virtlogd-sock");
        poll::until("virtlogd listens", PATIENCE, async || {
            if log_socket.exists() { Ok(()) } else { Err(own.virtlogd.tail(5)) }
        })
        .await?;
        own.start_again().await?;
        Ok(own)
    }

    /// The connection URI for it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Where it keeps the memory of guests that are off.
    pub fn saves(&self) -> PathBuf {
        self.place.join("lib/qemu/save")
    }

    /// Start it after [`Self::stop`] or [`Self::kill`].
    ///
    /// # Errors
    /// If it does not come up.
    pub async fn start_again(&mut self) -> Result<()> {
        let mut libvirtd = daemon("libvirtd", &self.place)?;
        let uri = self.uri.clone();
        let answers = poll::until("libvirtd answers", PATIENCE, async || {
            let ask = Run::new("virsh").args(["-c", &uri, "-q", "version", "--daemon"]);
            let told = ask.patience(Duration::from_secs(10)).stdout().await;
            told.map(drop).map_err(|error| error.to_string())
        });
        let answers = answers.await;
        libvirtd.check()?;
        answers.map_err(|error| error.with(&libvirtd.tail(20)))?;
        self.libvirtd = Some(libvirtd);
        Ok(())
    }

    /// Stop it, to see what its absence does. Guests go on.
    ///
    /// # Errors
    /// If it goes on running.
    pub async fn stop(&mut self) -> Result<()> {
        self.end(Signal::SIGTERM).await
    }

    /// The same without its having a say.
    ///
    /// # Errors
    /// If it goes on running.
    pub async fn kill(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).await
    }

    /// Stop and start it, as an upgrade of libvirt would.
    ///
    /// # Errors
    /// As those.
    pub async fn restart(&mut self) -> Result<()> {
        self.stop().await?;
        self.start_again().await
    }

    /// Hang it (SIGSTOP), or let it go on (SIGCONT): its sockets are there, and nobody answers.
    ///
    /// # Errors
    /// If it does not run.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid()?, signal).map_err(Error::errno(format!("sending {signal} to libvirtd")))
    }

    async fn end(&mut self, signal: Signal) -> Result<()> {
        let pid = self.pid()?;
        self.signal(signal)?;
        poll::until("libvirtd ends", PATIENCE, async || {
            if runs(pid) { Err(format!("process {pid} runs")) } else { Ok(()) }
        })
        .await?;
        self.reapers.extend(self.libvirtd.take());
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        let text = fs::read_to_string(self.place.join("libvirtd.pid")).unwrap_or_default();
        match text.trim().parse() {
            Ok(pid) if self.libvirtd.is_some() => Ok(Pid::from_raw(pid)),
            Ok(_) | Err(_) => Err(Error::Missing {
                what: "a libvirtd that runs".to_owned(),
                remedy: "it was stopped: start_again()".to_owned(),
            }),
        }
    }
}

/// Whether there is such a process, and not only what its parent has not yet asked for.
fn runs(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.contains(") ") && !stat.contains(") Z ")
}

/// One of libvirt's daemons, in a mount namespace of its own.
fn daemon(name: &str, place: &Place) -> Result<Daemon> {
    let mut line = String::from("set -e; ");
    for (ours, theirs) in FOLDERS {
        line += &format!("mount --bind {} {theirs}; ", place.join(ours).display());
    }
    if kvm_misleads() {
        line += "mount --bind -o nodev /dev/kvm /dev/kvm; ";
    }
    line += &format!("exec {name} --pid-file {}", place.join(format!("{name}.pid")).display());
    let mut daemon = command(programs::of_the_lab("lab-reaper")?);
    daemon.args(["unshare", "-m", "--propagation", "slave", "sh", "-c", &line]);
    Daemon::start(name, daemon, &place.join(format!("{name}.log")))
}
