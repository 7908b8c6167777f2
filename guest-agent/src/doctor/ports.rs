//! The machine and the ports its hypervisor offers.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use super::agents::Agents;
use super::system::System;
use super::{Finding, Offered, Subject};

const PORTS: &str = "/sys/class/virtio-ports";
const VIRTIO: &str = "/sys/bus/virtio/devices";
/// The number that virtio has for what carries ports.
const CONSOLE: &str = "0x0003";

const OFFER: &str = "\
on the host, add the port to the guest:
libvirt: <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
nova: image property hw_qemu_guest_agent=yes; Proxmox: qm set ID --agent 1";

/// What was seen of the ports.
#[derive(Debug)]
pub(super) struct Ports {
    pub(super) offered: Offered,
    pub(super) findings: Vec<Finding>,
}

/// What kind of machine this is.
pub(super) fn machine(system: &System) -> Finding {
    const CHECK: &str = "machine";
    let container = ["/run/systemd/container", "/.dockerenv", "/run/.containerenv"];
    if let Some(mark) = container.iter().find(|path| system.exists(path)) {
        return Finding::warning(
            CHECK,
            format!("a container ({mark} is there)"),
            "run the agent in the virtual machine itself: the ports are that one's",
        );
    }
    let dmi = |field: &str| system.word(format!("/sys/class/dmi/id/{field}")).unwrap_or_default();
    let name = format!("{} {}", dmi("sys_vendor"), dmi("product_name")).trim().to_owned();
    let name = if name.is_empty() { "of no name".to_owned() } else { name };
    let processor = system.read("/proc/cpuinfo").unwrap_or_default();
    let flagged = processor
        .lines()
        .filter(|line| line.starts_with("flags"))
        .any(|line| line.split_whitespace().any(|flag| flag == "hypervisor"));
    // other processors have no such flag
    let told = system.exists("/sys/hypervisor/type")
        || system.exists("/proc/device-tree/hypervisor/compatible")
        || system.read("/proc/sysinfo").is_some_and(|text| text.contains("VM00"))
        || ["QEMU", "KVM", "OpenStack", "Proxmox", "oVirt", "Red Hat", "KubeVirt", "virtual"]
            .iter()
            .any(|word| name.contains(word));
    if flagged || told || !system.list(VIRTIO).is_empty() {
        return Finding::fine(CHECK, format!("a virtual machine ({name})"));
    }
    Finding::problem(
        CHECK,
        format!("no virtual machine, as far as can be seen ({name})"),
        "the agent is for guests; the host needs none",
    )
}

/// Looks at the ports that the agent is to serve.
pub(super) fn examine(system: &System, subject: &Subject, agents: &Agents) -> Ports {
    let mut findings = Vec::new();
    let mut missing = Vec::new();
    for path in &subject.ports {
        match node(system, path) {
            Some(node) => findings.push(port(system, path, &node, agents)),
            None => missing.push(path),
        }
    }
    for path in &subject.lines {
        match node(system, path) {
            Some(node) => findings.push(port(system, path, &node, agents)),
            None => findings.push(Finding::problem(
                "ports",
                format!("{} is not there", path.display()),
                "on the host, add the serial line; or name another: --path",
            )),
        }
    }
    let there = missing.len() < subject.ports.len() || !subject.lines.is_empty();
    let offered = if there { Offered::Yes } else { Offered::No };
    match offered {
        Offered::Yes => findings.extend(missing.into_iter().map(|path| {
            Finding::fine("ports", format!("{} is not offered; the other is", path.display()))
        })),
        // no port is asked for
        Offered::No if missing.is_empty() => {}
        Offered::No => findings.push(none(system, &missing)),
    }
    Ports { offered, findings }
}

/// The device of a port, by its link or, where nothing makes links, by its name.
fn node(system: &System, path: &Path) -> Option<PathBuf> {
    if let Some(node) = system.resolve(path) {
        return Some(node);
    }
    let wanted = System::file_name(path);
    let device = system
        .list(PORTS)
        .into_iter()
        .find(|device| system.word(format!("{PORTS}/{device}/name")).as_ref() == Some(&wanted))?;
    system.resolve(Path::new("/dev").join(device))
}

fn port(system: &System, path: &Path, node: &Path, agents: &Agents) -> Finding {
    const CHECK: &str = "ports";
    let place = path.display();
    if !system.may(node, AccessFlags::R_OK | AccessFlags::W_OK) {
        return Finding::problem(
            CHECK,
            format!("{place} may not be opened by this user"),
            format!("run the agent as root; ls -l {}", node.display()),
        );
    }
    let holder = agents.all.iter().find(|process| process.files.iter().any(|file| file == node));
    match holder {
        Some(holder) if agents.ours.contains(holder) => {}
        Some(holder) => {
            return Finding::problem(
                CHECK,
                format!("{place} is held by {} (pid {})", holder.name, holder.pid),
                format!(
                    "end it; if it is a service, disable that: systemctl status {}",
                    holder.pid
                ),
            );
        }
        None if agents.ours.is_empty() => {
            return Finding::fine(CHECK, format!("{place} is there, and free"));
        }
        None => {
            return Finding::warning(
                CHECK,
                format!("{place} is there, and the agent that runs has not opened it"),
                "run this as root to see more; journalctl -u ostler-guest-agent",
            );
        }
    }
    let mode = system.metadata(node).map_or(0, |metadata| metadata.permissions().mode());
    if mode & 0o006 != 0 {
        return Finding::warning(
            CHECK,
            format!("{place} may be opened by every user of this guest (mode {:o})", mode & 0o777),
            format!("chmod 600 {}; and correct the udev rule that says so", node.display()),
        );
    }
    Finding::fine(CHECK, format!("{place} is there, and the agent has it"))
}

