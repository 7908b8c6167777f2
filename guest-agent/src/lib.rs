//! The agent inside the guest.
//!
//! It serves two virtio-serial ports, and waits for each that is not there yet:
//!
//! ```text
//!  org.qemu.guest_agent.0 --+                                    +-- commands::info
//!    in order, no events    |                                    |   commands::network
//!                           +-- channel::session -- dispatcher --+   commands::filesystem
//!  org.ostler.guest.0 ------+         ^            (the table)   |   commands::user
//!    ids, pipelining, events          |                          +-- commands::power
//!                                  events
//!                      (netlink, mountinfo, heartbeat)
//! ```
//!
//! (A serial line, a socket or one that a service manager passes may stand in for a port.) The first is
//! the standard: whatever talks to a stock agent talks to this one. The second carries the same
//! commands, several at a time, and tells what changed without being asked.
//!
//! One thread runs it all. What may block (a hung file system, a program that does not end) is done on
//! a thread of its own with a deadline, or by a child process; so a ping is answered whatever else
//! goes on. An agent with nothing to do sleeps: no timer runs while the host is away.

#[cfg(target_env = "gnu")]
mod allocator;
pub mod channel;
pub mod commands;
pub mod daemon;
pub mod dispatcher;
pub mod doctor;
pub mod edges;
pub mod events;
mod file_lock;
pub mod log;
mod netlink;
pub mod options;
pub mod policy;
pub mod probe;
pub mod prompt;
pub mod root;
pub mod service;
pub mod settings;
pub mod unfinished;
pub mod worker;

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use channel::socket::{self, Listener};
use channel::{Kind, isa, serial, unix, vsock};
use commands::Agent;
use daemon::{DaemonError, PidFile, Side};
use log::LogError;
use service::Manager;
use settings::{Method, Settings};

