//! A domain's XML from its spec. Everything is virtio where a guest can be expected to have it.

use ostler_protocol::rpc::hardware::VifModel;
use ostler_protocol::rpc::values::{Bytes, Secret, Timestamp};
use ostler_protocol::rpc::volume::Io;
use uuid::Uuid;
use zeroize::Zeroizing;

use super::write::Document;
use super::{XmlError, graphics, metadata, network};
use crate::hypervisor::VirtType;
use crate::hypervisor::adjust::VNC_PASSWORD_MAX;
use crate::hypervisor::spec::{
    AgentChannel, Boot, CpuMode, Discard, Disk, DiskAccess, DiskBus, DiskCache, DiskSource,
    DiskTarget, DomainSpec, Firmware, Machine, Nic, OnCrash, SecureBoot, Sharing, Tpm,
    WatchdogAction,
};

/// The standard guest agent's channel, which libvirt itself serves.
const AGENT_CHANNEL: &str = "org.qemu.guest_agent.0";
/// Our own, a socket this host listens to.
const OSTLER_CHANNEL: &str = "org.ostler.guest.0";

/// The domain's XML. It has a secret where there is a screen, if a worthless one: not for a log.
pub fn write(spec: &DomainSpec) -> Result<Zeroizing<String>, XmlError> {
    // Random, and no longer valid: a screen without a password would be open to all of the node.
    let random = Uuid::new_v4().simple().to_string();
    write_locked(spec, &Secret::new(random.chars().take(VNC_PASSWORD_MAX).collect()))
}

/// The same with a given word on the screen that nobody is to know.
fn write_locked(spec: &DomainSpec, word: &Secret) -> Result<Zeroizing<String>, XmlError> {
    let mut document = Document::new();
    document.within("domain", &[("type", virt_type(spec.virt_type))], |domain| {
        domain.text("name", &[], &spec.domain_name());
        domain.text("uuid", &[], &spec.id().to_string());
        domain.text("title", &[], &title(&spec.metadata.name));
        domain.within("metadata", &[], |content| metadata::write(content, &spec.metadata));
        let kib = |memory: Bytes| memory.0.div_ceil(1024).to_string();
        domain.text("memory", &[("unit", "KiB")], &kib(spec.max_memory));
        domain.text("currentMemory", &[("unit", "KiB")], &kib(spec.memory));
        vcpus(domain, spec);
        os(domain, spec);
        features(domain, spec);
        cpu(domain, &spec.cpu);
        clock(domain, spec.virt_type);
        // A guest that powers off is off; who may want it running again decides that.
        domain.text("on_poweroff", &[], "destroy");
        domain.text("on_reboot", &[], "restart");
        domain.text("on_crash", &[], on_crash(spec.on_crash));
        domain.within("devices", &[], |list| devices(list, spec, word));
    });
    document.finish().map(Zeroizing::new)
}

/// libvirt's word for it.
pub(super) const fn virt_type(virt_type: VirtType) -> &'static str {
    match virt_type {
        VirtType::Kvm => "kvm",
        VirtType::Qemu => "qemu",
    }
}

/// libvirt refuses a line break in a title; the metadata has the name as it is.
pub(in super::super) fn title(name: &str) -> String {
    name.replace(['\n', '\r'], " ")
}

/// The first is soldered in; the others are plugged, so that a running guest can give them back.
fn vcpus(domain: &mut Document, spec: &DomainSpec) {
    let (now, most) = (spec.vcpus.to_string(), spec.max_vcpus.to_string());
    domain.text("vcpu", &[("placement", "static"), ("current", &now)], &most);
    if spec.max_vcpus > 1 {
        domain.within("vcpus", &[], |list| {
            for id in 0..spec.max_vcpus {
                let enabled = if id < spec.vcpus { "yes" } else { "no" };
                let hotpluggable = if id == 0 { "no" } else { "yes" };
                list.leaf(
                    "vcpu",
                    &[
                        ("id", &id.to_string()),
                        ("enabled", enabled),
                        ("hotpluggable", hotpluggable),
                    ],
                );
            }
        });
    }
}

