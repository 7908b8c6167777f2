//! The trait's methods as libvirt calls. Each is one trip to a lane's thread, with as few calls
//! in it as it takes: what counts is the time from a boot's acceptance to the running guest.

use std::collections::HashMap;
use std::time::Duration;

use ostler_protocol::rpc::values::InstanceId;
use tokio::sync::watch;
use virt::connect::Connect;
use virt::domain::Domain;
use virt::error::Error as VirtError;
use virt::sys;

use super::driver::{Libvirt, Traffic};
use super::error::{from_libvirt, from_xml, is_unsupported, is_wrong_state};
use super::mark::Mark;
use super::{events, ffi, probe, xml};
use crate::hypervisor::{
    Capabilities, Change, DomainRecord, DomainSpec, DomainState, Error, Events, Hypervisor, Link,
    PowerReason, PowerState, RESTORE, VirtChoice, VirtSetting,
};

/// A query needs no job of the domain's; it is late when libvirtd is.
pub(super) const QUERY: Duration = Duration::from_secs(10);
/// libvirt looks at every domain for a list, and waits for one whose QEMU is being killed.
const LIST: Duration = Duration::from_secs(60);
/// A change may wait thirty seconds for the domain's job lock before libvirt gives up.
pub(super) const CHANGE: Duration = Duration::from_secs(45);
/// QEMU's start: memory is allocated, devices are opened.
const START: Duration = Duration::from_secs(120);
/// As much memory as a node has, on a slow disk.
pub(super) const SAVE: Duration = Duration::from_secs(3600);
/// A QEMU that hangs is given its time to flush, then killed, and the kill has to be seen.
const DESTROY: Duration = Duration::from_secs(90);
/// The answer has to come back from libvirt's own timeout before ours ends.
const AGENT_MARGIN: Duration = Duration::from_secs(1);

