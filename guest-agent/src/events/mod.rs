//! What is told unasked on Ostler's channel.
//!
//! The sources live as long as a session: while the host is away nothing is watched and no timer
//! runs. A session begins with everything as it is, so that whoever opens the channel need not ask.
//! A change is let settle before it is told, and told only if something is different: bringing up a
//! network is dozens of notifications and one event.

mod heartbeat;
mod network;

use std::fs::File;
use std::io;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ostler_protocol::qga::commands::filesystem::FilesystemInfo;
use ostler_protocol::qga::commands::network::NetworkInterface;
use ostler_protocol::qga::envelope::Timestamp;
use ostler_protocol::qga::events::{
    FilesystemsChanged, GuestEvent, NetworkChanged, Ready, Thawed, capability,
};
use ostler_protocol::qga::{bounds, encode};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::commands::Agent;
use crate::commands::{filesystem, info};
use crate::edges::Table;

/// How long a change is let settle.
const SETTLE: Duration = Duration::from_millis(200);
/// Events that wait to be sent; a source waits when there are more.
const WAITING: usize = 4;

/// Begins to watch; ends when the receiver is dropped.
pub fn start(agent: Rc<Agent>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let watching = sender.clone();
    tokio::task::spawn_local(async move {
        tokio::select! {
            () = Sources::new(agent, sender).tell() => {}
            () = watching.closed() => {}
        }
    });
    receiver
}

struct Sources {
    agent: Rc<Agent>,
    sender: mpsc::Sender<Vec<u8>>,
    /// As they were told last.
    interfaces: Option<Vec<NetworkInterface>>,
    filesystems: Option<Vec<FilesystemInfo>>,
}

impl Sources {
    fn new(agent: Rc<Agent>, sender: mpsc::Sender<Vec<u8>>) -> Self {
        Self { agent, sender, interfaces: None, filesystems: None }
    }

    async fn tell(mut self) {
        let links = network::watch();
        let mounts = mounts();
        let mut lapses = self.agent.freezer.lapses();
        let mut beat = tokio::time::interval(self.agent.heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let ready = ready(&self.agent, links.is_ok(), mounts.is_ok()).await;
        self.send(GuestEvent::Ready(Box::new(ready))).await;
        let now = Instant::now();
        let (mut network_due, mut mounts_due) = (Some(now), Some(now));
        loop {
            tokio::select! {
                () = network::changed(&links) => {
                    network_due.get_or_insert(Instant::now() + SETTLE);
                }
                () = changed(&mounts) => {
                    mounts_due.get_or_insert(Instant::now() + SETTLE);
                }
                Some(thawed) = lapsed(&mut lapses) => self.send(GuestEvent::Thawed(thawed)).await,
                () = at(network_due) => {
                    network_due = None;
                    self.network().await;
                }
                () = at(mounts_due) => {
                    mounts_due = None;
                    self.filesystems().await;
                }
                _ = beat.tick() => {
                    self.send(GuestEvent::Heartbeat(heartbeat::read(self.agent.heartbeat))).await;
                }
            }
        }
    }

    async fn network(&mut self) {
        let Ok(mut interfaces) = crate::commands::network::list(&self.agent).await else { return };
        for interface in &mut interfaces {
            interface.statistics = None;
        }
        if self.interfaces.as_ref() != Some(&interfaces) {
            self.interfaces = Some(interfaces.clone());
            let changed = NetworkChanged { interfaces, truncated: false };
            self.send(GuestEvent::NetworkChanged(changed)).await;
        }
    }

    async fn filesystems(&mut self) {
        // while frozen, usage cannot be asked for; the edge that thawing is comes later
        if self.agent.is_frozen() {
            return;
        }
        let filesystems = match filesystem::list(&self.agent).await {
            Ok(filesystems) => filesystems,
            Err(error) => {
                return self.agent.log.info(format_args!("file systems not listed: {error}"));
            }
        };
        let same = |known: &Vec<_>| filesystems.iter().map(identity).eq(known.iter().map(identity));
        if !self.filesystems.as_ref().is_some_and(same) {
            self.filesystems = Some(filesystems.clone());
            let changed = FilesystemsChanged { filesystems, truncated: false };
            self.send(GuestEvent::FilesystemsChanged(changed)).await;
        }
    }

    async fn send(&self, event: GuestEvent) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp =
            Timestamp { seconds: now.as_secs().cast_signed(), microseconds: now.subsec_micros() };
        let line =
            event.to_event(timestamp).map(bounds::event).and_then(|event| encode::line(&event));
        match line {
            // the session that listened is over: so is this, at its next turn
            Ok(line) => drop(self.sender.send(line).await),
            Err(error) => {
                self.agent.log.error(format_args!("{} not told: {error}", event.name()));
            }
        }
    }
}

/// What makes a mounted file system another; its usage does not.
fn identity(info: &FilesystemInfo) -> (&str, &str, &str) {
    (&info.name, &info.mountpoint, &info.kind)
}

async fn ready(agent: &Agent, network: bool, mounts: bool) -> Ready {
    let mut capabilities = vec![
        capability::PIPELINING,
        capability::HEARTBEAT,
        capability::FREEZE_LEASE,
        capability::EXEC_OUTPUT,
    ];
    if network {
        capabilities.push(capability::NETWORK_EVENTS);
    }
    if mounts {
        capabilities.push(capability::FILESYSTEM_EVENTS);
    }
    Ready {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        capabilities: capabilities.into_iter().map(str::to_owned).collect(),
        hostname: info::host_name().unwrap_or_default(),
        boot_id: info::boot_id(),
        os: info::os_info(agent).await.unwrap_or_default(),
    }
}

fn mounts() -> io::Result<Table> {
    Table::new(File::open("/proc/self/mountinfo")?)
}

async fn changed(table: &io::Result<Table>) {
    match table {
        Ok(table) if table.changed().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}

/// Waits for a lease to lapse.
async fn lapsed(lapses: &mut watch::Receiver<Option<Thawed>>) -> Option<Thawed> {
    match lapses.changed().await {
        Ok(()) => *lapses.borrow_and_update(),
        // the agent is gone
        Err(_) => std::future::pending().await,
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
