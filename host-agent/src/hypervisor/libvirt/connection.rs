//! One connection to libvirt: the only place that opens one.

use std::sync::{Arc, Mutex, PoisonError};

use virt::connect::Connect;

use super::error::is_unsupported;
use super::ffi::{CloseNotice, CloseSink, EventSink, Subscriptions};
use super::handle::Handle;

/// Seconds between keepalive messages, and how many may go unanswered: a libvirtd that is stopped
/// or wedged is noticed in twenty seconds, and every call that waits for it is answered.
const KEEPALIVE: (i32, u32) = (5, 3);

/// An open connection, with what is registered on it.
pub(super) struct Connection {
    connect: Arc<Handle>,
    registered: Mutex<Registered>,
}

/// Dropped by [`Connection::retire`], before the last reference to the connection.
#[derive(Default)]
struct Registered {
    _subscriptions: Option<Subscriptions>,
    _notice: Option<CloseNotice>,
}

impl Connection {
    /// Opens it; blocks while libvirtd does not answer. `lost` is told when it closes by itself.
    pub(super) fn open(
        uri: &str,
        lost: CloseSink,
        sink: Option<&EventSink>,
    ) -> Result<Self, String> {
        let told = |error: virt::error::Error| error.message().to_owned();
        #[expect(clippy::disallowed_methods, reason = "this is the home of connections")]
        let connect = Connect::open(Some(uri)).map_err(told)?;
        let connect = Arc::new(Handle::new(connect));
        let (interval, count) = KEEPALIVE;
        optional(connect.connect().set_keep_alive(interval, count)).map_err(told)?;
        let notice = CloseNotice::register(Arc::clone(&connect), lost);
        let registered = Registered {
            _notice: optional(notice).map_err(told)?,
            _subscriptions: sink
                .map(|sink| Subscriptions::subscribe(Arc::clone(&connect), sink))
                .transpose()
                .map_err(told)?,
        };
        Ok(Self { connect, registered: Mutex::new(registered) })
    }

    /// The handle calls are made on.
    pub(super) fn connect(&self) -> &Connect {
        self.connect.connect()
    }

    /// Whether libvirtd is still at the other end. Asks nobody: the socket or keepalive knows.
    pub(super) fn is_alive(&self) -> bool {
        self.connect().is_alive().unwrap_or(false)
    }

    /// Takes back what is registered on it, each of which holds the connection open. It closes
    /// with its last user.
    pub(super) fn retire(&self) {
        let mut registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
        drop(std::mem::take(&mut *registered));
    }
}

/// The test driver has neither keepalive nor close notices, and needs none.
fn optional<T>(outcome: Result<T, virt::error::Error>) -> Result<Option<T>, virt::error::Error> {
    match outcome {
        Ok(value) => Ok(Some(value)),
        Err(error) if is_unsupported(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
