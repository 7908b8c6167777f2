//! What the `virt` crate lacks: domain events, the close notice, [`jobs`], the counters of one domain,
//! and a state query whose failure can be seen (`virt::domain::Domain::state` drops the error and
//! answers a state of -1).
//!
//! Callbacks run on the event loop's thread. They copy what they need out of libvirt's hands,
//! call one closure and never unwind into C.

#![expect(
    unsafe_code,
    reason = "the one place of this agent that calls C: virt wraps none of these"
)]

pub(super) mod jobs;
pub(super) mod mirror;
pub(super) mod tune;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use uuid::Uuid;
use virt::domain::Domain;
use virt::error::Error;
use virt::sys;

use super::handle::Handle;

/// An event as libvirt numbers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RawEvent {
    /// A domain was started, stopped and so on.
    Lifecycle { domain: Uuid, event: u32, detail: u32 },
    /// A guest rebooted, or was reset.
    Reboot { domain: Uuid },
    /// The guest agent's channel was opened or closed.
    AgentLifecycle { domain: Uuid, state: u32 },
    /// A guest has let go of a device.
    DeviceRemoved { domain: Uuid, alias: String },
    /// A guest refused to let go of a device.
    DeviceKept { domain: Uuid, alias: String },
}

/// Takes events; called on the event loop's thread, so it must not block.
pub(super) type EventSink = Arc<dyn Fn(RawEvent) + Send + Sync>;

/// A domain's state and reason.
pub(super) fn domain_state(domain: &Domain) -> Result<(u32, u32), Error> {
    let (mut state, mut reason): (c_int, c_int) = (-1, -1);
    // SAFETY: the pointer is valid while `domain` is borrowed; both integers outlive the call.
    let outcome =
        unsafe { sys::virDomainGetState(domain.as_ptr(), &raw mut state, &raw mut reason, 0) };
    if outcome == -1 {
        return Err(Error::last_error());
    }
    Ok((state as u32, reason as u32))
}

/// Whether a write to one of a domain's disks failed for want of space. Waits for a domain that
/// another call is busy with.
pub(super) fn disk_is_full(domain: &Domain) -> Result<bool, Error> {
    // SAFETY: the domain is valid while borrowed; without a list libvirt only counts the disks.
    let most = unsafe { sys::virDomainGetDiskErrors(domain.as_ptr(), std::ptr::null_mut(), 0, 0) };
    let most = usize::try_from(most).map_err(|_| Error::last_error())?;
    let none = sys::virDomainDiskError { disk: std::ptr::null_mut(), error: 0 };
    let mut errors = vec![none; most];
    // SAFETY: as above; the list has room for as many as are said.
    let failed = unsafe {
        sys::virDomainGetDiskErrors(domain.as_ptr(), errors.as_mut_ptr(), most as c_uint, 0)
    };
    let failed = usize::try_from(failed).map_err(|_| Error::last_error())?;
    for error in &errors {
        // SAFETY: null, or a name that was allocated for the caller to free, once.
        unsafe { nix::libc::free(error.disk.cast()) };
    }
    let full =
        |error: &sys::virDomainDiskError| error.error as u32 == sys::VIR_DOMAIN_DISK_ERROR_NO_SPACE;
    Ok(errors.iter().take(failed).any(full))
}

/// Asks the guest of a running domain to let go of a device, and returns once it is asked: the
/// call that takes a definition waits some seconds for the guest.
pub(super) fn unplug(domain: &Domain, alias: &str) -> Result<(), Error> {
    // An alias with a zero in it is no device's: libvirt says so of the empty one.
    let alias = CString::new(alias).unwrap_or_default();
    let flags = sys::VIR_DOMAIN_AFFECT_LIVE as c_uint;
    // SAFETY: the domain is valid while borrowed, and the text ends in a zero and outlives the call.
    let outcome =
        unsafe { sys::virDomainDetachDeviceAlias(domain.as_ptr(), alias.as_ptr(), flags) };
    if outcome == -1 { Err(Error::last_error()) } else { Ok(()) }
}

/// The numbers libvirt counts of one domain, by its names for them; texts and fractions are left
/// out, save those whose name ends in `.name`, which are given apart.
///
/// Does not wait for a domain another call is busy with: what needs its QEMU is then missing.
pub(super) fn domain_counters(domain: &Domain, which: u32) -> Result<Counters, Error> {
    // SAFETY: the pointer is used below only, while `domain` is borrowed.
    let mut list = [unsafe { domain.as_ptr() }, std::ptr::null_mut()];
    let mut records: *mut sys::virDomainStatsRecordPtr = std::ptr::null_mut();
    // SAFETY: the list is of one valid domain, borrowed throughout, and ends in a null; libvirt
    // puts a list of its own making into `records`, which ends in a null as well.
    let outcome = unsafe {
        sys::virDomainListGetStats(
            list.as_mut_ptr(),
            which as c_uint,
            &raw mut records,
            sys::VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT as c_uint,
        )
    };
    let count = usize::try_from(outcome).map_err(|_| Error::last_error())?;
    let mut counters = Counters::default();
    for record in 0..count {
        // SAFETY: libvirt says that there are so many records, each with so many parameters; both
        // stay until the list is freed below. Which member of a value is set its type tells.
        unsafe {
            let record = &**records.add(record);
            for number in 0..usize::try_from(record.nparams).unwrap_or(0) {
                counters.take(&*record.params.add(number));
            }
        }
    }
    if !records.is_null() {
        // SAFETY: libvirt's own list, freed once; nothing of it is kept.
        unsafe { sys::virDomainStatsRecordListFree(records) };
    }
    Ok(counters)
}

