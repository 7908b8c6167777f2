//! Where a block device is plugged in.
//!
//! The path of a device in the kernel's tree names all it hangs from, for instance
//! `/devices/pci0000:00/0000:00:02.0/0000:04:00.0/virtio3/block/vda/vda1`. Reading that path is pure; the
//! driver of the controller and the order of its hosts are looked up beside it. What is built on other
//! devices (LVM, RAID, encryption) is followed down to the disks.
//!
//! A disk's address does not change while it is plugged in, and its serial number is asked of the host,
//! which takes longer than all else and can hang. So both are looked up once ([`Addresses`]).

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ostler_protocol::qga::commands::filesystem::{
    CcwAddress, DiskAddress, DiskBusType, PciAddress,
};

use crate::root::{self, Root, number};

/// So many layers of devices on devices, and no more.
const LAYERS: usize = 8;
/// So many disks below one device, and no more: where layers branch, they multiply.
const MOST: usize = 1024;
/// Where a SCSI disk tells its serial number; the kernel reads it anew at times.
const PAGE: &str = "device/vpd_pg80";
/// What is built on other devices, or on none.
const VIRTUAL: &str = "/sys/devices/virtual/block/";

/// So many disks are remembered, and no more.
const REMEMBERED: usize = 1024;

/// What was looked up of the disks, by the numbers of their folders in the kernel's tree. The kernel
/// gives no number twice: a disk that is plugged in anew has another, and is looked up anew.
#[derive(Clone, Debug, Default)]
pub struct Addresses(Arc<Mutex<BTreeMap<u64, Known>>>);

/// What stays as it is while a disk is plugged in.
#[derive(Clone, Debug)]
struct Known {
    address: DiskAddress,
    /// The number of the whole disk's device, by which udev knows it.
    number: Option<String>,
    /// The serial number the disk tells, if it was asked and if it has one.
    serial: Option<Option<String>>,
}

impl Addresses {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeMap<u64, Known>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn keep(&self, folder: u64, known: Known) {
        self.with(|all| {
            all.insert(folder, known);
            if all.len() > REMEMBERED {
                // numbers grow
                all.pop_first();
            }
        });
    }
}

/// A block device, by its place in the kernel's tree.
#[derive(Clone, Debug)]
pub(crate) struct Device<'a> {
    root: &'a Root,
    path: PathBuf,
    /// The number of its folder.
    folder: u64,
}

impl<'a> Device<'a> {
    /// The one with a number.
    pub(crate) fn numbered(root: &'a Root, major: u64, minor: u64) -> Option<Self> {
        Self::find(root, &root.path(&format!("/sys/dev/block/{major}:{minor}")))
    }

    /// The one a path leads to.
    pub(crate) fn find(root: &'a Root, path: &Path) -> Option<Self> {
        let path = root::follow(path)?;
        // one that is not there has no folder either
        let folder = fs::metadata(&path).ok()?.ino();
        Some(Self { root, path, folder })
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
        let is_partition = self.path.join("partition").exists();
        self.path.parent().filter(|_| is_partition).unwrap_or(&self.path)
    }

    /// What it is built on, by name. A partition has none of its own.
    pub(crate) fn slaves(&self) -> Option<Vec<Self>> {
        slaves(self.root, &self.path)
    }

    /// The disks it lies on.
    pub(crate) fn disks(&self, addresses: &Addresses) -> Vec<DiskAddress> {
        let mut disks = Vec::new();
        self.collect(addresses, LAYERS, &mut disks);
        disks
    }

    fn collect(&self, addresses: &Addresses, layers: usize, disks: &mut Vec<DiskAddress>) {
        if disks.len() >= MOST {
            return;
        }
        if !self.is_virtual() {
            disks.push(self.address(addresses));
            return;
        }
        let Some(layers) = layers.checked_sub(1) else { return };
        for slave in slaves(self.root, self.whole()).unwrap_or_default() {
            slave.collect(addresses, layers, disks);
        }
    }

