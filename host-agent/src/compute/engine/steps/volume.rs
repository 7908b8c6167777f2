//! Volumes: made, given to guests and taken from them, grown, snapshotted, deleted.

use std::time::Duration;

use ostler_protocol::rpc::operation::{Outcome, Subject};
use ostler_protocol::rpc::values::{Bytes, InstanceId, Name, VolumeId};
use ostler_protocol::rpc::volume::{Bus, Cache, Discard as Discards, Format, Io, Source};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::already::is_off;
use super::connection::{key_of, source};
use super::let_go::LetGo;
use super::{Engine, StepError};
use crate::compute::causes::{hypervisor_fault, volume_fault};
use crate::compute::operations::volume_update::VolumeUpdate;
use crate::compute::outside::Outside;
use crate::compute::plan::Planned;
use crate::compute::registry::LiveOperation;
use crate::disk::Base;
use crate::hypervisor::spec::{
    Discard, Disk, DiskAccess, DiskBus, DiskCache, DiskFormat, DiskSource, DiskTarget, Sharing,
};
use crate::hypervisor::{Error, Plug};
use crate::image::Images;
use crate::journal::records::{AttachmentRecord, InstanceRecord, VolumeRecord};
use crate::refusal::{Action, Reason, Refusal};
use crate::volume::{At, Content, NewVolume, Opened, Place, VolumeError, Volumes};

/// Which of a volume's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Limits {
    /// Those it shall have.
    New,
    /// Those it has.
    Old,
}

/// How long a pool has to answer that is told to let go of a volume.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

impl<O: Outside> Engine<O> {
    /// The volume a step is about.
    fn volume_of(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<VolumeRecord, StepError> {
        let id = planned.volume().or_else(|| operation.change.volumes().first().copied());
        let found = id.and_then(|id| self.registry.lock().volumes.get(&id).cloned());
        found.ok_or_else(|| match id {
            Some(id) => super::missing(&Subject::Volume(id)),
            None => super::missing(&operation.subject),
        })
    }

    /// The instance that has the volume an operation is about, if one has, and how it has it.
    fn holder_of(
        &self,
        operation: &LiveOperation,
        volume: VolumeId,
    ) -> Option<(InstanceId, AttachmentRecord)> {
        let Subject::Instance(id) = operation.subject else { return None };
        let known = self.registry.lock();
        let target = known.target(operation)?;
        let now = known.instances.get(&id)?;
        let of = |record: &InstanceRecord| {
            record.volumes.iter().find(|there| there.volume == volume).cloned()
        };
        Some((id, of(&target).or_else(|| of(now))?))
    }

    pub(super) async fn create_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let content = match &record.source {
            None => Content::Empty,
            Some(Source::Image(_)) => {
                let base =
                    record.base.as_ref().ok_or_else(|| super::missing(&operation.subject))?;
                self.node.images.note_use(&base.sha256, base.format).await?;
                Content::Image(Base {
                    path: self.node.images.path(&base.sha256, base.format),
                    format: base.format,
                    virtual_size: base.virtual_size,
                })
            }
            Some(Source::Volume(id)) => self.content_of(*id, None)?,
            Some(Source::Snapshot { volume, name }) => {
                self.content_of(*volume, Some(name.clone()))?
            }
        };
        let passphrase = match record.format {
            Some(Format::Luks) => Some(self.keep_passphrase(operation, record.id).await?),
            Some(Format::Qcow2 | Format::Raw) | None => None,
        };
        let volume = NewVolume {
            place: place(&record)?,
            size: record.size,
            format: record.format,
            content,
            passphrase,
        };
        let (progress, seen) = watch::channel((Bytes(0), Bytes(0)));
        let made = self.node.volumes.create(&volume, &progress, &operation.cancel);
        self.copied(operation, seen, made).await
    }

    fn content_of(&self, id: VolumeId, snapshot: Option<Name>) -> Result<Content, StepError> {
        let from = self.registry.lock().volumes.get(&id).cloned();
        let place = place(&from.ok_or_else(|| super::missing(&Subject::Volume(id)))?)?;
        Ok(Content::Volume { place, snapshot })
    }

