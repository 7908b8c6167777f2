//! Disks of several systems, as trees of the kernel's that were cut down to what is read.

use super::*;
use crate::root::tree;
use ostler_protocol::qga::commands::filesystem::PciAddress;
use proptest::prelude::*;

const PCI: &str = "/sys/devices/pci0000:00";

/// A virtio disk with two partitions; volumes and a RAID over it and a SCSI disk; an NVMe disk; a loop
/// device that is set up and one that is not; a CD drive without a medium.
fn system() -> (tempfile::TempDir, Root) {
    let vda = "/sys/devices/pci0000:00/0000:00:02.3/0000:04:00.0/virtio3/block/vda";
    let sda = "/sys/devices/pci0000:00/0000:00:04.0/virtio1/host2/target2:0:3/2:0:3:5/block/sda";
    let nvme = "/sys/devices/pci0000:00/0000:00:05.0/nvme/nvme0/nvme0n1";
    let block = "/sys/devices/virtual/block";
    let up = "-> ../../../../..";
    let entries: Vec<(String, String)> = [
        ("/sys/block/vda".into(), format!("-> ../..{vda}")),
        (format!("{vda}/size"), "2048\n".into()),
        (format!("{vda}/dev"), "254:0\n".into()),
        (format!("{vda}/serial"), "root-disk\n".into()),
        (format!("{vda}/uevent"), "MAJOR=254\nDEVNAME=vda\nDEVTYPE=disk\n".into()),
        (format!("{vda}/slaves/"), String::new()),
        (format!("{vda}/vda1/partition"), "1\n".into()),
        (format!("{vda}/vda1/dev"), "254:1\n".into()),
        (format!("{vda}/vda1/uevent"), "DEVNAME=vda1\n".into()),
        (format!("{vda}/vda10/partition"), "10\n".into()),
        (format!("{vda}/vda10/uevent"), "DEVNAME=vda10\n".into()),
        (format!("{vda}/vda2/partition"), "2\n".into()),
        (format!("{vda}/vda2/uevent"), "DEVNAME=vda2\n".into()),
        (format!("{PCI}/0000:00:02.3/0000:04:00.0/driver"), "-> ../x/virtio-pci".into()),
        ("/sys/block/sda".into(), format!("-> ../..{sda}")),
        (format!("{sda}/size"), "4096\n".into()),
        (format!("{sda}/dev"), "8:0\n".into()),
        (format!("{sda}/uevent"), "DEVNAME=sda\n".into()),
        (format!("{sda}/slaves/"), String::new()),
        ("/run/udev/data/b8:0".into(), "S:disk/by-id/x\nE:ID_SERIAL=0QEMU_disk\n".into()),
        (format!("{PCI}/0000:00:04.0/driver"), "-> ../x/virtio-pci".into()),
        ("/sys/block/nvme0n1".into(), format!("-> ../..{nvme}")),
        (format!("{nvme}/size"), "4096\n".into()),
        (format!("{nvme}/dev"), "259:0\n".into()),
        (format!("{nvme}/uevent"), "DEVNAME=nvme0n1\n".into()),
        (format!("{PCI}/0000:00:05.0/driver"), "-> ../x/nvme".into()),
        ("/sys/block/dm-0".into(), format!("-> ../..{block}/dm-0")),
        (format!("{block}/dm-0/size"), "1024\n".into()),
        (format!("{block}/dm-0/uevent"), "DEVNAME=dm-0\n".into()),
        (format!("{block}/dm-0/dm/name"), "vg-root\n".into()),
        (format!("{block}/dm-0/slaves/md0"), "-> ../../md0".into()),
        (format!("{block}/md0/size"), "1024\n".into()),
        (format!("{block}/md0/uevent"), "DEVNAME=md0\n".into()),
        (format!("{block}/md0/slaves/sda"), format!("{up}/..{sda}")),
        (format!("{block}/md0/slaves/vda2"), format!("{up}/..{vda}/vda2")),
        ("/sys/block/md0".into(), format!("-> ../..{block}/md0")),
        ("/sys/block/loop0".into(), format!("-> ../..{block}/loop0")),
        (format!("{block}/loop0/size"), "8\n".into()),
        (format!("{block}/loop0/uevent"), "DEVNAME=loop0\n".into()),
        ("/sys/block/loop1".into(), format!("-> ../..{block}/loop1")),
        (format!("{block}/loop1/size"), "0\n".into()),
        (format!("{block}/loop1/uevent"), "DEVNAME=loop1\n".into()),
        ("/sys/block/gone".into(), "-> ../devices/virtual/block/gone".into()),
        ("/sys/dev/block/254:1".into(), format!("-> ../../..{vda}/vda1")),
        ("/sys/dev/block/253:0".into(), format!("-> ../../..{block}/dm-0")),
    ]
    .into();
    let entries: Vec<_> =
        entries.iter().map(|(path, content)| (path.as_str(), content.as_str())).collect();
    tree(&entries)
}

