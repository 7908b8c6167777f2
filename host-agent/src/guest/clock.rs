//! The clock of a guest: read beside the node's, and set by it.
//!
//! A guest that was paused, suspended or restored has the time of before; nothing in it may notice.

use std::time::Instant as Stopwatch;

use ostler_protocol::qga::Command as _;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::time::{GuestGetTime, GuestSetTime, SetTimeArguments};
use ostler_protocol::rpc::guest::work::Clock;
use ostler_protocol::rpc::values::{InstanceId, Timestamp};

use super::Guests;
use super::error::Error;
use super::inquiry::Inquiry;
use crate::hypervisor::Hypervisor;

/// How far a clock may be off after it was set, and what was asked for is done, milliseconds.
const NEAR: u64 = 1000;
/// Nanoseconds of a millisecond.
const NANOS: i64 = 1_000_000;

impl<H: Hypervisor> Guests<H> {
    /// The guest's clock beside the node's.
    ///
    /// # Errors
    /// If it is not told.
    pub async fn clock(&self, id: InstanceId) -> Result<Clock, Error> {
        let entry = self.known(id)?;
        read(&self.inquiry(&entry)?).await
    }

    /// Sets the guest's clock by the node's, and its hardware clock after it.
    ///
    /// # Errors
    /// If the guest refuses or does not answer.
    pub async fn sync_time(&self, id: InstanceId) -> Result<(), Error> {
        let entry = self.known(id)?;
        let inquiry = self.inquiry(&entry)?;
        let now = i64::try_from(Timestamp::now().0).unwrap_or(i64::MAX).saturating_mul(NANOS);
        let arguments = SetTimeArguments { time: Some(now) };
        match inquiry.ask::<GuestSetTime>(&arguments, &[]).await {
            Ok(_) => Ok(()),
            // stock agents fail so when the clock is set but the hardware's cannot be
            Err(refused @ Error::Refused { .. }) => match read(&inquiry).await {
                Ok(clock) if clock.offset.unsigned_abs() <= NEAR + clock.uncertainty => Ok(()),
                Ok(_) | Err(_) => Err(refused),
            },
            Err(error) => Err(error),
        }
    }
}

async fn read<H: Hypervisor>(inquiry: &Inquiry<'_, H>) -> Result<Clock, Error> {
    let (asked, before) = (Stopwatch::now(), Timestamp::now());
    let told = inquiry.ask::<GuestGetTime>(&Nothing {}, &[]).await?;
    let uncertainty = asked.elapsed().as_millis() as u64 / 2;
    if told < 0 {
        return Err(Error::Garbled { command: GuestGetTime::NAME });
    }
    let time = told / NANOS;
    let node = i64::try_from(before.0.saturating_add(uncertainty)).unwrap_or(i64::MAX);
    Ok(Clock { time, offset: time.saturating_sub(node), uncertainty })
}
