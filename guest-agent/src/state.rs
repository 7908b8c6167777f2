//! What the agent knows between commands. There are no globals: whoever needs it is given it.

use std::time::Duration;

use ostler_protocol::qga::envelope::Disabled;
use tokio::sync::watch;

use crate::channel::unfinished::Unfinished;
use crate::commands::disk::address::Addresses;
use crate::commands::exec::Programs;
use crate::commands::file::Files;
use crate::commands::freeze::Freezer;
use crate::dispatcher::{Entry, WhileFrozen};
use crate::log::Log;
use crate::options::Settings;
use crate::policy::Policy;
use crate::probe::Probes;
use crate::worker::Workers;

/// The agent's state.
#[derive(Debug)]
pub struct Agent {
    /// Where it reports.
    pub log: Log,
    /// Its threads for what may block.
    pub workers: Workers,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// What is being asked that may not answer: file systems, disks.
    pub probes: Probes,
    /// What it knows of the disks that are plugged in.
    pub addresses: Addresses,
    /// Held while an account is changed: changes come one after the other.
    pub accounts: tokio::sync::Mutex<()>,
    /// The files that are open for its clients.
    pub files: Files,
    /// The programs it has started for its clients.
    pub programs: Programs,
    /// What freezes and thaws file systems.
    pub freezer: Freezer,
    /// What its owner lets the host do.
    pub policy: Policy,
    /// What was asked for and is not done.
    pub unfinished: Unfinished,
    frozen: watch::Sender<bool>,
}

impl Agent {
    /// The state of an agent that has just started.
    pub fn new(settings: &Settings) -> Self {
        Self {
            log: settings.log.clone(),
            workers: Workers::new(),
            heartbeat: settings.heartbeat,
            probes: Probes::default(),
            addresses: Addresses::default(),
            accounts: tokio::sync::Mutex::new(()),
            files: Files::new(&settings.state_directory),
            programs: Programs::new(settings.programs.clone()),
            freezer: Freezer::new(settings),
            policy: settings.policy.clone(),
            unfinished: Unfinished::default(),
            frozen: watch::Sender::new(false),
        }
    }

    /// Whether file systems are frozen by this agent.
    pub fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// Notes that file systems are now frozen, or no longer; the log is silent in between.
    pub fn set_frozen(&self, frozen: bool) {
        if frozen {
            self.log.hold();
        }
        self.frozen.send_replace(frozen);
        if !frozen {
            self.log.release();
        }
    }

    /// Waits until no file system is frozen by this agent.
    pub async fn thawed(&self) {
        // it fails when the agent's state is gone, and that is borrowed here
        let _ = self.frozen.subscribe().wait_for(|frozen| !frozen).await;
    }

    /// Why a command may not run now, if it may not.
    pub fn refusal(&self, entry: &Entry) -> Option<Disabled> {
        if self.is_frozen() {
            match entry.while_frozen {
                WhileFrozen::Allowed => {}
                WhileFrozen::Refused => return Some(Disabled::Frozen),
            }
        }
        self.policy.refusal(entry)
    }
}
