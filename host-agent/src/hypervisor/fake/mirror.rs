//! Mirrors of the fake's disks. Both are the same at once, or when it is told so
//! ([`Fake::set_copies`]); no bytes are copied.

use ostler_protocol::rpc::values::{Bytes, InstanceId};

use super::{Call, Copies, Fake, refused};
use crate::hypervisor::mirror::{Mirror, Mirroring};
use crate::hypervisor::plug::LiveDisk;
use crate::hypervisor::spec::{Disk, DiskSource};
use crate::hypervisor::{Change, Error};

/// A disk that is mirrored: there is one at a time.
#[derive(Debug, Clone)]
pub(super) struct Mirrored {
    device: String,
    to: DiskSource,
    same: bool,
}

impl Fake {
    /// Ends the filling of a mirror that goes on: both are the same, or it failed.
    pub fn end_mirror(&self, id: InstanceId, outcome: Result<(), ()>) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            match outcome {
                Ok(()) => domain.mirror.iter_mut().for_each(|mirror| mirror.same = true),
                Err(()) => domain.mirror = None,
            }
        }
    }
}

fn told(disk: &Disk) -> LiveDisk {
    LiveDisk {
        device: disk.device(),
        alias: disk.alias.clone(),
        serial: Some(disk.serial.clone()),
        source: Some(disk.source.clone()),
    }
}

impl Mirror for Fake {
    async fn begin_mirror(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        self.call(Call::BeginMirror, Some(id), |world| {
            let same = world.copies == Copies::AtOnce;
            let domain = world.running(Call::BeginMirror, id)?;
            let device = disk.device();
            if domain.disks.iter().all(|there| there.device() != device) {
                return Err(refused(Call::BeginMirror, id, "there is no such disk"));
            }
            match &domain.mirror {
                Some(there) if there.device == device && there.to == disk.source => {
                    Ok(Change::AlreadySo)
                }
                Some(_) => Err(refused(Call::BeginMirror, id, "another copy is on")),
                None => {
                    domain.mirror = Some(Mirrored { device, to: disk.source.clone(), same });
                    Ok(Change::Made)
                }
            }
        })
        .await
    }

    async fn mirroring(&self, id: InstanceId, device: &str) -> Result<Mirroring, Error> {
        self.call(Call::Mirroring, Some(id), |world| {
            let domain = world.running(Call::Mirroring, id)?;
            Ok(match domain.mirror.as_ref().filter(|mirror| mirror.device == device) {
                None => Mirroring::None,
                Some(Mirrored { same: true, .. }) => Mirroring::Same,
                Some(_) => Mirroring::Copying { done: Bytes(1), total: Bytes(2) },
            })
        })
        .await
    }

    async fn switch_to_mirror(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        self.call(Call::SwitchToMirror, Some(id), |world| {
            let domain = world.running(Call::SwitchToMirror, id)?;
            let is_it = |there: &&mut Disk| there.device() == disk.device();
            let Some(live) = domain.disks.iter_mut().find(is_it) else {
                return Err(refused(Call::SwitchToMirror, id, "there is no such disk"));
            };
            if live.source == disk.source {
                return Ok(Change::AlreadySo);
            }
            match &domain.mirror {
                Some(Mirrored { device, to, same: true })
                    if *device == disk.device() && *to == disk.source => {}
                Some(_) | None => {
                    return Err(refused(Call::SwitchToMirror, id, "it is not the same yet"));
                }
            }
            live.source = disk.source.clone();
            for defined in domain.spec.disks.iter_mut().filter(is_it) {
                defined.source = disk.source.clone();
            }
            domain.mirror = None;
            Ok(Change::Made)
        })
        .await
    }

    async fn drop_mirror(&self, id: InstanceId, device: &str) -> Result<Change, Error> {
        self.call(Call::DropMirror, Some(id), |world| {
            let Some(domain) = world.domains.get_mut(&id) else { return Ok(Change::AlreadySo) };
            match domain.mirror.take_if(|mirror| mirror.device == device) {
                Some(_) => Ok(Change::Made),
                None => Ok(Change::AlreadySo),
            }
        })
        .await
    }

    async fn defined_disks(&self, id: InstanceId) -> Result<Vec<LiveDisk>, Error> {
        self.call(Call::DefinedDisks, Some(id), |world| {
            Ok(world.domain(id)?.spec.disks.iter().map(told).collect())
        })
        .await
    }
}
