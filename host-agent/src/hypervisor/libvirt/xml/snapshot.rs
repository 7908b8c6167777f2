//! What libvirt calls an external snapshot: a domain goes on in another file, on one of its disks.

use super::XmlError;
use super::write::Document;
use crate::hypervisor::spec::{Disk, DiskSource};

/// The snapshot's XML: `disk` as it shall be, and the devices that stay as they are.
pub(in super::super) fn write(disk: &Disk, others: &[&str]) -> Result<String, XmlError> {
    let (DiskSource::File(path) | DiskSource::Block(path)) = &disk.source else {
        return Err(XmlError::Missing { element: "a file" });
    };
    let mut document = Document::new();
    let path = document.path(path);
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
