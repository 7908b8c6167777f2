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

use crate::root::{self, Root, number};

/// So many layers of devices on devices, and no more.
const LAYERS: usize = 8;
/// So many disks below one device, and no more: where layers branch, they multiply.
const MOST: usize = 1024;
/// What is built on other devices, or on none.
const VIRTUAL: &str = "/sys/devices/virtual/block/";

/// A block device, by its place in the kernel's tree.
#[derive(Clone, Debug)]
pub(crate) struct Device<'a> {
    root: &'a Root,
    path: PathBuf,
    is_partition: bool,
}

impl<'a> Device<'a> {
    /// The one with a number.
    pub(crate) fn numbered(root: &'a Root, major: u64, minor: u64) -> Option<Self> {
        Self::find(root, &root.path(&format!("/sys/dev/block/{major}:{minor}")))
    }

    /// The one a path leads to.
    pub(crate) fn find(root: &'a Root, path: &Path) -> Option<Self> {
        let path = root::follow(path)?;
        let is_partition = match fs::metadata(path.join("partition")) {
            Ok(_) => true,
            // one that is not there has no folder either
            Err(_) => path.exists().then_some(false)?,
        };
        Some(Self { root, path, is_partition })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The kernel's name of it.
    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its device node.
    pub(crate) fn node(&self) -> Option<String> {
        let properties = root::value(&self.path.join("uevent"))?;
        let name = properties.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
        Some(format!("/dev/{name}"))
    }

    /// Whether it is built on other devices, or on none.
    pub(crate) fn is_virtual(&self) -> bool {
        self.root.name(&self.path).starts_with(VIRTUAL)
    }

    /// The device that it is a partition of, or itself.
    fn whole(&self) -> &Path {
        if self.is_partition { self.path.parent().unwrap_or(&self.path) } else { &self.path }
    }

    /// What it is built on, by name. A partition has none of its own.
    pub(crate) fn slaves(&self) -> Option<Vec<Self>> {
        let slaves = fs::read_dir(self.path.join("slaves")).ok()?;
        let mut slaves: Vec<_> =
            slaves.flatten().filter_map(|slave| Self::find(self.root, &slave.path())).collect();
        slaves.sort_by_cached_key(Self::name);
        Some(slaves)
    }

    /// The disks it lies on.
    pub(crate) fn disks(&self) -> Vec<DiskAddress> {
        let mut disks = Vec::new();
        self.collect(LAYERS, &mut disks);
        disks
    }

    fn collect(&self, layers: usize, disks: &mut Vec<DiskAddress>) {
        if disks.len() >= MOST {
            return;
        }
        if !self.is_virtual() {
            disks.push(self.address());
            return;
        }
        let Some(layers) = layers.checked_sub(1) else { return };
        let whole = Self { root: self.root, path: self.whole().to_owned(), is_partition: false };
        for slave in whole.slaves().unwrap_or_default() {
            slave.collect(layers, disks);
        }
    }

    /// Where it is plugged in.
    pub(crate) fn address(&self) -> DiskAddress {
        let place = self.root.name(&self.controlled());
        let controller = controller(&place).map(|path| self.root.path(path));
        let driver = controller.as_deref().and_then(driver);
        let hosts = match driver.as_deref() {
            Some("ata_piix" | "ahci") => controller.as_deref().map(hosts).unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut address = place_on_bus(&place, driver.as_deref(), &hosts);
        address.serial = self.serial();
        address.dev = self.node();
        address
    }

    /// Its path, through a controller. An NVMe disk that several controllers can reach hangs from none
    /// in the tree; they are linked beside it.
    fn controlled(&self) -> PathBuf {
        let subsystem = self.whole().parent().filter(|parent| {
            let name = parent.file_name().unwrap_or_default().to_string_lossy();
            number(&name, "nvme-subsys").is_some()
        });
        let through = subsystem.and_then(|subsystem| {
            let number = *root::numbered(subsystem, "nvme").ok()?.first()?;
            root::follow(&subsystem.join(format!("nvme{number}")))
        });
        through.unwrap_or_else(|| self.path.clone())
    }

    /// The serial number: as udev has it if it does, else as the device says.
    fn serial(&self) -> Option<String> {
        let whole = self.whole();
        let known = root::value(&whole.join("dev"))
            .and_then(|number| self.root.text(&format!("/run/udev/data/b{number}")).ok())
            .and_then(|data| {
                data.lines().find_map(|line| line.strip_prefix("E:ID_SERIAL=").map(str::to_owned))
            });
        let told = || {
            ["serial", "device/serial"]
                .iter()
                .find_map(|file| root::value(&whole.join(file)))
                .or_else(|| vital_product_data(&fs::read(whole.join("device/vpd_pg80")).ok()?))
        };
        known.or_else(told).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty())
    }
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
    Some(PciAddress {
        domain: hex(domain)?,
        bus: hex(bus)?,
        slot: hex(slot)?,
        function: hex(function)?,
    })
}

fn driver(controller: &Path) -> Option<String> {
    let target = fs::read_link(controller.join("driver")).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// The SCSI hosts of an ATA controller, in order: the position of one is its port.
fn hosts(controller: &Path) -> Vec<u64> {
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

/// Channel, target and unit of a SCSI device: `2:0:1:5` below `target2:0:1`.
fn scsi(path: &str) -> Option<[i64; 3]> {
    let mut parts = path.split('/');
    parts.find(|part| part.strip_prefix("target").is_some_and(|rest| rest.contains(':')))?;
    let mut numbers = parts.next()?.split(':').skip(1).map(|number| number.parse().ok());
    Some([numbers.next()??, numbers.next()??, numbers.next()??])
}

/// Reads a path, given the controller's driver and hosts.
fn place_on_bus(path: &str, driver: Option<&str>, hosts: &[u64]) -> DiskAddress {
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

/// The channel device: `css0/0.1.0002/0.1.00a2` is subchannel 2 of set 1, device 0xa2.
fn ccw(path: &str) -> Option<CcwAddress> {
    let mut parts = path.split('/');
    parts.find(|part| part.strip_prefix("css").is_some_and(|rest| hex(rest).is_some()))?;
    let mut next = || {
        let mut numbers = parts.next()?.split('.').map(hex);
        Some([numbers.next()??, numbers.next()??, numbers.next()??])
    };
    let [cssid, ssid, subchno] = next()?;
    let [_, _, devno] = next()?;
    Some(CcwAddress { cssid, ssid, subchno, devno })
}

fn hex(text: &str) -> Option<i64> {
    // more than 32 bits are no number of a bus
    (text.len() <= 8).then(|| i64::from_str_radix(text, 16).ok()).flatten()
}

/// The serial number on a SCSI device's page 0x80: a header of four bytes, the last its length.
fn vital_product_data(page: &[u8]) -> Option<String> {
    let length = usize::from(*page.get(3)?);
    let text = page.get(4..)?;
    Some(String::from_utf8_lossy(text.get(..length).unwrap_or(text)).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: &str, driver: &str, hosts: &[u64]) -> (DiskBusType, [i64; 3], [i64; 4]) {
        let DiskAddress { pci_controller: pci, bus_type, bus, target, unit, .. } =
            place_on_bus(path, Some(driver), hosts);
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
        let path = "/sys/devices/css0/0.1.0001/0.1.00a2/virtio1/block/vda";
        let address = place_on_bus(path, None, &[]);
        assert_eq!(address.bus_type, DiskBusType::Virtio);
        assert_eq!(
            address.ccw_address,
            Some(CcwAddress { cssid: 0, ssid: 1, subchno: 1, devno: 0xa2 })
        );
    }

    #[test]
    fn the_controller_is_the_innermost() {
        let path = "/sys/devices/pci0000:00/0000:00:02.3/0000:04:00.0/virtio3/block/vda";
        assert_eq!(controller(path), Some("/sys/devices/pci0000:00/0000:00:02.3/0000:04:00.0"));
        assert_eq!(controller("/sys/devices/platform/x"), None);
    }
}
