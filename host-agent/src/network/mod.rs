//! Layer-2 networks on this node: a Linux bridge each, with or without an uplink, and the taps of
//! the instances on it. An uplink is a NIC, or a link that we make: a VLAN, or a VXLAN tunnel.
//!
//! ```text
//!   compute ── BridgeSpec ──> Network::ensure_bridge
//!                                │ observe (one dump of the node's links)
//!                                v
//!                             plan.rs: spec + links -> changes, or a refusal   (pure)
//!                                │
//!                                v
//!                             netlink.rs carries them out, in order
//! ```
//!
//! What is ours is marked on the link itself, so that it is known as ours after the loss of every
//! file: the alias `ostler:<network>`. Links without the mark are somebody else's. A bridge of
//! somebody else may be used as it stands (an operator made it for us), but is never changed,
//! never removed, and loses no port. A VLAN or VXLAN of somebody else is not used: it is a NIC to
//! whoever names it as one.
//!
//! **The host stays off the tenant's wire.** A bridge of ours has no address and IPv6 is disabled
//! on it, and on the links that we plug into it: otherwise the kernel would give it a link-local address, and guests could reach the
//! services of the node over it, or configure the node by router advertisements.
//!
//! Taps are made by libvirt with the domain, under the name [`tap_name`] gives; here they are
//! plugged in again when somebody pulled them out, and removed when nothing holds them any more.
//! What may come through them is [`filter`]'s.

mod changes;
mod error;
mod fake;
pub mod filter;
mod name;
mod netlink;
mod plan;
mod uplink;

use std::future::Future;

use ostler_protocol::rpc::values::Name;

pub use error::NetworkError;
pub use fake::{FakeNetwork, NetworkCall};
pub use name::{
    LinkName, LinkNameError, Mtu, MtuError, bridge_name, is_tap_name, old_tap_name, tap_name,
};
pub use netlink::Netlink;
pub use plan::Refusal;
pub use uplink::{Flood, Uplink, VXLAN_PORT, Vlan, VlanId, VlanIdError, Vxlan, VxlanError};

/// The node's networks, as the operations of instances need them.
///
/// Every method is idempotent, and safe to repeat after a crash at any instant.
pub trait Network: Send + Sync + 'static {
    /// Make the bridge as asked, or make sure that it already is.
    ///
    /// A failure part of the way leaves a bridge that a repeat finishes and
    /// [`remove_bridge`](Self::remove_bridge) removes.
    fn ensure_bridge(
        &self,
        spec: &BridgeSpec,
    ) -> impl Future<Output = Result<Ensured, NetworkError>> + Send;

    /// Remove the bridge if it is ours, and the VLANs and VXLANs of the network, letting go of a NIC;
    /// refused while anything else is plugged into it. A bridge of somebody else stays, and is reported as [`Removed::NotOurs`].
    fn remove_bridge(
        &self,
        spec: &BridgeSpec,
    ) -> impl Future<Output = Result<Removed, NetworkError>> + Send;

    /// The largest packet of a network by this tunnel.
    fn room(&self, vxlan: &Vxlan) -> impl Future<Output = Result<Mtu, NetworkError>> + Send;

    /// How each of the bridges is, compared with how it should be; in the same order.
    fn observe(
        &self,
        specs: &[BridgeSpec],
    ) -> impl Future<Output = Result<Vec<BridgeState>, NetworkError>> + Send;

    /// Plug taps of ours into their bridges, those that are there and are not plugged in: which.
    fn plug_taps(
        &self,
        taps: &[(LinkName, LinkName)],
    ) -> impl Future<Output = Result<Vec<LinkName>, NetworkError>> + Send;

    /// Until one of the node's links may have changed since the last look at them.
    fn changed(&self) -> impl Future<Output = ()> + Send;

    /// Remove a tap that was left behind. Refused while a process holds it, and for any link that
    /// is not a tap with a name of ours.
    fn remove_tap(
        &self,
        tap: &LinkName,
    ) -> impl Future<Output = Result<Removed, NetworkError>> + Send;
}

/// A network's bridge, as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeSpec {
    /// The link's name; [`bridge_name`] derives one from the network's.
    pub bridge: LinkName,
    /// The network it serves; part of the mark that makes the bridge ours.
    pub network: Name,
    /// What connects it to the world outside.
    pub uplink: Uplink,
    /// What the bridge and, through it, the taps carry.
    pub mtu: Mtu,
}

/// What making sure of a thing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was not there and is now: undoing the operation removes it.
    Created,
    /// It was there, if perhaps in need of repair: undoing the operation leaves it.
    AlreadyThere,
}

/// What removing a thing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Removed,
    /// It was not there.
    AlreadyGone,
    /// It is somebody else's, and stays.
    NotOurs,
}

/// A bridge as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BridgeState {
    /// The link's name.
    pub bridge: LinkName,
    /// How it compares with what was asked.
    pub condition: Condition,
    /// The link of its VLAN or VXLAN, if that is there.
    pub uplink: Option<String>,
    /// The names of the links plugged into it, sorted.
    pub ports: Vec<String>,
}

/// How a bridge compares with what was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// As it should be.
    Good,
    /// There, but not as it should be: what [`Network::ensure_bridge`] would do, or why it would
    /// refuse.
    Drifted(Vec<String>),
    /// Not there.
    Missing,
}
