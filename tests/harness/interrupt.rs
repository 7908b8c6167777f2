//! Ctrl-C and SIGTERM, turned into a returned error, so that the guards on the
//! stack are dropped and clean up.

use tokio::signal::unix::{SignalKind, signal};

use crate::{Error, Result};

/// Carry `work` out unless the user interrupts first.
///
/// # Errors
/// [`Error::Interrupted`] then; `work` and what it holds has been dropped.
pub async fn or_interrupted<T, E: From<Error>>(
    work: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let mut interrupt =
        signal(SignalKind::interrupt()).map_err(Error::io("watching for SIGINT"))?;
    let mut terminate =
        signal(SignalKind::terminate()).map_err(Error::io("watching for SIGTERM"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(Error::io("watching for SIGHUP"))?;
    tokio::select! {
        done = work => done,
        _ = interrupt.recv() => Err(Error::Interrupted.into()),
        _ = terminate.recv() => Err(Error::Interrupted.into()),
        _ = hangup.recv() => Err(Error::Interrupted.into()),
    }
}
