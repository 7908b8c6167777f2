//! The operator's terminal while it is somebody else's: raw, and restored on every way out.

use std::io::{Stdin, stdin};

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::Cause;

/// A raw terminal; as it was before when this is dropped, by a panic as well.
pub(super) struct Raw {
    stdin: Stdin,
    before: Termios,
}

impl Raw {
    /// Make the terminal on standard input raw.
    pub(super) fn enter() -> Result<Self, Cause> {
        let stdin = stdin();
        let failed = |error: nix::Error| Cause::Local {
            what: "make the terminal raw".to_owned(),
            source: error.into(),
        };
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).map_err(failed)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone away needs no restoring.
        let _ = tcsetattr(&self.stdin, SetArg::TCSADRAIN, &self.before);
    }
}

/// The signals that end a program, so that they end it in order.
pub(super) struct Signals {
    all: [Signal; 3],
}

impl Signals {
    /// Listen from now on.
    pub(super) fn listen() -> Result<Self, Cause> {
        let listen = |kind| {
            signal(kind)
                .map_err(|source| Cause::Local { what: "listen for signals".to_owned(), source })
        };
        let all = [
            listen(SignalKind::terminate())?,
            listen(SignalKind::hangup())?,
            listen(SignalKind::quit())?,
        ];
        Ok(Self { all })
    }

    /// Wait for any of them.
    pub(super) async fn any(&mut self) {
        let [terminate, hangup, quit] = &mut self.all;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            _ = quit.recv() => {}
        }
    }
}
