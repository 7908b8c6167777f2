//! A socket in the file system as the channel: for tests, and for hosts that give a guest one.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::stat::{Mode, umask};

use super::socket::Listener;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", .path.display())]
pub struct ListenError {
    path: PathBuf,
    source: io::Error,
}

/// Binds a socket that only its owner can use, in place of a dead one of the same name.
pub fn listen(path: &Path) -> Result<Listener, ListenError> {
    let failed = |source| ListenError { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Ok(found) if !std::os::unix::fs::FileTypeExt::is_socket(&found.file_type()) => {
            return Err(failed(io::ErrorKind::AlreadyExists.into()));
        }
        Ok(_) if UnixStream::connect(path).is_ok() => {
            return Err(failed(io::ErrorKind::AddrInUse.into()));
        }
        Ok(_) => std::fs::remove_file(path).map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    Listener::new(OwnedFd::from(listener)).map_err(failed)
}
