//! What the commands do, one file a topic, named as in the protocol.

pub mod account;
pub mod cpu;
pub mod disk;
pub mod exec;
pub mod file;
pub mod filesystem;
pub mod freeze;
pub mod hash;
pub mod hook;
pub mod info;
pub mod ioctl;
pub mod label;
pub mod memory;
pub mod mount;
pub mod network;
pub mod power;
pub mod program;
pub mod route;
pub mod shadow;
pub mod ssh;
pub mod sync;
pub mod time;
pub mod timezone;
pub mod trim;
pub mod user;
pub mod users;

use ostler_protocol::qga::envelope::Disabled;

use crate::worker::WorkerError;

/// Why a command failed. The dispatcher makes one line of it and its causes.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// One that tells of processors, or changes them.
    #[error(transparent)]
    Cpu(#[from] cpu::CpuError),
    /// One that tells of disks.
    #[error(transparent)]
    Disk(#[from] disk::DiskError),
    /// One that tells of memory.
    #[error(transparent)]
    Memory(#[from] memory::MemoryError),
    /// One that tells of routes.
    #[error(transparent)]
    Route(#[from] route::RouteError),
    /// One that runs programs.
    #[error(transparent)]
    Exec(#[from] exec::ExecError),
    /// One that uses files.
    #[error(transparent)]
    File(#[from] file::FileError),
    /// One that tells of the system.
    #[error(transparent)]
    Info(#[from] info::InfoError),
    /// One that tells of the network.
    #[error(transparent)]
    Network(#[from] network::NetworkError),
    /// One that tells of file systems.
    #[error(transparent)]
    Filesystem(#[from] filesystem::FilesystemError),
    /// One that freezes or thaws.
    #[error(transparent)]
    Freeze(#[from] freeze::FreezeError),
    /// One whose arguments ask for more than the guest's owner permits.
    #[error("{command} is refused: {why}")]
    Refused {
        /// Which.
        command: &'static str,
        /// By what.
        why: Disabled,
    },
    /// One that changes who may log in by key.
    #[error(transparent)]
    Ssh(#[from] ssh::SshError),
    /// One that shuts down or suspends.
    #[error(transparent)]
    Power(#[from] power::PowerError),
    /// One that looks at the clock or sets it.
    #[error(transparent)]
    Time(#[from] time::TimeError),
    /// One that trims.
    #[error(transparent)]
    Trim(#[from] trim::TrimError),
    /// One that changes an account.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The thread it needed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}
