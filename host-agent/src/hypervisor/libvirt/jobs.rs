//! Saves and copies as libvirt calls. A save is one call that takes as long as it takes, so it has
//! a lane of its own; a copy is begun by one call and watched by others.

use std::ffi::CString;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::values::{Bytes, InstanceId};
use tokio::time::{Instant, sleep};
use virt::connect::Connect;
use virt::domain::Domain;
use virt::sys;

use super::domain::{CHANGE, QUERY, SAVE, lookup, told};
use super::driver::{Libvirt, Traffic};
use super::error::{from_xml, is_wrong_state};
use super::ffi::jobs::{self as raw, Progress, RawJob, Which};
use super::outcomes::Watched;
use super::xml;
use crate::hypervisor::{Change, Error, Job, Jobs};

/// Between two looks at a job that is not ours to wait for otherwise.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

impl Jobs for Libvirt {
    async fn save(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "save";
        let deadline = Instant::now() + SAVE;
        loop {
            match self.call(Traffic::Stats, Some(id), STEP, QUERY, move |c| before(c, id)).await? {
                Before::Saved => return Ok(Change::AlreadySo),
                Before::Off => {
                    let reason = "the domain is off, and no memory of it is saved".to_owned();
                    return Err(Error::Refused { step: STEP, domain: Some(id), reason });
                }
                Before::Ready => break,
                Before::Job(sys::VIR_DOMAIN_JOB_OPERATION_SAVE) => {}
                Before::Job(other) => {
                    let reason = format!("the domain has a job: {}", operation(other));
                    return Err(Error::Busy { step: STEP, reason });
                }
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { step: STEP });
            }
            // somebody's save, such as that of an agent that was restarted
            sleep(LOOK_AGAIN).await;
        }
        let within = deadline.saturating_duration_since(Instant::now());
        let outcomes = Arc::clone(self.outcomes());
        self.call(Traffic::Save, Some(id), STEP, within, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let outcome = match domain.managed_save(0) {
                Ok(()) => Ok(Change::Made),
                // somebody else's save was first, whatever libvirt calls that
                Err(_) if is_saved(&domain, STEP, id).unwrap_or(false) => Ok(Change::AlreadySo),
                Err(error) => Err(told(STEP, id)(error)),
            };
            outcomes.ended(id, &outcome);
            outcome
        })
        .await
    }

    async fn begin_copy(&self, id: InstanceId, device: &str, to: &Path) -> Result<(), Error> {
        const STEP: &str = "copy";
        let refused = move |reason: String| Error::Refused { step: STEP, domain: Some(id), reason };
        if !to.is_absolute() {
            return Err(refused(format!("{} is not an absolute path", to.display())));
        }
        let xml = xml::backup::write(device, to).map_err(|e| from_xml(STEP, Some(id), &e))?;
        let xml = CString::new(xml).map_err(|e| refused(e.to_string()))?;
        let outcomes = Arc::clone(self.outcomes());
        self.call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            // libvirt would wait for it half a minute first
            if let Some(job) = current(&domain, STEP, id)? {
                return Err(refused(format!("a job is on: {}", operation(job.operation))));
            }
            // an earlier job's end must not be taken for this one's
            raw::forget_last_job(&domain).map_err(told(STEP, id))?;
            outcomes.forget(id);
            raw::begin_backup(&domain, &xml).map_err(told(STEP, id))?;
            outcomes.copying(id);
            Ok(())
        })
        .await
    }

    async fn job(&self, id: InstanceId) -> Result<Job, Error> {
        const STEP: &str = "job";
        let outcomes = Arc::clone(self.outcomes());
        self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
            // before libvirt is asked: what is begun later is not judged by an older answer
            let watched = outcomes.watched(id);
            let domain = lookup(connect, STEP, id)?;
            if let Some(job) = current(&domain, STEP, id)? {
                if job.operation == sys::VIR_DOMAIN_JOB_OPERATION_BACKUP {
                    outcomes.copying(id);
                }
                return Ok(running(&job));
            }
            Ok(match watched {
                None => Job::None,
                Some(Watched::Ended(job)) => job,
                Some(Watched::Copying) => {
                    ended(&raw::job(&domain, Which::Last).map_err(told(STEP, id))?)
                }
            })
        })
        .await
    }

    async fn abort_job(&self, id: InstanceId) -> Result<Change, Error> {
        const STEP: &str = "abort job";
        let deadline = Instant::now() + CHANGE;
        // a turn of its own: never behind the call whose job it is to end
        let change = self
            .call(Traffic::Abort, Some(id), STEP, CHANGE, move |connect| {
                let domain = match lookup(connect, STEP, id) {
                    Err(Error::NotFound { .. }) => return Ok(None),
                    found => found?,
                };
                match raw::abort_job(&domain) {
                    Ok(()) => Ok(Some(Change::Made)),
                    Err(error) if is_wrong_state(&error) => Ok(Some(Change::AlreadySo)),
                    Err(error) => Err(told(STEP, id)(error)),
                }
            })
            .await?;
        let Some(change) = change else { return Ok(Change::AlreadySo) };
        // libvirt returns once the job is told, and goes on taking back what it did
        loop {
            let look =
                self.call(Traffic::Stats, Some(id), STEP, QUERY, move |connect| {
                    match lookup(connect, STEP, id) {
                        Err(Error::NotFound { .. }) => Ok(None),
                        found => current(&found?, STEP, id),
                    }
                });
            if look.await?.is_none() {
                break;
            }
            if Instant::now() >= deadline {
                return Err(Error::Timeout { step: STEP });
            }
            sleep(LOOK_AGAIN).await;
        }
        self.outcomes().forget(id);
        Ok(change)
    }
}

