//! What a domain is made of, typed. No policy: defaults are the caller's, the XML is the driver's.

mod network;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use ostler_protocol::rpc::hardware::{TpmModel, VifModel};
use ostler_protocol::rpc::values::{Bytes, InstanceId, MacAddress};
use ostler_protocol::rpc::volume::{Io, Qos};

use super::VirtType;
pub use network::{DiskAuth, DiskHost, DiskProtocol, NetworkDisk, SecretKind, SecretName};

/// What we write into a domain to know it again, whatever else is lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The instance.
    pub id: InstanceId,
    /// What people call it.
    pub name: String,
    /// Whose it is.
    pub owner: String,
    /// Counts definitions, so that a stale one is told from the last.
    pub generation: u64,
    /// The node it is on.
    pub node: String,
    /// The agent's own record of it, as text.
    pub record: String,
}

/// A domain to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainSpec {
    /// Its identity; the id is the domain's UUID.
    pub metadata: Metadata,
    /// What executes it.
    pub virt_type: VirtType,
    /// vCPUs it starts with, at least one.
    pub vcpus: u32,
    /// vCPUs it can be given while it runs; at least `vcpus`.
    pub max_vcpus: u32,
    /// Memory the balloon leaves it; rounded up to KiB.
    pub memory: Bytes,
    /// Memory it starts with and can be given back while it runs; at least `memory`, rounded up to
    /// KiB.
    pub max_memory: Bytes,
    /// The board.
    pub machine: Machine,
    /// The processor the guest sees.
    pub cpu: CpuMode,
    /// What the board starts with.
    pub firmware: Firmware,
    /// The file UEFI keeps its variables in, made at the first start; where the hypervisor likes if
    /// none.
    pub variables: Option<PathBuf>,
    /// Where the guest's system comes from.
    pub boot: Boot,
    /// Disks, each with a target of its own.
    pub disks: Vec<Disk>,
    /// NICs, in the order the guest finds them.
    pub nics: Vec<Nic>,
    /// The model of all of them.
    pub nic_model: VifModel,
    /// Whether there is the standard guest agent's channel.
    pub agent_channel: AgentChannel,
    /// The socket QEMU binds for our own guest channel.
    pub ostler_port: Option<PathBuf>,
    /// Where the serial console is written to as well.
    pub serial_log: Option<PathBuf>,
    /// A screen.
    pub vnc: Option<Vnc>,
    /// A watchdog the guest may arm.
    pub watchdog: Option<WatchdogAction>,
    /// Seconds between the guest's memory reports; none means no reports.
    pub memory_stats_period: Option<u32>,
    /// A software TPM 2.0.
    pub tpm: Tpm,
    /// What becomes of it when the guest crashes.
    pub on_crash: OnCrash,
}

/// The prefix of our domains' names.
pub const NAME_PREFIX: &str = "ostler-";

impl DomainSpec {
    /// The domain's id.
    pub const fn id(&self) -> InstanceId {
        self.metadata.id
    }

    /// The hypervisor's name for it: unique, whatever people call the instance.
    pub fn domain_name(&self) -> String {
        format!("{NAME_PREFIX}{}", self.metadata.id)
    }
}

/// The board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// PCI Express, with this many free slots for devices plugged in later.
    Q35 {
        /// Free slots.
        spare_slots: u8,
    },
    /// The classic PC: plain PCI, slots for all.
    Pc,
}

/// The processor the guest sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuMode {
    /// Whatever the hypervisor gives.
    HypervisorDefault,
    /// The host's own, with all it has.
    HostPassthrough,
    /// The named model nearest the host's.
    HostModel,
    /// All the hypervisor can give; the best there is for emulation.
    Maximum,
    /// A named model.
    Named(String),
}

impl CpuMode {
    /// libvirt's word for the mode, or the model's name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::HypervisorDefault => "default",
            Self::HostPassthrough => "host-passthrough",
            Self::HostModel => "host-model",
            Self::Maximum => "maximum",
            Self::Named(model) => model,
        }
    }
}

impl fmt::Display for CpuMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the board starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// UEFI, its variables kept with the domain.
    Uefi(SecureBoot),
}

/// Whether UEFI starts signed code only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecureBoot {
    /// Signed with the enrolled keys only.
    Enforced,
    /// Anything.
    Off,
}

/// Whether there is the standard guest agent's channel, which the hypervisor itself serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AgentChannel {
    /// There is.
    Present,
    /// There is none.
    Absent,
}

/// Whether there is a TPM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tpm {
    /// A software TPM 2.0 that guests talk to like this, its state kept with the domain.
    Emulated(TpmModel),
    /// None.
    Absent,
}

/// Where the guest's system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// The first disk.
    Disk,
    /// A kernel of the host's.
    Kernel {
        /// The kernel.
        kernel: PathBuf,
        /// The initial RAM disk.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: String,
    },
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Where its bytes are.
    pub source: DiskSource,
    /// Its format: declared, never guessed.
    pub format: DiskFormat,
    /// What it is plugged into.
    pub bus: DiskBus,
    /// Its place there.
    pub target: DiskTarget,
    /// What the hypervisor calls it, to be known again; as it likes if empty.
    pub alias: String,
    /// What the guest sees as its serial number; at most 20 bytes reach it.
    pub serial: String,
    /// Whether the guest may write.
    pub access: DiskAccess,
    /// Whether other domains may have it too.
    pub sharing: Sharing,
    /// The secret that opens it, if what is there is encrypted (LUKS).
    pub key: Option<SecretName>,
    /// What the guest may do with it at most.
    pub limits: Qos,
    /// How the host caches it.
    pub cache: DiskCache,
    /// What a guest's discard does.
    pub discard: Discard,
    /// How QEMU reads and writes it; as it likes if none.
    pub io: Option<Io>,
    /// Its turn when the firmware looks for a system, from 1; it is not tried if none.
    pub boot_order: Option<u8>,
}