    /// Where it is plugged in.
    pub(crate) fn address(&self, addresses: &Addresses) -> DiskAddress {
        let known = addresses.with(|all| all.get(&self.folder).cloned());
        let mut known = known.unwrap_or_else(|| self.look());
        let mut address = known.address.clone();
        // udev may come later than the agent, and know better than the disk
        let serial = known.number.as_deref().and_then(|number| self.udev_serial(number));
        let told = || known.serial.get_or_insert_with(|| self.told_serial()).clone();
        address.serial = serial
            .or_else(told)
            .or_else(|| vital_product_data(&fs::read(self.whole().join(PAGE)).ok()?))
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty());
        // the kernel makes a disk's files one after the other, these last
        let is_complete = known.address.dev.is_some() && known.number.is_some();
        if is_complete && self.subsystem().is_none() {
            addresses.keep(self.folder, known);
        }
        address
    }

    fn look(&self) -> Known {
        let place = self.root.name(&self.controlled());
        let controller = controller(&place).map(|path| self.root.path(path));
        let driver = controller.as_deref().and_then(driver);
        let hosts = match driver.as_deref() {
            Some("ata_piix" | "ahci") => controller.as_deref().map(hosts).unwrap_or_default(),
            _ => Vec::new(),
        };
        let mut address = place_on_bus(&place, driver.as_deref(), &hosts);
        address.dev = self.node();
        Known { address, number: root::value(&self.whole().join("dev")), serial: None }
    }

    /// Its path, through a controller. An NVMe disk that several controllers can reach hangs from none
    /// in the tree; they are linked beside it, and come and go.
    fn controlled(&self) -> PathBuf {
        let through = self.subsystem().and_then(|subsystem| {
            let number = *root::numbered(subsystem, "nvme").ok()?.first()?;
            root::follow(&subsystem.join(format!("nvme{number}")))
        });
        through.unwrap_or_else(|| self.path.clone())
    }

    /// What joins the controllers of an NVMe disk, if there may be several.
    fn subsystem(&self) -> Option<&Path> {
        let is_one = |folder: &&Path| {
            let name = folder.file_name().unwrap_or_default().to_string_lossy();
            number(&name, "nvme-subsys").is_some()
        };
        self.path.ancestors().skip(1).take(2).find(is_one)
    }

    /// The serial number as udev has it.
    fn udev_serial(&self, number: &str) -> Option<String> {
        let data = self.root.text(&format!("/run/udev/data/b{number}")).ok()?;
        data.lines().find_map(|line| line.strip_prefix("E:ID_SERIAL=").map(str::to_owned))
    }

    /// The serial number as the disk says.
    fn told_serial(&self) -> Option<String> {
        let whole = self.whole();
        ["serial", "device/serial"].iter().find_map(|file| root::value(&whole.join(file)))
    }
}

/// What a device is built on, by name.
fn slaves<'a>(root: &'a Root, device: &Path) -> Option<Vec<Device<'a>>> {
    let slaves = fs::read_dir(device.join("slaves")).ok()?;
    let mut slaves: Vec<_> =
        slaves.flatten().filter_map(|slave| Device::find(root, &slave.path())).collect();
    slaves.sort_by_cached_key(Device::name);
    Some(slaves)
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
    use crate::root::tree;

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

    #[test]
    fn what_is_remembered_of_disks_does_not_grow() {
        let disk = "/sys/devices/x/block/vda";
        let (_folder, root) = tree(&[
            (&format!("{disk}/dev"), "254:0\n"),
            (&format!("{disk}/uevent"), "DEVNAME=vda\n"),
        ]);
        let device = Device::find(&root, &root.path(disk)).unwrap();
        let addresses = Addresses::default();
        for folder in 0..3000 {
            Device { folder, ..device.clone() }.address(&addresses);
        }
        assert_eq!(addresses.with(|all| all.len()), REMEMBERED);
    }
}
