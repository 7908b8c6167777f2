//! What the node has, what of it is promised to instances, and who decides whether it can be
//! promised to one more. Pure.

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::rpc::host::Share;
use ostler_protocol::rpc::instance::{Size, VmState};
use ostler_protocol::rpc::values::Bytes;

use crate::config::Admission as Policy;
use crate::journal::records::InstanceRecord;

/// What the node has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Capacity {
    /// Hardware threads.
    pub(super) cpus: u32,
    /// Memory.
    pub(super) memory: Bytes,
    /// The filesystem instances live on: what is free, with what their disks take of it by now.
    pub(super) disk: Bytes,
}

/// What is promised to instances.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Claimed {
    pub(super) vcpus: u64,
    pub(super) memory: u64,
    pub(super) disk: u64,
}

impl Claimed {
    /// The claims of the instances that have a place on the node. Memory counts as much as a guest
    /// may ever take, since a guest need not heed its balloon; a disk in its whole size, with the
    /// one a rescue boots from; and until a resize is confirmed, what the way back would need.
    pub(super) fn of<'a>(instances: impl IntoIterator<Item = &'a InstanceRecord>) -> Self {
        let placed = |i: &&InstanceRecord| {
            !matches!(i.vm_state, VmState::Deleted | VmState::ShelvedOffloaded)
        };
        instances.into_iter().filter(placed).fold(Self::default(), |sum, i| {
            let old = i.resized.as_ref().map(|resized| &resized.from);
            let (old_vcpus, old_memory) = old.map_or((0, 0), |old| (old.vcpus, old.max_memory.0));
            let aside = old.map_or(0, |old| old.disk.0);
            let rescue = i.rescue.as_ref().map_or(0, |rescue| rescue.base.virtual_size.0);
            Self {
                vcpus: sum.vcpus + u64::from(i.vcpus.max(old_vcpus)),
                memory: sum.memory + i.memory.0.max(i.max_memory.0).max(old_memory),
                disk: sum.disk + i.disk.0 + aside + rescue,
            }
        })
    }

    /// Add what one becomes beyond what it is.
    pub(super) fn grow(&mut self, from: &Self, to: &Self) {
        self.vcpus += to.vcpus.saturating_sub(from.vcpus);
        self.memory += to.memory.saturating_sub(from.memory);
        self.disk += to.disk.saturating_sub(from.disk);
    }
}

/// What there is, and what of it is promised.
#[derive(Debug)]
pub struct Shares {
    /// vCPUs.
    pub vcpus: Share,
    /// Memory, bytes.
    pub memory: Share,
    /// The file system the instances live on, bytes.
    pub disk: Share,
}

impl Shares {
    pub(super) fn of(capacity: Capacity, claims: Claimed, policy: &Policy) -> Self {
        let share = |all: u64, reserve: Bytes, ratio: f64, claimed| Share {
            limit: (all.saturating_sub(reserve.0) as f64 * ratio) as u64,
            claimed,
        };
        let Policy { cpu_ratio, memory_ratio, memory_reserve, disk_ratio, disk_reserve } = *policy;
        Self {
            vcpus: share(capacity.cpus.into(), Bytes(0), cpu_ratio, claims.vcpus),
            memory: share(capacity.memory.0, memory_reserve, memory_ratio, claims.memory),
            disk: share(capacity.disk.0, disk_reserve, disk_ratio, claims.disk),
        }
    }
}

/// Who decides whether an instance can have a place on the node, or a larger one.
pub trait Claims: Send + Sync + 'static {
    /// Whether it can have so much more, beside what is promised already.
    ///
    /// # Errors
    /// `no_capacity`, with what there is.
    fn admit(&self, more: &Size, shares: &Shares) -> Result<(), Refusal>;
}

/// The node itself decides: by what it has and what it has promised.
#[derive(Debug)]
pub struct ByCapacity;

impl Claims for ByCapacity {
    fn admit(&self, more: &Size, shares: &Shares) -> Result<(), Refusal> {
        fits(more, shares)
    }
}

/// Whether there is room for that much more.
///
/// # Errors
/// `no_capacity`, with what there is.
fn fits(more: &Size, shares: &Shares) -> Result<(), Refusal> {
    let (vcpus, memory, disk) = (more.vcpus, more.memory.max(more.max_memory), more.disk);
    let full = |parameter: &str, text: String| {
        Err(Refusal::new(Reason::NoCapacity, text)
            .about(format!("parameter {parameter}"))
            .next("ask for less, delete instances, or use another node")
            .by(Action::HostShow))
    };
    let free = shares.vcpus.limit.saturating_sub(shares.vcpus.claimed);
    if u64::from(vcpus) > free {
        return full(
            "vcpus",
            format!("no room for {vcpus} vCPUs: {free} of {} are free", shares.vcpus.limit),
        );
    }
    let free = Bytes(shares.memory.limit.saturating_sub(shares.memory.claimed));
    if memory > free {
        let text = format!(
            "no room for {memory} of memory: {free} of {} is free",
            Bytes(shares.memory.limit)
        );
        return full("memory", text);
    }
    // Overlays grow as they are written, so what counts is how large they may become.
    let free = Bytes(shares.disk.limit.saturating_sub(shares.disk.claimed));
    if disk > free {
        let text =
            format!("no room for {disk} of disk: {free} of {} is free", Bytes(shares.disk.limit));
        return full("disk", text);
    }
    Ok(())
}

/// So much more disk, and nothing else.
pub(super) const fn only_disk(disk: Bytes) -> Size {
    let none = Bytes(0);
    Size { flavor: None, vcpus: 0, memory: none, disk, max_vcpus: 0, max_memory: none }
}