impl Disk {
    /// Its device, as in `vda` or `sdb`.
    pub fn device(&self) -> String {
        self.target.on(self.bus)
    }
}

/// What a disk is plugged into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskBus {
    /// virtio-blk: a PCI device for each disk.
    Virtio,
    /// virtio-scsi: many disks on one PCI device.
    Scsi,
    /// SATA, for guests without drivers of virtio: nothing is plugged in while it runs.
    Sata,
    /// IDE, which machine `pc` has. Nothing is plugged in while it runs.
    Ide,
}

/// Whether several domains may have a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sharing {
    /// One alone.
    Exclusive,
    /// Several, who see to it among themselves who writes what.
    Shared,
}

/// Where a disk's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DiskSource {
    /// A file.
    File(PathBuf),
    /// A block device of the host.
    Block(PathBuf),
    /// On a server.
    Network(NetworkDisk),
}

impl fmt::Display for DiskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) | Self::Block(path) => write!(f, "{}", path.display()),
            Self::Network(disk) => write!(f, "{} {}", disk.protocol.as_str(), disk.name),
        }
    }
}

/// How a disk's bytes are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFormat {
    /// QEMU's own.
    Qcow2,
    /// As they are.
    Raw,
}

impl DiskFormat {
    /// QEMU's word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Qcow2 => "qcow2",
            Self::Raw => "raw",
        }
    }
}

/// Whether the guest may write to a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskAccess {
    /// It may.
    ReadWrite,
    /// It may not.
    ReadOnly,
    /// It may not: to the guest it is a CD-ROM.
    CdRom,
}

/// How the host caches a disk. A flush of the guest's reaches the disk in all of them but
/// `Unsafe`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// Past the host's page cache; its file system must know O_DIRECT.
    None,
    /// Through the host's page cache.
    Writeback,
    /// Flushes are ignored: for disks that may be lost.
    Unsafe,
}

/// What a guest's discard does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discard {
    /// It frees the space on the host.
    Unmap,
    /// Nothing.
    Ignore,
}

/// A disk's place on its bus: the first is `vda`, or `sda`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DiskTarget(pub u16);

impl DiskTarget {
    /// As disks are named on this bus: `vda` to `vdz`, then `vdaa`.
    pub fn on(self, bus: DiskBus) -> String {
        let prefix = match bus {
            DiskBus::Virtio => "vd",
            DiskBus::Scsi | DiskBus::Sata => "sd",
            DiskBus::Ide => "hd",
        };
        let mut name = prefix.as_bytes().to_vec();
        let mut rest = u32::from(self.0) + 1;
        let mut letters = Vec::new();
        while rest > 0 {
            rest -= 1;
            letters.push(b'a' + (rest % 26) as u8);
            rest /= 26;
        }
        name.extend(letters.iter().rev());
        name.into_iter().map(char::from).collect()
    }

    /// The place of this name on a bus; none if it is not one.
    pub fn named(device: &str, bus: DiskBus) -> Option<Self> {
        // Two letters: as many as QEMU can be given.
        (0..702).map(Self).find(|target| target.on(bus) == device)
    }
}

impl fmt::Display for DiskTarget {
    /// As on virtio-blk.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.on(DiskBus::Virtio))
    }
}

/// A NIC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// Its address.
    pub mac: MacAddress,
    /// The bridge its tap is put on.
    pub bridge: String,
    /// The tap's name, at most 15 bytes; the hypervisor makes and removes it.
    pub tap: String,
    /// What the hypervisor calls it; begins with `ua-`.
    pub alias: String,
    /// The MTU the guest is told.
    pub mtu: Option<u16>,
}

/// A screen over VNC, on a port the hypervisor picks. Nobody gets in until it is given a password:
/// [`Adjust::set_vnc_password`](super::Adjust::set_vnc_password).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vnc {
    /// Where it listens.
    pub listen: IpAddr,
}

/// What a watchdog does when the guest lets it expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchdogAction {
    /// Reset the guest.
    Reset,
    /// Pull the plug.
    PowerOff,
    /// Stop its vCPUs.
    Pause,
    /// Only tell.
    None,
}

/// What becomes of a domain whose guest crashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnCrash {
    /// It is off, and seen to have crashed: whoever wants it running decides.
    #[default]
    Destroy,
    /// It starts again, which a guest that crashes at boot makes a loop.
    Restart,
    /// It is kept as it is, for somebody to look at.
    Preserve,
}

/// A small domain, for tests: no disk, no NIC, emulated.
#[cfg(test)]
pub(crate) fn sample() -> DomainSpec {
    DomainSpec {
        metadata: Metadata {
            id: InstanceId::random(),
            name: "sample".to_owned(),
            owner: "tests".to_owned(),
            generation: 1,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_like_spreadsheet_columns() {
        for (index, name) in
            [(0, "vda"), (25, "vdz"), (26, "vdaa"), (27, "vdab"), (701, "vdzz"), (702, "vdaaa")]
        {
            assert_eq!(DiskTarget(index).to_string(), name);
            let found = DiskTarget::named(name, DiskBus::Virtio);
            assert_eq!(found, Some(DiskTarget(index)).filter(|_| index < 702));
        }
    }
}
