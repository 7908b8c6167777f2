//! The driver against real libvirts: its test driver for what needs no guest, `qemu:///system`
//! (or `OSTLER_TEST_LIBVIRT_URI`) for emulated guests without disks. Each test prints why it is
//! skipped where there is none.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "these are tests: they panic, and say why they skip"
)]

mod adjust;
mod domain;
mod jobs;
mod link;
mod strangers;

use std::path::PathBuf;
use std::time::Duration;

use ostler_host_agent::hypervisor::inspect::{Definition, Inspect};
use ostler_host_agent::hypervisor::libvirt::{Libvirt, Settings, xml};
use ostler_host_agent::hypervisor::spec::{
    AgentChannel, Boot, CpuMode, Firmware, Machine, OnCrash, SecureBoot, Tpm, Vnc, WatchdogAction,
};
use ostler_host_agent::hypervisor::{
    Change, DomainSpec, Error, Events, Hypervisor, HypervisorEvent, Link, Metadata, PowerReason,
    PowerState, VirtSetting, VirtType,
};
use ostler_protocol::rpc::hardware::{TpmModel, VifModel};
use ostler_protocol::rpc::values::{Bytes, InstanceId};

const TEST_DRIVER: &str = "test:///default";
/// Long enough for a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

fn spec(name: &str) -> DomainSpec {
    DomainSpec {
        metadata: Metadata {
            id: InstanceId::random(),
            name: name.to_owned(),
            owner: "o'wner \"&\" <co>".to_owned(),
            generation: 3,
            node: "tests".to_owned(),
            record: String::new(),
        },
        virt_type: VirtType::Qemu,
        vcpus: 1,
        max_vcpus: 1,
        memory: Bytes::mib(64),
        max_memory: Bytes::mib(64),
        machine: Machine::Pc,
        cpu: CpuMode::HypervisorDefault,
        firmware: Firmware::Bios,
        variables: None,
        boot: Boot::Disk,
        disks: Vec::new(),
        nics: Vec::new(),
        nic_model: VifModel::Virtio,
        agent_channel: AgentChannel::Present,
        ostler_port: None,
        serial_log: None,
        vnc: None,
        watchdog: None,
        memory_stats_period: None,
        tpm: Tpm::Absent,
        on_crash: OnCrash::Destroy,
    }
}

/// A driver whose link is up, or none where there is no libvirt.
async fn connected(uri: &str) -> Option<Libvirt> {
    connected_as("tests", uri).await
}

/// The same, of another node.
async fn connected_as(node: &str, uri: &str) -> Option<Libvirt> {
    let node = node.to_owned();
    let settings = Settings { uri: uri.to_owned(), node, ..Settings::default() };
    let driver = Libvirt::start(&settings).unwrap();
    let mut link = driver.link();
    match tokio::time::timeout(Duration::from_secs(5), link.wait_for(|l| *l == Link::Up)).await {
        Ok(up) => drop(up.unwrap()),
        Err(_) => {
            println!("skipped: no libvirt answers at {uri}");
            return None;
        }
    }
    Some(driver)
}

fn system_uri() -> String {
    std::env::var("OSTLER_TEST_LIBVIRT_URI").unwrap_or_else(|_| "qemu:///system".to_owned())
}

async fn system() -> Option<Libvirt> {
    connected(&system_uri()).await
}