/// What libvirt counts of one domain, by its names.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) numbers: HashMap<String, u64>,
    pub(super) names: HashMap<String, String>,
}

impl Counters {
    /// Copies one parameter.
    ///
    /// # Safety
    ///
    /// Its type says which member of its value is set, and its texts end in a zero.
    unsafe fn take(&mut self, parameter: &sys::virTypedParameter) {
        // SAFETY: the caller's promise.
        let field = unsafe { CStr::from_ptr(parameter.field.as_ptr()) }.to_string_lossy();
        // SAFETY: as above, for each member.
        let number = unsafe {
            match parameter.type_ as u32 {
                sys::VIR_TYPED_PARAM_INT => u64::try_from(parameter.value.i).ok(),
                sys::VIR_TYPED_PARAM_UINT => Some(u64::from(parameter.value.ui)),
                sys::VIR_TYPED_PARAM_LLONG => u64::try_from(parameter.value.l).ok(),
                sys::VIR_TYPED_PARAM_ULLONG => Some(parameter.value.ul),
                _ => None,
            }
        };
        if let Some(number) = number {
            self.numbers.insert(field.into_owned(), number);
        } else if parameter.type_ as u32 == sys::VIR_TYPED_PARAM_STRING && field.ends_with(".name")
        {
            // SAFETY: as above.
            let text = unsafe { parameter.value.s };
            if !text.is_null() {
                // SAFETY: as above.
                let text = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
                self.names.insert(field.into_owned(), text);
            }
        }
    }
}

/// Subscriptions to the events of all domains, for as long as it lives.
pub(super) struct Subscriptions {
    connection: Arc<Handle>,
    ids: Vec<c_int>,
}

impl Subscriptions {
    /// Subscribes; `sink` gets the events of every domain on the connection.
    pub(super) fn subscribe(connection: Arc<Handle>, sink: &EventSink) -> Result<Self, Error> {
        let mut subscribed = Self { connection, ids: Vec::new() };
        // SAFETY: libvirt's generic callback type stands for all; each event's documented
        // signature is the one of the function given for it here.
        let callbacks: [(sys::virDomainEventID, sys::virConnectDomainEventGenericCallback); 5] = unsafe {
            [
                (
                    sys::VIR_DOMAIN_EVENT_ID_LIFECYCLE,
                    Some(std::mem::transmute::<LifecycleCallback, GenericCallback>(on_lifecycle)),
                ),
                (sys::VIR_DOMAIN_EVENT_ID_REBOOT, Some(on_reboot)),
                (
                    sys::VIR_DOMAIN_EVENT_ID_AGENT_LIFECYCLE,
                    Some(std::mem::transmute::<AgentCallback, GenericCallback>(on_agent)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVED,
                    Some(std::mem::transmute::<DeviceCallback, GenericCallback>(on_removed)),
                ),
                (
                    sys::VIR_DOMAIN_EVENT_ID_DEVICE_REMOVAL_FAILED,
                    Some(std::mem::transmute::<DeviceCallback, GenericCallback>(on_kept)),
                ),
            ]
        };
        for (event, callback) in callbacks {
            let opaque = Box::into_raw(Box::new(Arc::clone(sink)));
            // SAFETY: the connection is valid while borrowed, a null domain means all of them,
            // and `opaque` is owned by libvirt from here on, which frees it by `free_sink`.
            let id = unsafe {
                sys::virConnectDomainEventRegisterAny(
                    subscribed.connection.connect().as_ptr(),
                    std::ptr::null_mut(),
                    event as c_int,
                    callback,
                    opaque.cast(),
                    Some(free_sink),
                )
            };
            if id == -1 {
                let error = Error::last_error();
                // SAFETY: libvirt does not keep, nor free, what it failed to register.
                drop(unsafe { Box::from_raw(opaque) });
                return Err(error);
            }
            subscribed.ids.push(id);
        }
        Ok(subscribed)
    }
}

impl Drop for Subscriptions {
    fn drop(&mut self) {
        for id in &self.ids {
            // SAFETY: the connection is valid while borrowed. On a broken connection the call
            // fails after the local registration, and the sink with it, is gone: nothing leaks.
            unsafe {
                sys::virConnectDomainEventDeregisterAny(self.connection.connect().as_ptr(), *id);
            }
        }
    }
}

/// A notice that a connection broke, for as long as it lives.
pub(super) struct CloseNotice {
    connection: Arc<Handle>,
}

/// Called once, on the event loop's thread.
pub(super) type CloseSink = Box<dyn Fn() + Send + Sync>;

impl CloseNotice {
    /// Calls `sink` when the connection breaks.
    pub(super) fn register(connection: Arc<Handle>, sink: CloseSink) -> Result<Self, Error> {
        let opaque = Box::into_raw(Box::new(sink));
        // SAFETY: the connection is valid while borrowed; `opaque` is libvirt's from here on,
        // which frees it by `free_close_sink`.
        let outcome = unsafe {
            sys::virConnectRegisterCloseCallback(
                connection.connect().as_ptr(),
                Some(on_close),
                opaque.cast(),
                Some(free_close_sink),
            )
        };
        if outcome == -1 {
            let error = Error::last_error();
            // SAFETY: libvirt does not keep, nor free, what it failed to register.
            drop(unsafe { Box::from_raw(opaque) });
            return Err(error);
        }
        Ok(Self { connection })
    }
}

impl Drop for CloseNotice {
    fn drop(&mut self) {
        // SAFETY: the connection is valid while borrowed. The registration holds a reference to
        // it, so without this call it would never be closed.
        unsafe {
            sys::virConnectUnregisterCloseCallback(
                self.connection.connect().as_ptr(),
                Some(on_close),
            );
        }
    }
}

type GenericCallback = unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *mut c_void);
type LifecycleCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void) -> c_int;
type AgentCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, c_int, c_int, *mut c_void);
type DeviceCallback =
    unsafe extern "C" fn(sys::virConnectPtr, sys::virDomainPtr, *const c_char, *mut c_void);

