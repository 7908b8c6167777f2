//! What is read out of a running domain's definition: its taps, disks, console and screen.

use std::net::IpAddr;
use std::path::PathBuf;

use super::read::{Element, parse};
use super::{XmlError, network};
use crate::hypervisor::inspect::Screen;
use crate::hypervisor::plug::{LiveDisk, LiveNic};
use crate::hypervisor::spec::DiskSource;

/// Its NICs.
pub fn nics(xml: &str) -> Result<Vec<LiveNic>, XmlError> {
    let root = parse(xml)?;
    let nic = |element: &Element| {
        Some(LiveNic {
            mac: element.child("mac")?.attribute("address")?.parse().ok()?,
            alias: element.child("alias")?.attribute("name")?.to_owned(),
            tap: element.child("target")?.attribute("dev")?.to_owned(),
        })
    };
    Ok(devices(&root, "interface").filter_map(nic).collect())
}

/// Its disks.
pub fn disks(xml: &str) -> Result<Vec<LiveDisk>, XmlError> {
    let root = parse(xml)?;
    let disk = |element: &Element| {
        Some(LiveDisk {
            device: element.child("target")?.attribute("dev")?.to_owned(),
            alias: element.child("alias")?.attribute("name")?.to_owned(),
            serial: element.child("serial").map(|serial| serial.text.clone()),
            source: element.child("source").and_then(source),
        })
    };
    Ok(devices(&root, "disk").filter_map(disk).collect())
}

/// Whether it has a disk or a NIC of this alias.
pub fn has_device(xml: &str, alias: &str) -> Result<bool, XmlError> {
    let root = parse(xml)?;
    let is_it = |element: &Element| {
        element.child("alias").and_then(|alias| alias.attribute("name")) == Some(alias)
    };
    Ok(devices(&root, "disk").chain(devices(&root, "interface")).any(is_it))
}

/// What a disk is being copied to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copying {
    /// Where to; none if that is nowhere we know.
    pub to: Option<DiskSource>,
    /// Whether the two are the same, and stay so.
    pub ready: bool,
}

/// What the disk of this device is being copied to, if it is.
pub fn copying(xml: &str, device: &str) -> Result<Option<Copying>, XmlError> {
    let root = parse(xml)?;
    let is_it = |disk: &&Element| {
        disk.child("target").and_then(|target| target.attribute("dev")) == Some(device)
    };
    let mirror = devices(&root, "disk").find(is_it).and_then(|disk| disk.child("mirror"));
    Ok(mirror.map(|mirror| Copying {
        to: mirror.child("source").and_then(source),
        ready: mirror.attribute("ready") == Some("yes"),
    }))
}

fn source(source: &Element) -> Option<DiskSource> {
    let path = |name| source.attribute(name).map(PathBuf::from);
    let file = path("file").map(DiskSource::File);
    let block = || path("dev").map(DiskSource::Block);
    file.or_else(block).or_else(|| network::read(source).map(DiskSource::Network))
}

/// Whether it has something to plug SCSI disks into.
pub fn has_scsi(xml: &str) -> Result<bool, XmlError> {
    let root = parse(xml)?;
    let is_scsi = |controller: &Element| controller.attribute("type") == Some("scsi");
    Ok(devices(&root, "controller").any(is_scsi))
}

/// The pty of its first serial console; none if it has none, or does not run.
pub fn console(xml: &str) -> Result<Option<PathBuf>, XmlError> {
    let root = parse(xml)?;
    let pty = |element: &Element| {
        let source = element.child("source").and_then(|source| source.attribute("path"));
        let path = element.attribute("tty").or(source)?;
        // the kernel's own names only: whatever else is opened here, it is no console
        path.starts_with("/dev/pts/").then(|| PathBuf::from(path))
    };
    Ok(devices(&root, "console").find_map(pty))
}

/// Where its VNC server listens; none if it has none, or does not run.
pub fn screen(xml: &str) -> Result<Option<Screen>, XmlError> {
    let root = parse(xml)?;
    Ok(vnc(&root).and_then(place))
}

