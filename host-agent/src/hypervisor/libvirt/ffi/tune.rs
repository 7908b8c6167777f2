//! Limits of a disk of a running domain.

use std::ffi::{CString, c_int, c_uint};

use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

/// Holds the guest to these limits, by libvirt's names for them, on the disk of this device.
pub(in super::super) fn limit(
    domain: &Domain,
    device: &str,
    limits: &[(&'static str, u64)],
) -> Result<(), Error> {
    // A device with a zero in its name is none: libvirt says so of the empty one.
    let device = CString::new(device).unwrap_or_default();
    let names: Vec<CString> =
        limits.iter().map(|(name, _)| CString::new(*name).unwrap_or_default()).collect();
    let mut params: sys::virTypedParameterPtr = std::ptr::null_mut();
    let (mut count, mut room): (c_int, c_int) = (0, 0);
    let mut outcome = 0;
    for (name, (_, most)) in names.iter().zip(limits) {
        // SAFETY: the list is libvirt's own, begun as empty; the name ends in a zero and is copied.
        outcome = unsafe {
            sys::virTypedParamsAddULLong(
                &raw mut params,
                &raw mut count,
                &raw mut room,
                name.as_ptr(),
                *most,
            )
        };
        if outcome == -1 {
            break;
        }
    }
    if outcome != -1 {
        let flags = sys::VIR_DOMAIN_AFFECT_LIVE as c_uint;
        // SAFETY: the domain is valid while borrowed, and there are `count` parameters.
        outcome = unsafe {
            sys::virDomainSetBlockIoTune(domain.as_ptr(), device.as_ptr(), params, count, flags)
        };
    }
    let failed = (outcome == -1).then(Error::last_error);
    // SAFETY: the list is libvirt's own, freed once.
    unsafe { sys::virTypedParamsFree(params, count) };
    failed.map_or(Ok(()), Err)
}
