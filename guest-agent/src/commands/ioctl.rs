//! The device calls that no library wraps: file systems are frozen and trimmed, the clock on the board
//! is read and set.
//!
//! Each may block for as long as a disk does, so each belongs on a thread.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use nix::libc::c_int;

/// `struct fstrim_range`: where, how much, and the shortest stretch that counts.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct TrimRange {
    /// The first byte.
    pub start: u64,
    /// How many bytes; the kernel writes how many were trimmed.
    pub length: u64,
    /// The shortest stretch; the kernel writes what it made of it.
    pub minimum: u64,
}

/// `struct rtc_time`: the fields of `struct tm`, of which a clock on the board keeps the first six.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct RtcTime {
    /// 0 to 59.
    pub second: c_int,
    /// 0 to 59.
    pub minute: c_int,
    /// 0 to 23.
    pub hour: c_int,
    /// 1 to 31.
    pub day: c_int,
    /// 0 to 11.
    pub month: c_int,
    /// Since 1900.
    pub year: c_int,
    /// Weekday, day of the year, summer time: not kept.
    pub unused: [c_int; 3],
}

mod raw {
    use super::{RtcTime, TrimRange, c_int};

    nix::ioctl_readwrite!(freeze, b'X', 119, c_int);
    nix::ioctl_readwrite!(thaw, b'X', 120, c_int);
    nix::ioctl_readwrite!(trim, b'X', 121, TrimRange);
    nix::ioctl_none!(update_interrupt_on, b'p', 0x03);
    nix::ioctl_none!(update_interrupt_off, b'p', 0x04);
    nix::ioctl_read!(rtc_read, b'p', 0x09, RtcTime);
    nix::ioctl_write_ptr!(rtc_set, b'p', 0x0a, RtcTime);
}

/// Freezes the file system that `file` lies on: writers wait from now on.
pub fn freeze(file: &File) -> nix::Result<()> {
    let mut unused = 0;
    #[expect(unsafe_code, reason = "a device call")]
    // SAFETY: the descriptor is open, and the kernel does not look at the argument.
    unsafe { raw::freeze(file.as_raw_fd(), &raw mut unused) }.map(drop)
}

/// Undoes one freeze of the file system that `file` lies on.
pub fn thaw(file: &File) -> nix::Result<()> {
    let mut unused = 0;
    #[expect(unsafe_code, reason = "a device call")]
    // SAFETY: the descriptor is open, and the kernel does not look at the argument.
    unsafe { raw::thaw(file.as_raw_fd(), &raw mut unused) }.map(drop)
}

/// Tells the disk which blocks of the file system that `file` lies on are not in use.
pub fn trim(file: &File, range: &mut TrimRange) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "a device call")]
    // SAFETY: the descriptor is open, and the range has the layout the kernel reads and writes.
    unsafe { raw::trim(file.as_raw_fd(), range) }.map(drop)
}

/// Asks the clock on the board to make `clock` readable at its next second, or no longer.
pub fn tick(clock: &File, on: bool) -> nix::Result<()> {
    #[expect(unsafe_code, reason = "a device call")]
    // SAFETY: the descriptor is open, and neither call has an argument.
    unsafe {
        if on {
            raw::update_interrupt_on(clock.as_raw_fd())
        } else {
            raw::update_interrupt_off(clock.as_raw_fd())
        }
    }
    .map(drop)
}

/// What the clock on the board says.
pub fn rtc_read(clock: &File) -> io::Result<RtcTime> {
    let mut time = RtcTime::default();
    #[expect(unsafe_code, reason = "a device call")]
    // SAFETY: the descriptor is open, and the time has the layout the kernel writes.
    unsafe { raw::rtc_read(clock.as_raw_fd(), &raw mut time) }?;
    Ok(time)
}

/// Sets the clock on the board.
pub fn rtc_set(clock: &File, time: &RtcTime) -> io::Result<()> {
    #[expect(unsafe_code, reason = "a device call")]
    // SAFETY: the descriptor is open, and the time has the layout the kernel reads.
    unsafe { raw::rtc_set(clock.as_raw_fd(), time) }?;
    Ok(())
}