#[test]
fn disks_and_partitions_are_listed_with_what_they_lie_on() {
    let (_folder, root) = system();
    let disks = disks(&root, &Addresses::default()).unwrap();
    let listed: Vec<_> = disks
        .iter()
        .map(|disk| (disk.name.as_str(), disk.partition, disk.dependencies.clone()))
        .collect();
    let on = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    assert_eq!(
        listed,
        [
            ("/dev/dm-0", false, on(&["/dev/md0"])),
            ("/dev/loop0", false, None),
            ("/dev/md0", false, on(&["/dev/sda", "/dev/vda2"])),
            ("/dev/nvme0n1", false, None),
            ("/dev/sda", false, on(&[])),
            ("/dev/vda", false, on(&[])),
            ("/dev/vda1", true, on(&["/dev/vda"])),
            ("/dev/vda2", true, on(&["/dev/vda"])),
            ("/dev/vda10", true, on(&["/dev/vda"])),
        ]
    );
    let find = |name: &str| disks.iter().find(|disk| disk.name == name).unwrap();
    assert_eq!(find("/dev/dm-0").alias.as_deref(), Some("vg-root"));
    assert_eq!(find("/dev/dm-0").address, None);
    assert_eq!(find("/dev/vda1").address, None);
    let vda = find("/dev/vda").address.clone().unwrap();
    assert_eq!((vda.bus_type, vda.pci_controller.bus), (DiskBusType::Virtio, 4));
    assert_eq!((vda.serial.as_deref(), vda.dev.as_deref()), (Some("root-disk"), Some("/dev/vda")));
    let sda = find("/dev/sda").address.clone().unwrap();
    assert_eq!((sda.bus_type, sda.target, sda.unit), (DiskBusType::Scsi, 3, 5));
    assert_eq!(sda.serial.as_deref(), Some("0QEMU_disk"));
    assert_eq!(find("/dev/nvme0n1").address.clone().unwrap().bus_type, DiskBusType::Nvme);
}

#[test]
fn a_volume_lies_on_all_disks_below_it() {
    let (_folder, root) = system();
    let volume = Device::numbered(&root, 253, 0).unwrap();
    assert_eq!(volume.name(), "dm-0");
    let nodes: Vec<_> =
        volume.disks(&Addresses::default()).into_iter().map(|disk| disk.dev.unwrap()).collect();
    assert_eq!(nodes, ["/dev/sda", "/dev/vda2"]);
    let partition = Device::numbered(&root, 254, 1).unwrap().disks(&Addresses::default());
    assert_eq!(partition[0].serial.as_deref(), Some("root-disk"), "the whole disk's");
    assert_eq!(partition[0].dev.as_deref(), Some("/dev/vda1"));
    assert!(Device::numbered(&root, 1, 2).is_none());
}

#[test]
fn devices_that_lie_on_each_other_end() {
    let block = "/sys/devices/virtual/block";
    let (_folder, root) = tree(&[
        (&format!("{block}/dm-0/slaves/dm-1"), "-> ../../dm-1"),
        (&format!("{block}/dm-0/slaves/dm-0"), "-> ../../dm-0"),
        (&format!("{block}/dm-1/slaves/dm-0"), "-> ../../dm-0"),
    ]);
    let device = Device::find(&root, &root.path(&format!("{block}/dm-0"))).unwrap();
    assert_eq!(device.disks(&Addresses::default()), []);
}

#[test]
fn an_nvme_disk_with_several_paths_is_on_its_first_controller() {
    let head = "/sys/devices/virtual/nvme-subsystem/nvme-subsys0";
    let (_folder, root) = tree(&[
        (&format!("{head}/nvme0n1/uevent"), "DEVNAME=nvme0n1\n"),
        (&format!("{head}/nvme1"), "-> ../../../pci0000:00/0000:00:06.0/nvme/nvme1"),
        (&format!("{PCI}/0000:00:06.0/nvme/nvme1/state"), "live\n"),
        (&format!("{PCI}/0000:00:06.0/driver"), "-> ../x/nvme"),
    ]);
    let device = Device::find(&root, &root.path(&format!("{head}/nvme0n1"))).unwrap();
    let addresses = Addresses::default();
    let address = device.address(&addresses);
    assert_eq!((address.bus_type, address.pci_controller.slot), (DiskBusType::Nvme, 6));
    assert_eq!(address.dev.as_deref(), Some("/dev/nvme0n1"));

    // paths come and go while the disk stays
    let gone = root.path(&format!("{head}/nvme1"));
    fs::remove_file(&gone).unwrap();
    assert_eq!(device.address(&addresses).pci_controller, PciAddress::UNKNOWN);
}

