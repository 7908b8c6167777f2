//! What runs instances: narrow traits in our own words, libvirt behind them.
//!
//! ```text
//!   compute, guest ──> Hypervisor: Adjust, Jobs, Plug ──> libvirt::Libvirt   connections, lanes, XML
//!                                                     └──> fake::Fake         in memory, for tests
//! ```
//!
//! [`Hypervisor`] is a domain's life, [`Jobs`] is what takes long, [`Adjust`] is what changes in a
//! domain that goes on, [`Plug`] what is plugged into it, [`Mirror`] moves its disks, [`Secrets`] is what disks on
//! servers need.
//!
//! A driver answers what it saw and changes what it is told to; it decides nothing. Every change
//! is idempotent and says whether it made a difference ([`Change`]), because an operation that is
//! resumed after a crash repeats its steps. A query that failed is an error or
//! [`PowerState::Unknown`], never "off" and never "absent".
//!
//! A domain is ours by its mark, our metadata with this node's name in it. Before each call about
//! one the driver has it proven; any other is [`Error::NotOurs`], and nothing is done to it.
//!
//! After [`Error::Timeout`] or [`Error::Unreachable`] a change may still have happened, or happen
//! later: ask [`Hypervisor::state`] before deciding what to do next.

pub mod adjust;
pub mod capability;
pub mod error;
pub mod event;
pub mod fake;
pub mod inspect;
pub mod jobs;
pub mod libvirt;
pub mod mirror;
pub mod plug;
pub mod secrets;
pub mod spec;

use std::time::Duration;

use tokio::sync::watch;

use ostler_protocol::rpc::values::InstanceId;

pub use self::adjust::Adjust;
pub use self::capability::{Capabilities, VirtChoice, VirtSetting, VirtType};
pub use self::error::Error;
pub use self::event::{Events, HypervisorEvent, Link, PowerReason};
pub use self::inspect::Inspect;
pub use self::jobs::{Job, Jobs};
pub use self::mirror::{Mirror, Mirroring};
pub use self::plug::Plug;
pub use self::secrets::Secrets;
pub use self::spec::{DomainSpec, Metadata};
pub use ostler_protocol::rpc::instance::PowerState;

/// The step a failed restore is told as, to be known from a start that failed.
pub const RESTORE: &str = "restore";

/// Whether a call made a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It was not so before.
    Made,
    /// It was so already.
    AlreadySo,
}

/// What one domain does now, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DomainState {
    /// The observed power state.
    pub power: PowerState,
    /// What brought it about.
    pub reason: PowerReason,
}

impl From<PowerState> for DomainState {
    fn from(power: PowerState) -> Self {
        Self { power, reason: PowerReason::Unstated }
    }
}

/// One domain on the node, ours or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainRecord {
    /// Its UUID, which for ours is the instance's id.
    pub id: InstanceId,
    /// The hypervisor's name for it.
    pub name: String,
    /// `Unknown` if this one domain could not be asked. Of a failed disk it is not said which
    /// failure it was: [`Hypervisor::state`] does.
    pub state: DomainState,
    /// The metadata we put there; none on a domain somebody else made.
    pub ours: Option<Metadata>,
}

/// The driver. Changes to one instance are carried out one at a time, in the order asked.
pub trait Hypervisor: Adjust + Inspect + Jobs + Mirror + Plug + Secrets {
    /// Makes the persistent definition, or replaces the one this id has. A running domain keeps
    /// what it was started with until it is started again.
    fn define(&self, spec: &DomainSpec) -> impl Future<Output = Result<(), Error>> + Send;

    /// Powers a defined domain on; returns when its vCPUs run. One with saved memory goes on from
    /// there, paused if it was paused. If that fails it is an [`Error::Failed`] of the step
    /// [`RESTORE`] and the memory stays saved: start again, or [`discard_save`] first.
    ///
    /// [`discard_save`]: Self::discard_save
    fn start(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Presses the ACPI power button, which a guest is free to ignore, and returns once it is
    /// pressed. That the guest stopped is told by an event.
    fn shutdown(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Presses it too, for the guest to start anew in the same QEMU when it has shut down. That
    /// it did is told by an event.
    fn reboot(&self, id: InstanceId) -> impl Future<Output = Result<(), Error>> + Send;

    /// Stops the vCPUs; memory stays. One that is paused, whatever the reason, is as wanted.
    fn pause(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Lets the vCPUs of a paused domain run.
    fn unpause(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Throws saved memory away, so that the next start is from the firmware. None saved is as
    /// wanted, and so is an absent domain.
    fn discard_save(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Pulls the plug: QEMU may first flush its disks, then it is killed. A domain that is off or
    /// absent is as wanted.
    fn destroy(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Removes the definition with its NVRAM, TPM state, managed save and snapshot records; disks
    /// stay. Refused while the domain runs. An absent domain is as wanted.
    fn undefine(&self, id: InstanceId) -> impl Future<Output = Result<Change, Error>> + Send;

    /// What the domain does now; [`Error::NotFound`] only when the hypervisor says so.
    fn state(&self, id: InstanceId) -> impl Future<Output = Result<DomainState, Error>> + Send;

    /// Every domain on the node.
    fn list(&self) -> impl Future<Output = Result<Vec<DomainRecord>, Error>> + Send;

    /// Sends one guest-agent command (JSON) over the standard channel and returns the reply
    /// (JSON). Bytes from the guest: the caller bounds what it makes of them.
    fn guest_command(
        &self,
        id: InstanceId,
        command: &str,
        timeout: Duration,
    ) -> impl Future<Output = Result<String, Error>> + Send;

    /// What the node's hypervisor is and can do.
    fn capabilities(&self) -> impl Future<Output = Result<Capabilities, Error>> + Send;

    /// Decides what domains run on; see [`VirtSetting`]. `Auto` starts a throw-away domain, so the
    /// caller keeps the answer.
    fn virt_type(
        &self,
        setting: VirtSetting,
    ) -> impl Future<Output = Result<VirtChoice, Error>> + Send;

    /// Whether the hypervisor can be used now.
    fn link(&self) -> watch::Receiver<Link>;

    /// Events from now on; each receiver gets all of them, or is told that it lagged.
    fn events(&self) -> Events;
}
