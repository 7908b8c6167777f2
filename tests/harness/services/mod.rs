//! The services a node needs: used where they run, started where they do not,
//! and then stopped again.

mod broker;
mod libvirt;
mod wire;

pub use broker::Broker;
pub use libvirt::Libvirt;
pub use wire::Wire;
