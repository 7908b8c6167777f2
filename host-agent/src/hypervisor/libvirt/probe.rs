//! What the node can do, by asking; and what guests run on, by trying.
//!
//! That `/dev/kvm` is there, and that libvirt offers KVM, proves little: in a nested or broken
//! setup a KVM guest starts and then executes nothing, or so slowly that emulation is faster. So a
//! throw-away guest must get through its firmware ([`super::xml::probe`]) in the time that takes
//! even when emulated before KVM is believed. And it has the processor an instance would have: in
//! other setups a guest runs, but not with all that the host's own processor is said to have.

use std::time::Duration;

use ostler_protocol::rpc::hardware::{Boards, MachineType};
use ostler_protocol::rpc::values::InstanceId;
use tokio::time::{Instant, timeout_at};
use virt::connect::Connect;
use virt::sys;

use super::driver::{Libvirt, Traffic};
use super::error::{from_libvirt, from_xml};
use super::xml;
use crate::hypervisor::spec::CpuMode;
use crate::hypervisor::{
    Capabilities, Error, Hypervisor, HypervisorEvent, PowerReason, PowerState, VirtChoice,
    VirtSetting, VirtType,
};

/// Emulated, the firmware needs a fraction of a second.
const PROOF_WITHIN: Duration = Duration::from_secs(3);
/// To start the throw-away guest. The first start after libvirtd's own examines QEMU.
const START_WITHIN: Duration = Duration::from_secs(30);

/// Characters of a reason the hypervisor gives.
const LINE: usize = 240;

const STEP: &str = "probe";

/// Decides what domains run on.
pub(super) async fn virt_type(
    libvirt: &Libvirt,
    setting: VirtSetting,
) -> Result<VirtChoice, Error> {
    let configured = |virt_type, cpu| VirtChoice { virt_type, cpu, why: "configured".to_owned() };
    match setting {
        VirtSetting::Kvm => Ok(configured(VirtType::Kvm, CpuMode::HostModel)),
        VirtSetting::Qemu => Ok(configured(VirtType::Qemu, CpuMode::Maximum)),
        VirtSetting::Auto => tried(libvirt).await,
    }
}

/// What runs a guest: KVM with the best processor it starts with, or emulation.
async fn tried(libvirt: &Libvirt) -> Result<VirtChoice, Error> {
    let capabilities = libvirt.capabilities().await?;
    let mut failed = Vec::new();
    if !capabilities.kvm_offered {
        failed.push("libvirt offers no KVM here".to_owned());
    }
    for cpu in if capabilities.kvm_offered { processors() } else { Vec::new() } {
        match prove(libvirt, VirtType::Kvm, &cpu).await? {
            Ok(()) => {
                failed.insert(0, format!("a guest with {cpu} ran its firmware on KVM"));
                return Ok(VirtChoice { virt_type: VirtType::Kvm, cpu, why: failed.join("; ") });
            }
            Err(why) => failed.push(format!("with {cpu} {why}")),
        }
    }
    let why = failed.join("; ");
    Ok(VirtChoice { virt_type: VirtType::Qemu, cpu: CpuMode::Maximum, why })
}

/// The processors tried on KVM, the best first: the named model nearest the host's; the oldest that
/// today's systems are built for (x86-64-v2); the one every x86-64 system runs on.
fn processors() -> Vec<CpuMode> {
    let named = ["Nehalem", "qemu64"].map(|model| CpuMode::Named(model.to_owned()));
    std::iter::once(CpuMode::HostModel).chain(named).collect()
}

/// The hypervisor's words in one line that is not endless.
fn short(reason: &str) -> String {
    let words: Vec<_> = reason.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(LINE) {
        Some((end, _)) => format!("{}...", &line[..end]),
        None => line,
    }
}