/// Waits for an event, passing over others.
async fn wait_for(events: &mut Events, wanted: impl Fn(&HypervisorEvent) -> bool) {
    let found = async {
        loop {
            let event = events.next().await.expect("the driver lives");
            if wanted(&event) {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("the event came");
}

fn lifecycle(id: InstanceId, power: PowerState, reason: PowerReason) -> HypervisorEvent {
    HypervisorEvent::Lifecycle { id, power, reason }
}

#[tokio::test]
async fn the_whole_life_of_a_domain() {
    let Some(driver) = system().await else { return };
    let spec = spec("life");
    let id = spec.id();
    let mut events = driver.events();
    assert_eq!(driver.state(id).await, Err(Error::NotFound { domain: id }));
    for _ in 0..2 {
        driver.define(&spec).await.unwrap();
    }
    assert_eq!(driver.state(id).await.unwrap().power, PowerState::Shutdown);

    assert_eq!(driver.start(id).await, Ok(Change::Made));
    assert_eq!(driver.start(id).await, Ok(Change::AlreadySo));
    assert_eq!(driver.state(id).await.unwrap().power, PowerState::Running);
    let booted = lifecycle(id, PowerState::Running, PowerReason::Booted);
    wait_for(&mut events, |event| *event == booted).await;

    let listed = driver.list().await.unwrap();
    let record = listed.iter().find(|record| record.id == id).unwrap();
    assert_eq!(record.name, spec.domain_name());
    assert_eq!(record.state.power, PowerState::Running);
    assert_eq!(record.ours.as_ref(), Some(&spec.metadata));

    let refused = driver.undefine(id).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    // its firmware found nothing to boot: nobody is there to heed the button
    driver.reboot(id).await.unwrap();
    domain::run("virsh", &["-c", &system_uri(), "reset", &spec.domain_name()]);
    wait_for(&mut events, |event| *event == HypervisorEvent::Rebooted { id }).await;
    assert_eq!(driver.shutdown(id).await, Ok(Change::Made));

    assert_eq!(driver.destroy(id).await, Ok(Change::Made));
    let destroyed = lifecycle(id, PowerState::Shutdown, PowerReason::Destroyed);
    wait_for(&mut events, |event| *event == destroyed).await;
    assert_eq!(driver.destroy(id).await, Ok(Change::AlreadySo));
    assert_eq!(driver.shutdown(id).await, Ok(Change::AlreadySo));
    assert!(driver.reboot(id).await.is_err());

    assert_eq!(driver.undefine(id).await, Ok(Change::Made));
    wait_for(&mut events, |event| *event == HypervisorEvent::Removed { id }).await;
    assert_eq!(driver.undefine(id).await, Ok(Change::AlreadySo));
    assert_eq!(driver.destroy(id).await, Ok(Change::AlreadySo));
    assert_eq!(driver.state(id).await, Err(Error::NotFound { domain: id }));
}

#[tokio::test]
async fn a_guest_without_an_agent_is_said_to_have_none() {
    let Some(driver) = system().await else { return };
    let spec = spec("agentless");
    let id = spec.id();
    driver.define(&spec).await.unwrap();
    let ping = r#"{"execute":"guest-ping"}"#;
    let off = driver.guest_command(id, ping, Duration::from_secs(5)).await.unwrap_err();
    driver.start(id).await.unwrap();
    let absent = driver.guest_command(id, ping, Duration::from_secs(5)).await.unwrap_err();
    driver.destroy(id).await.unwrap();
    driver.undefine(id).await.unwrap();
    assert!(matches!(off, Error::Refused { .. }), "{off}");
    assert!(matches!(absent, Error::GuestAgentUnavailable { .. }), "{absent}");
    assert!(absent.is_retryable());
    let gone = driver.guest_command(id, ping, Duration::from_secs(5)).await;
    assert_eq!(gone, Err(Error::NotFound { domain: id }));
}

#[tokio::test]
async fn hostile_names_come_back_as_they_went() {
    let Some(driver) = system().await else { return };
    for name in [
        "</title><os><loader>/etc/passwd</loader></os>",
        "]]>&lt;&#38;'\"",
        "two\nlines\r\n\ttabbed",
        "  spaced  ",
        "\u{85}\u{2028}\u{fffd}\u{1f40e}",
        "",
    ] {
        let spec = spec(name);
        driver.define(&spec).await.unwrap();
        let listed = driver.list().await.unwrap();
        driver.undefine(spec.id()).await.unwrap();
        let record = listed.iter().find(|record| record.id == spec.id()).unwrap();
        assert_eq!(record.ours.as_ref(), Some(&spec.metadata), "{name:?}");
    }
    let refused = driver.define(&spec("nul \0")).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
}

#[tokio::test]
async fn all_that_a_node_has_is_accepted_by_its_libvirt() {
    let Some(driver) = system().await else { return };
    let mut spec = spec("laden");
    spec.machine = Machine::Q35 { spare_slots: 4 };
    spec.cpu = CpuMode::Maximum;
    spec.ostler_port = Some(PathBuf::from(format!("/var/lib/libvirt/qemu/{}.sock", spec.id())));
    spec.vnc = Some(Vnc { listen: [127, 0, 0, 1].into() });
    spec.watchdog = Some(WatchdogAction::Reset);
    spec.memory_stats_period = Some(10);
    driver.define(&spec).await.unwrap();
    let started = driver.start(spec.id()).await;
    driver.destroy(spec.id()).await.unwrap();
    driver.undefine(spec.id()).await.unwrap();
    assert_eq!(started, Ok(Change::Made));
}

#[tokio::test]
async fn what_guests_run_on_is_proved_by_a_guest() {
    let Some(driver) = system().await else { return };
    let capabilities = driver.capabilities().await.unwrap();
    println!("{capabilities:?}");
    let choice = driver.virt_type(VirtSetting::Auto).await.unwrap();
    println!("{choice:?}");
    assert!(!choice.why.is_empty());
    // An instance gets what was found, and starts on it.
    let mut guest = spec("on-what-was-found");
    guest.machine = Machine::Q35 { spare_slots: 2 };
    (guest.virt_type, guest.cpu) = (choice.virt_type, choice.cpu);
    driver.define(&guest).await.unwrap();
    assert_eq!(driver.start(guest.id()).await, Ok(Change::Made));
    driver.destroy(guest.id()).await.unwrap();
    driver.undefine(guest.id()).await.unwrap();
    let left = driver.list().await.unwrap();
    assert!(left.iter().all(|record| !record.name.starts_with("ostler-probe-")));
    assert_eq!(driver.virt_type(VirtSetting::Kvm).await.unwrap().virt_type, VirtType::Kvm);
}

/// By emulation, which runs everywhere: KVM may not be what lets it end, nor its processor.
#[tokio::test]
async fn the_guest_of_the_proof_is_through_its_firmware_and_gone() {
    let Some(driver) = system().await else { return };
    for cpu in [CpuMode::Maximum, CpuMode::Named("qemu64".to_owned())] {
        let mut events = driver.events();
        let id = InstanceId::random();
        let xml = xml::probe::write(id, VirtType::Qemu, &cpu).unwrap();
        let uri = std::env::var("OSTLER_TEST_LIBVIRT_URI");
        #[expect(clippy::disallowed_methods, reason = "as somebody else than the driver")]
        let connect =
            virt::connect::Connect::open(Some(uri.as_deref().unwrap_or("qemu:///system"))).unwrap();
        drop(connect.create_domain_xml(&xml, virt::sys::VIR_DOMAIN_START_AUTODESTROY).unwrap());
        let over = lifecycle(id, PowerState::Shutdown, PowerReason::ShutDown);
        wait_for(&mut events, |event| *event == over).await;
    }
}

#[tokio::test]
async fn closing_ends_every_thread() {
    let Some(driver) = connected(TEST_DRIVER).await else { return };
    let mut events = driver.events();
    driver.close(PATIENCE).await;
    while events.next().await.is_some() {}
    // and the process can begin anew
    let again = connected(TEST_DRIVER).await.unwrap();
    assert!(!again.list().await.unwrap().is_empty(), "the test driver has a domain");
}

#[tokio::test]
async fn without_libvirt_calls_fail_at_once_and_say_why() {
    let settings =
        Settings { uri: "qemu+unix:///system?socket=/nowhere".to_owned(), ..Settings::default() };
    let driver = Libvirt::start(&settings).unwrap();
    let error = driver.list().await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    assert_eq!(*driver.link().borrow(), Link::Down);
    driver.close(PATIENCE).await;
}

#[test]
fn every_option_is_in_libvirts_schema() {
    let mut spec = spec("schema");
    spec.machine = Machine::Q35 { spare_slots: 2 };
    spec.firmware = Firmware::Uefi(SecureBoot::Enforced);
    spec.variables = Some(PathBuf::from("/x/uefi.fd"));
    spec.tpm = Tpm::Emulated(TpmModel::Crb);
    spec.vnc = Some(Vnc { listen: [127, 0, 0, 1].into() });
    spec.watchdog = Some(WatchdogAction::PowerOff);
    spec.memory_stats_period = Some(10);
    spec.ostler_port = Some(PathBuf::from("/run/x.sock"));
    spec.serial_log = Some(PathBuf::from("/var/log/x.log"));
    spec.boot = Boot::Kernel {
        kernel: PathBuf::from("/boot/k"),
        initrd: Some(PathBuf::from("/boot/i")),
        cmdline: "console=ttyS0".to_owned(),
    };
    spec.disks = disks();
    spec.nics = nics();
    spec.on_crash = OnCrash::Preserve;
    let xml = xml::domain::write(&spec).unwrap().replace("type=\"qemu\"", "type=\"test\"");
    #[expect(clippy::disallowed_methods, reason = "the schema is asked for directly")]
    let connect = virt::connect::Connect::open(Some(TEST_DRIVER)).unwrap();
    let defined = connect.define_domain_xml_flags(&xml, virt::sys::VIR_DOMAIN_DEFINE_VALIDATE);
    if let Err(error) = defined {
        panic!("{error}\n{xml}");
    }
}

fn disks() -> Vec<ostler_host_agent::hypervisor::spec::Disk> {
    use ostler_host_agent::hypervisor::spec::{
        Discard, Disk, DiskAccess, DiskAuth, DiskBus, DiskCache, DiskFormat, DiskHost,
        DiskProtocol, DiskSource, DiskTarget, NetworkDisk, SecretKind, SecretName, Sharing,
    };
    let host = |port| DiskHost::Tcp { name: "10.0.0.7".to_owned(), port };
    let network = |protocol, name: &str, hosts, auth| {
        DiskSource::Network(NetworkDisk { protocol, name: name.to_owned(), hosts, auth })
    };
    let auth = |kind| {
        let secret = SecretName::Usage("ostler-1".to_owned());
        Some(DiskAuth { user: "u".to_owned(), kind, secret })
    };
    let socket = DiskHost::Unix(PathBuf::from("/run/ostler/nbd/a"));
    let nbd = network(DiskProtocol::Nbd, "", vec![socket], None);
    let chap = auth(SecretKind::Iscsi);
    let iscsi = network(DiskProtocol::Iscsi, "iqn.2010-10.org.x:1/1", vec![host(Some(3260))], chap);
    let ceph = auth(SecretKind::Ceph);
    let rbd = network(DiskProtocol::Rbd, "volumes/1", vec![host(Some(6789))], ceph);
    let disk = |target, source, access| Disk {
        bus: DiskBus::Virtio,
        alias: String::new(),
        sharing: Sharing::Exclusive,
        limits: Default::default(),
        source,
        format: DiskFormat::Qcow2,
        target: DiskTarget(target),
        serial: format!("serial-{target}"),
        access,
        cache: DiskCache::None,
        discard: Discard::Unmap,
        io: None,
        boot_order: None,
        key: None,
    };
    vec![
        disk(0, DiskSource::File(PathBuf::from("/x/a b.qcow2")), DiskAccess::ReadWrite),
        disk(1, DiskSource::Block(PathBuf::from("/dev/x")), DiskAccess::ReadOnly),
        disk(2, nbd, DiskAccess::ReadWrite),
        disk(3, iscsi, DiskAccess::ReadWrite),
        disk(4, rbd, DiskAccess::ReadWrite),
    ]
}

fn nics() -> Vec<ostler_host_agent::hypervisor::spec::Nic> {
    use ostler_host_agent::hypervisor::spec::Nic;
    use ostler_protocol::rpc::values::MacAddress;
    vec![Nic {
        mac: MacAddress::in_qemu_range(1, 2, 3),
        bridge: "br0".to_owned(),
        tap: "tap-x".to_owned(),
        mtu: Some(1450),
        alias: "ua-x".to_owned(),
    }]
}

#[tokio::test]
async fn what_a_domain_is_can_be_seen() {
    let Some(driver) = system().await else { return };
    let mut spec = spec("seen");
    spec.vnc = Some(Vnc { listen: [127, 0, 0, 1].into() });
    let id = spec.id();
    assert_eq!(driver.fingerprint(id).await, Err(Error::NotFound { domain: id }));
    driver.define(&spec).await.unwrap();
    let print = driver.fingerprint(id).await.unwrap();
    // Off: nothing of what only runs.
    for refused in [
        driver.console(id).await.map(drop),
        driver.screen(id).await.map(drop),
        driver.stats(id).await.map(drop),
    ] {
        assert!(matches!(refused, Err(Error::Refused { .. })), "{refused:?}");
    }

    // Neither a start, nor a run, nor an end changes what it is.
    driver.start(id).await.unwrap();
    assert_eq!(driver.fingerprint(id).await.unwrap(), print);
    let console = driver.console(id).await.unwrap();
    assert!(console.starts_with("/dev/pts"), "{}", console.display());
    let screen = driver.screen(id).await.unwrap().unwrap();
    assert!(screen.address.is_loopback() && screen.port >= 5900, "{screen:?}");
    let stats = driver.stats(id).await.unwrap();
    assert_eq!((stats.vcpus.len(), stats.nics.len(), stats.disks.len()), (1, 0, 0));
    assert!(stats.cpu_time.is_some_and(|time| time > 0), "{stats:?}");
    assert_eq!(stats.memory.maximum, Some(spec.memory));
    let live = driver.xml(id, Definition::Live).await.unwrap();
    let kept = driver.xml(id, Definition::Persistent).await.unwrap();
    assert!(live.contains("/dev/pts/") && !kept.contains("/dev/pts/"));
    driver.reboot(id).await.unwrap();
    assert_eq!(driver.fingerprint(id).await.unwrap(), print);

    // A change of the definition does, though what runs is as it was.
    (spec.memory, spec.max_memory) = (Bytes::mib(65), Bytes::mib(65));
    driver.define(&spec).await.unwrap();
    assert_ne!(driver.fingerprint(id).await.unwrap(), print);
    (spec.memory, spec.max_memory) = (Bytes::mib(64), Bytes::mib(64));
    driver.define(&spec).await.unwrap();
    assert_eq!(driver.fingerprint(id).await.unwrap(), print);
    driver.destroy(id).await.unwrap();
    assert_eq!(driver.fingerprint(id).await.unwrap(), print);
    driver.undefine(id).await.unwrap();
}