impl Hypervisor for Libvirt {
    async fn define(&self, spec: &DomainSpec) -> Result<(), Error> {
        const STEP: &str = "define";
        let id = spec.id();
        let xml = xml::domain::write(spec).map_err(|error| from_xml(STEP, Some(id), &error))?;
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            connect.define_domain_xml(&xml).map(drop).map_err(told(STEP, id))
        })
        .await
    }

    async fn start(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "start";
        let wanted = |domain: &Domain| domain.is_active();
        let started = self
            .call(Traffic::Control, Some(id), STEP, START, move |connect| {
                let domain = lookup(connect, STEP, id)?;
                if has_save(&domain).map_err(told(STEP, id))?
                    && is_off(&domain).map_err(told(STEP, id))?
                {
                    return Ok(None);
                }
                changed(STEP, id, &domain, domain.create(), wanted).map(Some)
            })
            .await?;
        if let Some(change) = started {
            return Ok(change);
        }
        // memory comes back as slowly as it went, and by the same lane
        self.call(Traffic::Save, Some(id), RESTORE, SAVE, move |connect| {
            let domain = lookup(connect, RESTORE, id)?;
            let outcome = match ffi::jobs::check_managed_save(&domain) {
                Err(error) if has_save(&domain).map_err(told(RESTORE, id))? => {
                    return Err(unusable(id, &error));
                }
                // somebody else has restored or discarded it
                Err(_) | Ok(()) => domain.create(),
            };
            match changed(RESTORE, id, &domain, outcome, wanted) {
                Err(Error::Failed { message, .. })
                | Err(Error::Refused { reason: message, .. }) => Err(kept(id, &message)),
                outcome => outcome,
            }
        })
        .await
    }

    async fn pause(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "pause";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            // libvirt does not say whether it was so
            if is_paused(&domain).map_err(told(STEP, id))? {
                return Ok(Change::AlreadySo);
            }
            changed(STEP, id, &domain, domain.suspend(), is_paused)
        })
        .await
    }

    async fn unpause(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "unpause";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            changed(STEP, id, &domain, domain.resume(), |domain| {
                power(domain).map(|power| power == PowerState::Running)
            })
        })
        .await
    }

    async fn discard_save(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "discard saved memory";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = match lookup(connect, STEP, id) {
                Err(Error::NotFound { .. }) => return Ok(Change::AlreadySo),
                found => found?,
            };
            if !has_save(&domain).map_err(told(STEP, id))? {
                return Ok(Change::AlreadySo);
            }
            domain.managed_save_remove(0).map(|()| Change::Made).map_err(told(STEP, id))
        })
        .await
    }

    async fn shutdown(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "shutdown";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let pressed = domain.shutdown_flags(sys::VIR_DOMAIN_SHUTDOWN_ACPI_POWER_BTN);
            changed(STEP, id, &domain, pressed, is_off)
        })
        .await
    }

    async fn reboot(&self, id: InstanceId) -> Result<(), Error> {
        const STEP: &str = "reboot";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            domain.reboot(sys::VIR_DOMAIN_REBOOT_ACPI_POWER_BTN).map_err(told(STEP, id))
        })
        .await
    }

    async fn destroy(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "destroy";
        let hangs = self.is_in_flight(Traffic::Control, id)
            || self.is_in_flight(Traffic::Save, id)
            || self.is_in_flight(Traffic::Abort, id);
        self.call(Traffic::Destroy, Some(id), STEP, DESTROY, move |connect| {
            let domain = match lookup(connect, STEP, id) {
                Err(Error::NotFound { .. }) => return Ok(Change::AlreadySo),
                found => found?,
            };
            // Gracefully first: QEMU gets to flush what it has of the guest's disks. Not behind a
            // call that hangs in QEMU: libvirt would wait 45 s for it and give up. The plain form
            // asks QEMU to end as well, but kills it after ten seconds.
            let graceful = || domain.destroy_flags(sys::VIR_DOMAIN_DESTROY_GRACEFUL);
            let plain = || domain.destroy_flags(sys::VIR_DOMAIN_DESTROY_DEFAULT);
            let outcome = if hangs {
                plain()
            } else {
                match graceful() {
                    Err(error) if !is_wrong_state(&error) => plain(),
                    outcome => outcome,
                }
            };
            match changed(STEP, id, &domain, outcome, is_off) {
                // a transient domain is gone when it is off
                Err(Error::NotFound { .. }) => Ok(Change::AlreadySo),
                outcome => outcome,
            }
        })
        .await
    }

    async fn undefine(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "undefine";
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = match lookup(connect, STEP, id) {
                Err(Error::NotFound { .. }) => return Ok(Change::AlreadySo),
                found => found?,
            };
            // libvirt would take the definition and leave the guest running, with nothing to
            // start it from again.
            if domain.is_active().map_err(told(STEP, id))? {
                let reason = "the domain runs".to_owned();
                return Err(Error::Refused { step: STEP, domain: Some(id), reason });
            }
            let outcome = match domain.undefine_flags(UNDEFINE | sys::VIR_DOMAIN_UNDEFINE_TPM) {
                // libvirt before 8.9 does not know of TPM state, and always removes it
                Err(error) if error.code().to_raw() == sys::VIR_ERR_INVALID_ARG => {
                    domain.undefine_flags(UNDEFINE)
                }
                outcome => outcome,
            };
            match outcome.map_err(told(STEP, id)) {
                Err(Error::NotFound { .. }) => Ok(Change::AlreadySo),
                outcome => outcome.map(|()| Change::Made),
            }
        })
        .await
    }

    async fn state(&self, id: InstanceId) -> Result<DomainState, Error> {
        const STEP: &str = "state";
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let state = state(&domain).map_err(told(STEP, id))?;
            if state.reason != PowerReason::IoError {
                return Ok(state);
            }
            let reason = match ffi::disk_is_full(&domain) {
                Ok(true) => PowerReason::NoSpace,
                Ok(false) => PowerReason::IoError,
                Err(error) => {
                    let error = error.message();
                    tracing::info!(domain = %id, error, "which disk failed is not known");
                    PowerReason::IoError
                }
            };
            Ok(DomainState { reason, ..state })
        })
        .await
    }

    async fn list(&self) -> Result<Vec<DomainRecord>, Error> {
        const STEP: &str = "list";
        let look = self.call(Traffic::List, None, STEP, LIST, |connect| {
            let domains =
                connect.list_all_domains(0).map_err(|error| from_libvirt(STEP, None, &error))?;
            let mut illegible = HashMap::new();
            let records = domains
                .iter()
                .filter_map(|domain| record(STEP, domain, &mut illegible).transpose())
                .collect::<Result<_, _>>()?;
            Ok((records, illegible))
        });
        let (records, illegible) = look.await?;
        self.illegible().found(illegible);
        Ok(records)
    }

    async fn guest_command(
        &self,
        id: InstanceId,
        command: &str,
        timeout: Duration,
    ) -> Result<String, Error> {
        const STEP: &str = "guest command";
        let command = command.to_owned();
        let seconds = i32::try_from(timeout.as_secs_f64().ceil() as i64).unwrap_or(i32::MAX).max(1);
        let within = timeout.saturating_add(AGENT_MARGIN);
        self.call(Traffic::GuestAgent, Some(id), STEP, within, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            domain.qemu_agent_command(&command, seconds, 0).map_err(|error| {
                // how libvirt passes on what the agent answers in place of a result
                if error.code().to_raw() == sys::VIR_ERR_INTERNAL_ERROR {
                    Error::GuestAgentRefused { domain: id, reason: error.message().to_owned() }
                } else {
                    from_libvirt(STEP, Some(id), &error)
                }
            })
        })
        .await
    }

    async fn capabilities(&self) -> Result<Capabilities, Error> {
        self.call(Traffic::Stats, None, "capabilities", QUERY, probe::capabilities).await
    }

    async fn virt_type(&self, setting: VirtSetting) -> Result<VirtChoice, Error> {
        probe::virt_type(self, setting).await
    }

    fn link(&self) -> watch::Receiver<Link> {
        self.link_watch()
    }

    fn events(&self) -> Events {
        Events::new(self.subscribe())
    }
}

