//! Ctrl-C as an answer instead of the program's death: an accepted operation goes on, and the
//! operator must be told so.
//!
//! Until somebody heeds it, Ctrl-C ends the program as usual, so that reading a password from
//! standard input, which cannot be cut short, can be.

use std::future::Future;

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Cause;

/// Listens for Ctrl-C.
#[derive(Default)]
pub(crate) struct Interrupt {
    signal: Option<Signal>,
}

impl Interrupt {
    /// Listen from now on, if not yet.
    pub(crate) fn heed(&mut self) -> Result<(), Cause> {
        if self.signal.is_none() {
            let listening = signal(SignalKind::interrupt()).map_err(|source| Cause::Local {
                what: "listen for interrupts".to_owned(),
                source,
            })?;
            self.signal = Some(listening);
        }
        Ok(())
    }

    /// Do something, or nothing if interrupted before it is done.
    pub(crate) async fn during<F: Future>(&mut self, work: F) -> Option<F::Output> {
        let Some(signal) = &mut self.signal else { return Some(work.await) };
        tokio::select! {
            biased;
            _ = signal.recv() => None,
            output = work => Some(output),
        }
    }
}
