//! The guest's clock, and the one on its board.
//!
//! The kernel's clock is what counts. The one on the board is set after it, so that the guest starts
//! with the right time; a guest without one loses nothing by that. It keeps whole seconds, of UTC or of
//! the guest's own time zone as the third line of `/etc/adjtime` says, and is set and read at the
//! moment they change.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, SystemTimeError, UNIX_EPOCH};

use nix::errno::Errno;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use ostler_protocol::qga::commands::time::{GuestGetTime, GuestSetTime, SetTimeArguments};
use ostler_protocol::qga::commands::{Done, Nothing};

use super::ioctl::{self, RtcTime};
use super::{Agent, CommandError, Handle};

const CLOCKS: [&str; 3] = ["/dev/rtc", "/dev/rtc0", "/dev/misc/rtc"];
const ADJTIME: &str = "/etc/adjtime";
/// For the clock on the board to answer: a second until its next, and some.
const DEADLINE: Duration = Duration::from_secs(5);
/// So long it is waited for its next second.
const TICK: u16 = 1500;
/// 2070: stock agents take nothing later.
const END: i64 = 3_155_760_000;

/// Why the clock was not told or set.
#[derive(Debug, thiserror::Error)]
pub enum TimeError {
    /// The clock is before 1970.
    #[error("the clock is before 1970")]
    Early(#[source] SystemTimeError),
    /// The clock is beyond what the protocol can tell.
    #[error("the clock is beyond what can be told")]
    Beyond,
    /// A time out of bounds.
    #[error("Invalid time")]
    Invalid,
    /// The kernel refuses it.
    #[error("Failed to set time to guest")]
    Set(#[source] Errno),
    /// The clock on the board, which is the only source of time, is not there.
    #[error("cannot open the hardware clock")]
    Open(#[source] io::Error),
    /// It cannot be read.
    #[error("cannot read the hardware clock")]
    Read(#[source] io::Error),
    /// What it says is no time.
    #[error("the hardware clock says no valid time")]
    Nonsense,
}

/// What keeps the guest from having a right hardware clock.
#[derive(Debug, thiserror::Error)]
enum RtcError {
    #[error("cannot open the hardware clock")]
    Open(#[source] io::Error),
    #[error("the hardware clock cannot hold the time")]
    Form,
    #[error("cannot set the hardware clock")]
    Set(#[source] io::Error),
}

impl Handle for GuestGetTime {
    async fn handle(_: Rc<Agent>, _: Nothing) -> Result<i64, CommandError> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_err(TimeError::Early)?;
        Ok(i64::try_from(now.as_nanos()).map_err(|_| TimeError::Beyond)?)
    }
}

impl Handle for GuestSetTime {
    async fn handle(agent: Rc<Agent>, arguments: SetTimeArguments) -> Result<Done, CommandError> {
        match arguments.time {
            None => {
                let seconds = agent.workers.run("the hardware clock", DEADLINE, read).await??;
                set(TimeSpec::new(seconds, 0))?;
            }
            Some(nanoseconds) => {
                set(checked(nanoseconds)?)?;
                // the hardware clock has whole seconds: it is set when one begins
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                let rest = Duration::from_secs(1) - Duration::from_nanos(now.subsec_nanos().into());
                tokio::time::sleep(rest).await;
                let seconds = (now + rest).as_secs().cast_signed();
                let written = agent
                    .workers
                    .run("setting the hardware clock", DEADLINE, move || write(seconds))
                    .await;
                // the guest has the time that was asked for
                match written {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        agent.log.error(format_args!("{}", crate::log::chain(&error)));
                    }
                    Err(error) => agent.log.error(format_args!("{error}")),
                }
            }
        }
        Ok(Done {})
    }
}

fn set(time: TimeSpec) -> Result<(), TimeError> {
    clock_settime(ClockId::CLOCK_REALTIME, time).map_err(TimeError::Set)
}

/// A time that may be set: from 1970 until 2070.
fn checked(nanoseconds: i64) -> Result<TimeSpec, TimeError> {
    let seconds = nanoseconds.div_euclid(1_000_000_000);
    if !(0..END).contains(&seconds) {
        return Err(TimeError::Invalid);
    }
    Ok(TimeSpec::new(seconds, nanoseconds.rem_euclid(1_000_000_000)))
}

/// What the hardware clock counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Zone {
    Utc,
    Local,
}

fn zone(adjtime: &str) -> Zone {
    match adjtime.lines().nth(2).map(str::trim) {
        Some("LOCAL") => Zone::Local,
        Some(_) | None => Zone::Utc,
    }
}

fn current_zone() -> Zone {
    fs::read_to_string(ADJTIME).map_or(Zone::Utc, |text| zone(&text))
}

fn open(write: bool) -> io::Result<File> {
    let mut failure = io::Error::from(io::ErrorKind::NotFound);
    for path in CLOCKS.map(Path::new) {
        match OpenOptions::new().read(true).write(write).open(path) {
            Ok(clock) => return Ok(clock),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// On a thread: the time of the hardware clock, at the beginning of one of its seconds.
fn read() -> Result<i64, TimeError> {
    let clock = open(false).map_err(TimeError::Open)?;
    // where it cannot tell its next second, the time is up to a second late
    if ioctl::tick(&clock, true).is_ok() {
        let mut waiting = [PollFd::new(clock.as_fd(), PollFlags::POLLIN)];
        let _ = nix::poll::poll(&mut waiting, PollTimeout::from(TICK));
        let _ = ioctl::tick(&clock, false);
    }
    let time = ioctl::rtc_read(&clock).map_err(TimeError::Read)?;
    let seconds = match current_zone() {
        Zone::Utc => from_utc(&time),
        Zone::Local => from_local(&time),
    };
    seconds.filter(|seconds| (0..END).contains(seconds)).ok_or(TimeError::Nonsense)
}

/// On a thread: sets the hardware clock.
fn write(seconds: i64) -> Result<(), RtcError> {
    let clock = open(true).or_else(|_| open(false)).map_err(RtcError::Open)?;
    let time = match current_zone() {
        Zone::Utc => to_utc(seconds),
        Zone::Local => to_local(seconds),
    };
    ioctl::rtc_set(&clock, &time.ok_or(RtcError::Form)?).map_err(RtcError::Set)
}

fn to_utc(seconds: i64) -> Option<RtcTime> {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // a calendar of 400 years that begin in March has its leap days at the end
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + month / 10, (month + 2) % 12);
    let field = |value: i64| i32::try_from(value).ok();
    Some(RtcTime {
        second: field(second % 60)?,
        minute: field(second / 60 % 60)?,
        hour: field(second / 3_600)?,
        day: field(day)?,
        month: field(month)?,
        year: field(year - 1_900)?,
        ..RtcTime::default()
    })
}

fn from_utc(time: &RtcTime) -> Option<i64> {
    let in_range = (0..12).contains(&time.month)
        && (1..32).contains(&time.day)
        && (0..24).contains(&time.hour)
        && (0..60).contains(&time.minute)
        && (0..60).contains(&time.second);
    if !in_range {
        return None;
    }
    let month = (i64::from(time.month) + 10) % 12;
    let year = i64::from(time.year) + 1_900 - month / 10;
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day =
        365 * of_era + of_era / 4 - of_era / 100 + (153 * month + 2) / 5 + i64::from(time.day) - 1;
    let days = era * 146_097 + day - 719_468;
    let second =
        i64::from(time.hour) * 3_600 + i64::from(time.minute) * 60 + i64::from(time.second);
    Some(days * 86_400 + second)
}

fn to_local(seconds: i64) -> Option<RtcTime> {
    #[expect(unsafe_code, reason = "the time zone is the C library's to know")]
    // SAFETY: all of the fields may be zero.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    #[expect(unsafe_code, reason = "the time zone is the C library's to know")]
    // SAFETY: both are valid for the call, which keeps neither.
    let known = unsafe { libc::localtime_r(&raw const seconds, &raw mut fields) };
    (!known.is_null()).then_some(RtcTime {
        second: fields.tm_sec,
        minute: fields.tm_min,
        hour: fields.tm_hour,
        day: fields.tm_mday,
        month: fields.tm_mon,
        year: fields.tm_year,
        ..RtcTime::default()
    })
}

fn from_local(time: &RtcTime) -> Option<i64> {
    #[expect(unsafe_code, reason = "the time zone is the C library's to know")]
    // SAFETY: all of the fields may be zero.
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    fields.tm_sec = time.second;
    fields.tm_min = time.minute;
    fields.tm_hour = time.hour;
    fields.tm_mday = time.day;
    fields.tm_mon = time.month;
    fields.tm_year = time.year;
    fields.tm_isdst = -1;
    #[expect(unsafe_code, reason = "the time zone is the C library's to know")]
    // SAFETY: it is valid for the call, which does not keep it.
    let seconds = unsafe { libc::mktime(&raw mut fields) };
    (seconds != -1).then_some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_from_1970_until_2070_may_be_set() {
        for (nanoseconds, expected) in [
            (0, Some((0, 0))),
            (1_500_000_000_123_456_789, Some((1_500_000_000, 123_456_789))),
            (END * 1_000_000_000 - 1, Some((END - 1, 999_999_999))),
            (END * 1_000_000_000, None),
            (-1, None),
            (i64::MIN, None),
            (i64::MAX, None),
        ] {
            let time = checked(nanoseconds).ok().map(|time| (time.tv_sec(), time.tv_nsec()));
            assert_eq!(time, expected, "{nanoseconds}");
        }
    }

    #[test]
    fn the_third_line_tells_what_the_hardware_clock_counts() {
        assert_eq!(zone("0.0 0 0.0\n0\nLOCAL\n"), Zone::Local);
        assert_eq!(zone("0.0 0 0.0\n0\nUTC\n"), Zone::Utc);
        assert_eq!(zone("LOCAL\n"), Zone::Utc);
        assert_eq!(zone(""), Zone::Utc);
    }

    #[test]
    fn seconds_are_dates() {
        let fields = |seconds| {
            let time = to_utc(seconds).unwrap();
            (time.year + 1_900, time.month + 1, time.day, time.hour, time.minute, time.second)
        };
        assert_eq!(fields(0), (1970, 1, 1, 0, 0, 0));
        assert_eq!(fields(951_782_399), (2000, 2, 28, 23, 59, 59));
        assert_eq!(fields(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(fields(1_709_251_199), (2024, 2, 29, 23, 59, 59));
        assert_eq!(fields(END), (2070, 1, 1, 0, 0, 0));
    }

    #[test]
    fn a_clock_without_battery_says_no_time() {
        assert_eq!(from_utc(&RtcTime::default()), None);
        assert_eq!(from_utc(&RtcTime { day: 1, month: 12, ..RtcTime::default() }), None);
    }

    proptest! {
        #[test]
        fn a_date_is_read_back(seconds in 0..END) {
            prop_assert_eq!(from_utc(&to_utc(seconds).unwrap()), Some(seconds));
        }

        /// An hour that a summer time repeats may be read back as the other.
        #[test]
        fn a_local_date_is_read_back(seconds in 0..END) {
            let back = from_local(&to_local(seconds).unwrap()).unwrap();
            prop_assert!((back - seconds).abs() <= 7_200, "{} {}", back, seconds);
        }
    }
}
