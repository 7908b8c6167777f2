//! Looking into domains, as libvirt calls; see [`Inspect`].

use std::path::PathBuf;

use ostler_protocol::rpc::values::InstanceId;
use sha2::{Digest, Sha256};
use virt::domain::Domain;
use virt::sys;

use super::domain::{QUERY, lookup, told};
use super::driver::{Libvirt, Traffic};
use super::error::from_xml;
use super::{stats, xml};
use crate::hypervisor::Error;
use crate::hypervisor::inspect::{Definition, DomainStats, Inspect, Screen};

impl Inspect for Libvirt {
    async fn xml(&self, id: InstanceId, which: Definition) -> Result<String, Error> {
        const STEP: &str = "read the definition";
        // never VIR_DOMAIN_XML_SECURE: passwords stay where they are
        let flags = match which {
            Definition::Live => 0,
            Definition::Persistent => sys::VIR_DOMAIN_XML_INACTIVE,
        };
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            lookup(connect, STEP, id)?.xml_desc(flags).map_err(told(STEP, id))
        })
        .await
    }

    async fn fingerprint(&self, id: InstanceId) -> Result<String, Error> {
        // The persistent form has nothing in it that a start or a stop changes, but for the order:
        // controllers libvirt added come elsewhere once it has read them back.
        let xml = self.xml(id, Definition::Persistent).await?;
        let mut lines: Vec<&str> = xml.lines().collect();
        lines.sort_unstable();
        let digest = Sha256::digest(lines.join("\n"));
        Ok(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    async fn stats(&self, id: InstanceId) -> Result<DomainStats, Error> {
        const STEP: &str = "read the counters";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let xml = running(STEP, id, &domain)?;
            stats::read(STEP, id, &domain, &xml)
        })
        .await
    }

    async fn screen(&self, id: InstanceId) -> Result<Option<Screen>, Error> {
        const STEP: &str = "find the screen";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            let xml = running(STEP, id, &lookup(connect, STEP, id)?)?;
            xml::live::screen(&xml).map_err(|error| from_xml(STEP, Some(id), &error))
        })
        .await
    }

    async fn console(&self, id: InstanceId) -> Result<PathBuf, Error> {
        const STEP: &str = "find the console";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            let xml = running(STEP, id, &lookup(connect, STEP, id)?)?;
            xml::live::console(&xml)
                .map_err(|error| from_xml(STEP, Some(id), &error))?
                .ok_or_else(|| refused(STEP, id, "the domain has no serial console on a pty"))
        })
        .await
    }
}

/// The definition of a domain that runs.
pub(super) fn running(
    step: &'static str,
    id: InstanceId,
    domain: &Domain,
) -> Result<String, Error> {
    if !domain.is_active().map_err(told(step, id))? {
        return Err(refused(step, id, "the domain does not run"));
    }
    domain.xml_desc(0).map_err(told(step, id))
}

/// What libvirt is not even asked for.
pub(super) fn refused(step: &'static str, id: InstanceId, reason: &str) -> Error {
    Error::Refused { step, domain: Some(id), reason: reason.to_owned() }
}
