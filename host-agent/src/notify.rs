//! Telling systemd: ready, reloading, alive, stopping. Without systemd all of it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;

/// The agent is ready again soon: it reads its configuration.
pub(crate) fn reloading() {
    let told = NotifyState::monotonic_usec_now()
        .and_then(|now| sd_notify::notify(&[NotifyState::Reloading, now]));
    if let Err(error) = told {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// The agent is ready, or stopping.
pub(crate) fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// Tell systemd's watchdog that the agent lives, twice as often as it asks, until `shutdown`.
/// It is told from the runtime that serves requests: if that hangs, so does this.
pub(crate) async fn watchdog(shutdown: CancellationToken) {
    let Some(timeout) = sd_notify::watchdog_enabled() else { return };
    let mut tick = tokio::time::interval((timeout / 2).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            _ = tick.tick() => tell(NotifyState::Watchdog),
            () = shutdown.cancelled() => return,
        }
    }
}