unsafe extern "C" fn on_lifecycle(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    event: c_int,
    detail: c_int,
    opaque: *mut c_void,
) -> c_int {
    let (event, detail) = (event as u32, detail as u32);
    // SAFETY: libvirt passes a valid domain, and the opaque that was registered.
    unsafe { deliver(domain, opaque, |domain| RawEvent::Lifecycle { domain, event, detail }) };
    0
}

unsafe extern "C" fn on_reboot(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe { deliver(domain, opaque, |domain| RawEvent::Reboot { domain }) };
}

unsafe extern "C" fn on_agent(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    state: c_int,
    _reason: c_int,
    opaque: *mut c_void,
) {
    let state = state as u32;
    // SAFETY: as above.
    unsafe { deliver(domain, opaque, |domain| RawEvent::AgentLifecycle { domain, state }) };
}

unsafe extern "C" fn on_removed(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: libvirt passes a text that ends in a zero; the rest as above.
    unsafe {
        let alias = CStr::from_ptr(alias).to_string_lossy().into_owned();
        deliver(domain, opaque, |domain| RawEvent::DeviceRemoved { domain, alias });
    }
}

unsafe extern "C" fn on_kept(
    _: sys::virConnectPtr,
    domain: sys::virDomainPtr,
    alias: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: as above.
    unsafe {
        let alias = CStr::from_ptr(alias).to_string_lossy().into_owned();
        deliver(domain, opaque, |domain| RawEvent::DeviceKept { domain, alias });
    }
}

/// Hands an event to its sink.
///
/// # Safety
///
/// `domain` is a valid domain and `opaque` an `EventSink` given to libvirt by `subscribe`.
unsafe fn deliver(
    domain: sys::virDomainPtr,
    opaque: *mut c_void,
    event: impl FnOnce(Uuid) -> RawEvent,
) {
    let mut uuid = [0u8; sys::VIR_UUID_BUFLEN as usize];
    // SAFETY: the domain is valid, and the buffer has the length libvirt asks for.
    if unsafe { sys::virDomainGetUUID(domain, uuid.as_mut_ptr()) } == -1 {
        return;
    }
    // SAFETY: `opaque` came from `Box::<EventSink>::into_raw`; libvirt frees it only once no
    // callback runs, and we never make a mutable reference of it.
    let sink = unsafe { &*opaque.cast_const().cast::<EventSink>() };
    let event = event(Uuid::from_bytes(uuid));
    if catch_unwind(AssertUnwindSafe(|| sink(event))).is_err() {
        let domain = Uuid::from_bytes(uuid);
        tracing::error!(%domain, "an event was lost: its sink panicked");
    }
}

unsafe extern "C" fn on_close(_: sys::virConnectPtr, _reason: c_int, opaque: *mut c_void) {
    // SAFETY: `opaque` came from `Box::<CloseSink>::into_raw` and is freed after this returns.
    let sink = unsafe { &*opaque.cast_const().cast::<CloseSink>() };
    if catch_unwind(AssertUnwindSafe(sink)).is_err() {
        tracing::error!("a close notice was lost: its sink panicked");
    }
}

unsafe extern "C" fn free_sink(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once, with what `subscribe` gave it.
    let sink = unsafe { Box::from_raw(opaque.cast::<EventSink>()) };
    drop(catch_unwind(AssertUnwindSafe(|| drop(sink))));
}

unsafe extern "C" fn free_close_sink(opaque: *mut c_void) {
    // SAFETY: libvirt calls this once, with what `register` gave it.
    let sink = unsafe { Box::from_raw(opaque.cast::<CloseSink>()) };
    drop(catch_unwind(AssertUnwindSafe(|| drop(sink))));
}
