//! What an NVMe disk tells of its health: page 2 of its log, asked for by a command to its controller.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use nix::libc::{O_NONBLOCK, c_int};
use ostler_protocol::qga::commands::disk::NvmeSmart;

/// Bytes of the page.
const LENGTH: usize = 512;
const GET_LOG_PAGE: u8 = 0x02;
const HEALTH: u32 = 0x02;
/// Events that the page would acknowledge stay unacknowledged: others wait for them.
const RETAIN_EVENTS: u32 = 1 << 15;
/// All of the controller's namespaces.
const ALL: u32 = 0xFFFF_FFFF;
/// Milliseconds for the controller to answer.
const TIMEOUT: u32 = 2000;

/// The kernel's `struct nvme_admin_cmd`.
#[derive(Debug, Default)]
#[repr(C)]
struct AdminCommand {
    opcode: u8,
    flags: u8,
    reserved: u16,
    namespace: u32,
    cdw2: u32,
    cdw3: u32,
    metadata: u64,
    address: u64,
    metadata_length: u32,
    data_length: u32,
    cdw10: u32,
    cdw11: u32,
    cdw12: u32,
    cdw13: u32,
    cdw14: u32,
    cdw15: u32,
    timeout: u32,
    result: u32,
}

nix::ioctl_readwrite!(admin_command, b'N', 0x41, AdminCommand);

/// Asks a disk for its health. It may take as long as the disk hangs.
pub(super) fn ask(node: &str) -> Option<NvmeSmart> {
    let disk = File::options().read(true).custom_flags(O_NONBLOCK).open(node).ok()?;
    let mut page = [0_u8; LENGTH];
    let mut command = AdminCommand {
        opcode: GET_LOG_PAGE,
        namespace: ALL,
        address: u64::try_from(page.as_mut_ptr().expose_provenance()).ok()?,
        data_length: u32::try_from(LENGTH).ok()?,
        cdw10: HEALTH | RETAIN_EVENTS | (u32::try_from(LENGTH / 4 - 1).ok()? << 16),
        timeout: TIMEOUT,
        ..AdminCommand::default()
    };
    if admin(&disk, &mut command)? != 0 {
        return None;
    }
    Some(read(&page))
}

/// The status of the command: 0 is success.
fn admin(disk: &File, command: &mut AdminCommand) -> Option<c_int> {
    #[expect(unsafe_code, reason = "an ioctl; nothing safe wraps it")]
    // SAFETY: the descriptor is open, the structure is the kernel's, and the buffer it names is alive
    // in the caller until after the call and as long as it says.
    let status = unsafe { admin_command(disk.as_raw_fd(), command) };
    status.ok()
}

fn read(page: &[u8; LENGTH]) -> NvmeSmart {
    let byte = |at: usize| i64::from(page.get(at).copied().unwrap_or_default());
    // 128 bits, the lower half first
    let half = |at: usize| {
        page.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    NvmeSmart {
        critical_warning: byte(0),
        temperature: byte(1) | byte(2) << 8,
        available_spare: byte(3),
        available_spare_threshold: byte(4),
        percentage_used: byte(5),
        data_units_read_lo: half(32),
        data_units_read_hi: half(40),
        data_units_written_lo: half(48),
        data_units_written_hi: half(56),
        host_read_commands_lo: half(64),
        host_read_commands_hi: half(72),
        host_write_commands_lo: half(80),
        host_write_commands_hi: half(88),
        controller_busy_time_lo: half(96),
        controller_busy_time_hi: half(104),
        power_cycles_lo: half(112),
        power_cycles_hi: half(120),
        power_on_hours_lo: half(128),
        power_on_hours_hi: half(136),
        unsafe_shutdowns_lo: half(144),
        unsafe_shutdowns_hi: half(152),
        media_errors_lo: half(160),
        media_errors_hi: half(168),
        number_of_error_log_entries_lo: half(176),
        number_of_error_log_entries_hi: half(184),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_is_as_long_as_the_kernels() {
        assert_eq!(size_of::<AdminCommand>(), 72);
    }

    #[test]
    fn the_page_is_read_at_the_specifications_offsets() {
        let mut page = [0; LENGTH];
        page[0] = 4;
        page[1..3].copy_from_slice(&310_u16.to_le_bytes());
        page[5] = 255;
        page[32] = 1;
        page[40] = 2;
        page[176..184].copy_from_slice(&u64::MAX.to_le_bytes());
        let smart = read(&page);
        assert_eq!(
            (smart.critical_warning, smart.temperature, smart.percentage_used),
            (4, 310, 255)
        );
        assert_eq!((smart.data_units_read_lo, smart.data_units_read_hi), (1, 2));
        assert_eq!(smart.number_of_error_log_entries_lo, u64::MAX);
        assert_eq!(smart.number_of_error_log_entries_hi, 0);
    }

    #[test]
    fn what_is_no_nvme_disk_has_none() {
        assert_eq!(ask("/dev/null"), None);
        assert_eq!(ask("/is/not/there"), None);
    }
}