/// In the state directory while file systems are frozen: it outlives the agent that froze them.
const FROZEN_MARK: &str = "qga.state.isfrozen";

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// There is no state directory.
    #[error("the state directory {} is not there", .0.display())]
    StateDirectory(PathBuf),
    /// The log file could not be opened.
    #[error(transparent)]
    Log(#[from] LogError),
    /// It could not go to the background.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The runtime could not be set up.
    #[error("cannot set up the event loop")]
    Runtime(#[source] std::io::Error),
    /// The signals that end the agent could not be caught.
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
    /// The socket that was passed could not be watched.
    #[error("cannot serve the socket that was passed")]
    Passed(#[source] std::io::Error),
    /// A socket could not be opened.
    #[error(transparent)]
    Unix(#[from] unix::ListenError),
    /// A socket of vsock could not be opened.
    #[error(transparent)]
    Vsock(#[from] vsock::ListenError),
    /// A serial line could not be opened.
    #[error(transparent)]
    Line(#[from] isa::LineError),
}

/// Serves until SIGTERM or SIGINT, and says how the process is to end. A socket that was passed takes
/// the place of the standard channel.
pub fn main(settings: &Settings, passed: Option<OwnedFd>) -> ExitCode {
    #[cfg(target_env = "gnu")]
    allocator::give_back();
    commands::exec::keep_descriptors();
    match start(settings, passed) {
        Ok(()) => {
            settings.log.close();
            ExitCode::SUCCESS
        }
        Err(error) => {
            settings.log.error(format_args!("{}", log::chain(&error)));
            settings.log.give_up();
            settings.log.close();
            ExitCode::FAILURE
        }
    }
}

/// Whatever can fail without the event loop fails before the process goes to the background: its
/// starter hears of it.
fn start(settings: &Settings, passed: Option<OwnedFd>) -> Result<(), RunError> {
    let log = &settings.log;
    // an agent before this one may have left file systems frozen, the log's and ours among them
    let frozen = settings.state_directory.join(FROZEN_MARK).exists();
    if frozen {
        log.hold();
    }
    log.open()?;
    check_state_directory(settings)?;
    let mut pid_file = match settings.daemon && !frozen {
        true => Some(PidFile::lock(&settings.pid_file)?),
        false => None,
    };
    if settings.daemon && daemon::detach()? == Side::Starter {
        return Ok(());
    }
    if let Some(pid_file) = &mut pid_file {
        pid_file.write()?;
    }
    for warning in &settings.warnings {
        log.warning(format_args!("{warning}"));
    }
    let outcome = serve(settings, passed, &mut pid_file);
    if let Some(pid_file) = pid_file {
        pid_file.remove();
    }
    outcome
}

/// The usual one may be missing (an initramfs), and all that needs none works; one that was asked for
/// may not.
fn check_state_directory(settings: &Settings) -> Result<(), RunError> {
    let path = &settings.state_directory;
    if path.is_dir() {
        return Ok(());
    }
    if path != Path::new(options::STATE_DIRECTORY) {
        return Err(RunError::StateDirectory(path.clone()));
    }
    let warning = format_args!("{} is not there: nothing outlives a restart", path.display());
    settings.log.warning(warning);
    Ok(())
}

fn serve(
    settings: &Settings,
    passed: Option<OwnedFd>,
    pid_file: &mut Option<PidFile>,
) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    settings.log.hand_over();
    runtime.block_on(LocalSet::new().run_until(async {
        let agent = Rc::new(Agent::new(settings));
        commands::freeze::take_over(&agent);
        if !agent.is_frozen() {
            agent.log.release();
        }
        run(agent, settings, passed, pid_file).await
    }))
}

async fn run(
    agent: Rc<Agent>,
    settings: &Settings,
    passed: Option<OwnedFd>,
    pid_file: &mut Option<PidFile>,
) -> Result<(), RunError> {
    let catch = |kind| signal(kind).map_err(RunError::Signals);
    let mut terminate = catch(SignalKind::terminate())?;
    let mut interrupt = catch(SignalKind::interrupt())?;
    let mut hangup = catch(SignalKind::hangup())?;
    let (stop, stopped) = watch::channel(false);
    let mut channels = JoinSet::new();
    open(&agent, settings, passed, &stopped, &mut channels)?;
    agent.log.info(format_args!("serving, version {}", env!("CARGO_PKG_VERSION")));
    let manager = Manager::find(|name| std::env::var(name).ok());
    manager.tell(service::READY);
    let alive = manager.beat().map_err(RunError::Runtime)?;
    let mut no_pid_file = settings.daemon && pid_file.is_none();
    loop {
        tokio::select! {
            ended = channels.join_next() => if ended.is_none() {
                return Ok(());
            },
            () = either(&mut terminate, &mut interrupt) => {
                // whoever ends it now leaves the file systems frozen
                if agent.is_frozen() {
                    agent.log.warning(format_args!("a signal to end came while frozen"));
                } else {
                    manager.tell(service::STOPPING);
                    // the receivers are the channels', which may be gone already
                    let _ = stop.send(true);
                }
            }
            _ = hangup.recv() => if let Err(error) = agent.log.open() {
                agent.log.error(format_args!("{}", log::chain(&error)));
            },
            () = alive.next() => manager.tell(service::ALIVE),
            () = agent.thawed(), if no_pid_file => {
                no_pid_file = false;
                match late_pid_file(&settings.pid_file) {
                    Ok(written) => *pid_file = Some(written),
                    // the file systems are thawed by this agent: it is not the time to end
                    Err(error) => agent.log.error(format_args!("{}", log::chain(&error))),
                }
            }
        }
    }
}

fn late_pid_file(path: &Path) -> Result<PidFile, DaemonError> {
    let mut pid_file = PidFile::lock(path)?;
    pid_file.write()?;
    Ok(pid_file)
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

/// Opens the channels. Must be called within a [`LocalSet`].
fn open(
    agent: &Rc<Agent>,
    settings: &Settings,
    passed: Option<OwnedFd>,
    stopped: &watch::Receiver<bool>,
    channels: &mut JoinSet<()>,
) -> Result<(), RunError> {
    let Settings { method, baud, .. } = *settings;
    let mut standard = settings.path.as_ref();
    if let Some(socket) = passed {
        let listener = Listener::new(socket).map_err(RunError::Passed)?;
        channels.spawn_local(socket::serve(
            agent.clone(),
            Kind::Standard,
            listener,
            stopped.clone(),
        ));
        standard = None;
    }
    for (kind, path) in [(Kind::Standard, standard), (Kind::Ostler, settings.ostler.as_ref())] {
        let Some(path) = path else { continue };
        let (agent, stopped) = (agent.clone(), stopped.clone());
        match method {
            Method::VirtioSerial => {
                channels.spawn_local(serial::serve(agent, kind, path.clone(), stopped));
            }
            Method::IsaSerial => {
                let line = match settings.retry {
                    true => None,
                    false => Some(isa::open(path, baud)?),
                };
                channels.spawn_local(isa::serve(agent, kind, path.clone(), baud, line, stopped));
            }
            Method::UnixListen => {
                let listener = unix::listen(path)?;
                channels.spawn_local(socket::serve(agent, kind, listener, stopped));
            }
            Method::VsockListen => {
                let listener = vsock::listen(path)?;
                channels.spawn_local(socket::serve(agent, kind, listener, stopped));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::sys::signal::{Signal as Number, raise};
    use options::Invocation;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    async fn ping(path: &Path) {
        let mut client = loop {
            match UnixStream::connect(path).await {
                Ok(client) => break client,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        client.write_all(b"{'execute':'guest-ping'}").await.unwrap();
        let mut reply = [0; 15];
        client.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply, b"{\"return\": {}}\n");
    }

    #[tokio::test]
    async fn while_frozen_it_does_not_end_and_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let place = |name: &str| folder.path().join(name);
        let options = [("-f", "pid"), ("-l", "log"), ("-p", "socket"), ("-t", "")]
            .map(|(option, name)| format!("{option}{}", place(name).display()));
        let options = options.iter().map(String::as_str).chain(["-d", "-m", "unix-listen"]);
        let settings = match options::parse(options.map(Into::into)) {
            Ok(Invocation::Serve(settings)) => *settings,
            other => panic!("{other:?}"),
        };
        let agent = Rc::new(Agent::new(&settings));
        // as an agent that finds them frozen when it starts
        agent.set_frozen(true);
        agent.log.open().unwrap();
        let mut heard = signal(SignalKind::terminate()).unwrap();
        let mut pid_file = None;
        let host = async {
            ping(&place("socket")).await;
            raise(Number::SIGTERM).unwrap();
            heard.recv().await;
            ping(&place("socket")).await;
            assert!(!place("log").exists() && !place("pid").exists());

            agent.set_frozen(false);
            let log = std::fs::read_to_string(place("log")).unwrap();
            assert!(log.contains("a signal to end came while frozen"), "{log}");
            while !place("pid").exists() {
                tokio::task::yield_now().await;
            }
            ping(&place("socket")).await;
            let text = std::fs::read_to_string(place("pid")).unwrap();
            assert_eq!(text, format!("{}\n", std::process::id()));
            raise(Number::SIGTERM).unwrap();
        };
        let run = run(agent.clone(), &settings, None, &mut pid_file);
        let (ended, ()) = LocalSet::new().run_until(async { tokio::join!(run, host) }).await;
        ended.unwrap();
        assert!(pid_file.is_some(), "it is removed by whoever ran the agent");
    }
}
