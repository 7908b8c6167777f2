//! Jobs, and what was saved: `virt` can neither begin a copy, end a job, nor look into saved
//! memory; and its statistics make a vector of a null pointer where there is no job.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong};

use nix::libc;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// Which job is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Which {
    /// The one that goes on.
    Current,
    /// The last that ended; asking does not make libvirt forget it.
    Last,
}

/// A job as libvirt tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in super::super) struct RawJob {
    /// A `virDomainJobType`; there is none if that says so.
    pub(in super::super) kind: u32,
    /// A `virDomainJobOperation`.
    pub(in super::super) operation: u32,
    /// Bytes of memory and disks together.
    pub(in super::super) data: Progress,
    /// Bytes of disks.
    pub(in super::super) disk: Progress,
    /// Why it failed.
    pub(in super::super) error: Option<String>,
}

/// Bytes through, of bytes in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in super::super) struct Progress {
    pub(in super::super) done: Option<u64>,
    pub(in super::super) total: Option<u64>,
}

/// Parameters libvirt has allocated.
struct Parameters {
    first: sys::virTypedParameterPtr,
    count: c_int,
}

impl Drop for Parameters {
    fn drop(&mut self) {
        // SAFETY: both are as libvirt returned them, or null and zero, which it takes too.
        unsafe { sys::virTypedParamsFree(self.first, self.count) };
    }
}

impl Parameters {
    /// None if it is not there, or of another type.
    fn number(&self, name: &CStr) -> Option<u64> {
        let mut value: c_ulonglong = 0;
        // SAFETY: the parameters are libvirt's own, the name ends in NUL, the value outlives this.
        let found = unsafe {
            sys::virTypedParamsGetULLong(self.first, self.count, name.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value)
    }

    fn code(&self, name: &CStr) -> Option<u32> {
        let mut value: c_int = 0;
        // SAFETY: as above.
        let found = unsafe {
            sys::virTypedParamsGetInt(self.first, self.count, name.as_ptr(), &raw mut value)
        };
        (found == 1).then_some(value as u32)
    }

    fn text(&self, name: &CStr) -> Option<String> {
        let mut value: *const c_char = std::ptr::null();
        // SAFETY: as above.
        let found = unsafe {
            sys::virTypedParamsGetString(self.first, self.count, name.as_ptr(), &raw mut value)
        };
        if found != 1 || value.is_null() {
            return None;
        }
        // SAFETY: a string of libvirt's, which lives as long as the parameters; it is copied.
        Some(unsafe { CStr::from_ptr(value) }.to_string_lossy().into_owned())
    }
}

/// A domain's job, or its last one.
pub(in super::super) fn job(domain: &Domain, which: Which) -> Result<RawJob, Error> {
    let flags = match which {
        Which::Current => 0,
        Which::Last => {
            sys::VIR_DOMAIN_JOB_STATS_COMPLETED | sys::VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED
        }
    };
    job_with_flags(domain, flags)
}

/// Has libvirt forget the last job.
pub(in super::super) fn forget_last_job(domain: &Domain) -> Result<(), Error> {
    job_with_flags(domain, sys::VIR_DOMAIN_JOB_STATS_COMPLETED).map(drop)
}

fn job_with_flags(domain: &Domain, flags: c_uint) -> Result<RawJob, Error> {
    let mut kind: c_int = 0;
    let mut parameters = Parameters { first: std::ptr::null_mut(), count: 0 };
    // SAFETY: the domain is valid while borrowed; what is written to outlives the call, and what
    // libvirt allocates there is freed with `parameters`.
    let outcome = unsafe {
        sys::virDomainGetJobStats(
            domain.as_ptr(),
            &raw mut kind,
            &raw mut parameters.first,
            &raw mut parameters.count,
            flags,
        )
    };
    if outcome == -1 {
        return Err(Error::last_error());
    }
    Ok(RawJob {
        kind: kind as u32,
        operation: parameters.code(sys::VIR_DOMAIN_JOB_OPERATION).unwrap_or_default(),
        data: Progress {
            done: parameters.number(sys::VIR_DOMAIN_JOB_DATA_PROCESSED),
            total: parameters.number(sys::VIR_DOMAIN_JOB_DATA_TOTAL),
        },
        disk: Progress {
            done: parameters.number(sys::VIR_DOMAIN_JOB_DISK_PROCESSED),
            total: parameters.number(sys::VIR_DOMAIN_JOB_DISK_TOTAL),
        },
        error: parameters.text(sys::VIR_DOMAIN_JOB_ERRMSG),
    })
}

/// Begins a backup job.
pub(in super::super) fn begin_backup(domain: &Domain, xml: &CStr) -> Result<(), Error> {
    // SAFETY: the domain is valid while borrowed, the XML ends in NUL, no checkpoint is asked for.
    let outcome =
        unsafe { sys::virDomainBackupBegin(domain.as_ptr(), xml.as_ptr(), std::ptr::null(), 0) };
    if outcome == -1 { Err(Error::last_error()) } else { Ok(()) }
}

/// Asks the job to end; it does so after this has returned.
pub(in super::super) fn abort_job(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid while borrowed.
    let outcome = unsafe { sys::virDomainAbortJob(domain.as_ptr()) };
    if outcome == -1 { Err(Error::last_error()) } else { Ok(()) }
}

/// Reads the head of a domain's saved memory: an error is that it cannot be restored from.
///
/// A start would not do: it throws away a file whose head it cannot read, and boots.
pub(in super::super) fn check_managed_save(domain: &Domain) -> Result<(), Error> {
    // SAFETY: the domain is valid while borrowed.
    let xml = unsafe { sys::virDomainManagedSaveGetXMLDesc(domain.as_ptr(), 0) };
    if xml.is_null() {
        return Err(Error::last_error());
    }
    // SAFETY: the string was allocated for the caller to free, and nobody else has it.
    unsafe { libc::free(xml.cast()) };
    Ok(())
}
