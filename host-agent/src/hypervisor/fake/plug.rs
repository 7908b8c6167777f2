//! Disks of the fake's domains. Guests let go at once, unless told to refuse or to say nothing.

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use ostler_protocol::rpc::volume::Qos;

use super::{Call, Fake};
use crate::hypervisor::plug::{LiveDisk, Plug};
use crate::hypervisor::spec::Disk;
use crate::hypervisor::{Change, Error, HypervisorEvent};

/// What a guest does that is asked to let go of a disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LetsGo {
    /// It does.
    #[default]
    AtOnce,
    /// It says that it does not.
    Refuses,
    /// It says nothing.
    Silent,
}

impl Fake {
    /// Says what a guest does that is asked to let go of a disk.
    pub fn set_lets_go(&self, id: InstanceId, how: LetsGo) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.lets_go = how;
        }
    }

    /// Has a guest let go of a disk that nobody waits for any more, and tells.
    pub fn let_go(&self, id: InstanceId, alias: &str) {
        if let Some(domain) = self.world().domains.get_mut(&id) {
            domain.disks.retain(|there| there.alias != alias);
        }
        self.tell(HypervisorEvent::Unplugged { id, alias: alias.to_owned() });
    }

    /// The disks a domain has that runs.
    pub fn live_disks(&self, id: InstanceId) -> Vec<Disk> {
        self.world().domains.get(&id).map(|domain| domain.disks.clone()).unwrap_or_default()
    }
}

impl Plug for Fake {
    async fn disks(&self, id: InstanceId) -> Result<Vec<LiveDisk>, Error> {
        self.call(Call::Disks, Some(id), |world| {
            let disks = world.running(Call::Disks, id)?.disks.iter();
            Ok(disks
                .map(|disk| LiveDisk {
                    device: disk.device(),
                    alias: disk.alias.clone(),
                    serial: Some(disk.serial.clone()),
                    source: Some(disk.source.clone()),
                })
                .collect())
        })
        .await
    }

    async fn plug_disk(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        self.call(Call::PlugDisk, Some(id), |world| {
            let domain = world.running(Call::PlugDisk, id)?;
            if domain.disks.iter().any(|there| there.alias == disk.alias) {
                return Ok(Change::AlreadySo);
            }
            domain.disks.push(disk.clone());
            Ok(Change::Made)
        })
        .await
    }

    async fn unplug_disk(&self, id: InstanceId, alias: &str) -> Result<Change, Error> {
        self.call(Call::UnplugDisk, Some(id), |world| {
            let domain = world.running(Call::UnplugDisk, id)?;
            if domain.disks.iter().all(|there| there.alias != alias) {
                return Ok(Change::AlreadySo);
            }
            let alias = alias.to_owned();
            match domain.lets_go {
                LetsGo::AtOnce => {
                    domain.disks.retain(|there| there.alias != alias);
                    self.tell(HypervisorEvent::Unplugged { id, alias });
                }
                LetsGo::Refuses => self.tell(HypervisorEvent::Kept { id, alias }),
                LetsGo::Silent => {}
            }
            Ok(Change::Made)
        })
        .await
    }

    async fn disk_size(&self, id: InstanceId, _: &str) -> Result<Bytes, Error> {
        self.call(Call::Disks, Some(id), |world| {
            world.running(Call::Disks, id).map(|_| Bytes::mib(16))
        })
        .await
    }

    async fn resize_disk(&self, id: InstanceId, _: &str, _: Bytes) -> Result<(), Error> {
        self.call(Call::ResizeDisk, Some(id), |world| world.running(Call::ResizeDisk, id).map(drop))
            .await
    }

    async fn limit_disk(&self, id: InstanceId, device: &str, limits: &Qos) -> Result<(), Error> {
        self.call(Call::LimitDisk, Some(id), |world| {
            let domain = world.running(Call::LimitDisk, id)?;
            for disk in domain.disks.iter_mut().filter(|disk| disk.device() == device) {
                disk.limits.clone_from(limits);
            }
            Ok(())
        })
        .await
    }

    async fn switch_disk(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        self.call(Call::SwitchDisk, Some(id), |world| {
            let domain = world.running(Call::SwitchDisk, id)?;
            if let Some(there) =
                domain.disks.iter_mut().find(|there| there.device() == disk.device())
            {
                there.source = disk.source.clone();
            }
            Ok(Change::Made)
        })
        .await
    }
}