/// Why there is none, as far as can be seen.
fn none(system: &System, missing: &[&PathBuf]) -> Finding {
    const CHECK: &str = "ports";
    let names: Vec<_> = missing.iter().map(|path| path.display().to_string()).collect();
    let names = names.join(" and ");
    let others: Vec<_> = system
        .list(PORTS)
        .iter()
        .filter_map(|device| system.word(format!("{PORTS}/{device}/name")))
        .collect();
    if !others.is_empty() {
        return Finding::problem(
            CHECK,
            format!("neither of {names}; only {}", others.join(", ")),
            OFFER,
        );
    }
    let devices = system.list(VIRTIO);
    let mut consoles = devices
        .iter()
        .map(|device| Path::new(VIRTIO).join(device))
        .filter(|place| system.word(place.join("device")).as_deref() == Some(CONSOLE));
    match consoles.next() {
        Some(console) if !system.exists(console.join("driver")) => Finding::problem(
            CHECK,
            format!("{names}: the device is there, and has no driver"),
            "modprobe virtio_console; and have it loaded at each start",
        ),
        Some(_) => Finding::problem(
            CHECK,
            format!("{names}: the device that carries ports is there, and has none"),
            OFFER,
        ),
        None => Finding::problem(CHECK, format!("{names}: there is no such device"), OFFER),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::system::fixture::Tree;
    use super::super::tests::healthy;
    use super::*;

    fn examined(tree: &Tree) -> Ports {
        let system = tree.system();
        examine(&system, &Subject::by_default(), &Agents::running(&system))
    }

    #[test]
    fn one_port_of_the_two_is_enough() {
        let ports = examined(&healthy());
        assert_eq!(ports.offered, Offered::Yes);
        assert_eq!(ports.findings.len(), 2);
        assert!(ports.findings.iter().all(|finding| finding.verdict == Verdict::Fine));
    }

    #[test]
    fn who_has_the_port_is_named() {
        let tree = healthy();
        tree.remove("proc/70");
        assert!(examined(&tree).findings[0].said.contains("free"));
        tree.process(71, "qemu-ga", "/usr/sbin/qemu-ga", &["/dev/null", "/dev/vport1p1"]);
        let finding = &examined(&tree).findings[0];
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.said.contains("qemu-ga (pid 71)"), "{}", finding.said);
    }

    #[test]
    fn an_agent_without_its_port_is_suspicious() {
        let tree = healthy();
        tree.remove("proc/70/fd");
        assert_eq!(examined(&tree).findings[0].verdict, Verdict::Warning);
    }

    #[test]
    fn a_port_that_everybody_may_open_is_told() {
        let tree = healthy();
        tree.mode("dev/vport1p1", 0o666);
        assert!(examined(&tree).findings[0].said.contains("every user"));
    }

    #[test]
    fn a_port_is_found_where_nothing_makes_links() {
        let tree = healthy();
        tree.remove("dev/virtio-ports");
        let ports = examined(&tree);
        assert_eq!(ports.offered, Offered::Yes);
        assert_eq!(ports.findings[0].verdict, Verdict::Fine);
    }

    #[test]
    fn why_there_is_none_is_told() {
        let tree = Tree::new();
        let said = |tree: &Tree| {
            let ports = examined(tree);
            assert_eq!(ports.offered, Offered::No);
            let [finding] = ports.findings.as_slice() else { panic!("{ports:?}") };
            assert_eq!(finding.verdict, Verdict::Problem);
            (finding.said.clone(), finding.next.clone().unwrap())
        };
        assert!(said(&tree).0.contains("no such device"));
        tree.file("sys/bus/virtio/devices/virtio1/device", "0x0003\n");
        assert!(said(&tree).1.contains("modprobe virtio_console"));
        tree.directory("sys/bus/virtio/devices/virtio1/driver");
        assert!(said(&tree).1.contains("hw_qemu_guest_agent"));
        tree.file("sys/class/virtio-ports/vport1p1/name", "com.redhat.spice.0\n");
        assert!(said(&tree).0.contains("com.redhat.spice.0"));
    }

    #[test]
    fn machines_are_told_apart() {
        let tree = Tree::new();
        tree.file("sys/class/dmi/id/sys_vendor", "Dell Inc.\n");
        tree.file("proc/cpuinfo", "flags\t\t: fpu vme\n");
        assert_eq!(machine(&tree.system()).verdict, Verdict::Problem);
        tree.file("proc/cpuinfo", "flags\t\t: fpu hypervisor vme\n");
        assert_eq!(machine(&tree.system()).verdict, Verdict::Fine);
        tree.file("run/systemd/container", "lxc\n");
        assert_eq!(machine(&tree.system()).verdict, Verdict::Warning);
    }
}
