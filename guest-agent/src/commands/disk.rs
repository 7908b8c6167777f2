//! Where a block device is plugged in.
//!
//! The path of a device in the kernel's tree names all it hangs from, for instance
//! `/devices/pci0000:00/0000:00:02.0/0000:04:00.0/virtio3/block/vda/vda1`. Reading that path is pure; the
//! driver of the controller and the order of its hosts are looked up beside it. What is built on other
//! devices (LVM, RAID, encryption) is followed down to the disks.

use std::fs;
use std::path::{Path, PathBuf};

use ostler_protocol::qga::commands::filesystem::{
    CcwAddress, DiskAddress, DiskBusType, PciAddress,
};

/// So many layers of devices on devices, and no more.
const LAYERS: usize = 8;

/// The place of a block device in the kernel's tree.
pub(super) fn device(major: u64, minor: u64) -> Option<PathBuf> {
    fs::canonicalize(format!("/sys/dev/block/{major}:{minor}")).ok()
}

/// The disks a device lies on.
pub(super) fn below(device: &Path) -> Vec<DiskAddress> {
    let mut disks = Vec::new();
    collect(device, LAYERS, &mut disks);
    disks
}

fn collect(device: &Path, layers: usize, disks: &mut Vec<DiskAddress>) {
    if device.starts_with("/sys/devices/virtual/block") {
        // a partition of a virtual device has its slaves at the whole
        let whole = if device.join("partition").exists() {
            device.parent().unwrap_or(device)
        } else {
            device
        };
        let Some(layers) = layers.checked_sub(1) else { return };
        let slaves = fs::read_dir(whole.join("slaves")).into_iter().flatten().flatten();
        let mut slaves: Vec<_> =
            slaves.filter_map(|slave| fs::canonicalize(slave.path()).ok()).collect();
        slaves.sort();
        for slave in slaves {
            collect(&slave, layers, disks);
        }
        return;
    }
    let path = device.to_string_lossy();
    let controller = controller(&path);
    let mut address = place(
        &path,
        controller.and_then(driver).as_deref(),
        controller.map(hosts).as_deref().unwrap_or_default(),
    );
    address.serial = serial(device);
    address.dev = node(device);
    disks.push(address);
}

/// The part of a path up to the innermost function on a PCI bus.
fn controller(path: &str) -> Option<&str> {
    let mut end = None;
    let mut at = 0;
    for part in path.split('/') {
        at += part.len() + 1;
        if pci(part).is_some() {
            end = Some(at - 1);
        }
    }
    path.get(..end?)
}

fn pci(part: &str) -> Option<PciAddress> {
    let (domain, rest) = part.split_once(':')?;
    let (bus, rest) = rest.split_once(':')?;
    let (slot, function) = rest.split_once('.')?;
    let lengths = (domain.len() >= 4, bus.len(), slot.len(), function.len());
    if lengths != (true, 2, 2, 1) {
        return None;
    }
    let hex = |text| i64::from_str_radix(text, 16).ok();
    Some(PciAddress {
        domain: hex(domain)?,
        bus: hex(bus)?,
        slot: hex(slot)?,
        function: hex(function)?,
    })
}

