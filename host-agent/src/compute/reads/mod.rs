//! Answers to reads, and what is done in guests directly: nothing here is an operation.
//!
//! * `views`: what is known, in the caller's terms. Nothing there waits on libvirt.
//! * `ports`: the same of ports.
//! * `volumes`: the same of volumes and their pools.
//! * `select`: which ones a caller means.
//! * `inspect`: what libvirt is asked for, and consoles.
//! * `guest_work`: what is done in guests.
//! * `upload`: what is sent to be imported.

mod guest_work;
mod inspect;
mod networks;
mod ports;
mod select;
mod upload;
mod views;
mod volumes;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::engine::Engine;
use super::measured::Measured;
use super::outside::{Node, Outside};
use super::registry::Registry;
use super::virtualization::Virtualization;

pub use inspect::Inspection;
pub use views::Shown;
pub use volumes::ShownVolume;

/// Answers reads.
pub struct Reads<O: Outside> {
    node: Arc<Node<O>>,
    registry: Arc<Registry>,
    virtualization: Arc<Virtualization>,
    measured: Arc<Measured<O>>,
    shutdown: CancellationToken,
}

impl<O: Outside> Reads<O> {
    pub(super) fn new(engine: &Engine<O>, measured: Arc<Measured<O>>) -> Self {
        Self {
            node: Arc::clone(&engine.node),
            registry: Arc::clone(&engine.registry),
            virtualization: Arc::clone(&engine.virtualization),
            measured,
            shutdown: engine.shutdown.clone(),
        }
    }
}