/// Runs a throw-away guest. The outer error is that it could not be tried.
async fn prove(
    libvirt: &Libvirt,
    on: VirtType,
    cpu: &CpuMode,
) -> Result<Result<(), String>, Error> {
    let id = InstanceId::random();
    let xml = xml::probe::write(id, on, cpu).map_err(|error| from_xml(STEP, Some(id), &error))?;
    let mut events = libvirt.events();
    let started = libvirt
        .call(Traffic::Control, Some(id), STEP, START_WITHIN, move |connect| {
            // destroyed with the connection: it never outlives this process
            connect
                .create_domain_xml(&xml, sys::VIR_DOMAIN_START_AUTODESTROY)
                .map(drop)
                .map_err(|error| from_libvirt(STEP, Some(id), &error))
        })
        .await;
    match started {
        Ok(()) => {}
        Err(Error::Refused { reason, .. } | Error::Failed { message: reason, .. }) => {
            return Ok(Err(format!("a {on} guest does not start: {}", short(&reason))));
        }
        Err(error) => return Err(error),
    }
    let deadline = Instant::now() + PROOF_WITHIN;
    let outcome = loop {
        match timeout_at(deadline, events.next()).await {
            Ok(Some(HypervisorEvent::Lifecycle {
                id: about,
                power: PowerState::Shutdown,
                reason,
            })) if about == id && reason != PowerReason::ShuttingDown => {
                if reason == PowerReason::ShutDown {
                    return Ok(Ok(()));
                }
                break format!("a {on} guest starts, then dies ({reason:?})");
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                let seconds = PROOF_WITHIN.as_secs();
                break format!(
                    "a {on} guest starts, but is not through its firmware in {seconds} s"
                );
            }
        }
    };
    // it carries no mark: nobody but this call knows it
    let destroyed = libvirt.call(Traffic::Destroy, None, STEP, START_WITHIN, move |connect| {
        let told = |error| from_libvirt(STEP, Some(id), &error);
        connect.lookup_domain_by_uuid(id.0).map_err(told)?.destroy().map_err(told)
    });
    if let Err(error) = destroyed.await {
        tracing::warn!(domain = %id, %error, "the guest of a probe is left behind");
    }
    Ok(Err(outcome))
}

/// What libvirt and QEMU say of themselves.
pub(super) fn capabilities(connect: &Connect) -> Result<Capabilities, Error> {
    let step = "capabilities";
    let told = |error: virt::error::Error| from_libvirt(step, None, &error);
    let of = |virt_type: &str| connect.domain_capabilities(None, None, None, Some(virt_type), 0);
    let (kvm_offered, described) = match of("kvm") {
        Ok(described) => (true, described),
        Err(_) => (false, of("qemu").map_err(told)?),
    };
    let domain = xml::capabilities::read(&described).map_err(|e| from_xml(step, None, &e))?;
    let virt_type = if kvm_offered { "kvm" } else { "qemu" };
    let board = |machine: MachineType| {
        let machine = Some(machine.as_str());
        // A board that there is not is an error.
        let described =
            connect.domain_capabilities(None, None, machine, Some(virt_type), 0).ok()?;
        xml::capabilities::read(&described).ok().map(|of| of.board)
    };
    let boards =
        Boards { q35: board(MachineType::Q35), pc: board(MachineType::Pc), tpm: domain.tpm };
    Ok(Capabilities {
        libvirt_version: version(connect.lib_version().map_err(told)?),
        hypervisor_version: version(connect.hyp_version().map_err(told)?),
        emulator: domain.emulator,
        arch: domain.arch,
        kvm_offered,
        max_vcpus: domain.max_vcpus,
        boards,
    })
}

/// libvirt's versions are numbers: 9000000 is 9.0.0.
fn version(number: u32) -> String {
    format!("{}.{}.{}", number / 1_000_000, number / 1_000 % 1_000, number % 1_000)
}

#[cfg(test)]
mod tests {
    use super::{short, version};

    #[test]
    fn a_reason_is_one_line_of_bounded_length() {
        assert_eq!(short("internal error:\n  no KVM"), "internal error: no KVM");
        assert_eq!(short(&"\u{e4}".repeat(1000)).chars().count(), super::LINE + 3);
    }

    #[test]
    fn versions_read_as_people_write_them() {
        assert_eq!(version(7_002_022), "7.2.22");
    }
}