#[test]
fn a_disk_is_looked_up_once_and_one_that_is_plugged_in_anew_again() {
    let plugged = "/sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda";
    let (_folder, root) = tree(&[
        (&format!("{plugged}/dev"), "254:0\n"),
        (&format!("{plugged}/serial"), "first"),
        (&format!("{plugged}/uevent"), "DEVNAME=vda\n"),
    ]);
    let addresses = Addresses::default();
    let place = root.path(plugged);
    let told = || {
        let told = Device::find(&root, &place).unwrap().address(&addresses);
        (told.serial.unwrap_or_default(), told.dev.unwrap_or_default())
    };
    let is = |serial: &str| (serial.to_owned(), "/dev/vda".to_owned());
    assert_eq!(told(), is("first"));
    fs::write(place.join("serial"), "not read").unwrap();
    fs::remove_file(place.join("uevent")).unwrap();
    assert_eq!(told(), is("first"));

    let data = root.path("/run/udev/data/b254:0");
    fs::create_dir_all(data.parent().unwrap()).unwrap();
    fs::write(&data, "E:ID_SERIAL=udev\n").unwrap();
    assert_eq!(told(), is("udev"), "udev may start after the agent");
    fs::remove_file(&data).unwrap();

    // it stays, so that its number is not free
    fs::rename(&place, place.with_file_name("gone")).unwrap();
    fs::create_dir(&place).unwrap();
    assert_eq!(told(), (String::new(), String::new()), "it is not complete yet");
    fs::write(place.join("uevent"), "DEVNAME=vda\n").unwrap();
    fs::write(place.join("dev"), "254:0\n").unwrap();
    assert_eq!(told(), is(""), "it has no serial number");
    fs::write(place.join("serial"), "not asked again").unwrap();
    assert_eq!(told(), is(""));
}

#[test]
fn a_port_of_sata_is_counted_among_its_controllers() {
    let sata = "/sys/devices/pci0000:00/0000:00:1f.2";
    let disk = format!("{sata}/ata3/host10/target10:0:0/10:0:0:0/block/sda");
    let (_folder, root) = tree(&[
        (&format!("{sata}/driver"), "-> ../x/ahci"),
        (&format!("{sata}/ata1/host8/x"), ""),
        (&format!("{sata}/ata2/host9/x"), ""),
        (&format!("{disk}/uevent"), "DEVNAME=sda\n"),
    ]);
    let address = Device::find(&root, &root.path(&disk)).unwrap().address(&Addresses::default());
    assert_eq!((address.bus_type, address.unit), (DiskBusType::Sata, 2));
}

#[test]
fn the_number_of_counters_tells_what_they_are() {
    let text = "   8       0 sda 1 2 3 4 5 6 7 8 9 10 11\n   8       1 sda1 1 2 3 4\n\
        254 0 vda 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15\n\
        259 0 nvme0n1 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17\n\
        7 0 loop0 1 2 3\n8 2 sda2\nnonsense\n 1 2 odd 1 2 3 4 5 6\n";
    let told = statistics(text);
    let names: Vec<_> = told.iter().map(|told| told.name.as_str()).collect();
    assert_eq!(names, ["sda", "sda1", "vda", "nvme0n1", "odd"]);
    let [old, partition, discards, flushes, odd] = &told[..] else { panic!("{told:?}") };
    assert_eq!((old.major, old.minor), (8, 0));
    assert_eq!((old.stats.read_sectors, old.stats.write_ios), (Some(3), Some(5)));
    assert_eq!((old.stats.weight_ticks, old.stats.discard_ios), (Some(11), None));
    assert_eq!(partition.stats.read_sectors, Some(2));
    assert_eq!((partition.stats.write_ios, partition.stats.read_ticks), (Some(3), None));
    assert_eq!((discards.stats.discard_ticks, discards.stats.flush_ios), (Some(15), None));
    assert_eq!(flushes.stats.flush_ticks, Some(17));
    assert_eq!(odd.stats, DiskStats::default());
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader_of_counters(text in "([0-9]{0,22} {0,2}[a-z0-9é]{0,5} ?|.|\n){0,99}") {
        statistics(&text);
    }
}
