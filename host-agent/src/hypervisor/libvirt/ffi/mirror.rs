//! Copies of a disk that its guest goes on in: `virt` has none of their calls.

use std::ffi::{CString, c_uint};

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// What becomes of a disk whose copy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Then {
    /// It stays where it is.
    Stays,
    /// It is where it was copied to.
    Moves,
}

/// Begins to copy the disk of this device onto what the XML says, and what is written meanwhile.
pub(in super::super) fn begin(domain: &Domain, device: &str, xml: &str) -> Result<(), Error> {
    let (device, xml) = (text(device), text(xml));
    // Of a domain with a persistent definition libvirt wants to hear that the job may go with QEMU.
    let flags =
        (sys::VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | sys::VIR_DOMAIN_BLOCK_COPY_TRANSIENT_JOB) as c_uint;
    // SAFETY: the domain is valid while borrowed, both texts end in a zero and outlive the call, and
    // there are no parameters.
    let outcome = unsafe {
        sys::virDomainBlockCopy(
            domain.as_ptr(),
            device.as_ptr(),
            xml.as_ptr(),
            std::ptr::null_mut(),
            0,
            flags,
        )
    };
    if outcome == -1 { Err(Error::last_error()) } else { Ok(()) }
}

/// How far the copy is, bytes: through, and in all; none if there is none.
pub(in super::super) fn progress(
    domain: &Domain,
    device: &str,
) -> Result<Option<(u64, u64)>, Error> {
    let device = text(device);
    let mut info = sys::virDomainBlockJobInfo { type_: 0, bandwidth: 0, cur: 0, end: 0 };
    // SAFETY: the domain is valid while borrowed, the text ends in a zero, and what is written to
    // outlives the call.
    let outcome = unsafe {
        sys::virDomainGetBlockJobInfo(domain.as_ptr(), device.as_ptr(), &raw mut info, 0)
    };
    match outcome {
        -1 => Err(Error::last_error()),
        0 => Ok(None),
        _ => Ok(Some((info.cur, info.end))),
    }
}

/// Ends the copy, and returns when it is gone.
pub(in super::super) fn end(domain: &Domain, device: &str, then: Then) -> Result<(), Error> {
    let device = text(device);
    let flags = match then {
        Then::Stays => 0,
        Then::Moves => sys::VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT as c_uint,
    };
    // SAFETY: the domain is valid while borrowed, and the text ends in a zero and outlives the call.
    let outcome = unsafe { sys::virDomainBlockJobAbort(domain.as_ptr(), device.as_ptr(), flags) };
    if outcome == -1 { Err(Error::last_error()) } else { Ok(()) }
}

/// A text with a zero in it is nothing libvirt knows: it says so of the empty one.
fn text(text: &str) -> CString {
    CString::new(text).unwrap_or_default()
}
