//! What is changed in a domain that goes on: live and in its definition at once.

use ostler_protocol::rpc::values::{Bytes, InstanceId, Secret, Timestamp};
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;
use zeroize::Zeroizing;

use super::domain::{CHANGE, lookup, told};
use super::driver::{Libvirt, Traffic};
use super::error::{from_xml, is_wrong_state};
use super::xml;
use crate::hypervisor::adjust::VNC_PASSWORD_MAX;
use crate::hypervisor::{Adjust, Error, Metadata};

impl Adjust for Libvirt {
    async fn set_metadata(&self, metadata: &Metadata) -> Result<(), Error> {
        const STEP: &str = "set metadata";
        let id = metadata.id;
        let element =
            xml::metadata::element(metadata).map_err(|error| from_xml(STEP, Some(id), &error))?;
        let title = xml::domain::title(&metadata.name);
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            everywhere(&domain, |flags| {
                domain.set_metadata(
                    sys::VIR_DOMAIN_METADATA_ELEMENT as i32,
                    Some(&element),
                    Some(xml::metadata::PREFIX),
                    Some(xml::metadata::NAMESPACE),
                    flags,
                )?;
                let kind = sys::VIR_DOMAIN_METADATA_TITLE as i32;
                domain.set_metadata(kind, Some(&title), None, None, flags)
            })
            .map_err(told(STEP, id))
        })
        .await
    }

    async fn set_vcpus(&self, id: InstanceId, count: u32) -> Result<(), Error> {
        const STEP: &str = "set vCPUs";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            match everywhere(&domain, |flags| domain.set_vcpus_flags(count, flags)) {
                Ok(()) => Ok(()),
                Err(error) if is_unplug(&error) => unplugged(&domain, id, count, &error),
                Err(error) => Err(told(STEP, id)(error)),
            }
        })
        .await
    }

    async fn set_memory(&self, id: InstanceId, memory: Bytes) -> Result<(), Error> {
        const STEP: &str = "set memory";
        let kib = memory.0.div_ceil(1024);
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            everywhere(&domain, |flags| domain.set_memory_flags(kib, flags)).map_err(told(STEP, id))
        })
        .await
    }

    async fn set_vnc_password(
        &self,
        id: InstanceId,
        password: &Secret,
        until: Timestamp,
    ) -> Result<(), Error> {
        const STEP: &str = "set VNC password";
        let refused = move |reason: &str| Error::Refused {
            step: STEP,
            domain: Some(id),
            reason: reason.to_owned(),
        };
        let word = password.expose();
        // libvirt takes any word and QEMU its first eight bytes
        if word.is_empty() || word.len() > VNC_PASSWORD_MAX {
            return Err(refused("a VNC password has 1 to 8 bytes"));
        }
        if !word.bytes().all(|byte| (0x20..0x7f).contains(&byte)) {
            return Err(refused("a VNC password is made of printable ASCII"));
        }
        let password = password.clone();
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let described = domain.xml_desc(0).map_err(told(STEP, id))?;
            let screen: Zeroizing<String> =
                xml::graphics::with_password(&described, &password, until)
                    .map_err(|error| from_xml(STEP, Some(id), &error))?
                    .ok_or_else(|| refused("the domain has no screen"))?;
            // not in the definition: the next start is locked as it was defined
            domain
                .update_device_flags(&screen, sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE)
                .map_err(told(STEP, id))
        })
        .await
    }
}

/// Makes a change in the definition, and in the running domain if it runs.
fn everywhere(
    domain: &Domain,
    change: impl Fn(u32) -> Result<(), VirtError>,
) -> Result<(), VirtError> {
    if domain.is_active()? {
        match change(sys::VIR_DOMAIN_AFFECT_LIVE | sys::VIR_DOMAIN_AFFECT_CONFIG) {
            // it went off in between
            Err(error) if is_wrong_state(&error) && !domain.is_active()? => {}
            outcome => return outcome,
        }
    }
    change(sys::VIR_DOMAIN_AFFECT_CONFIG)
}

/// Whether the guest did not let go of a vCPU, or has no system yet that could. The codes are
/// those of other trouble too, such as a domain whose lock is held; the words tell them apart, and
/// in doubt it is taken for that.
fn is_unplug(error: &VirtError) -> bool {
    matches!(
        error.code().to_raw(),
        sys::VIR_ERR_OPERATION_TIMEOUT
            | sys::VIR_ERR_OPERATION_FAILED
            | sys::VIR_ERR_INTERNAL_ERROR
    ) && error.message().contains("unplug")
}

/// The guest may have let go after all, just late; the definition then has to follow.
fn unplugged(domain: &Domain, id: InstanceId, count: u32, error: &VirtError) -> Result<(), Error> {
    const STEP: &str = "set vCPUs";
    let now = domain.vcpus_flags(sys::VIR_DOMAIN_VCPU_LIVE).map_err(told(STEP, id))?;
    if now == count {
        return domain
            .set_vcpus_flags(count, sys::VIR_DOMAIN_AFFECT_CONFIG)
            .map_err(told(STEP, id));
    }
    let reason = format!(
        "the guest keeps {now} vCPUs and was asked for {count}: set them offline in the guest, \
         or stop the instance first ({})",
        error.message()
    );
    Err(Error::Refused { step: STEP, domain: Some(id), reason })
}
