//! The UNIX socket: one request a line, one response a line, in whatever order they are ready.
//!
//! Who may use it is decided by the file's mode (root and the group) and again by the credentials
//! of the peer, so that a loosened mode alone opens nothing.

use std::ffi::CString;
use std::io;
use std::os::fd::FromRawFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::AcceptConn};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use ostler_protocol::rpc::envelope::Response;
use ostler_protocol::rpc::fault::{Fault, Reason};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf, UCred};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::seats::{Seat, Seats};
use super::service::{Service, bytes};
use crate::compute::Outside;
use crate::threads::Threads;

/// The longest request line, bytes.
const LINE_MAX: usize = 1 << 20;
/// Connections at a time; for one more, the one that has been idle for longest is closed.
const CONNECTIONS: usize = 128;
/// How long a connection that asks for nothing is left alone when places are short.
const IDLE_GRACE: Duration = Duration::from_secs(1);
/// Callers looked up at a time, and how long that may take: a directory service may be asked.
const LOOK_UPS: usize = 4;
const LOOK_UP_PATIENCE: Duration = Duration::from_secs(10);
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
    /// Something else is there.
    #[error("{path} is there, and is no socket: move it away, or set another socket.path")]
    NotASocket {
        /// The path.
        path: PathBuf,
    },
    /// What systemd passes is not one socket that listens at this path.
    #[error(
        "systemd passes something else than a socket at {path}: set ListenStream= of the socket unit \
         and socket.path to the same, or disable the socket unit"
    )]
    NotPassed {
        /// The path.
        path: PathBuf,
    },
    /// Another agent answers at this path.
    #[error("another agent is listening on {path}: stop it, or set another socket.path")]
    Taken {
        /// The path.
        path: PathBuf,
    },
}

/// The listening socket. Its file is removed when it is dropped, unless systemd opened it.
pub struct Listener {
    listener: UnixListener,
    /// Of a file of the agent's own.
    path: Option<PathBuf>,
    group: Option<Gid>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // It may have been removed already; a stale socket is replaced at the next start.
        let _ = self.path.as_deref().map(remove_socket);
    }
}

/// Takes the sockets that systemd passed to this process (sd_listen_fds(3)). To be called once,
/// before anything else is opened.
///
/// # Errors
/// The environment promises sockets that are not there.
#[expect(unsafe_code, reason = "the convention is a number")]
pub fn passed() -> io::Result<Vec<std::os::unix::net::UnixListener>> {
    let fds = sd_notify::listen_fds()?;
    // SAFETY: by the convention they are this process's alone, and they were seen to be open;
    // nothing else here takes descriptors by number, and this is done once.
    Ok(fds.map(|fd| unsafe { FromRawFd::from_raw_fd(fd) }).collect())
}

impl Listener {
    /// Listen at `path`, for root and `group`, on the socket that systemd `passed`, if it did. A
    /// group that does not exist is passed over with a warning, for the socket is then root's alone.
    ///
    /// # Errors
    /// See [`enum@Error`].
    pub fn open(
        path: &Path,
        group: Option<&str>,
        passed: Vec<std::os::unix::net::UnixListener>,
    ) -> Result<Self, Error> {
        let group = group.and_then(|name| match Group::from_name(name) {
            Ok(Some(group)) => Some(group.gid),
            Ok(None) | Err(_) => {
                tracing::warn!(group = name, "there is no such group; the socket is root's alone");
                None
            }
        });
        if passed.is_empty() { Self::bind(path, group) } else { Self::take(path, group, passed) }
    }

    /// The socket that systemd opened: its file stays systemd's, its mode is made the agent's.
    fn take(
        path: &Path,
        group: Option<Gid>,
        passed: Vec<std::os::unix::net::UnixListener>,
    ) -> Result<Self, Error> {
        let failed = |source| Error::Listen { path: path.to_owned(), source };
        let other = || Error::NotPassed { path: path.to_owned() };
        let [socket] = <[_; 1]>::try_from(passed).map_err(|_| other())?;
        let listens = getsockopt(&socket, AcceptConn).map_err(|_| other())?;
        let address = socket.local_addr().map_err(failed)?;
        if !listens || address.as_pathname() != Some(path) {
            return Err(other());
        }
        give(path, group).map_err(failed)?;
        socket.set_nonblocking(true).map_err(failed)?;
        let listener = UnixListener::from_std(socket).map_err(failed)?;
        Ok(Self { listener, path: None, group })
    }

    fn bind(path: &Path, group: Option<Gid>) -> Result<Self, Error> {
        let failed = |source| Error::Listen { path: path.to_owned(), source };
        if std::os::unix::net::UnixStream::connect(path).is_ok() {
            return Err(Error::Taken { path: path.to_owned() });
        }
        // A socket nobody listens on is what an agent that was killed leaves.
        remove_socket(path)?;
        // Bound under a private name first, so that it is never there with the wrong mode.
        let private = path.with_extension("new");
        remove_socket(&private)?;
        let listener = UnixListener::bind(&private).map_err(failed)?;
        give(&private, group).and_then(|()| std::fs::rename(&private, path)).map_err(failed)?;
        Ok(Self { listener, path: Some(path.to_owned()), group })
    }

