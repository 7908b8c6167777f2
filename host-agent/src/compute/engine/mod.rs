//! The engine: where operations are carried out.
//!
//! * `worker`: one for each subject: its operations in order, those that a crash cut off first.
//! * `forward`, `undo`: an operation's steps in order, and back again if one fails.
//! * `progress`: what is noted of it on the way, and at the end.
//! * `steps`: what does and takes back each step.
//! * `sight`: what is seen of an instance, and what follows from it.
//! * `probe`: what domains run on, KVM or emulation.

mod forward;
mod probe;
mod progress;
mod sight;
mod steps;
mod undo;
mod worker;

use std::sync::Arc;

use ostler_protocol::rpc::values::InstanceId;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::outside::{Node, Outside};
use super::registry::Registry;
use super::virtualization::Virtualization;
use crate::config;
use crate::turns::Turns;

pub(super) use steps::{StepError, upload_of};

/// Carries operations out.
pub(super) struct Engine<O: Outside> {
    pub(super) node: Arc<Node<O>>,
    pub(super) registry: Arc<Registry>,
    pub(super) virtualization: Arc<Virtualization>,
    boots: Turns,
    copies: Turns,
    downloads: Turns,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    /// Set when something has ended that the agent cannot do without.
    broken: CancellationToken,
}

impl<O: Outside> Engine<O> {
    pub(super) fn new(
        node: Arc<Node<O>>,
        registry: Arc<Registry>,
        limits: &config::Limits,
    ) -> Self {
        Self {
            node,
            virtualization: Arc::default(),
            boots: Turns::new(limits.boots),
            copies: Turns::new(limits.copies),
            downloads: Turns::new(limits.downloads),
            tasks: TaskTracker::new(),
            shutdown: registry.shutdown.clone(),
            broken: CancellationToken::new(),
            registry,
        }
    }

    /// So many at a time from now on.
    pub(super) fn limit(&self, limits: &config::Limits) {
        self.boots.resize(limits.boots);
        self.copies.resize(limits.copies);
        self.downloads.resize(limits.downloads);
    }

    /// End the agent, since something of it has ended without which it serves nobody.
    pub(super) fn give_up(&self, what: &str) {
        tracing::error!(what, "a task that the agent needs has ended: the agent stops");
        self.broken.cancel();
    }

    /// Done when the agent cannot go on ([`Self::give_up`]).
    pub(super) async fn is_broken(&self) {
        self.broken.cancelled().await;
    }

    /// The socket of an instance's Ostler port.
    pub(super) fn guest_socket(&self, id: InstanceId) -> std::path::PathBuf {
        self.registry.settings().run_dir.join("guest").join(format!("{id}.sock"))
    }
}
