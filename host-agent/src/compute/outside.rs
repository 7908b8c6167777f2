//! What is outside of compute, and the kind of node it makes: the drivers, where images come from
//! and ports lead to, and who decides.

use std::sync::Arc;

use super::authority::Authority;
use super::claims::Claims;
use super::wires::Wires;
use crate::disk::Disks;
use crate::guest::Guests;
use crate::host::Host;
use crate::hypervisor::Hypervisor;
use crate::image::Images;
use crate::network::Network;
use crate::volume::Volumes;

/// What a node is made of.
pub trait Outside: Send + Sync + 'static {
    /// What runs domains.
    type Hypervisor: Hypervisor;
    /// Bridges and taps.
    type Network: Network;
    /// What ports are plugged into.
    type Wires: Wires;
    /// Disks of instances.
    type Disks: Disks;
    /// What disks are made from.
    type Images: Images;
    /// Disks that outlive instances.
    type Volumes: Volumes;
}

/// A node's drivers, and who decides on it.
pub struct Node<O: Outside> {
    /// What runs domains.
    pub hypervisor: Arc<O::Hypervisor>,
    /// Bridges and taps.
    pub network: Arc<O::Network>,
    /// What ports are plugged into.
    pub wires: O::Wires,
    /// Disks of instances.
    pub disks: O::Disks,
    /// Images.
    pub images: Arc<O::Images>,
    /// Volumes.
    pub volumes: O::Volumes,
    /// The agents inside.
    pub guests: Guests<O::Hypervisor>,
    /// The machine.
    pub host: Host,
    /// Who decides what may be done to an instance.
    pub authority: Box<dyn Authority>,
    /// Who decides whether there is a place for an instance.
    pub claims: Box<dyn Claims>,
}