fn os(domain: &mut Document, spec: &DomainSpec) {
    let firmware: &[(&str, &str)] = match spec.firmware {
        Firmware::Bios => &[],
        Firmware::Uefi(_) => &[("firmware", "efi")],
    };
    domain.within("os", firmware, |os| {
        let machine = match spec.machine {
            Machine::Q35 { .. } => "q35",
            Machine::Pc => "pc",
        };
        os.text("type", &[("arch", "x86_64"), ("machine", machine)], "hvm");
        match spec.firmware {
            Firmware::Bios => {}
            Firmware::Uefi(secure) => os.within("firmware", &[], |features| {
                let enabled = match secure {
                    SecureBoot::Enforced => "yes",
                    SecureBoot::Off => "no",
                };
                features.leaf("feature", &[("enabled", enabled), ("name", "secure-boot")]);
                features.leaf("feature", &[("enabled", enabled), ("name", "enrolled-keys")]);
            }),
        }
        if let Some(variables) = &spec.variables {
            let path = os.path(variables);
            os.text("nvram", &[], path);
        }
        match &spec.boot {
            // Each disk says when its turn is.
            Boot::Disk => {}
            Boot::Kernel { kernel, initrd, cmdline } => {
                let path = os.path(kernel);
                os.text("kernel", &[], path);
                if let Some(initrd) = initrd {
                    let path = os.path(initrd);
                    os.text("initrd", &[], path);
                }
                os.text("cmdline", &[], cmdline);
            }
        }
    });
}

fn features(domain: &mut Document, spec: &DomainSpec) {
    domain.within("features", &[], |features| {
        features.leaf("acpi", &[]);
        features.leaf("apic", &[]);
        if spec.firmware == Firmware::Uefi(SecureBoot::Enforced) {
            features.leaf("smm", &[("state", "on")]);
        }
    });
}

pub(super) fn cpu(domain: &mut Document, cpu: &CpuMode) {
    match cpu {
        CpuMode::HypervisorDefault => {}
        CpuMode::HostPassthrough => domain.leaf("cpu", &[("mode", "host-passthrough")]),
        CpuMode::HostModel => domain.leaf("cpu", &[("mode", "host-model")]),
        CpuMode::Maximum => domain.leaf("cpu", &[("mode", "maximum")]),
        CpuMode::Named(model) => {
            domain.within("cpu", &[("mode", "custom"), ("match", "exact")], |cpu| {
                cpu.text("model", &[("fallback", "forbid")], model);
            });
        }
    }
}

/// Under KVM the guest has a clock of its own kind, and timers that make up for ticks it missed.
fn clock(domain: &mut Document, on: VirtType) {
    match on {
        VirtType::Qemu => domain.leaf("clock", &[("offset", "utc")]),
        VirtType::Kvm => domain.within("clock", &[("offset", "utc")], |clock| {
            clock.leaf("timer", &[("name", "rtc"), ("tickpolicy", "catchup")]);
            clock.leaf("timer", &[("name", "pit"), ("tickpolicy", "delay")]);
            clock.leaf("timer", &[("name", "hpet"), ("present", "no")]);
        }),
    }
}

const fn on_crash(on_crash: OnCrash) -> &'static str {
    match on_crash {
        OnCrash::Destroy => "destroy",
        OnCrash::Restart => "restart",
        OnCrash::Preserve => "preserve",
    }
}

