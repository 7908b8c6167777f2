//! What the commands do, one file a topic, named as in the protocol.

pub mod disk;
pub mod filesystem;
pub mod info;
pub mod network;
pub mod power;
pub mod program;
pub mod shadow;
pub mod sync;
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
    /// One that shuts down.
    #[error(transparent)]
    Power(#[from] power::PowerError),
    /// One that changes an account.
    #[error(transparent)]
    User(#[from] user::UserError),
    /// The thread it needed.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}
