//! What domains run on, KVM or emulation, and with which processor: once that is known.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Mutex, watch};

use crate::hypervisor::VirtChoice;

/// What is known of it.
#[derive(Debug, Default)]
pub(super) struct Virtualization {
    pub(super) choice: watch::Sender<Option<Arc<VirtChoice>>>,
    /// Held while it is found out.
    pub(super) finding: Mutex<()>,
    /// An instance has started on it, or it was tried a second time.
    pub(super) settled: AtomicBool,
    /// The second trial found something else.
    pub(super) changed: AtomicBool,
}

impl Virtualization {
    /// The choice, once it is made.
    pub(super) fn known(&self) -> Option<Arc<VirtChoice>> {
        self.choice.borrow().clone()
    }

    /// The word for what domains run on.
    pub(super) fn word(&self) -> String {
        self.known().map_or("unknown", |choice| choice.virt_type.as_str()).to_owned()
    }

    /// An instance has started.
    pub(super) fn works(&self) {
        self.settled.store(true, Ordering::Relaxed);
    }
}
