//! What libvirt calls a backup: a copy of one disk as it is now, pushed into a file.

use std::path::Path;

use super::XmlError;
use super::write::Document;

/// The job's XML. Disks that are not named are not copied.
pub(in super::super) fn write(device: &str, to: &Path) -> Result<String, XmlError> {
    let mut document = Document::new();
    let path = document.path(to);
    document.within("domainbackup", &[("mode", "push")], |job| {
        job.within("disks", &[], |disks| {
            let copied = [("name", device), ("backup", "yes"), ("type", "file")];
            disks.within("disk", &copied, |disk| {
                disk.leaf("driver", &[("type", "qcow2")]);
                disk.leaf("target", &[("file", path)]);
            });
        });
    });
    document.finish()
}

#[cfg(test)]
mod tests {
    use super::super::read::parse;
    use super::*;

    #[test]
    fn one_disk_goes_into_one_file() {
        let xml = write("vdb", Path::new("/a <b>/\"c\".qcow2")).unwrap();
        let job = parse(&xml).unwrap();
        let disks = job.child("disks").unwrap();
        assert_eq!((job.attribute("mode"), disks.children.len()), (Some("push"), 1));
        let disk = disks.child("disk").unwrap();
        assert_eq!(disk.attribute("name"), Some("vdb"));
        assert_eq!(disk.child("driver").unwrap().attribute("type"), Some("qcow2"));
        let target = disk.child("target").unwrap();
        assert_eq!(target.attribute("file"), Some("/a <b>/\"c\".qcow2"));
    }
}
