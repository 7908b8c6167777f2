//! Disks and NICs of the fake's domains. Guests let go at once, unless told to refuse or to say nothing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;

use ostler_protocol::rpc::hardware::VifModel;
use ostler_protocol::rpc::values::{Bytes, InstanceId};
use ostler_protocol::rpc::volume::Qos;

use super::{Call, Domain, Fake};
use crate::hypervisor::plug::{LiveDisk, LiveNic, Plug};
use crate::hypervisor::spec::{Disk, DiskFormat, DiskSource, Nic};
use crate::hypervisor::{Change, Error, HypervisorEvent};

/// Where a qcow2's header has the size of the disk.
const QCOW2_SIZE_AT: u64 = 24;

/// What a guest does that is asked to let go of a disk or a NIC.
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
            domain.drop_device(alias);
        }
        self.tell(HypervisorEvent::Unplugged { id, alias: alias.to_owned() });
    }

    /// Has a guest see a disk as it is now, whatever becomes of its file, until it is resized: as
    /// QEMU does with a device.
    pub fn keep_size(&self, id: InstanceId, device: &str) {
        if let Some(domain) = self.world().domains.get_mut(&id)
            && let Some(disk) = domain.disks.iter().find(|disk| disk.device() == device)
            && let Some(size) = size_of(disk)
        {
            domain.sizes.insert(device.to_owned(), size);
        }
    }

    /// The NICs a domain has that runs.
    pub fn live_nics(&self, id: InstanceId) -> Vec<Nic> {
        self.world().domains.get(&id).map(|domain| domain.nics.clone()).unwrap_or_default()
    }

    /// The disks a domain has that runs.
    pub fn live_disks(&self, id: InstanceId) -> Vec<Disk> {
        self.world().domains.get(&id).map(|domain| domain.disks.clone()).unwrap_or_default()
    }
}

impl Domain {
    fn has_device(&self, alias: &str) -> bool {
        let disk = self.disks.iter().any(|disk| disk.alias == alias);
        disk || self.nics.iter().any(|nic| nic.alias == alias)
    }

    fn drop_device(&mut self, alias: &str) {
        self.disks.retain(|disk| disk.alias != alias);
        self.nics.retain(|nic| nic.alias != alias);
    }
}

/// The size of the disk that a file is, if it is one.
fn size_of(disk: &Disk) -> Option<Bytes> {
    let DiskSource::File(path) = &disk.source else { return None };
    let file = File::open(path).ok()?;
    match disk.format {
        DiskFormat::Raw => Some(Bytes(file.metadata().ok()?.len())),
        DiskFormat::Qcow2 => {
            let mut size = [0; 8];
            file.read_exact_at(&mut size, QCOW2_SIZE_AT).ok()?;
            Some(Bytes(u64::from_be_bytes(size)))
        }
    }
}

/// What QEMU does to the file of a disk that it makes so large.
fn resize(disk: &Disk, size: Bytes) {
    let DiskSource::File(path) = &disk.source else { return };
    let Ok(file) = OpenOptions::new().write(true).open(path) else { return };
    let _ = match disk.format {
        DiskFormat::Raw => file.set_len(size.0),
        DiskFormat::Qcow2 => file.write_all_at(&size.0.to_be_bytes(), QCOW2_SIZE_AT),
    };
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

    async fn nics(&self, id: InstanceId) -> Result<Vec<LiveNic>, Error> {
        self.call(Call::Nics, Some(id), |world| {
            let nics = world.running(Call::Nics, id)?.nics.iter();
            let live = |nic: &Nic| LiveNic {
                mac: nic.mac,
                alias: nic.alias.clone(),
                tap: nic.tap.clone(),
            };
            Ok(nics.map(live).collect())
        })
        .await
    }

    async fn plug_nic(&self, id: InstanceId, nic: &Nic, _: VifModel) -> Result<Change, Error> {
        self.call(Call::PlugNic, Some(id), |world| {
            let domain = world.running(Call::PlugNic, id)?;
            if domain.nics.iter().any(|there| there.mac == nic.mac) {
                return Ok(Change::AlreadySo);
            }
            domain.nics.push(nic.clone());
            Ok(Change::Made)
        })
        .await
    }

    async fn unplug(&self, id: InstanceId, alias: &str) -> Result<Change, Error> {
        self.call(Call::Unplug, Some(id), |world| {
            let domain = world.running(Call::Unplug, id)?;
            if !domain.has_device(alias) {
                return Ok(Change::AlreadySo);
            }
            let alias = alias.to_owned();
            match domain.lets_go {
                LetsGo::AtOnce => {
                    domain.drop_device(&alias);
                    self.tell(HypervisorEvent::Unplugged { id, alias });
                }
                LetsGo::Refuses => self.tell(HypervisorEvent::Kept { id, alias }),
                LetsGo::Silent => {}
            }
            Ok(Change::Made)
        })
        .await
    }

    async fn disk_size(&self, id: InstanceId, device: &str) -> Result<Bytes, Error> {
        self.call(Call::Disks, Some(id), |world| {
            let domain = world.running(Call::Disks, id)?;
            let mut disks = domain.disks.iter();
            let size = disks.find(|disk| disk.device() == device).and_then(size_of);
            let size = domain.sizes.get(device).copied().or(size);
            Ok(size.unwrap_or(Bytes::mib(16)))
        })
        .await
    }

    async fn resize_disk(&self, id: InstanceId, device: &str, size: Bytes) -> Result<(), Error> {
        self.call(Call::ResizeDisk, Some(id), |world| {
            let domain = world.running(Call::ResizeDisk, id)?;
            domain.sizes.remove(device);
            if let Some(disk) = domain.disks.iter().find(|disk| disk.device() == device) {
                resize(disk, size);
            }
            Ok(())
        })
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
