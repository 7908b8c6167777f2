//! What libvirt calls an external snapshot: a domain goes on in another file, on one of its disks.

use super::XmlError;
use super::write::Document;
use crate::hypervisor::spec::Disk;

/// The snapshot's XML: `disk` as it shall be, and the devices that stay as they are.
pub(in super::super) fn write(disk: &Disk, others: &[&str]) -> Result<String, XmlError> {
    let mut document = Document::new();
    let path = document.path(disk.source.path());
    document.within("domainsnapshot", &[], |snapshot| {
        snapshot.within("disks", &[], |disks| {
            let device = disk.device();
            let moved = [("name", device.as_str()), ("snapshot", "external"), ("type", "file")];
            disks.within("disk", &moved, |element| {
                element.leaf("driver", &[("type", disk.format.as_str())]);
                element.leaf("source", &[("file", path)]);
            });
            for other in others {
                disks.leaf("disk", &[("name", other), ("snapshot", "no")]);
            }
        });
    });
    document.finish()
}
