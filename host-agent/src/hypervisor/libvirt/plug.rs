//! Disks and NICs of running domains, as libvirt calls; see [`Plug`].

use ostler_protocol::rpc::hardware::VifModel;
use ostler_protocol::rpc::values::{Bytes, InstanceId};
use ostler_protocol::rpc::volume::{Limit, Qos};
use virt::domain::Domain;
use virt::sys;

use super::domain::{CHANGE, QUERY, lookup, told};
use super::driver::{Libvirt, Traffic};
use super::error::from_xml;
use super::inspect::{refused, running};
use super::{ffi, xml};
use crate::hypervisor::plug::{LiveDisk, LiveNic, Plug};
use crate::hypervisor::spec::{Disk, DiskBus, Nic};
use crate::hypervisor::{Change, Error};

impl Plug for Libvirt {
    async fn disks(&self, id: InstanceId) -> Result<Vec<LiveDisk>, Error> {
        const STEP: &str = "list the disks";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            live(STEP, id, &lookup(connect, STEP, id)?)
        })
        .await
    }

    async fn plug_disk(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        const STEP: &str = "plug a disk";
        let wrong = |error| from_xml(STEP, Some(id), &error);
        let device = xml::domain::disk_alone(disk).map_err(wrong)?;
        let controller = match disk.bus {
            DiskBus::Scsi => Some(xml::domain::scsi_controller().map_err(wrong)?),
            DiskBus::Virtio | DiskBus::Sata | DiskBus::Ide => None,
        };
        let disk = disk.clone();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            if let Some(there) = by_alias(STEP, id, &domain, &disk.alias)? {
                return match there.source {
                    Some(source) if source == disk.source => Ok(Change::AlreadySo),
                    source => {
                        let source = source.map_or("none".into(), |source| source.to_string());
                        Err(refused(STEP, id, &format!("it has that disk already, on {source}")))
                    }
                };
            }
            let live = sys::VIR_DOMAIN_AFFECT_LIVE;
            if let Some(controller) = controller
                && !xml::live::has_scsi(&running(STEP, id, &domain)?)
                    .map_err(|error| from_xml(STEP, Some(id), &error))?
            {
                domain.attach_device_flags(&controller, live).map_err(told(STEP, id))?;
            }
            domain.attach_device_flags(&device, live).map_err(told(STEP, id))?;
            // What was plugged in is read back: it is what was meant, under its own name.
            let is_meant = |there: &LiveDisk| {
                there.source.as_ref() == Some(&disk.source)
                    && there.serial.as_deref() == Some(disk.serial.as_str())
            };
            match by_alias(STEP, id, &domain, &disk.alias)? {
                Some(there) if is_meant(&there) => Ok(Change::Made),
                there => {
                    let found = there.map_or("it is not there", |_| "it is another disk");
                    let message = format!("libvirt says it did, and {found}");
                    Err(Error::Failed { step: STEP, domain: Some(id), message })
                }
            }
        })
        .await
    }

    async fn nics(&self, id: InstanceId) -> Result<Vec<LiveNic>, Error> {
        const STEP: &str = "list the NICs";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            live_nics(STEP, id, &lookup(connect, STEP, id)?)
        })
        .await
    }

    async fn plug_nic(&self, id: InstanceId, nic: &Nic, model: VifModel) -> Result<Change, Error> {
        const STEP: &str = "plug a NIC";
        let device =
            xml::domain::nic_alone(nic, model).map_err(|error| from_xml(STEP, Some(id), &error))?;
        let nic = nic.clone();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let there = |domain: &Domain| {
                let nics = live_nics(STEP, id, domain)?;
                Ok(nics.into_iter().find(|there| there.mac == nic.mac))
            };
            match there(&domain)? {
                Some(there) if there.tap == nic.tap => return Ok(Change::AlreadySo),
                Some(there) => {
                    let why = format!("it has that NIC already, on {}", there.tap);
                    return Err(refused(STEP, id, &why));
                }
                None => {}
            }
            let flags = sys::VIR_DOMAIN_AFFECT_LIVE;
            domain.attach_device_flags(&device, flags).map_err(told(STEP, id))?;
            match there(&domain)? {
                Some(there) if there.tap == nic.tap => Ok(Change::Made),
                there => {
                    let found = there.map_or("it is not there", |_| "it is on another tap");
                    let message = format!("libvirt says it did, and {found}");
                    Err(Error::Failed { step: STEP, domain: Some(id), message })
                }
            }
        })
        .await
    }

    async fn unplug(&self, id: InstanceId, alias: &str) -> Result<Change, Error> {
        const STEP: &str = "unplug a device";
        let alias = alias.to_owned();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let has = xml::live::has_device(&running(STEP, id, &domain)?, &alias)
                .map_err(|error| from_xml(STEP, Some(id), &error))?;
            if !has {
                return Ok(Change::AlreadySo);
            }
            match ffi::unplug(&domain, &alias) {
                // The guest has been asked, and has not answered yet.
                Err(error) if error.message().contains("in the process of unplug") => {
                    Ok(Change::Made)
                }
                outcome => outcome.map(|()| Change::Made).map_err(told(STEP, id)),
            }
        })
        .await
    }

    async fn disk_size(&self, id: InstanceId, device: &str) -> Result<Bytes, Error> {
        const STEP: &str = "see a disk's size";
        let device = device.to_owned();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let info = lookup(connect, STEP, id)?.block_info(&device, 0);
            info.map(|info| Bytes(info.capacity)).map_err(told(STEP, id))
        })
        .await
    }

    async fn resize_disk(&self, id: InstanceId, device: &str, size: Bytes) -> Result<(), Error> {
        const STEP: &str = "resize a disk";
        let device = device.to_owned();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            domain
                .block_resize(&device, size.0, sys::VIR_DOMAIN_BLOCK_RESIZE_BYTES)
                .map(drop)
                .map_err(told(STEP, id))
        })
        .await
    }

    async fn limit_disk(&self, id: InstanceId, device: &str, limits: &Qos) -> Result<(), Error> {
        const STEP: &str = "limit a disk";
        let device = device.to_owned();
        // All of them: one that is not said stays as it was.
        let all: Vec<(&'static str, u64)> = Limit::ALL
            .into_iter()
            .map(|limit| (limit.as_str(), limits.get(&limit).copied().unwrap_or(0)))
            .filter(|(name, most)| *most > 0 || !name.ends_with("_length"))
            .collect();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            ffi::tune::limit(&domain, &device, &all).map_err(told(STEP, id))
        })
        .await
    }

    async fn switch_disk(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        const STEP: &str = "switch a disk";
        let disk = disk.clone();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let there = live(STEP, id, &domain)?;
            let device = disk.device();
            let Some(now) = there.iter().find(|there| there.device == device) else {
                return Err(refused(STEP, id, &format!("it has no disk {device}")));
            };
            if now.source.as_ref() == Some(&disk.source) {
                return Ok(Change::AlreadySo);
            }
            let others: Vec<&str> = there
                .iter()
                .map(|there| there.device.as_str())
                .filter(|other| *other != device)
                .collect();
            let wanted = xml::snapshot::write(&disk, &others)
                .map_err(|error| from_xml(STEP, Some(id), &error))?;
            let flags = sys::VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
                | sys::VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC;
            let switched = domain.create_snapshot_xml(&wanted, flags);
            switched.map(|_| Change::Made).map_err(told(STEP, id))
        })
        .await
    }
}

fn live(step: &'static str, id: InstanceId, domain: &Domain) -> Result<Vec<LiveDisk>, Error> {
    let xml = running(step, id, domain)?;
    xml::live::disks(&xml).map_err(|error| from_xml(step, Some(id), &error))
}

fn live_nics(step: &'static str, id: InstanceId, domain: &Domain) -> Result<Vec<LiveNic>, Error> {
    let xml = running(step, id, domain)?;
    xml::live::nics(&xml).map_err(|error| from_xml(step, Some(id), &error))
}

fn by_alias(
    step: &'static str,
    id: InstanceId,
    domain: &Domain,
    alias: &str,
) -> Result<Option<LiveDisk>, Error> {
    Ok(live(step, id, domain)?.into_iter().find(|disk| disk.alias == alias))
}