fn driver(controller: &str) -> Option<String> {
    let target = fs::read_link(Path::new(controller).join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The SCSI hosts of an ATA controller, in order: the position of one is its port.
fn hosts(controller: &str) -> Vec<u64> {
    let mut hosts: Vec<u64> = fs::read_dir(controller)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| number(&entry.file_name().to_string_lossy(), "ata").is_some())
        .flat_map(|ata| fs::read_dir(ata.path()).into_iter().flatten().flatten())
        .filter_map(|host| number(&host.file_name().to_string_lossy(), "host"))
        .collect();
    hosts.sort_unstable();
    hosts
}

fn number(part: &str, prefix: &str) -> Option<u64> {
    part.strip_prefix(prefix)?.parse().ok()
}

/// Channel, target and unit of a SCSI device: `2:0:1:5` below `target2:0:1`.
fn scsi(path: &str) -> Option<[i64; 3]> {
    let mut parts = path.split('/');
    parts.find(|part| part.strip_prefix("target").is_some_and(|rest| rest.contains(':')))?;
    let mut numbers = parts.next()?.split(':').skip(1).map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Reads a path, given the controller's driver and hosts.
fn place(path: &str, driver: Option<&str>, hosts: &[u64]) -> DiskAddress {
    let has = |prefix: &str| path.split('/').any(|part| number(part, prefix).is_some());
    let scsi = scsi(path);
    let [channel, target, unit] = scsi.unwrap_or_default();
    let host = path.split('/').find_map(|part| number(part, "host"));
    let port = host
        .and_then(|host| hosts.iter().position(|known| *known == host))
        .and_then(|port| i64::try_from(port).ok());
    let (bus_type, [bus, target, unit]) = match driver {
        Some("ata_piix") => (DiskBusType::Ide, [port.unwrap_or_default(), 0, target]),
        Some("ahci") => (DiskBusType::Sata, [0, 0, port.unwrap_or_default()]),
        Some("nvme") => (DiskBusType::Nvme, [0; 3]),
        // its units are the bus's targets
        Some("sym53c8xx") => (DiskBusType::Scsi, [0, 0, target]),
        _ if has("usb") => (DiskBusType::Usb, [0; 3]),
        _ if has("virtio") && scsi.is_some() => (DiskBusType::Scsi, [channel, target, unit]),
        _ if has("virtio") => (DiskBusType::Virtio, [0; 3]),
        _ if has("nvme") => (DiskBusType::Nvme, [0; 3]),
        _ if path.contains("/vbd-") => (DiskBusType::Xen, [0; 3]),
        _ if path.contains("/mmc_host/") => (DiskBusType::Mmc, [0; 3]),
        _ if scsi.is_some() && !has("ata") => (DiskBusType::Scsi, [channel, target, unit]),
        _ => (DiskBusType::Unknown, [0; 3]),
    };
    DiskAddress {
        pci_controller: path.split('/').filter_map(pci).next_back().unwrap_or(PciAddress::UNKNOWN),
        bus_type,
        bus,
        target,
        unit,
        serial: None,
        dev: None,
        ccw_address: ccw(path),
    }
}

/// The channel device: `/devices/css0/0.0.0001/0.0.0002/`.
fn ccw(path: &str) -> Option<CcwAddress> {
    let mut parts = path.split('/');
    let hex = |text: &str| i64::from_str_radix(text, 16).ok();
    let cssid = parts.find_map(|part| part.strip_prefix("css").and_then(hex))?;
    let mut last = |at: usize| parts.next()?.split('.').nth(at).map(str::to_owned);
    let subchannel = last(2)?;
    let device = last(2)?;
    Some(CcwAddress { cssid, ssid: 0, subchno: hex(&subchannel)?, devno: hex(&device)? })
}

/// The serial number: as udev has it if it does, else as the device says.
fn serial(device: &Path) -> Option<String> {
    let whole =
        if device.join("partition").exists() { device.parent().unwrap_or(device) } else { device };
    let known = fs::read_to_string(whole.join("dev"))
        .ok()
        .and_then(|number| fs::read_to_string(format!("/run/udev/data/b{}", number.trim())).ok())
        .and_then(|data| {
            data.lines().find_map(|line| line.strip_prefix("E:ID_SERIAL=").map(str::to_owned))
        });
    let told = || {
        ["serial", "device/serial"]
            .iter()
            .find_map(|file| fs::read_to_string(whole.join(file)).ok())
            .or_else(|| vital_product_data(&fs::read(whole.join("device/vpd_pg80")).ok()?))
    };
    known.or_else(told).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The serial number on a SCSI device's page 0x80: a header of four bytes, the last its length.
fn vital_product_data(page: &[u8]) -> Option<String> {
    let length = usize::from(*page.get(3)?);
    let text = page.get(4..)?;
    Some(String::from_utf8_lossy(text.get(..length).unwrap_or(text)).into_owned())
}

fn node(device: &Path) -> Option<String> {
    let properties = fs::read_to_string(device.join("uevent")).ok()?;
    let name = properties.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, driver: &str, hosts: &[u64]) -> (DiskBusType, [i64; 3], [i64; 4]) {
        let DiskAddress { pci_controller: pci, bus_type, bus, target, unit, .. } =
            place(path, Some(driver), hosts);
        (bus_type, [bus, target, unit], [pci.domain, pci.bus, pci.slot, pci.function])
    }

    #[test]
    fn a_path_tells_the_bus_and_the_place_on_it() {
        assert_eq!(
            at(
                "/sys/devices/pci0000:00/0000:00:02.3/0000:04:00.0/virtio3/block/vda/vda1",
                "virtio-pci",
                &[]
            ),
            (DiskBusType::Virtio, [0, 0, 0], [0, 4, 0, 0])
        );
        assert_eq!(
            at(
                "/sys/devices/pci0000:00/0000:00:04.0/virtio1/host2/target2:0:3/2:0:3:5/block/sda",
                "virtio-pci",
                &[]
            ),
            (DiskBusType::Scsi, [0, 3, 5], [0, 0, 4, 0])
        );
        assert_eq!(
            at(
                "/sys/devices/pci0000:00/0000:00:1f.2/ata3/host4/target4:0:0/4:0:0:0/block/sda/sda1",
                "ahci",
                &[2, 3, 4, 5]
            ),
            (DiskBusType::Sata, [0, 0, 2], [0, 0, 0x1f, 2])
        );
        assert_eq!(
            at(
                "/sys/devices/pci0000:00/0000:00:01.1/ata2/host1/target1:0:1/1:0:1:0/block/sdb",
                "ata_piix",
                &[0, 1]
            ),
            (DiskBusType::Ide, [1, 0, 1], [0, 0, 1, 1])
        );
        assert_eq!(
            at("/sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1", "nvme", &[]),
            (DiskBusType::Nvme, [0, 0, 0], [0, 0, 5, 0])
        );
        assert_eq!(
            at("/sys/devices/platform/a000000.virtio_mmio/virtio0/block/vda", "", &[]),
            (DiskBusType::Virtio, [0, 0, 0], [-1, -1, -1, -1])
        );
        assert_eq!(
            at(
                "/sys/devices/pci0000:00/0000:00:06.0/usb1/1-1/1-1:1.0/host6/target6:0:0/6:0:0:0/block/sdc",
                "xhci_hcd",
                &[]
            ),
            (DiskBusType::Usb, [0, 0, 0], [0, 0, 6, 0])
        );
    }

    #[test]
    fn a_mainframe_has_channels() {
        let address = place("/sys/devices/css0/0.0.0001/0.0.00a2/virtio1/block/vda", None, &[]);
        assert_eq!(address.bus_type, DiskBusType::Virtio);
        assert_eq!(
            address.ccw_address,
            Some(CcwAddress { cssid: 0, ssid: 0, subchno: 1, devno: 0xa2 })
        );
    }

    #[test]
    fn the_controller_is_the_innermost() {
        let path = "/sys/devices/pci0000:00/0000:00:02.3/0000:04:00.0/virtio3/block/vda";
        assert_eq!(controller(path), Some("/sys/devices/pci0000:00/0000:00:02.3/0000:04:00.0"));
        assert_eq!(controller("/sys/devices/platform/x"), None);
    }
}
