//! What the node's hypervisor is, and what domains run on: KVM or emulation.

use std::fmt;

use ostler_protocol::rpc::hardware::Boards;

use super::spec::CpuMode;

/// What executes a guest's instructions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VirtType {
    /// The processor, through KVM.
    Kvm,
    /// QEMU's emulator: works everywhere, slowly.
    Qemu,
}

impl VirtType {
    /// The word configuration and replies use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Qemu => "qemu",
        }
    }
}

impl fmt::Display for VirtType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What the operator wants domains to run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VirtSetting {
    /// KVM if a guest really runs on it with a processor as instances get, otherwise emulation.
    #[default]
    Auto,
    /// KVM, whatever a probe would say.
    Kvm,
    /// Emulation.
    Qemu,
}

/// What domains will run on, and why that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VirtChoice {
    /// The choice.
    pub virt_type: VirtType,
    /// The processor that guests see on it.
    pub cpu: CpuMode,
    /// Why, and what was tried before, for people.
    pub why: String,
}

/// What the hypervisor says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Capabilities {
    /// The library's or daemon's version, as `9.0.0`.
    pub libvirt_version: String,
    /// QEMU's version, as `7.2.22`.
    pub hypervisor_version: String,
    /// The emulator's path.
    pub emulator: String,
    /// The guest architecture.
    pub arch: String,
    /// Whether the hypervisor offers KVM at all. That guests run on it is another question:
    /// [`Hypervisor::virt_type`](super::Hypervisor::virt_type).
    pub kvm_offered: bool,
    /// The most vCPUs one domain can have.
    pub max_vcpus: u32,
    /// The boards there are, what firmware is installed for them, and whether there is a TPM.
    pub boards: Boards,
}
