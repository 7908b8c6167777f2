//! Moves of disks, as libvirt calls: a block copy into what is there already, ended by a pivot; see
//! [`Mirror`].

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use virt::domain::Domain;
use virt::sys;

use super::domain::{CHANGE, QUERY, lookup, told};
use super::driver::{Libvirt, Traffic};
use super::error::from_xml;
use super::ffi::mirror::{self as raw, Then};
use super::inspect::{refused, running};
use super::xml::{self, live::Copying};
use crate::hypervisor::mirror::{Mirror, Mirroring};
use crate::hypervisor::plug::LiveDisk;
use crate::hypervisor::spec::Disk;
use crate::hypervisor::{Change, Error};

impl Mirror for Libvirt {
    async fn begin_mirror(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        const STEP: &str = "mirror a disk";
        let wanted = xml::domain::disk_alone(disk).map_err(|e| from_xml(STEP, Some(id), &e))?;
        let disk = disk.clone();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let device = disk.device();
            match copying(STEP, id, &domain, &device)? {
                Some(Copying { to, .. }) if to.as_ref() == Some(&disk.source) => {
                    Ok(Change::AlreadySo)
                }
                Some(_) => Err(refused(STEP, id, "the disk is being copied to another place")),
                None => raw::begin(&domain, &device, &wanted)
                    .map(|()| Change::Made)
                    .map_err(told(STEP, id)),
            }
        })
        .await
    }

    async fn mirroring(&self, id: InstanceId, device: &str) -> Result<Mirroring, Error> {
        const STEP: &str = "see how far a mirror is";
        let device = device.to_owned();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            // Before libvirt's word for it: a copy that ends between the two is none.
            let progress = raw::progress(&domain, &device).map_err(told(STEP, id))?;
            Ok(match (copying(STEP, id, &domain, &device)?, progress) {
                (None, _) => Mirroring::None,
                (Some(Copying { ready: true, .. }), _) => Mirroring::Same,
                (Some(Copying { ready: false, .. }), progress) => {
                    let (done, total) = progress.unwrap_or_default();
                    Mirroring::Copying { done: Bytes(done), total: Bytes(total) }
                }
            })
        })
        .await
    }

    async fn switch_to_mirror(&self, id: InstanceId, disk: &Disk) -> Result<Change, Error> {
        const STEP: &str = "switch to a mirror";
        let disk = disk.clone();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let device = disk.device();
            let is_there = || {
                let disks = of(STEP, id, &running(STEP, id, &domain)?)?;
                let mut there = disks.into_iter().filter(|there| there.device == device);
                Ok::<_, Error>(there.any(|there| there.source.as_ref() == Some(&disk.source)))
            };
            if is_there()? {
                return Ok(Change::AlreadySo);
            }
            match copying(STEP, id, &domain, &device)? {
                Some(Copying { to, ready: true }) if to.as_ref() == Some(&disk.source) => {}
                _ => return Err(refused(STEP, id, "the copy is not the same yet, or is none")),
            }
            let ended = raw::end(&domain, &device, Then::Moves).map_err(told(STEP, id));
            match (is_there()?, ended) {
                (true, _) => Ok(Change::Made),
                (false, Err(error)) => Err(error),
                (false, Ok(())) => {
                    let message = "libvirt says it did, and the disk is where it was".to_owned();
                    Err(Error::Failed { step: STEP, domain: Some(id), message })
                }
            }
        })
        .await
    }

    async fn drop_mirror(&self, id: InstanceId, device: &str) -> Result<Change, Error> {
        const STEP: &str = "drop a mirror";
        let device = device.to_owned();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = match lookup(connect, STEP, id) {
                Err(Error::NotFound { .. }) => return Ok(Change::AlreadySo),
                found => found?,
            };
            let active = || domain.is_active().map_err(told(STEP, id));
            if !active()? || copying(STEP, id, &domain, &device)?.is_none() {
                return Ok(Change::AlreadySo);
            }
            match raw::end(&domain, &device, Then::Stays) {
                Ok(()) => Ok(Change::Made),
                // It ended by itself, or with its domain.
                Err(_) if !active()? || copying(STEP, id, &domain, &device)?.is_none() => {
                    Ok(Change::AlreadySo)
                }
                Err(error) => Err(told(STEP, id)(error)),
            }
        })
        .await
    }

    async fn defined_disks(&self, id: InstanceId) -> Result<Vec<LiveDisk>, Error> {
        const STEP: &str = "list the defined disks";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let xml = domain.xml_desc(sys::VIR_DOMAIN_XML_INACTIVE).map_err(told(STEP, id))?;
            of(STEP, id, &xml)
        })
        .await
    }
}

fn of(step: &'static str, id: InstanceId, xml: &str) -> Result<Vec<LiveDisk>, Error> {
    xml::live::disks(xml).map_err(|error| from_xml(step, Some(id), &error))
}

fn copying(
    step: &'static str,
    id: InstanceId,
    domain: &Domain,
    device: &str,
) -> Result<Option<Copying>, Error> {
    let xml = running(step, id, domain)?;
    xml::live::copying(&xml, device).map_err(|error| from_xml(step, Some(id), &error))
}
