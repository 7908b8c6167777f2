//! Disks and NICs of a running domain: plugged in and unplugged; disks are grown, and moved on to
//! another file, too.
//!
//! Only the running domain is changed; what the next start is made from is
//! [`Hypervisor::define`](super::Hypervisor::define)'s. A domain that is off has nothing to change.

use ostler_protocol::rpc::hardware::VifModel;
use ostler_protocol::rpc::values::{Bytes, InstanceId, MacAddress};
use ostler_protocol::rpc::volume::Qos;

use super::spec::{Disk, DiskSource, Nic};
use super::{Change, Error};

/// A disk that a running domain has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveDisk {
    /// Its device, as in `vdb`.
    pub device: String,
    /// What it was called when it was made, or what the hypervisor calls it.
    pub alias: String,
    /// What the guest sees as its serial number; none if it has none.
    pub serial: Option<String>,
    /// Where its bytes are; none if that is nowhere we know.
    pub source: Option<DiskSource>,
}

/// A NIC that a running domain has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LiveNic {
    /// The MAC the guest sees.
    pub mac: MacAddress,
    /// What it was called when it was made, or what the hypervisor calls it.
    pub alias: String,
    /// Its tap.
    pub tap: String,
}

/// Changes to a running domain's disks and NICs; part of what a [`Hypervisor`](super::Hypervisor) does.
///
/// Each is [`Error::Refused`] of a domain that does not run.
pub trait Plug: Send + Sync + 'static {
    /// The disks a running domain has.
    fn disks(&self, id: InstanceId) -> impl Future<Output = Result<Vec<LiveDisk>, Error>> + Send;

    /// Plugs a disk in, and sees that it is what was meant. One of its alias that is there is as wanted, if it is of the same source;
    /// else it is refused.
    fn plug_disk(
        &self,
        id: InstanceId,
        disk: &Disk,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// The NICs a running domain has.
    fn nics(&self, id: InstanceId) -> impl Future<Output = Result<Vec<LiveNic>, Error>> + Send;

    /// Plugs a NIC of this model in. One of its MAC that is there is as wanted, if it is on the
    /// same tap; else it is refused.
    fn plug_nic(
        &self,
        id: InstanceId,
        nic: &Nic,
        model: VifModel,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// Asks the guest to let go of the disk or the NIC of this alias; one that is not there is as wanted. That
    /// it is gone is told by [`HypervisorEvent::Unplugged`](super::HypervisorEvent::Unplugged), and
    /// that the guest refused by [`Kept`](super::HypervisorEvent::Kept); a guest may do neither.
    fn unplug(
        &self,
        id: InstanceId,
        alias: &str,
    ) -> impl Future<Output = Result<Change, Error>> + Send;

    /// The size of the disk of this device, as the hypervisor sees it.
    fn disk_size(
        &self,
        id: InstanceId,
        device: &str,
    ) -> impl Future<Output = Result<Bytes, Error>> + Send;

    /// Has the guest see the disk of this device larger. Its file grows with it.
    fn resize_disk(
        &self,
        id: InstanceId,
        device: &str,
        size: Bytes,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Holds the guest to these limits on the disk of this device, and to no others.
    fn limit_disk(
        &self,
        id: InstanceId,
        device: &str,
        limits: &Qos,
    ) -> impl Future<Output = Result<(), Error>> + Send;

    /// Has the domain go on, on the disk of this device, in another file: an empty layer over the
    /// one it has. If it is there already, that is as wanted.
    fn switch_disk(
        &self,
        id: InstanceId,
        disk: &Disk,
    ) -> impl Future<Output = Result<Change, Error>> + Send;
}