fn devices(list: &mut Document, spec: &DomainSpec, word: &Secret) {
    slots(list, spec);
    if spec.disks.iter().any(|disk| disk.bus == DiskBus::Scsi) {
        scsi(list);
    }
    for target in &spec.disks {
        disk(list, target);
    }
    for card in &spec.nics {
        nic(list, card, spec.nic_model);
    }
    serial(list, spec);
    match spec.agent_channel {
        AgentChannel::Absent => {}
        // libvirt names and binds the agent's socket itself.
        AgentChannel::Present => list.within("channel", &[("type", "unix")], |channel| {
            channel.leaf("target", &[("type", "virtio"), ("name", AGENT_CHANNEL)]);
        }),
    }
    if let Some(socket) = &spec.ostler_port {
        let path = list.path(socket);
        list.within("channel", &[("type", "unix")], |channel| {
            channel.leaf("source", &[("mode", "bind"), ("path", path)]);
            channel.leaf("target", &[("type", "virtio"), ("name", OSTLER_CHANNEL)]);
        });
    }
    tpm(list, spec.tpm);
    if let Some(vnc) = spec.vnc {
        list.leaf("input", &[("type", "tablet"), ("bus", "virtio")]);
        graphics::write(list, &vnc.listen.to_string(), word, Timestamp(0));
        list.within("video", &[], |video| video.leaf("model", &[("type", "virtio")]));
    }
    if let Some(action) = spec.watchdog {
        let action = match action {
            WatchdogAction::Reset => "reset",
            WatchdogAction::PowerOff => "poweroff",
            WatchdogAction::Pause => "pause",
            WatchdogAction::None => "none",
        };
        list.leaf("watchdog", &[("model", "i6300esb"), ("action", action)]);
    }
    list.within("memballoon", &[("model", "virtio")], |balloon| {
        if let Some(period) = spec.memory_stats_period {
            balloon.leaf("stats", &[("period", &period.to_string())]);
        }
    });
    list.within("rng", &[("model", "virtio")], |rng| {
        rng.text("backend", &[("model", "random")], "/dev/urandom");
    });
}

/// No USB: nothing of ours needs it, and firmware and guest lose time looking. On PCI Express a
/// device can only be plugged into a port that is already there, so the spare ones are made now.
fn slots(list: &mut Document, spec: &DomainSpec) {
    list.leaf("controller", &[("type", "usb"), ("model", "none")]);
    match spec.machine {
        Machine::Pc => {}
        Machine::Q35 { spare_slots } => {
            // balloon, RNG, virtio-serial; then the tablet where there is a screen
            let fixed = 3 + usize::from(spec.vnc.is_some());
            let used = fixed + spec.disks.len() + spec.nics.len();
            list.leaf("controller", &[("type", "pci"), ("index", "0"), ("model", "pcie-root")]);
            for _ in 0..used + usize::from(spare_slots) {
                list.leaf("controller", &[("type", "pci"), ("model", "pcie-root-port")]);
            }
        }
    }
}

fn disk(list: &mut Document, disk: &Disk) {
    let kind = match &disk.source {
        DiskSource::File(_) => "file",
        DiskSource::Block(_) => "block",
        DiskSource::Network(_) => "network",
    };
    let device = match disk.access {
        DiskAccess::ReadWrite | DiskAccess::ReadOnly => "disk",
        DiskAccess::CdRom => "cdrom",
    };
    list.within("disk", &[("type", kind), ("device", device)], |element| {
        let format = disk.format.as_str();
        let cache = match disk.cache {
            DiskCache::None => "none",
            DiskCache::Writeback => "writeback",
            DiskCache::Unsafe => "unsafe",
        };
        let discard = match disk.discard {
            Discard::Unmap => "unmap",
            Discard::Ignore => "ignore",
        };
        let io = disk.io.map(|io| match io {
            Io::Threads => "threads",
            Io::Native => "native",
            Io::IoUring => "io_uring",
        });
        let driver = [("name", "qemu"), ("type", format), ("cache", cache), ("discard", discard)];
        let driver: Vec<_> = driver.into_iter().chain(io.map(|io| ("io", io))).collect();
        element.leaf("driver", &driver);
        match &disk.source {
            DiskSource::File(path) => {
                let path = element.path(path);
                element.leaf("source", &[("file", path)]);
            }
            DiskSource::Block(path) => {
                let path = element.path(path);
                element.leaf("source", &[("dev", path)]);
            }
            DiskSource::Network(disk) => network::write(element, disk),
        }
        let bus = match disk.bus {
            DiskBus::Virtio => "virtio",
            DiskBus::Scsi => "scsi",
            DiskBus::Sata => "sata",
            DiskBus::Ide => "ide",
        };
        element.leaf("target", &[("dev", &disk.device()), ("bus", bus)]);
        if let Some(order) = disk.boot_order {
            element.leaf("boot", &[("order", &order.to_string())]);
        }
        if disk.bus == DiskBus::Scsi {
            drive(element, disk.target);
        }
        if !disk.limits.is_empty() {
            element.within("iotune", &[], |limits| {
                for (limit, most) in &disk.limits {
                    limits.text(limit.as_str(), &[], &most.to_string());
                }
            });
        }
        match disk.access {
            DiskAccess::ReadWrite => {}
            DiskAccess::ReadOnly | DiskAccess::CdRom => element.leaf("readonly", &[]),
        }
        match disk.sharing {
            Sharing::Exclusive => {}
            Sharing::Shared => element.leaf("shareable", &[]),
        }
        element.text("serial", &[], &disk.serial);
        if let Some(key) = &disk.key {
            element.within("encryption", &[("format", "luks")], |encryption| {
                encryption.leaf("secret", &[("type", "passphrase"), network::which(key)]);
            });
        }
        if !disk.alias.is_empty() {
            element.leaf("alias", &[("name", &disk.alias)]);
        }
    });
}