/// What there is before a save.
enum Before {
    /// It is done: off, memory saved.
    Saved,
    /// Off, and nothing saved.
    Off,
    /// A job with this operation.
    Job(u32),
    /// On, and free.
    Ready,
}

fn before(connect: &Connect, id: InstanceId) -> Result<Before, Error> {
    const STEP: &str = "save";
    let domain = lookup(connect, STEP, id)?;
    if let Some(job) = current(&domain, STEP, id)? {
        return Ok(Before::Job(job.operation));
    }
    Ok(if domain.is_active().map_err(told(STEP, id))? {
        Before::Ready
    } else if is_saved(&domain, STEP, id)? {
        Before::Saved
    } else {
        Before::Off
    })
}

/// Off, with memory saved.
fn is_saved(domain: &Domain, step: &'static str, id: InstanceId) -> Result<bool, Error> {
    let active = domain.is_active().map_err(told(step, id))?;
    Ok(!active && domain.has_managed_save(0).map_err(told(step, id))?)
}

/// The job that goes on; a domain that is off has none. One whose work is done is still on until
/// libvirt has put it away: only then can another begin, and is this one the last.
fn current(domain: &Domain, step: &'static str, id: InstanceId) -> Result<Option<RawJob>, Error> {
    match raw::job(domain, Which::Current) {
        Ok(job) => Ok((job.kind != sys::VIR_DOMAIN_JOB_NONE).then_some(job)),
        Err(error) if is_wrong_state(&error) => Ok(None),
        Err(error) => Err(told(step, id)(error)),
    }
}

fn running(job: &RawJob) -> Job {
    let of = match job.operation {
        sys::VIR_DOMAIN_JOB_OPERATION_BACKUP => job.disk,
        _ => job.data,
    };
    let total = of.total.filter(|total| *total > 0).map(Bytes);
    Job::Running { done: Bytes(of.done.unwrap_or_default()), total }
}

/// How the copy ended that was the last job, or should have been.
fn ended(last: &RawJob) -> Job {
    let failed = |reason: &str| Job::Failed { reason: reason.to_owned() };
    if last.kind == sys::VIR_DOMAIN_JOB_NONE
        || last.operation != sys::VIR_DOMAIN_JOB_OPERATION_BACKUP
    {
        return failed("the hypervisor no longer knows how it ended; do it again");
    }
    match (last.kind, &last.error) {
        (sys::VIR_DOMAIN_JOB_COMPLETED, None) if is_all(last.disk) => Job::Completed,
        (_, Some(error)) => failed(error),
        (sys::VIR_DOMAIN_JOB_COMPLETED, None) => {
            failed("the domain went off before all of the disk was copied")
        }
        (sys::VIR_DOMAIN_JOB_CANCELLED, None) => {
            failed("it was called off: the domain went off, or somebody aborted it")
        }
        (_, None) => failed("the hypervisor does not say why"),
    }
}

/// All bytes are through. Where QEMU goes away in the middle of a copy, libvirt at times finds no
/// error any more and calls it completed, with no bytes copied of none.
fn is_all(disk: Progress) -> bool {
    disk.done.is_some_and(|done| done > 0) && disk.done == disk.total
}

/// An operation for people.
const fn operation(operation: u32) -> &'static str {
    match operation {
        sys::VIR_DOMAIN_JOB_OPERATION_START => "start",
        sys::VIR_DOMAIN_JOB_OPERATION_SAVE => "save",
        sys::VIR_DOMAIN_JOB_OPERATION_RESTORE => "restore",
        sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN
        | sys::VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT => "migration",
        sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT
        | sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_REVERT
        | sys::VIR_DOMAIN_JOB_OPERATION_SNAPSHOT_DELETE => "snapshot",
        sys::VIR_DOMAIN_JOB_OPERATION_DUMP => "dump",
        sys::VIR_DOMAIN_JOB_OPERATION_BACKUP => "copy of a disk",
        _ => "one without a name",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(kind: u32, error: Option<&str>) -> RawJob {
        let operation = sys::VIR_DOMAIN_JOB_OPERATION_BACKUP;
        RawJob { kind, operation, error: error.map(str::to_owned), ..RawJob::default() }
    }

    #[test]
    fn only_a_copy_that_is_said_to_be_complete_is() {
        let disk = |done, total| RawJob {
            disk: Progress { done, total },
            ..last(sys::VIR_DOMAIN_JOB_COMPLETED, None)
        };
        assert_eq!(ended(&disk(Some(9), Some(9))), Job::Completed);
        let save = RawJob {
            operation: sys::VIR_DOMAIN_JOB_OPERATION_SAVE,
            ..last(sys::VIR_DOMAIN_JOB_COMPLETED, None)
        };
        for other in [
            save,
            RawJob::default(),
            last(sys::VIR_DOMAIN_JOB_COMPLETED, Some("no space")),
            disk(None, None),
            disk(Some(0), Some(0)),
            disk(Some(7), Some(9)),
            last(sys::VIR_DOMAIN_JOB_CANCELLED, None),
            last(sys::VIR_DOMAIN_JOB_FAILED, None),
            last(99, None),
        ] {
            assert!(matches!(ended(&other), Job::Failed { .. }), "{other:?}");
        }
    }

    #[test]
    fn a_total_that_is_not_known_is_none() {
        let mut job = last(sys::VIR_DOMAIN_JOB_UNBOUNDED, None);
        job.disk = Progress { done: Some(7), total: Some(0) };
        assert_eq!(running(&job), Job::Running { done: Bytes(7), total: None });
        job.disk.total = Some(9);
        assert_eq!(running(&job), Job::Running { done: Bytes(7), total: Some(Bytes(9)) });
    }
}
