//! What is read out of a running domain's definition: its taps, its console, its screen.

use std::net::IpAddr;
use std::path::PathBuf;

use ostler_protocol::rpc::values::MacAddress;

use super::XmlError;
use super::read::{Element, parse};
use crate::hypervisor::inspect::Screen;

/// The taps of its NICs, each with the MAC the guest sees.
pub fn nics(xml: &str) -> Result<Vec<(String, MacAddress)>, XmlError> {
    let root = parse(xml)?;
    let nic = |element: &Element| {
        let tap = element.child("target")?.attribute("dev")?.to_owned();
        let mac = element.child("mac")?.attribute("address")?.parse().ok()?;
        Some((tap, mac))
    };
    Ok(devices(&root, "interface").filter_map(nic).collect())
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
        <interface type='bridge'><mac address='52:54:00:01:02:03'/><target dev='tap0'/></interface>
        <interface type='bridge'><mac address='nonsense'/><target dev='tap1'/></interface>
        <console type='pty' tty='/dev/pts/7'><source path='/dev/pts/7'/></console>
        <graphics type='spice' port='5901' listen='::'/>
        <graphics type='vnc' port='5900' autoport='yes' listen='127.0.0.1'>
          <listen type='address' address='127.0.0.1'/></graphics>
        </devices></domain>";

    #[test]
    fn what_runs_is_found() {
        let mac = "52:54:00:01:02:03".parse().unwrap();
        assert_eq!(nics(RUNNING), Ok(vec![("tap0".to_owned(), mac)]));
        assert_eq!(console(RUNNING), Ok(Some(PathBuf::from("/dev/pts/7"))));
        let screen = screen(RUNNING).unwrap().unwrap();
        assert_eq!((screen.address, screen.port), ([127, 0, 0, 1].into(), 5900));
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