    /// A volume that is not to be after all.
    pub(super) async fn drop_new_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        self.node.volumes.delete(&place(&record)?).await?;
        self.forget_passphrase(&record).await
    }

    /// Whether there is something already where a volume is to be made: it is somebody's.
    pub(super) async fn is_volume_there(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<bool, StepError> {
        let record = self.volume_of(operation, planned)?;
        let Place { id, pool } = place(&record)?;
        if !self.node.volumes.exists(&place(&record)?).await? {
            return Ok(false);
        }
        let text = format!("pool {pool} has a volume {id} that the journal does not know");
        Err(StepError::Refused(Box::new(
            Refusal::new(Reason::Conflict, text)
                .next("see whose it is; choose another id, or leave it out to have one made"),
        )))
    }

    pub(super) async fn connect_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        if let Some(connection) = &record.connection {
            return self.connect_elsewhere(operation, &record, connection).await;
        }
        let opened = self.node.volumes.open(&place(&record)?).await?;
        if opened.size == record.size {
            return Ok(());
        }
        // It is not the one that was left there.
        let text = format!(
            "volume {} is {} in its pool, and was {}: somebody changed it",
            record.name, opened.size, record.size
        );
        Err(StepError::Refused(Box::new(
            Refusal::new(Reason::VolumeFailed, text)
                .next("see what it holds before it is used: qemu-img info -f FORMAT FILE"),
        )))
    }

    /// Take back what connecting a volume left.
    pub(super) async fn unconnect_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        // A guest that keeps the disk needs all of it.
        if self.is_plugged(operation, planned).await? {
            return Ok(());
        }
        let record = self.volume_of(operation, planned)?;
        match &record.connection {
            Some(_) => self.disconnect_elsewhere(operation, record.id, Some(&record)).await,
            None => Ok(()),
        }
    }

    pub(super) async fn plug_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let Some((id, attachment)) = self.holder_of(operation, record.id) else {
            return Err(super::missing(&operation.subject));
        };
        // It went off meanwhile: the next start has it.
        if is_off(self.power_of(id).await?) {
            return Ok(());
        }
        self.same_device(&record).await?;
        let disk = self.volume_disk(&attachment, &record).await?;
        self.node.hypervisor.plug_disk(id, &disk).await?;
        if record.connection.is_some() {
            let size = self.node.hypervisor.disk_size(id, &attachment.device).await?;
            self.note_volume(record.id, |volume| volume.size = size).await?;
        }
        operation.now.send_modify(|o| {
            o.result = Some(Outcome::Attached {
                volume: record.id,
                device: attachment.device.clone(),
                serial: disk.serial.clone(),
            });
        });
        Ok(())
    }

    /// Whether a running guest has a volume plugged in.
    pub(super) async fn is_plugged(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<bool, StepError> {
        let record = self.volume_of(operation, planned)?;
        let Some((id, attachment)) = self.holder_of(operation, record.id) else {
            return Ok(false);
        };
        if is_off(self.power_of(id).await?) {
            return Ok(false);
        }
        let disks = self.node.hypervisor.disks(id).await?;
        Ok(disks.iter().any(|disk| disk.alias == attachment.alias()))
    }

    /// Have a running guest let go of a volume: ask, wait until it says so, and ask again as long
    /// as there is time and no `cancel`. An attach that is undone has been cancelled already, and
    /// waits for the guest all the same.
    pub(super) async fn unplug_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
        cancel: &CancellationToken,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let Some((id, attachment)) = self.holder_of(operation, record.id) else { return Ok(()) };
        let alias = attachment.alias();
        match self.let_go(operation, id, &alias, cancel).await? {
            LetGo::Gone => Ok(()),
            LetGo::Late { refused } => match self.is_plugged(operation, planned).await? {
                false => Ok(()),
                true => Err(keeps(&record, &attachment, refused)),
            },
        }
    }

    /// Leave nothing of a volume connected. Nobody may have it open any more.
    pub(super) async fn disconnect_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = match (self.volume_of(operation, planned), planned.volume()) {
            // It was never attached after all: what was begun is taken back.
            (Err(_), Some(volume)) => {
                return self.disconnect_elsewhere(operation, volume, None).await;
            }
            (record, _) => record?,
        };
        if record.connection.is_some() {
            return self.disconnect_elsewhere(operation, record.id, Some(&record)).await;
        }
        let others = {
            let known = self.registry.lock();
            let users = known.users_of(record.id);
            users.iter().any(|(user, _)| Subject::Instance(user.id) != operation.subject)
        };
        if others {
            return Ok(());
        }
        // QEMU has said that it is gone: what is still open is so for a moment.
        let place = place(&record)?;
        let closed = tokio::time::timeout(CLOSE_PATIENCE, self.node.volumes.close(&place)).await;
        match closed {
            Ok(Ok(())) => Ok(()),
            // What cannot be reached cannot be used: the guest is rid of it.
            Ok(Err(
                error @ (VolumeError::Gone { .. }
                | VolumeError::NotThere { .. }
                | VolumeError::Unavailable { .. }
                | VolumeError::Lvm { .. }),
            )) => {
                tracing::warn!(volume = %record.id, %error, "detached though it cannot be reached");
                Ok(())
            }
            Err(_) => {
                let pool = place.pool;
                tracing::warn!(volume = %record.id, %pool, "detached though its pool does not answer");
                Ok(())
            }
            // That passes.
            Ok(Err(error)) => Err(StepError::failed(volume_fault(&error))),
        }
    }

    /// See that the domain of an instance can be defined as it shall be: before a guest is asked for
    /// what would have to be taken back.
    pub(super) async fn can_define(&self, operation: &LiveOperation) -> Result<(), StepError> {
        self.volume_disks(&self.target(operation)?).await.map(drop)
    }

    pub(super) async fn extend_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let size = operation.change.extends_to().unwrap_or(record.size);
        let place = place(&record)?;
        if let Some((id, attachment)) = self.holder_of(operation, record.id)
            && !is_off(self.power_of(id).await?)
        {
            self.node.volumes.widen(&place, size).await?;
            // Never shorter: an earlier try may have made it larger than is on record.
            let device = &attachment.device;
            if self.node.hypervisor.disk_size(id, device).await? < size {
                let told = self.node.hypervisor.resize_disk(id, device, size).await;
                if let Err(error @ (Error::Refused { .. } | Error::Failed { .. })) = told {
                    return Err(self.half_extended(&record, &place, size, error).await);
                }
                told?;
            }
            self.node.volumes.note_size(&place, size).await?;
        } else {
            self.node.volumes.extend(&place, size).await?;
        }
        // An earlier try may have made it larger.
        self.note_true_size(operation, planned).await
    }

    /// Why a guest was not told of the size its volume has, or shall have.
    async fn half_extended(
        &self,
        record: &VolumeRecord,
        place: &Place,
        size: Bytes,
        error: Error,
    ) -> StepError {
        match self.node.volumes.open(place).await {
            Ok(opened) if opened.size >= size => {}
            Ok(_) | Err(_) => return error.into(),
        }
        let Refusal { message, .. } = hypervisor_fault(&error);
        let text = format!(
            "volume {} is {size} in its pool now, but its guest was not told: {message}",
            record.name
        );
        StepError::failed(
            Refusal::new(Reason::VolumeFailed, text)
                .next("ask again for the same size; or stop the instance and start it"),
        )
    }

    /// A volume that was extended, or was not as far as anybody knows: have on record what its
    /// guest, or who opens it next, sees: QEMU makes its files larger, and a pool its devices, of
    /// which a guest may not have been told.
    pub(super) async fn note_true_size(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let seen = match self.holder_of(operation, record.id) {
            Some((id, attachment)) if !is_off(self.power_of(id).await?) => {
                Some(self.node.hypervisor.disk_size(id, &attachment.device).await?)
            }
            Some(_) | None => None,
        };
        let size = match (self.node.volumes.open(&place(&record)?).await, seen) {
            (Ok(opened), seen) => opened.size.max(seen.unwrap_or_default()),
            // What it got is nobody's before the next extend is through.
            (Err(VolumeError::HalfGrown { .. }), Some(seen)) => seen,
            (Err(error), _) => return Err(error.into()),
        };
        if size <= record.size {
            return Ok(());
        }
        self.note_volume(record.id, |volume| volume.size = size).await
    }

    /// Hold a running guest to a volume's limits: those it shall have, or those it has.
    pub(super) async fn limit_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
        which: Limits,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let Some((id, attachment)) = self.holder_of(operation, record.id) else { return Ok(()) };
        if is_off(self.power_of(id).await?) {
            return Ok(());
        }
        let new = operation.change.downcast::<VolumeUpdate>().and_then(|update| update.qos.clone());
        let qos = match which {
            Limits::New => new.unwrap_or_else(|| record.qos.clone()),
            Limits::Old => record.qos.clone(),
        };
        self.node.hypervisor.limit_disk(id, &attachment.device, &qos).await?;
        Ok(())
    }

    pub(super) async fn snapshot_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
        name: &Name,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        let holder = self.holder_of(operation, record.id);
        if holder.is_some() {
            self.can_define(operation).await?;
        }
        self.node.volumes.snapshot(&place(&record)?, name).await?;
        if let Some((id, attachment)) = holder
            && !is_off(self.power_of(id).await?)
        {
            let disk = self.volume_disk(&attachment, &record).await?;
            self.node.hypervisor.switch_disk(id, &disk).await?;
        }
        Ok(())
    }

    pub(super) async fn undo_snapshot_of_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
        name: &Name,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        self.node.volumes.undo_snapshot(&place(&record)?, name).await?;
        Ok(())
    }

    pub(super) async fn revert_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
        name: &Name,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        self.node.volumes.revert(&place(&record)?, name).await?;
        Ok(())
    }

    pub(super) async fn drop_volume_snapshot(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
        name: &Name,
    ) -> Result<(), StepError> {
        let record = self.volume_of(operation, planned)?;
        match self.node.volumes.delete_snapshot(&place(&record)?, name).await {
            // With the volume its snapshots are gone.
            Ok(_) | Err(VolumeError::Gone { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Remove a volume, and the image file it lay on if nothing else needs that.
    pub(super) async fn delete_volume(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        // Done by an earlier try, and what failed came after it.
        let Ok(record) = self.volume_of(operation, planned) else { return Ok(()) };
        self.node.volumes.delete(&place(&record)?).await?;
        self.forget_passphrase(&record).await?;
        if let Some(base) = &record.base {
            let give_up = |known: &mut crate::compute::registry::Known| {
                known.volumes.remove(&record.id);
            };
            self.drop_bytes(&base.sha256, base.format, None, give_up).await?;
        }
        Ok(())
    }

    /// The disks of an instance's volumes: the one it boots from, if it does, and the others.
    pub(super) async fn volume_disks(
        &self,
        record: &InstanceRecord,
    ) -> Result<(Option<Disk>, Vec<Disk>), StepError> {
        let (mut root, mut others) = (None, Vec::with_capacity(record.volumes.len()));
        for attachment in &record.volumes {
            let volume = self.registry.lock().volumes.get(&attachment.volume).cloned();
            let missing = || super::missing(&Subject::Volume(attachment.volume));
            let disk = self.volume_disk(attachment, &volume.ok_or_else(missing)?).await?;
            match attachment.root {
                true => root = Some(disk),
                false => others.push(disk),
            }
        }
        Ok((root, others))
    }

    pub(super) async fn volume_disk(
        &self,
        attachment: &AttachmentRecord,
        volume: &VolumeRecord,
    ) -> Result<Disk, StepError> {
        let (source, format, direct) = match &volume.connection {
            Some(connection) => {
                let (source, format) = source(volume.id, connection);
                (source, format, true)
            }
            None => {
                let opened = self.node.volumes.open(&place(volume)?).await?;
                let Opened { at, format, direct, .. } = opened;
                let format = match format {
                    Format::Qcow2 => DiskFormat::Qcow2,
                    // What decrypts it has its bytes from a raw disk.
                    Format::Raw | Format::Luks => DiskFormat::Raw,
                };
                let source = match at {
                    At::File(path) => DiskSource::File(path),
                    At::Device(path) => DiskSource::Block(path),
                };
                (source, format, direct)
            }
        };
        let bus = match attachment.bus {
            Bus::Virtio => DiskBus::Virtio,
            Bus::Scsi => DiskBus::Scsi,
        };
        let target = DiskTarget::named(&attachment.device, bus);
        let cache = match attachment.cache {
            // What several write to is in nobody's cache.
            None if direct || volume.multiattach => DiskCache::None,
            None | Some(Cache::Writeback) => DiskCache::Writeback,
            Some(Cache::None) => DiskCache::None,
        };
        let is_block = matches!(source, DiskSource::Block(_));
        Ok(Disk {
            source,
            format,
            bus,
            target: target.ok_or_else(|| super::missing(&Subject::Volume(volume.id)))?,
            alias: attachment.alias(),
            serial: attachment.known_as().to_string(),
            access: match attachment.read_only {
                true => DiskAccess::ReadOnly,
                false => DiskAccess::ReadWrite,
            },
            key: key_of(volume),
            limits: volume.qos.clone(),
            sharing: match volume.multiattach {
                true => Sharing::Shared,
                false => Sharing::Exclusive,
            },
            cache,
            discard: match attachment.discard {
                None | Some(Discards::Unmap) => Discard::Unmap,
                Some(Discards::Ignore) => Discard::Ignore,
            },
            io: attachment.io.or(match (is_block, cache) {
                // What has no holes never has such a call wait for room.
                (true, DiskCache::None) => Some(Io::Native),
                (true | false, _) => None,
            }),
            boot_order: attachment.boot_index.map(|index| index.saturating_add(1)),
        })
    }
}

/// Where a volume of this node is.
pub(super) fn place(record: &VolumeRecord) -> Result<Place, StepError> {
    let missing = || super::missing(&Subject::Volume(record.id));
    Ok(Place { id: record.id, pool: record.pool.clone().ok_or_else(missing)? })
}

/// A guest did not let go.
fn keeps(record: &VolumeRecord, attachment: &AttachmentRecord, refused: bool) -> StepError {
    let what = if refused { "refuses to let go" } else { "does not let go" };
    let text = format!("the guest {what} of volume {} ({})", record.name, attachment.device);
    let next = "unmount it in the guest and ask again, or stop the instance; the guest may still \
                let go of it later";
    StepError::Refused(Box::new(
        Refusal::new(Reason::GuestFailed, text).next(next).by(Action::InstanceShow(None)),
    ))
}
