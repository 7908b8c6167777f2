//! The node itself: what it is and how much of it is in use, for admission and `host.show`.
//!
//! Each question reads only the few files under /proc that answer it; the processor's model, which
//! takes the longest, is read once. Disk space is asked of the one directory that matters, not of
//! all mounts: a dead NFS server somewhere else must not hang the answer.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use ostler_protocol::rpc::values::Bytes;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

use crate::threads::Threads;

/// What about the node cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The node does not tell about itself.
    #[error("cannot read the node's {what}")]
    Inventory {
        /// What was asked for.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file system does not tell its size.
    #[error("cannot ask how much space there is in {}", path.display())]
    Space {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What does not change while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// The node's name.
    pub hostname: String,
    /// The kernel's release.
    pub kernel: String,
    /// The processor architecture, as in `x86_64`.
    pub architecture: String,
    /// The processor's model; empty if it has no name.
    pub cpu_model: String,
    /// Hardware threads.
    pub cpus: u32,
    /// Memory.
    pub memory: Bytes,
    /// The distribution, as it calls itself.
    pub os: String,
    /// The kernel's id of this boot of the node.
    pub boot: String,
    /// This agent's version.
    pub agent_version: &'static str,
}

/// How much is in use now.
#[derive(Debug, Clone, PartialEq)]
pub struct Usage {
    /// Memory that could be used without swapping.
    pub memory_available: Bytes,
    /// Load over 1, 5 and 15 minutes.
    pub load: [f64; 3],
    /// Time since the node started.
    pub uptime: Duration,
    /// The file system instances live on.
    pub disk: Space,
}

/// A file system's space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// In all.
    pub total: Bytes,
    /// What may be used, the reserve for root left out.
    pub free: Bytes,
}

/// The node this runs on.
#[derive(Debug, Clone)]
pub struct Host {
    inventory: Inventory,
    state: PathBuf,
    threads: Threads,
}

impl Host {
    /// Look at the node; `state` is the directory whose file system instances live on.
    pub async fn open(state: &Path) -> Result<Self, HostError> {
        // A thread or two: a file system that hangs holds one, and the next question tells.
        let threads = Threads::new("host", 2);
        let inventory = threads
            .run(inventory)
            .await
            .flatten()
            .map_err(|source| HostError::Inventory { what: "inventory", source })?;
        Ok(Self { inventory, state: state.to_owned(), threads })
    }

    /// What does not change.
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// How much is in use now.
    pub async fn usage(&self) -> Result<Usage, HostError> {
        let measured = self.threads.run(measure).await.flatten();
        let (memory_available, load, uptime) =
            measured.map_err(|source| HostError::Inventory { what: "usage", source })?;
        let disk = self.space(&self.state).await?;
        Ok(Usage { memory_available, load, uptime, disk })
    }

    /// The space of the file system that holds `directory`.
    pub async fn space(&self, directory: &Path) -> Result<Space, HostError> {
        let path = directory.to_owned();
        let asked = self.threads.run({
            let path = path.clone();
            move || space(&path)
        });
        asked.await.flatten().map_err(|source| HostError::Space { path, source })
    }
}

/// The space of the file system that holds `directory`. Blocks if the file system does.
pub fn space(directory: &Path) -> io::Result<Space> {
    let stat = statvfs(directory)?;
    let bytes = |blocks: u64| Bytes(blocks.saturating_mul(stat.fragment_size()));
    Ok(Space { total: bytes(stat.blocks()), free: bytes(stat.blocks_available()) })
}

fn inventory() -> io::Result<Inventory> {
    let wanted = RefreshKind::nothing()
        .with_cpu(CpuRefreshKind::nothing())
        .with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted).map_err(io::Error::other)?;
    let uname = nix::sys::utsname::uname()?;
    let text = |text: &std::ffi::OsStr| text.to_string_lossy().into_owned();
    let cpu_model = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    Ok(Inventory {
        hostname: text(uname.nodename()),
        kernel: text(uname.release()),
        architecture: text(uname.machine()),
        cpu_model: cpu_model.unwrap_or_default(),
        cpus: u32::try_from(system.cpus().len()).unwrap_or(u32::MAX),
        memory: Bytes(system.total_memory()),
        os: System::long_os_version().unwrap_or_default(),
        boot: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned(),
        agent_version: env!("CARGO_PKG_VERSION"),
    })
}

fn measure() -> io::Result<(Bytes, [f64; 3], Duration)> {
    let wanted = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    let system = System::new_with_specifics(wanted).map_err(io::Error::other)?;
    let load = System::load_average().map_err(io::Error::other)?;
    let uptime = System::uptime().map_err(io::Error::other)?;
    let load = [load.one, load.five, load.fifteen];
    Ok((Bytes(system.available_memory()), load, Duration::from_secs(uptime)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_node_tells_about_itself() {
        let state = tempfile::tempdir().unwrap();
        let host = Host::open(state.path()).await.unwrap();
        let inventory = host.inventory();
        assert!(inventory.cpus > 0 && inventory.memory > Bytes::mib(16), "{inventory:?}");
        assert!(!inventory.hostname.is_empty() && !inventory.kernel.is_empty());
        let usage = host.usage().await.unwrap();
        assert!(usage.memory_available <= inventory.memory && usage.memory_available > Bytes(0));
        assert!(usage.disk.free <= usage.disk.total && usage.disk.total > Bytes(0));
        assert!(usage.uptime > Duration::ZERO);
    }

    #[tokio::test]
    async fn a_directory_that_is_not_there_is_named() {
        let host = Host::open(Path::new("/")).await.unwrap();
        let error = host.space(Path::new("/does/not/exist")).await.unwrap_err();
        assert!(error.to_string().contains("/does/not/exist"));
    }
}
