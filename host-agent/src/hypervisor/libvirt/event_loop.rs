//! libvirt's event loop: one thread for the whole process, while any driver needs it.
//!
//! Keepalive, close notices and domain events all arrive on it. It has to be registered before
//! the first connection is opened; a connection made earlier never gets any of them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::thread;
use std::time::Duration;

use virt::event::{self, EventTimeoutWatch};

use super::error::from_libvirt;
use crate::hypervisor::Error;

const STEP: &str = "event loop";

/// The running loop. It stops when the last holder lets go.
pub(super) struct EventLoop {
    stopping: Arc<AtomicBool>,
    /// A timer that never fires by itself: setting it to zero is how the loop is woken.
    wake: EventTimeoutWatch,
    thread: Option<thread::JoinHandle<()>>,
}

/// The loop, if there is one.
static SHARED: Mutex<Weak<EventLoop>> = Mutex::new(Weak::new());
/// Held while a loop runs: one that is stopping ends before the next begins.
static RUNNING: Mutex<()> = Mutex::new(());

impl EventLoop {
    /// The process's loop, started if it does not run.
    pub(super) fn shared() -> Result<Arc<Self>, Error> {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = shared.upgrade() {
            return Ok(running);
        }
        register()?;
        let started = Arc::new(Self::start()?);
        *shared = Arc::downgrade(&started);
        Ok(started)
    }

    fn start() -> Result<Self, Error> {
        let wake = event::event_add_timeout(-1, |_, _| {}, std::ptr::null_mut())
            .map_err(|error| from_libvirt(STEP, None, &error))?;
        let stopping = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&stopping);
        let thread = thread::Builder::new()
            .name("libvirt-events".to_owned())
            .spawn(move || run(&stop))
            .map_err(|error| Error::Failed {
                step: STEP,
                domain: None,
                message: error.to_string(),
            })?;
        Ok(Self { stopping, wake, thread: Some(thread) })
    }
}

impl Drop for EventLoop {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        self.wake.event_update_timeout(0);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("libvirt's event loop panicked");
        }
        if let Err(error) = self.wake.event_remove_timeout() {
            tracing::debug!(%error, "libvirt's event loop keeps its timer");
        }
    }
}

/// Once in the life of the process; also silences libvirt, which prints every error otherwise.
fn register() -> Result<(), Error> {
    static REGISTERED: OnceLock<Result<(), Error>> = OnceLock::new();
    REGISTERED
        .get_or_init(|| {
            virt::error::clear_error_callback();
            event::event_register_default_impl().map_err(|error| from_libvirt(STEP, None, &error))
        })
        .clone()
}

fn run(stopping: &AtomicBool) {
    let _alone = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    while !stopping.load(Ordering::Acquire) {
        if let Err(error) = event::event_run_default_impl() {
            tracing::warn!(%error, "libvirt's event loop stumbled");
            thread::park_timeout(Duration::from_millis(100));
        }
    }
}