    /// Serve until `shutdown`; then requests under way are answered and connections closed.
    pub async fn serve<O: Outside>(self, service: Service<O>, shutdown: CancellationToken) {
        let seats = Seats::new(CONNECTIONS, IDLE_GRACE);
        let look_ups = Threads::new("socket-peer", LOOK_UPS);
        let tasks = TaskTracker::new();
        loop {
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
            let peer = match stream.peer_cred() {
                Ok(peer) => peer,
                Err(error) => {
                    tracing::warn!(%error, "a caller could not be identified");
                    continue;
                }
            };
            let Some(seat) = seats.take() else {
                tracing::warn!(uid = peer.uid(), "a connection was refused: all are busy");
                turn_away(&stream);
                continue;
            };
            let (service, shutdown) = (service.clone(), shutdown.clone());
            let (look_ups, group) = (look_ups.clone(), self.group);
            tasks.spawn(async move {
                if !may_use(peer, group, &look_ups).await {
                    tracing::warn!(uid = peer.uid(), "a caller without permission was refused");
                    return;
                }
                let caller = format!("uid {}", peer.uid());
                if let Err(error) = converse(stream, &caller, &service, &seat, &shutdown).await {
                    tracing::debug!(caller, %error, "connection ended");
                }
            });
        }
        tasks.close();
        tasks.wait().await;
    }
}

/// Give a socket's file to root and `group`, and to nobody else.
fn give(path: &Path, group: Option<Gid>) -> io::Result<()> {
    let mode = if group.is_some() { 0o660 } else { 0o600 };
    // the group first: until then the mode is for whichever group the file has
    nix::unistd::chown(path, None, group)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
}

/// Remove a socket, and nothing else.
fn remove_socket(path: &Path) -> Result<(), Error> {
    let failed = |source| Error::Listen { path: path.to_owned(), source };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(error)),
        Ok(meta) if meta.file_type().is_socket() => std::fs::remove_file(path).map_err(failed),
        Ok(_) => Err(Error::NotASocket { path: path.to_owned() }),
    }
}

/// Tell a caller that there is no place. It is not waited for.
fn turn_away(stream: &UnixStream) {
    let fault = Fault::new(Reason::Busy, "busy: all connections to the agent are at work");
    let fault = fault.next("ask again in a moment");
    let mut line = bytes(&Response::new(None, Err(fault)));
    line.push(b'\n');
    let _ = stream.try_write(&line);
}

/// Root, the agent's own user, and members of the group.
async fn may_use(peer: UCred, group: Option<Gid>, look_ups: &Threads) -> bool {
    if peer.uid() == 0 || peer.uid() == Uid::effective().as_raw() {
        return true;
    }
    let Some(group) = group else { return false };
    if peer.gid() == group.as_raw() {
        return true;
    }
    let look_up = look_ups.run(move || is_member(peer.uid(), group));
    match tokio::time::timeout(LOOK_UP_PATIENCE, look_up).await {
        Ok(Ok(member)) => member,
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(uid = peer.uid(), "cannot look up a caller's groups");
            false
        }
    }
}

/// Whether a user is a member of a group. Blocks: a directory service may be asked.
fn is_member(uid: u32, group: Gid) -> bool {
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(uid)) else { return false };
    let Ok(name) = CString::new(user.name) else { return false };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&group))
}

/// Serve one connection.
async fn converse<O: Outside>(
    stream: UnixStream,
    caller: &str,
    service: &Service<O>,
    seat: &Seat,
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
            () = seat.leave.cancelled() => return Ok(()),
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
        let work = seat.at_work();
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
                    drop((place, work));
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn nothing_but_a_socket_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        for there in [&path, &path.with_extension("new")] {
            std::fs::write(there, "somebody's").unwrap();
            let refused = Listener::open(&path, None, Vec::new()).map(drop).unwrap_err();
            assert!(matches!(refused, Error::NotASocket { .. }), "{refused}");
            assert_eq!(std::fs::read_to_string(there).unwrap(), "somebody's");
            std::fs::remove_file(there).unwrap();
        }
        // What a killed agent leaves is.
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = Listener::open(&path, None, Vec::new()).unwrap();
        assert!(matches!(Listener::open(&path, None, Vec::new()), Err(Error::Taken { .. })));
        // Another file in its place by then stays.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "somebody's").unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_socket_that_systemd_passes_is_served_and_stays_systemds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let systemds = std::os::unix::net::UnixListener::bind(&path).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        let listener = Listener::open(&path, None, vec![systemds]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let _client = UnixStream::connect(&path).await.unwrap();
        listener.listener.accept().await.unwrap();
        drop(listener);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn what_is_not_one_socket_at_the_path_is_not_taken_for_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.sock");
        let elsewhere = folder.path().join("other.sock");
        let bind = std::os::unix::net::UnixListener::bind;
        let two = vec![bind(&path).unwrap(), bind(&elsewhere).unwrap()];
        std::fs::remove_file(&elsewhere).unwrap();
        for passed in [two, vec![bind(&elsewhere).unwrap()]] {
            let refused = Listener::open(&path, None, passed).map(drop).unwrap_err();
            assert!(matches!(refused, Error::NotPassed { .. }), "{refused}");
        }
    }
}
