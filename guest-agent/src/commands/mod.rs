//! What the commands do, one file a topic, named as in the protocol.

pub mod disk;
pub mod filesystem;
pub mod freeze;
pub mod hook;
pub mod info;
pub mod ioctl;
pub mod mount;
pub mod network;
pub mod power;
pub mod program;
pub mod shadow;
pub mod sync;
pub mod time;
pub mod trim;
pub mod user;

use crate::worker::WorkerError;

/// Why a command failed. The dispatcher makes one line of it and its causes.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
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
