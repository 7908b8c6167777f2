//! The services a node needs: used where they run, started where they do not,
//! and then stopped again.

mod broker;
mod libvirt;
mod own_libvirt;
mod wire;

pub use broker::Broker;
pub use libvirt::{Libvirt, SYSTEM};
pub use own_libvirt::OwnLibvirt;
pub use wire::Wire;
