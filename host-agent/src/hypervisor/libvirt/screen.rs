//! The password of a running domain's screen.

use ostler_protocol::rpc::values::{InstanceId, Secret, Timestamp};
use virt::sys;
use zeroize::Zeroizing;

use super::connection::{Libvirt, Traffic};
use super::domain::{CHANGE, lookup, told};
use super::error::from_xml;
use super::inspect::{refused, running};
use super::xml;
use crate::hypervisor::Error;

/// Replaces the password. Its server must have been started with one, for QEMU cannot begin to
/// ask for passwords later.
pub(super) async fn set_password(
    driver: &Libvirt,
    id: InstanceId,
    password: &Secret,
    until: Timestamp,
) -> Result<(), Error> {
    const STEP: &str = "set the screen's password";
    let password = Zeroizing::new(password.expose().to_owned());
    let until = utc(until);
    driver
        .call(Traffic::Control, Some(id), STEP, CHANGE, move |connect| {
            let domain = lookup(connect, STEP, id)?;
            let xml = running(STEP, id, &domain)?;
            let graphics = xml::live::graphics(&xml, &password, &until)
                .map_err(|error| from_xml(STEP, Some(id), &error))?
                .ok_or_else(|| refused(STEP, id, "the domain has no screen"))?;
            let graphics = Zeroizing::new(graphics);
            domain
                .update_device_flags(&graphics, sys::VIR_DOMAIN_DEVICE_MODIFY_LIVE)
                .map_err(told(STEP, id))
        })
        .await
}

/// A time as libvirt's XML has it: UTC, whole seconds.
fn utc(time: Timestamp) -> String {
    let seconds = time.0 / 1000;
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Eras of 400 years of the Gregorian calendar, each begun on a 1 March.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let march = (5 * day + 2) / 153;
    let date = day - (153 * march + 2) / 5 + 1;
    let month = if march < 10 { march + 3 } else { march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_in_utc() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (1_795_359_541, "2026-11-22T14:59:01"),
            (4_107_542_399, "2100-02-28T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(utc(Timestamp(seconds * 1000 + 999)), text);
        }
    }
}