/// As many targets has QEMU's virtio-scsi.
const SCSI_TARGETS: u16 = 256;

/// Where a SCSI disk is plugged in: a target for each, all on the one controller there is. libvirt
/// by itself adds controllers, of a kind that guests have no driver for.
fn drive(list: &mut Document, DiskTarget(n): DiskTarget) {
    let (target, unit) = ((n % SCSI_TARGETS).to_string(), (n / SCSI_TARGETS).to_string());
    list.leaf(
        "address",
        &[
            ("type", "drive"),
            ("controller", "0"),
            ("bus", "0"),
            ("target", &target),
            ("unit", &unit),
        ],
    );
}

/// One disk, as it is plugged into a running domain.
pub(in super::super) fn disk_alone(target: &Disk) -> Result<String, XmlError> {
    let mut document = Document::new();
    disk(&mut document, target);
    document.finish()
}

/// What SCSI disks are plugged into.
pub(in super::super) fn scsi_controller() -> Result<String, XmlError> {
    let mut document = Document::new();
    scsi(&mut document);
    document.finish()
}

fn scsi(list: &mut Document) {
    list.leaf("controller", &[("type", "scsi"), ("index", "0"), ("model", "virtio-scsi")]);
}

/// A NIC by itself, to be plugged in.
pub fn nic_alone(plugged: &Nic, model: VifModel) -> Result<String, XmlError> {
    let mut document = Document::new();
    nic(&mut document, plugged, model);
    document.finish()
}

fn nic(list: &mut Document, nic: &Nic, model: VifModel) {
    list.within("interface", &[("type", "bridge")], |interface| {
        interface.leaf("mac", &[("address", &nic.mac.to_string())]);
        interface.leaf("source", &[("bridge", &nic.bridge)]);
        interface.leaf("target", &[("dev", &nic.tap)]);
        interface.leaf("model", &[("type", model.as_str())]);
        interface.leaf("alias", &[("name", &nic.alias)]);
        if let Some(mtu) = nic.mtu {
            interface.leaf("mtu", &[("size", &mtu.to_string())]);
        }
    });
}

fn serial(list: &mut Document, spec: &DomainSpec) {
    list.within("serial", &[("type", "pty")], |serial| {
        if let Some(log) = &spec.serial_log {
            let path = serial.path(log);
            serial.leaf("log", &[("file", path), ("append", "on")]);
        }
        serial.leaf("target", &[("type", "isa-serial"), ("port", "0")]);
    });
    list.within("console", &[("type", "pty")], |console| {
        console.leaf("target", &[("type", "serial"), ("port", "0")]);
    });
}

