//! What the agent knows between commands. There are no globals: whoever needs it is given it.

use std::cell::Cell;
use std::time::Duration;

use ostler_protocol::qga::envelope::Disabled;

use crate::commands::filesystem::Probes;
use crate::commands::freeze::Freezer;
use crate::dispatcher::{Entry, WhileFrozen};
use crate::log::Log;
use crate::options::Settings;
use crate::policy::Policy;
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
    /// File systems that are being asked for their usage.
    pub probes: Probes,
    /// Held while an account is changed: changes come one after the other.
    pub accounts: tokio::sync::Mutex<()>,
    /// What freezes and thaws file systems.
    pub freezer: Freezer,
    /// What its owner lets the host do.
    pub policy: Policy,
    frozen: Cell<bool>,
}

impl Agent {
    /// The state of an agent that has just started.
    pub fn new(settings: &Settings) -> Self {
        Self {
            log: settings.log,
            workers: Workers::new(),
            heartbeat: settings.heartbeat,
            probes: Probes::default(),
            accounts: tokio::sync::Mutex::new(()),
            freezer: Freezer::new(settings),
            policy: settings.policy.clone(),
            frozen: Cell::new(false),
        }
    }

    /// Whether file systems are frozen by this agent.
    pub fn is_frozen(&self) -> bool {
        self.frozen.get()
    }

    /// Notes that file systems are now frozen, or no longer.
    pub fn set_frozen(&self, frozen: bool) {
        self.frozen.set(frozen);
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
