//! Putting a volume in the place of another.
//!
//! ```text
//!   runs:  QEMU copies, and writes to both ── switch: it has the new one, and is defined so
//!   off:   qemu-img copies
//! ```
//!
//! Until the switch the instance has the old one, whole, and an undo only ends the copy. A switch
//! that a crash cut off is told by where the disk is: in QEMU, or, if that is gone meanwhile, in the
//! definition, which libvirt changes with it.

use std::time::Duration;

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use ostler_protocol::rpc::volume::Format;
use tokio::sync::watch;

use super::already::is_off;
use super::volume::place;
use super::{Engine, StepError, missing};
use crate::compute::operations::swap_volume::{SwapVolume, not_equal};
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::hypervisor::{Mirror, Mirroring, Plug};
use crate::journal::records::{
    AttachmentRecord, ConnectionRecord, InstanceRecord, Running, VolumeRecord,
};
use crate::refusal::{Reason, Refusal};
use crate::volume::{At, Opened, Volumes};

/// How often the hypervisor is asked how far the copy is.
const LOOK: Duration = Duration::from_millis(200);

/// What is swapped.
struct Swap {
    /// The instance, as it shall be.
    target: InstanceRecord,
    /// How it shall have the new volume.
    attachment: AttachmentRecord,
    old: VolumeRecord,
    new: VolumeRecord,
}

impl Swap {
    fn id(&self) -> InstanceId {
        self.target.id
    }
}

impl<O: Outside> Engine<O> {
    fn swap(&self, operation: &LiveOperation) -> Result<Swap, StepError> {
        let missing = || missing(&operation.subject);
        let change: &SwapVolume = operation.change.downcast().ok_or_else(missing)?;
        let target = self.target(operation)?;
        let has = target.volumes.iter().find(|there| there.volume == change.new);
        let attachment = has.cloned().ok_or_else(missing)?;
        let known = self.registry.lock();
        let volume = |id| known.volumes.get(id).cloned().ok_or_else(missing);
        let (old, new) = (volume(&change.volume)?, volume(&change.new)?);
        Ok(Swap { target, attachment, old, new })
    }

    /// Have the new volume hold what the old one does; of a guest that runs, from then on too.
    pub(super) async fn copy_volume(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let swap = self.swap(operation)?;
        // From the switch on it can only go on.
        self.can_define(operation).await?;
        match (operation.was, is_off(self.power_of(swap.id()).await?)) {
            (Running::Yes, false) => self.mirror(operation, &swap).await,
            (Running::No, true) => self.fill(operation, &swap).await,
            (Running::Yes, true) => Err(StepError::Refused(Box::new(changed("went off")))),
            (Running::No, false) => Err(StepError::Refused(Box::new(changed("was started")))),
        }
    }

    async fn mirror(&self, operation: &LiveOperation, swap: &Swap) -> Result<(), StepError> {
        // That of one on a server is told by QEMU only.
        let size = self.node.hypervisor.disk_size(swap.id(), &swap.attachment.device).await?;
        if size != swap.new.size {
            return Err(StepError::Refused(Box::new(not_equal(&swap.new, &swap.old.name, size))));
        }
        let disk = self.volume_disk(&swap.attachment, &swap.new).await?;
        let copying = self.node.hypervisor.mirroring(swap.id(), &swap.attachment.device).await?;
        if copying == Mirroring::None {
            self.node.volumes.close(&place(&swap.new)?).await?;
        }
        self.node.hypervisor.begin_mirror(swap.id(), &disk).await?;
        loop {
            match self.node.hypervisor.mirroring(swap.id(), &swap.attachment.device).await? {
                Mirroring::Same => return Ok(()),
                Mirroring::Copying { done, total } => {
                    self.show_job(operation, done.0, Some(total.0));
                }
                Mirroring::None => {
                    let text = format!(
                        "the copy failed: one of volumes {} and {} could not be read or written",
                        swap.old.name, swap.new.name
                    );
                    return Err(StepError::failed(
                        Refusal::new(Reason::HypervisorFailed, text)
                            .next("see why in the instance's log, and ask again"),
                    ));
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = operation.cancel.cancelled() => return Err(StepError::Cancelled),
                () = self.shutdown.cancelled() => return Err(StepError::Suspended),
            }
        }
    }

    async fn fill(&self, operation: &LiveOperation, swap: &Swap) -> Result<(), StepError> {
        let from = match &swap.old.connection {
            None => self.node.volumes.open(&place(&swap.old)?).await?,
            Some(ConnectionRecord::Local { device, .. }) => {
                let size = self.same_device(&swap.old).await?.map_or(Bytes(0), |found| found.size);
                let at = At::Device(device.clone());
                Opened { at, format: Format::Raw, size, direct: true }
            }
            Some(_) => {
                let text = "only QEMU can read a volume that a server keeps, and it does not run";
                return Err(StepError::Refused(Box::new(
                    Refusal::new(Reason::Conflict, text).next("start the instance, and ask again"),
                )));
            }
        };
        let (progress, seen) = watch::channel((Bytes(0), Bytes(0)));
        let to = place(&swap.new)?;
        let filled = self.node.volumes.fill(&to, &from, &progress, &operation.cancel);
        self.copied(operation, seen, filled).await
    }

    /// End a copy by QEMU. What it has copied is worth nothing.
    pub(super) async fn drop_mirror(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let swap = self.swap(operation)?;
        self.node.hypervisor.drop_mirror(swap.id(), &swap.attachment.device).await?;
        Ok(())
    }

    /// Have the guest go on with the new volume, unless it does already.
    pub(super) async fn switch_volume(&self, operation: &LiveOperation) -> Result<(), StepError> {
        let swap = self.swap(operation)?;
        let (id, device) = (swap.id(), &swap.attachment.device);
        let disk = self.volume_disk(&swap.attachment, &swap.new).await?;
        let off = is_off(self.power_of(id).await?);
        let has_new = async || -> Result<bool, StepError> {
            let disks = match off {
                true => self.node.hypervisor.defined_disks(id).await?,
                false => self.node.hypervisor.disks(id).await?,
            };
            let now = disks.into_iter().find(|there| there.device == *device);
            Ok(now.and_then(|there| there.source).as_ref() == Some(&disk.source))
        };
        if !has_new().await? {
            if off {
                return Err(StepError::NotBegun(Box::new(changed("went off"))));
            }
            match self.node.hypervisor.mirroring(id, device).await? {
                Mirroring::Same => {
                    self.node.hypervisor.switch_to_mirror(id, &disk).await?;
                }
                // One that was cut off may be at work still.
                Mirroring::Copying { .. } => {
                    let text = "the guest is being switched to the new volume, and is not yet";
                    return Err(StepError::failed(
                        Refusal::new(Reason::HypervisorFailed, text)
                            .next("wait: it is tried again"),
                    ));
                }
                // It may have ended while that was asked.
                Mirroring::None if has_new().await? => {}
                Mirroring::None => {
                    let text = "the copy ended before the guest was switched to it";
                    let fault = Refusal::new(Reason::HypervisorFailed, text).next("ask again");
                    return Err(StepError::NotBegun(Box::new(fault)));
                }
            }
        }
        if !off && swap.new.qos != swap.old.qos {
            self.node.hypervisor.limit_disk(id, device, &swap.new.qos).await?;
        }
        self.define_domain(&swap.target).await
    }
}

/// An instance is not as it was when it was asked for.
fn changed(what: &str) -> Refusal {
    let text = format!("conflict: the instance {what} before it had the new volume");
    Refusal::new(Reason::Conflict, text).next("ask again")
}