fn tpm(list: &mut Document, tpm: Tpm) {
    match tpm {
        Tpm::Absent => {}
        Tpm::Emulated(model) => list.within("tpm", &[("model", model.as_str())], |element| {
            element.leaf("backend", &[("type", "emulator"), ("version", "2.0")]);
        }),
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use ostler_protocol::rpc::hardware::TpmModel;
    use ostler_protocol::rpc::values::MacAddress;
    use ostler_protocol::rpc::volume::Limit;
    use proptest::prelude::*;

    use super::super::read::parse;
    use super::*;
    use crate::hypervisor::spec::{DiskFormat, Vnc, sample};

    fn full() -> DomainSpec {
        let mut spec = sample();
        spec.metadata.id = "0f8fad5b-d9cb-469f-a165-70867728950e".parse().unwrap();
        spec.metadata.name = "web <1> & co".to_owned();
        spec.metadata.owner = "tenant".to_owned();
        spec.metadata.generation = 7;
        spec.virt_type = VirtType::Kvm;
        spec.vcpus = 2;
        spec.max_vcpus = 3;
        spec.memory = Bytes(Bytes::gib(2).0 + 1);
        spec.max_memory = Bytes::gib(4);
        spec.machine = Machine::Q35 { spare_slots: 2 };
        spec.cpu = CpuMode::Named("EPYC".to_owned());
        spec.firmware = Firmware::Uefi(SecureBoot::Enforced);
        spec.boot = Boot::Kernel {
            kernel: PathBuf::from("/boot/vmlinuz"),
            initrd: Some(PathBuf::from("/boot/initrd")),
            cmdline: "console=ttyS0 quiet".to_owned(),
        };
        spec.disks = vec![
            Disk {
                source: DiskSource::File(PathBuf::from("/instances/root.qcow2")),
                format: DiskFormat::Qcow2,
                bus: DiskBus::Virtio,
                target: DiskTarget(0),
                alias: String::new(),
                serial: "root".to_owned(),
                access: DiskAccess::ReadWrite,
                sharing: Sharing::Exclusive,
                limits: Default::default(),
                cache: DiskCache::None,
                discard: Discard::Unmap,
                io: None,
                boot_order: Some(1),
                key: None,
            },
            Disk {
                source: DiskSource::Block(PathBuf::from("/dev/vg/config")),
                format: DiskFormat::Raw,
                bus: DiskBus::Scsi,
                target: DiskTarget(1),
                alias: "ua-config".to_owned(),
                serial: "config".to_owned(),
                access: DiskAccess::ReadOnly,
                sharing: Sharing::Shared,
                limits: [(Limit::TotalIops, 500)].into(),
                cache: DiskCache::Writeback,
                discard: Discard::Ignore,
                io: Some(Io::IoUring),
                boot_order: None,
                key: None,
            },
        ];
        spec.nics = vec![Nic {
            mac: MacAddress::in_qemu_range(1, 2, 3),
            bridge: "br0".to_owned(),
            tap: "tap0".to_owned(),
            mtu: Some(1450),
            alias: "ua-0f8fad5b-d9cb-469f-a165-70867728950e".to_owned(),
        }];
        spec.ostler_port = Some(PathBuf::from("/run/ostler/guest/0.sock"));
        spec.serial_log = Some(PathBuf::from("/var/log/ostler/0.log"));
        spec.vnc = Some(Vnc { listen: [127, 0, 0, 1].into() });
        spec.watchdog = Some(WatchdogAction::Reset);
        spec.memory_stats_period = Some(10);
        spec.tpm = Tpm::Emulated(TpmModel::Crb);
        spec
    }

    #[test]
    fn a_full_domain_is_written_as_agreed() {
        let written = write_locked(&full(), &Secret::new("golden!!".to_owned())).unwrap();
        assert_eq!(written.trim(), include_str!("golden/full.xml").trim(), "\n{}", *written);
    }

    /// A guest without drivers of virtio, on the classic board.
    #[test]
    fn a_domain_for_an_old_guest_is_written_as_agreed() {
        let mut spec = full();
        spec.machine = Machine::Pc;
        spec.firmware = Firmware::Uefi(SecureBoot::Off);
        spec.variables = Some(PathBuf::from("/instances/uefi.fd"));
        spec.boot = Boot::Disk;
        spec.disks.truncate(1);
        spec.disks[0].bus = DiskBus::Sata;
        spec.nic_model = VifModel::E1000e;
        spec.agent_channel = AgentChannel::Absent;
        spec.watchdog = Some(WatchdogAction::PowerOff);
        spec.tpm = Tpm::Emulated(TpmModel::Tis);
        let written = write_locked(&spec, &Secret::new("golden!!".to_owned())).unwrap();
        assert_eq!(written.trim(), include_str!("golden/old.xml").trim(), "\n{}", *written);
    }

    #[test]
    fn a_cd_rom_is_one_and_only_read() {
        let mut spec = full();
        spec.disks.truncate(1);
        (spec.disks[0].bus, spec.disks[0].access) = (DiskBus::Ide, DiskAccess::CdRom);
        let root = parse(&write(&spec).unwrap()).unwrap();
        let disk = root.child("devices").unwrap().child("disk").unwrap();
        assert_eq!(disk.attribute("device"), Some("cdrom"));
        assert!(disk.child("readonly").is_some());
        let target = disk.child("target").unwrap();
        assert_eq!((target.attribute("dev"), target.attribute("bus")), (Some("hda"), Some("ide")));
    }

    #[test]
    fn each_screen_is_locked_with_a_word_of_its_own() {
        let word = |written: &str| {
            let root = parse(written).unwrap();
            let graphics = root.child("devices").unwrap().child("graphics").unwrap();
            assert_eq!(graphics.attribute("passwdValidTo"), Some("1970-01-01T00:00:00"));
            graphics.attribute("passwd").unwrap().to_owned()
        };
        let (one, other) = (word(&write(&full()).unwrap()), word(&write(&full()).unwrap()));
        assert_eq!((one.len(), other.len()), (VNC_PASSWORD_MAX, VNC_PASSWORD_MAX));
        assert_ne!(one, other);
    }

    #[test]
    fn a_path_that_is_not_text_is_refused() {
        use std::os::unix::ffi::OsStringExt;
        let path = PathBuf::from(std::ffi::OsString::from_vec(vec![b'/', 0xff]));
        let mut spec = sample();
        spec.serial_log = Some(path.clone());
        assert_eq!(write(&spec).unwrap_err(), XmlError::Path { path });
    }

    proptest! {
        /// Whatever a name, a path or a command line holds, the document keeps its shape.
        #[test]
        fn no_value_becomes_markup(name in "\\PC{0,40}", cmdline in "[ -~\n\t\r]{0,80}") {
            let mut spec = full();
            spec.metadata.name = name.clone();
            spec.nics[0].bridge = name.clone();
            spec.ostler_port = Some(PathBuf::from(format!("/{name}")));
            spec.boot = Boot::Kernel { kernel: PathBuf::new(), initrd: None, cmdline: cmdline.clone() };
            let root = parse(&write(&spec).unwrap()).unwrap();
            let shape = parse(&write(&full()).unwrap()).unwrap();
            prop_assert_eq!(names(&root), names(&shape));
            prop_assert_eq!(root.child("os").unwrap().required("cmdline").unwrap(), cmdline);
            let devices = root.child("devices").unwrap();
            let source = devices.child("interface").unwrap().child("source").unwrap();
            prop_assert_eq!(source.attribute("bridge"), Some(name.as_str()));
        }
    }

    /// The elements in order, `<initrd>` aside.
    fn names(element: &super::super::read::Element) -> Vec<String> {
        let mut all = vec![element.name.clone()];
        all.extend(element.children.iter().filter(|c| c.name != "initrd").flat_map(names));
        all
    }
}
