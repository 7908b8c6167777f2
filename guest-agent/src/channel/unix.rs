//! A socket as the channel: for tests, and for hosts that give a guest one.
//!
//! One client at a time, as on a port; the next waits until the first has left.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use nix::sys::stat::{Mode, umask};
use tokio::net::UnixListener;
use tokio::sync::watch;

use super::Kind;
use super::session::{AtEnd, End, Session};
use super::socket::Socket;
use crate::state::Agent;

/// Why there is no socket to listen on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {}", .path.display())]
pub struct ListenError {
    path: PathBuf,
    source: io::Error,
}

/// Binds a socket that only its owner can use, in place of a dead one of the same name.
pub fn listen(path: &Path) -> Result<UnixListener, ListenError> {
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
    let listener = UnixListener::bind(path).map_err(failed);
    umask(before);
    listener
}

/// Serves one client after the other.
pub async fn serve(
    agent: Rc<Agent>,
    kind: Kind,
    listener: UnixListener,
    mut stopped: watch::Receiver<bool>,
) {
    loop {
        let client = tokio::select! {
            client = listener.accept() => client,
            _ = stopped.wait_for(|stopped| *stopped) => return,
        };
        let link = client
            .and_then(|(stream, _)| stream.into_std())
            .and_then(|stream| Socket::new(stream.into()));
        let link = match link {
            Ok(link) => link,
            Err(error) => {
                agent.log.error(format_args!("a client could not be accepted: {error}"));
                continue;
            }
        };
        match Session::new(agent.clone(), kind, AtEnd::Finish, &link).run(false, &mut stopped).await
        {
            End::Closed => {}
            End::Failed(error) => agent.log.info(format_args!("a client was lost: {error}")),
            End::Stopped => return,
        }
    }
}