fn devices<'a>(root: &'a Element, name: &'a str) -> impl Iterator<Item = &'a Element> {
    let all = root.child("devices").map(|devices| devices.children.as_slice()).unwrap_or_default();
    all.iter().filter(move |device| device.name == name)
}

fn vnc(root: &Element) -> Option<&Element> {
    devices(root, "graphics").find(|graphics| graphics.attribute("type") == Some("vnc"))
}

fn place(vnc: &Element) -> Option<Screen> {
    let listen = vnc
        .attribute("listen")
        .or_else(|| vnc.child("listen").and_then(|listen| listen.attribute("address")))?;
    let address: IpAddr = listen.parse().ok()?;
    // -1 is a port libvirt has yet to choose
    let port: u16 = vnc.attribute("port")?.parse().ok()?;
    Some(Screen { address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING: &str = "<domain><devices>
        <interface type='bridge'><mac address='52:54:00:01:02:03'/><target dev='tap0'/>
          <alias name='net0'/></interface>
        <interface type='bridge'><mac address='nonsense'/><target dev='tap1'/></interface>
        <disk type='file'><source file='/v/0.raw'/><target dev='vdb'/><serial>s</serial>
          <alias name='ua-x'/></disk>
        <controller type='scsi' index='0'/>
        <console type='pty' tty='/dev/pts/7'><source path='/dev/pts/7'/></console>
        <graphics type='spice' port='5901' listen='::'/>
        <graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'>
          <listen type='address' address='127.0.0.1'/></graphics>
        </devices></domain>";

    #[test]
    fn what_runs_is_found() {
        let mac = "52:54:00:01:02:03".parse().unwrap();
        let nic = LiveNic { mac, alias: "net0".to_owned(), tap: "tap0".to_owned() };
        assert_eq!(nics(RUNNING), Ok(vec![nic]));
        let has = |alias| has_device(RUNNING, alias).unwrap();
        assert_eq!([has("net0"), has("ua-x"), has("net1")], [true, true, false]);
        assert_eq!(console(RUNNING), Ok(Some(PathBuf::from("/dev/pts/7"))));
        let disk = LiveDisk {
            device: "vdb".to_owned(),
            alias: "ua-x".to_owned(),
            serial: Some("s".to_owned()),
            source: Some(DiskSource::File(PathBuf::from("/v/0.raw"))),
        };
        assert_eq!((disks(RUNNING), has_scsi(RUNNING)), (Ok(vec![disk]), Ok(true)));
        let screen = screen(RUNNING).unwrap().unwrap();
        assert_eq!((screen.address, screen.port), ([127, 0, 0, 1].into(), 5900));
    }

    #[test]
    fn what_a_disk_is_copied_to_is_found() {
        assert_eq!(copying(RUNNING, "vdb"), Ok(None));
        let of = |ready| {
            let mirror = format!(
                "<serial>s</serial><mirror type='block' job='copy'{ready}>
                   <format type='raw'/><source dev='/dev/g/1'/></mirror>"
            );
            copying(&RUNNING.replace("<serial>s</serial>", &mirror), "vdb").unwrap().unwrap()
        };
        let to = Some(DiskSource::Block(PathBuf::from("/dev/g/1")));
        assert_eq!(of(""), Copying { to: to.clone(), ready: false });
        assert_eq!(of(" ready='yes'"), Copying { to: to.clone(), ready: true });
        assert!(!of(" ready='abort'").ready);
    }

    #[test]
    fn what_does_not_run_has_neither() {
        let off = RUNNING.replace("5900", "-1").replace("/dev/pts/7", "");
        assert_eq!(console(&off), Ok(None));
        assert_eq!(screen(&off), Ok(None));
    }

    #[test]
    fn only_a_pty_is_a_console() {
        let elsewhere = RUNNING.replace("/dev/pts/7", "/etc/shadow");
        assert_eq!(console(&elsewhere), Ok(None));
    }
}
