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
//! The first is the standard: whatever talks to a stock agent talks to this one. The second carries the
//! same commands, several at a time, and tells what changed without being asked.
//!
//! One thread runs it all. What may block (a hung file system, a program that does not end) is done on
//! a thread of its own with a deadline, or by a child process; so a ping is answered whatever else
//! goes on. An agent with nothing to do sleeps: no timer runs while the host is away.

pub mod channel;
pub mod commands;
pub mod dispatcher;
pub mod events;
pub mod log;
pub mod options;
pub mod policy;
pub mod state;
pub mod worker;

use std::process::ExitCode;
use std::rc::Rc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};

use channel::{Kind, serial, unix};
use options::{Method, Settings};
use state::Agent;

/// Why the agent cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The runtime could not be set up.
    #[error("cannot set up the event loop")]
    Runtime(#[source] std::io::Error),
    /// The signals that end the agent could not be caught.
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
    /// A channel could not be opened.
    #[error(transparent)]
    Listen(#[from] unix::ListenError),
}

/// Serves until SIGTERM or SIGINT, and says how the process is to end.
pub fn main(settings: Settings) -> ExitCode {
    let log = settings.log;
    match serve(settings) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            log.error(format_args!("{}", log::chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn serve(settings: Settings) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Runtime)?;
    runtime.block_on(LocalSet::new().run_until(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
        let agent = run(settings, stopped);
        tokio::pin!(agent);
        loop {
            tokio::select! {
                done = &mut agent => return done,
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // the receivers are the channels', which may be gone already
            let _ = stop.send(true);
        }
    }))
}

/// Serves until `stopped` says so. Must be called within a [`LocalSet`].
pub async fn run(settings: Settings, stopped: watch::Receiver<bool>) -> Result<(), RunError> {
    let Settings { method, path, ostler, log, .. } = &settings;
    let mut channels = JoinSet::new();
    let ports = [(Kind::Standard, path.clone()), (Kind::Ostler, ostler.clone())];
    let agent = Rc::new(Agent::new(&settings));
    commands::freeze::take_over(&agent);
    for (kind, path) in ports {
        let Some(path) = path else { continue };
        match method {
            Method::VirtioSerial => {
                channels.spawn_local(serial::serve(agent.clone(), kind, path, stopped.clone()));
            }
            Method::UnixListen => {
                let listener = unix::listen(&path)?;
                channels.spawn_local(unix::serve(agent.clone(), kind, listener, stopped.clone()));
            }
        }
    }
    log.info(format_args!("serving, version {}", env!("CARGO_PKG_VERSION")));
    while channels.join_next().await.is_some() {}
    Ok(())
}
