//! What the machine has and uses, measured when somebody needs it, with a limit to how long that
//! may take: a disk that does not answer keeps nobody waiting for good.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::hardware::Boards;
use ostler_protocol::rpc::values::Bytes;
use tokio::sync::Mutex;

use super::causes::hypervisor_fault;
use super::claims::Capacity;
use super::outside::{Node, Outside};
use crate::disk::Disks;
use crate::host::Usage;
use crate::hypervisor::Hypervisor;
use crate::volume::Volumes;

/// How long it is believed what the instances' disks take.
const ALLOCATED_FOR: Duration = Duration::from_secs(10);

/// How long it is believed what instances can be made with.
const BOARDS_FOR: Duration = Duration::from_secs(10);

/// How long a look may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Measures a node.
pub(super) struct Measured<O: Outside> {
    node: Arc<Node<O>>,
    /// What the instances' disks take, and when that was seen.
    allocated: Mutex<Option<(Instant, Bytes)>>,
    /// What instances can be made with, and when that was seen.
    boards: Mutex<Option<(Instant, Boards)>>,
}

impl<O: Outside> Measured<O> {
    pub(super) fn new(node: Arc<Node<O>>) -> Self {
        Self { node, allocated: Mutex::default(), boards: Mutex::default() }
    }

    /// What is used of the machine now.
    ///
    /// # Errors
    /// It cannot be measured, or not in time.
    pub(super) async fn usage(&self) -> Result<Usage, Refusal> {
        in_time(async {
            self.node.host.usage().await.map_err(|e| Refusal::of(Reason::Internal, &e))
        })
        .await
    }

    /// What instances can be promised of the machine.
    ///
    /// # Errors
    /// As [`usage`](Self::usage).
    pub(super) async fn capacity(&self) -> Result<Capacity, Refusal> {
        let inventory = self.node.host.inventory();
        let free = self.usage().await?.disk.free;
        let disk = Bytes(free.0 + in_time(self.allocated()).await?.0);
        Ok(Capacity { cpus: inventory.cpus, memory: inventory.memory, disk })
    }

    /// What instances can be made with, as of some seconds ago: what is installed meanwhile is seen
    /// without a restart.
    ///
    /// # Errors
    /// libvirt does not say, or not in time.
    pub(super) async fn boards(&self) -> Result<Boards, Refusal> {
        let look = async {
            let mut known = self.boards.lock().await;
            match *known {
                Some((at, boards)) if at.elapsed() < BOARDS_FOR => Ok(boards),
                Some(_) | None => {
                    let seen = self.node.hypervisor.capabilities().await;
                    let boards = seen.map_err(|error| hypervisor_fault(&error))?.boards;
                    *known = Some((Instant::now(), boards));
                    Ok(boards)
                }
            }
        };
        tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| {
            let text = "libvirt does not say in time what instances can be made with";
            Err(Refusal::new(Reason::HypervisorUnavailable, text).next("ask again"))
        })
    }

    /// What the instances' disks take by now, as of some seconds ago: what they wrote since then is
    /// missing from what is free.
    async fn allocated(&self) -> Result<Bytes, Refusal> {
        let mut known = self.allocated.lock().await;
        match *known {
            Some((at, bytes)) if at.elapsed() < ALLOCATED_FOR => Ok(bytes),
            Some(_) | None => {
                let disks = self.node.disks.allocated().await;
                let disks = disks.map_err(|error| Refusal::of(Reason::Internal, &error))?;
                let volumes = self.node.volumes.allocated().await;
                let volumes = volumes.map_err(|error| Refusal::of(Reason::Internal, &error))?;
                let bytes = Bytes(disks.0 + volumes.0);
                *known = Some((Instant::now(), bytes));
                Ok(bytes)
            }
        }
    }
}

async fn in_time<T>(look: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| {
        let text = "busy: the node's disk does not say in time what is free on it";
        Err(Refusal::new(Reason::Busy, text).next("see what the disk waits for, and ask again"))
    })
}
