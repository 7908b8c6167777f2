//! Freezing the file systems of a guest for a snapshot, and thawing them whatever happens.
//!
//! ```text
//!   freeze --- answered ----------------------> frozen ---> thaw, again until it is answered
//!      |  no answer in time, or nobody waits                  ^
//!      +------------------------------------------------------+
//! ```
//!
//! A guest that is left frozen hangs, so a freeze whose outcome is not known is followed by a thaw. Our
//! own agent has a lease besides: it thaws by itself, and says so. A stock agent has none; all there is
//! for it is to go on asking.

use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::qga::Command as _;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::freeze::{
    FreezeArguments, GuestFsfreezeFreeze, GuestFsfreezeThaw, LONGEST_LEASE,
};
use ostler_protocol::qga::events::capability;
use ostler_protocol::rpc::guest::Transport;
use ostler_protocol::rpc::values::{InstanceId, Timestamp};
use tokio::time::{Instant, sleep, timeout_at};

use super::Guests;
use super::entry::Entry;
use super::error::Error;
use super::inquiry::Inquiry;
use crate::hypervisor::Hypervisor;

/// First pause before a thaw is asked for again; it doubles.
const PAUSE: Duration = Duration::from_millis(100);
/// The longest such pause.
const PAUSE_MOST: Duration = Duration::from_secs(2);

impl<H: Hypervisor> Guests<H> {
    /// Stops the guest from writing to its disks; how many file systems are frozen. With our own
    /// agent, they are thawed by themselves when `lease` is over: then [`Self::thawed_since`] says so,
    /// and the next [`Self::thaw`] is [`Error::Refused`].
    ///
    /// # Errors
    /// If it fails, is not answered in time (three times what an answer may take), or the caller does
    /// not wait for it, the guest was asked to thaw; after a time without an answer to that, it may
    /// still be frozen.
    pub async fn freeze(&self, id: InstanceId, lease: Duration) -> Result<u64, Error> {
        let entry = self.known(id)?;
        let over = entry.transport()?;
        let leases =
            over == Transport::Ostler && entry.knowledge().capable(capability::FREEZE_LEASE);
        let seconds =
            i64::try_from(lease.as_secs()).unwrap_or(LONGEST_LEASE).clamp(1, LONGEST_LEASE);
        let arguments = FreezeArguments { lease: leases.then_some(seconds) };
        let (guests, at, deadline) = (self.clone(), Arc::clone(&entry), self.patience());
        let (tell, told) = tokio::sync::oneshot::channel();
        let work = async move {
            let inquiry = Inquiry { deadline, ..guests.over(&at, over) };
            let outcome = inquiry.ask::<GuestFsfreezeFreeze>(&arguments, &[]).await;
            let outcome = outcome.and_then(|count| counted(GuestFsfreezeFreeze::NAME, count));
            let unsure = outcome.as_ref().is_err_and(|error| {
                // a freeze that failed has thawed what it froze
                error.may_have_happened()
            });
            let frozen = outcome.is_ok();
            let wanted = tell.send(outcome).is_ok();
            if unsure || (frozen && !wanted) {
                tracing::warn!("the guest may be frozen for nobody: thawing it");
                if let Err(error) = guests.thaw_entry(&at).await {
                    tracing::error!(%error, "the guest may still be frozen");
                }
            }
        };
        let span = tracing::info_span!("freeze", instance = %id);
        self.0.tasks.spawn(tracing::Instrument::instrument(work, span));
        told.await.unwrap_or(Err(Error::NotRunning { instance: id }))
    }

    /// Lets the guest write again, asking until it answers; how many file systems were thawed. None,
    /// if an earlier try did it whose answer was lost.
    ///
    /// # Errors
    /// [`Error::Refused`] also if the freeze had ended by itself, once. The rest, if there was no
    /// answer for three times what an answer may take, or the instance is off.
    pub async fn thaw(&self, id: InstanceId) -> Result<u64, Error> {
        let entry = self.known(id)?;
        self.thaw_entry(&entry).await
    }

    /// Whether the guest said at `since` or later that a freeze had ended by itself. A guest can only
    /// say so on Ostler's own port while it is open: that it did not say so is no proof, an answered
    /// [`Self::thaw`] is.
    pub fn thawed_since(&self, id: InstanceId, since: Timestamp) -> bool {
        let last = self.entry(id).and_then(|entry| entry.last_thawed());
        last.is_some_and(|last| last >= since)
    }

    async fn thaw_entry(&self, entry: &Entry) -> Result<u64, Error> {
        let deadline = self.patience();
        let mut pause = PAUSE;
        loop {
            let error = match self.thaw_once(entry, deadline).await {
                Ok(count) => return Ok(count),
                Err(error) => error,
            };
            let again = error.is_retryable() || matches!(error, Error::Garbled { .. });
            if !again || Instant::now() + pause >= deadline {
                return Err(error);
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MOST);
        }
    }

    async fn thaw_once(&self, entry: &Entry, deadline: Instant) -> Result<u64, Error> {
        let over = match entry.transport() {
            Ok(over) => over,
            Err(silence) => {
                // it may be heard again: the session goes on asking for signs of life
                let mut standing = entry.standing();
                let heard = standing.wait_for(|now| now.is_ready() || now.is_off());
                if timeout_at(deadline, heard).await.is_err() {
                    return Err(silence);
                }
                entry.transport()?
            }
        };
        let inquiry = self.over(entry, over);
        let inquiry = Inquiry { deadline: inquiry.deadline.min(deadline), ..inquiry };
        let count = inquiry.ask::<GuestFsfreezeThaw>(&Nothing {}, &[]).await?;
        counted(GuestFsfreezeThaw::NAME, count)
    }
}

fn counted(command: &'static str, count: i64) -> Result<u64, Error> {
    u64::try_from(count).map_err(|_| Error::Garbled { command })
}
