//! The UNIX socket: one request a line, one response a line, in whatever order they are ready.
//!
//! Who may use it is decided by the file's mode (root and the group) and again by the credentials
//! of the peer, so that a loosened mode alone opens nothing.

use std::ffi::CString;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use ostler_protocol::rpc::envelope::Response;
use ostler_protocol::rpc::fault::{Fault, Reason};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::service::{Service, bytes};
use crate::hypervisor::Hypervisor;
use crate::network::Network;

/// The longest request line, bytes.
const LINE_MAX: usize = 1 << 20;
/// Connections at a time; more wait in the listener's backlog.
const CONNECTIONS: usize = 128;
/// Long answers under way for one connection; then its next request waits.
const WAITING: usize = 64;
/// How long a client may take to read a response before it is dropped.
const WRITE_PATIENCE: Duration = Duration::from_secs(30);

/// Why the socket cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be made at this path.
    #[error("cannot listen on {path}")]
    Listen {
        /// The path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another agent answers at this path.
    #[error("another agent is listening on {path}: stop it, or set another socket.path")]
    Taken {
        /// The path.
        path: PathBuf,
    },
}

/// The listening socket; its file is removed when it is dropped.
pub struct Listener {
    listener: UnixListener,
    path: PathBuf,
    group: Option<Gid>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have been removed already; a stale file is replaced at the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Listen at `path`, for root and `group`; a group that does not exist is passed over with a
    /// warning, for the socket is then root's alone.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub fn bind(path: &Path, group: Option<&str>) -> Result<Self, Error> {
        let failed = |source| Error::Listen { path: path.to_owned(), source };
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_) => return Err(Error::Taken { path: path.to_owned() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            // A file nobody listens on is what an agent that was killed leaves.
            Err(_) => std::fs::remove_file(path).map_err(failed)?,
        }
        let group = group.and_then(|name| match Group::from_name(name) {
            Ok(Some(group)) => Some(group.gid),
            Ok(None) | Err(_) => {
                tracing::warn!(group = name, "there is no such group; the socket is root's alone");
                None
            }
        });
        // Bound under a private name first, so that it is never there with the wrong mode.
        let private = path.with_extension("new");
        let _ = std::fs::remove_file(&private);
        let listener = UnixListener::bind(&private).map_err(failed)?;
        let mode = if group.is_some() { 0o660 } else { 0o600 };
        std::fs::set_permissions(&private, std::fs::Permissions::from_mode(mode))
            .and_then(|()| nix::unistd::chown(&private, None, group).map_err(io::Error::from))
            .and_then(|()| std::fs::rename(&private, path))
            .map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), group })
    }

    /// Serve until `shutdown`; then requests under way are answered and connections closed.
    pub async fn serve<H: Hypervisor, N: Network>(
        self,
        service: Service<H, N>,
        shutdown: CancellationToken,
    ) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        let tasks = TaskTracker::new();
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { break };
            let stream = tokio::select! {
                () = shutdown.cancelled() => break,
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "a connection could not be accepted");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                },
            };
            let caller = match stream.peer_cred() {
                Ok(peer) if may_use(&peer, self.group) => format!("uid {}", peer.uid()),
                Ok(peer) => {
                    tracing::warn!(uid = peer.uid(), "a caller without the right was turned away");
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "a caller could not be identified");
                    continue;
                }
            };
            let (service, shutdown) = (service.clone(), shutdown.clone());
            tasks.spawn(async move {
                if let Err(error) = converse(stream, &caller, &service, &shutdown).await {
                    tracing::debug!(caller, %error, "connection ended");
                }
                drop(place);
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Root, the agent's own user, and members of the group.
fn may_use(peer: &UCred, group: Option<Gid>) -> bool {
    if peer.uid() == 0 || peer.uid() == Uid::effective().as_raw() {
        return true;
    }
    let Some(group) = group else { return false };
    if peer.gid() == group.as_raw() {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid())) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

/// Serve one connection.
async fn converse<H: Hypervisor, N: Network>(
    stream: UnixStream,
    caller: &str,
    service: &Service<H, N>,
    shutdown: &CancellationToken,
) -> io::Result<()> {
    let (reader, writer) = stream.into_split();
    let mut reader = BufReader::new(reader);
    let writer = Arc::new(Mutex::new(writer));
    let waiting = Arc::new(Semaphore::new(WAITING));
    let gone = CancellationToken::new();
    let _gone = gone.clone().drop_guard();
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            read = read_line(&mut reader, &mut line) => read?,
        };
        match read {
            Line::End => return Ok(()),
            Line::TooLong => {
                let fault = Fault::new(
                    Reason::InvalidRequest,
                    format!("a request is at most {LINE_MAX} bytes"),
                );
                return write(&writer, &Response::new(None, Err(fault))).await;
            }
            Line::Whole => {}
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match service.read(&line, caller, None) {
            Err(refused) => write(&writer, &refused).await?,
            Ok(asked) if service.waits(&asked).is_some() => {
                // The semaphore is never closed.
                let Ok(place) = Arc::clone(&waiting).acquire_owned().await else { return Ok(()) };
                let (service, writer, gone) = (service.clone(), Arc::clone(&writer), gone.clone());
                tokio::spawn(async move {
                    let answer = tokio::select! {
                        () = gone.cancelled() => return,
                        answer = service.answer(asked) => answer,
                    };
                    if let Some(response) = answer {
                        // A client that has gone needs no answer.
                        let _ = write(&writer, &response).await;
                    }
                    drop(place);
                });
            }
            Ok(asked) => {
                if let Some(response) = service.answer(asked).await {
                    write(&writer, &response).await?;
                }
            }
        }
    }
}

enum Line {
    Whole,
    TooLong,
    End,
}

/// Read up to a newline, [`LINE_MAX`] bytes at most.
async fn read_line(reader: &mut BufReader<OwnedReadHalf>, line: &mut Vec<u8>) -> io::Result<Line> {
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            return Ok(if line.is_empty() { Line::End } else { Line::Whole });
        }
        let newline = available.iter().position(|&b| b == b'\n');
        let taken = newline.unwrap_or(available.len());
        if line.len() + taken > LINE_MAX {
            return Ok(Line::TooLong);
        }
        line.extend_from_slice(&available[..taken]);
        let consumed = newline.map_or(taken, |at| at + 1);
        reader.consume(consumed);
        if newline.is_some() {
            return Ok(Line::Whole);
        }
    }
}

async fn write(writer: &Mutex<OwnedWriteHalf>, response: &Response) -> io::Result<()> {
    let mut line = bytes(response);
    line.push(b'\n');
    let mut writer = writer.lock().await;
    match tokio::time::timeout(WRITE_PATIENCE, writer.write_all(&line)).await {
        Ok(written) => written,
        Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read")),
    }
}