/// Everything that would otherwise keep a domain from being undefined. Snapshots and checkpoints
/// lose their records here; their data is in the disks.
const UNDEFINE: u32 = sys::VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | sys::VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | sys::VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | sys::VIR_DOMAIN_UNDEFINE_NVRAM;

pub(super) fn told(step: &'static str, id: InstanceId) -> impl Fn(VirtError) -> Error {
    move |error| from_libvirt(step, Some(id), &error)
}

pub(super) fn lookup(
    connect: &Connect,
    step: &'static str,
    id: InstanceId,
) -> Result<Domain, Error> {
    connect.lookup_domain_by_uuid(id.0).map_err(told(step, id))
}

fn is_off(domain: &Domain) -> Result<bool, VirtError> {
    domain.is_active().map(|active| !active)
}

fn state(domain: &Domain) -> Result<DomainState, VirtError> {
    ffi::domain_state(domain).map(|(state, reason)| events::state(state, reason))
}

fn power(domain: &Domain) -> Result<PowerState, VirtError> {
    state(domain).map(|state| state.power)
}

fn is_paused(domain: &Domain) -> Result<bool, VirtError> {
    power(domain).map(|power| power == PowerState::Paused)
}

/// Whether memory is saved, be the domain on or off.
fn has_save(domain: &Domain) -> Result<bool, VirtError> {
    match domain.has_managed_save(0) {
        Err(error) if is_unsupported(&error) => Ok(false),
        known => known,
    }
}

/// Memory that is saved, in a file that cannot be read.
fn unusable(id: InstanceId, error: &VirtError) -> Error {
    kept(id, &format!("the saved memory is damaged: {}", error.message()))
}

/// A restore that failed, and lost nothing.
fn kept(id: InstanceId, why: &str) -> Error {
    let message = format!("{why}; it is kept: discard it to start from the firmware");
    Error::Failed { step: RESTORE, domain: Some(id), message }
}

/// libvirt refuses to do what is already so; that is as good as done.
fn changed(
    step: &'static str,
    id: InstanceId,
    domain: &Domain,
    outcome: Result<(), VirtError>,
    is_so: impl FnOnce(&Domain) -> Result<bool, VirtError>,
) -> Result<Change, Error> {
    match outcome {
        Ok(()) => Ok(Change::Made),
        Err(error) if is_wrong_state(&error) && is_so(domain).map_err(told(step, id))? => {
            Ok(Change::AlreadySo)
        }
        Err(error) => Err(from_libvirt(step, Some(id), &error)),
    }
}

/// One domain of the list; none if it went while it was looked at.
fn record(
    step: &'static str,
    domain: &Domain,
    illegible: &mut HashMap<InstanceId, String>,
) -> Result<Option<DomainRecord>, Error> {
    // both are in the handle: nobody is asked
    let told = |error| from_libvirt(step, None, &error);
    let id = InstanceId(domain.uuid().map_err(told)?);
    let name = domain.name().map_err(told)?;
    let state = match state(domain) {
        Ok(state) => state,
        Err(error) if error.code().to_raw() == sys::VIR_ERR_NO_DOMAIN => return Ok(None),
        Err(error) => {
            tracing::warn!(domain = %id, error = error.message(), "the power state is not known");
            PowerState::Unknown.into()
        }
    };
    let ours = match Mark::of(domain, id) {
        Ok(Mark::Read(metadata)) => Some(metadata),
        Ok(Mark::Absent) => None,
        Ok(Mark::Illegible(why)) => {
            illegible.insert(id, why);
            None
        }
        Err(error) if error.code().to_raw() == sys::VIR_ERR_NO_DOMAIN => return Ok(None),
        // "not ours" would be an answer; this is none
        Err(error) => return Err(told(error)),
    };
    Ok(Some(DomainRecord { id, name, state, ours }))
}
