//! Answers about volumes.

use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::values::{InstanceId, VolumeId};
use ostler_protocol::rpc::volume::{AttachedVolume, Attachment, List, Pool, Status, Volume};

use super::Reads;
use super::select::{fits, no_instance};
use crate::compute::operations::attach_volume::AttachVolume;
use crate::compute::operations::detach_volume::DetachVolume;
use crate::compute::operations::swap_volume::SwapVolume;
use crate::compute::operations::volume_delete::VolumeDelete;
use crate::compute::operations::volume_extend::VolumeExtend;
use crate::compute::operations::volume_revert::VolumeRevert;
use crate::compute::outside::Outside;
use crate::compute::registry::Known;
use crate::journal::records::{InstanceRecord, VolumeRecord, VolumeState};
use crate::refusal::{Action, Reason, Refusal};
use crate::volume::{PoolFacts, Volumes};

/// A volume as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownVolume {
    /// All but its fault.
    pub volume: Volume,
    /// Why it is in error, or the last thing that failed.
    pub fault: Option<Refusal>,
}

impl<O: Outside> Reads<O> {
    /// `volume.show`
    ///
    /// # Errors
    /// There is no such volume.
    pub fn volume(&self, id: VolumeId) -> Result<ShownVolume, Refusal> {
        let known = self.registry.lock();
        let record = known.volumes.get(&id).ok_or_else(|| no_volume(id))?;
        Ok(view(&known, record))
    }

    /// `volume.list`
    ///
    /// # Errors
    /// There is no volume that is the marker.
    pub fn volumes(&self, filter: &List) -> Result<Vec<ShownVolume>, Refusal> {
        let known = self.registry.lock();
        let wanted = |record: &&VolumeRecord| {
            filter.name.as_ref().is_none_or(|name| fits(name, record.name.as_str()))
                && filter.owner.as_ref().is_none_or(|owner| record.owner.as_ref() == Some(owner))
                && filter.status.is_none_or(|wanted| status(&known, record) == wanted)
        };
        let mut found: Vec<&VolumeRecord> = known.volumes.values().filter(wanted).collect();
        found.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        if let Some(marker) = filter.marker {
            let last = known.volumes.get(&marker).ok_or_else(|| no_volume(marker))?;
            found.retain(|record| (&record.name, record.id) > (&last.name, last.id));
        }
        let most = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        Ok(found.into_iter().take(most).map(|record| view(&known, record)).collect())
    }

    /// `instance.list_volumes`
    ///
    /// # Errors
    /// There is no such instance.
    pub fn volumes_of(&self, id: InstanceId) -> Result<Vec<AttachedVolume>, Refusal> {
        let known = self.registry.lock();
        let record = known.instances.get(&id).ok_or_else(|| no_instance(id))?;
        Ok(attached(&known, record))
    }

    /// `volume.pools`
    pub async fn pools(&self) -> Vec<Pool> {
        let mut pools = Vec::new();
        for PoolFacts { name, driver, .. } in self.node.volumes.pools() {
            // A server that does not answer is told of, and waited for no longer than others.
            let room = tokio::time::timeout(
                crate::compute::measured::PATIENCE,
                self.node.volumes.room(&name),
            );
            let (space, trouble) = match room.await {
                Ok(Ok(space)) => (Some(space), None),
                Ok(Err(error)) => {
                    let cause = std::error::Error::source(&error);
                    let cause = cause.map_or_else(String::new, |cause| format!(": {cause}"));
                    (None, Some(format!("{error}{cause}")))
                }
                Err(_) => (None, Some("it does not answer".to_owned())),
            };
            let known = self.registry.lock();
            let volumes =
                known.volumes.values().filter(|volume| volume.pool.as_ref() == Some(&name)).count();
            pools.push(Pool {
                promised: known.promised(|pool| *pool == name),
                volumes: volumes as u32,
                name,
                driver: driver.to_owned(),
                total: space.map(|space| space.total),
                free: space.map(|space| space.free),
                trouble,
            });
        }
        pools
    }
}

/// The volumes an instance has, in the order of their devices.
pub(super) fn attached(known: &Known, record: &InstanceRecord) -> Vec<AttachedVolume> {
    let mut attached: Vec<AttachedVolume> = record
        .volumes
        .iter()
        .filter_map(|there| {
            let volume = known.volumes.get(&there.volume)?;
            Some(AttachedVolume {
                volume: there.volume,
                name: volume.name.clone(),
                size: volume.size,
                device: there.device.clone(),
                serial: there.known_as().to_string(),
                bus: there.bus,
                read_only: there.read_only,
                root: there.root,
                delete_on_termination: there.delete_on_termination,
            })
        })
        .collect();
    attached.sort_by_key(|there| (there.device.len(), there.device.clone()));
    attached
}

fn view(known: &Known, record: &VolumeRecord) -> ShownVolume {
    let attachments = known.users_of(record.id).into_iter().map(|(instance, there)| Attachment {
        instance: instance.id,
        name: instance.name.clone(),
        device: there.device.clone(),
        read_only: there.read_only,
    });
    let volume = Volume {
        id: record.id,
        name: record.name.clone(),
        status: status(known, record),
        size: record.size,
        pool: record.pool.clone(),
        elsewhere: record.connection.as_ref().map(ToString::to_string),
        format: record.format,
        source: record.source.clone(),
        bootable: record.bootable,
        multiattach: record.multiattach,
        qos: record.qos.clone(),
        owner: record.owner.clone(),
        metadata: record.metadata.clone(),
        attachments: attachments.collect(),
        snapshots: record.snapshots.clone(),
        operation: known.at_volume(record.id).map(|operation| operation.id),
        drift: known.volume_drift.get(&record.id).cloned().into_iter().collect(),
        fault: None,
        created: record.created,
        updated: record.updated,
    };
    ShownVolume { volume, fault: record.fault.clone() }
}

/// How a volume is, in cinder's words.
fn status(known: &Known, record: &VolumeRecord) -> Status {
    if let Some(operation) = known.at_volume(record.id) {
        let change = &operation.change;
        let first = change.volumes().first() == Some(&record.id);
        if change.is::<AttachVolume>() || (first && change.is::<SwapVolume>()) {
            return Status::Attaching;
        }
        if change.is::<DetachVolume>() {
            return Status::Detaching;
        }
        if change.is::<VolumeExtend>() {
            return Status::Extending;
        }
        if change.is::<VolumeRevert>() {
            return Status::Reverting;
        }
        if first && change.is::<VolumeDelete>() {
            return Status::Deleting;
        }
    }
    let in_use = known.users_of(record.id).iter().any(|(i, _)| i.vm_state != VmState::Deleted);
    match record.state {
        VolumeState::Creating => Status::Creating,
        VolumeState::Error => Status::Error,
        VolumeState::ErrorDeleting => Status::ErrorDeleting,
        VolumeState::Available if in_use => Status::InUse,
        VolumeState::Available => Status::Available,
    }
}

fn no_volume(id: VolumeId) -> Refusal {
    Refusal::new(Reason::NotFound, format!("there is no volume {id}"))
        .about(format!("volume {id}"))
        .next("see which there are")
        .by(Action::VolumeList)
}
