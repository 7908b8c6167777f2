//! Booting and starting: a disk, bridges, a domain.

use std::net::{IpAddr, Ipv4Addr};

use ostler_protocol::rpc::hardware::{FirmwareType, MachineType, Watchdog};
use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;

use super::adjust::metadata;
use super::{Engine, StepError, disks};
use crate::compute::outside::Outside;
use crate::compute::wires::Wires;
use crate::disk::Disks;
use crate::hypervisor::inspect::Inspect;
use crate::hypervisor::spec::{
    AgentChannel, Boot, Disk, DomainSpec, Firmware, Machine, OnCrash, SecureBoot, Tpm, Vnc,
    WatchdogAction,
};
use crate::hypervisor::{self, Hypervisor, VirtChoice};
use crate::image::Images;
use crate::journal::records::InstanceRecord;

/// Slots kept free for devices plugged in later.
const SPARE_SLOTS: u8 = 8;
/// Seconds between the balloon's memory reports; nova's default.
const MEMORY_STATS_PERIOD: u32 = 10;

impl<O: Outside> Engine<O> {
    pub(super) async fn ensure_bridges(&self, record: &InstanceRecord) -> Result<(), StepError> {
        self.node.wires.bind(&self.ports_of(record)).await?;
        Ok(())
    }

    pub(super) async fn define_domain(&self, record: &InstanceRecord) -> Result<(), StepError> {
        let volumes = self.volume_disks(record).await?;
        let spec = self.domain(record, &*self.virtualization().await?, volumes)?;
        self.node.hypervisor.define(&spec).await?;
        self.note_definition(record.id).await;
        Ok(())
    }

    /// Remember what the hypervisor made of the definition, to tell when somebody else changes it.
    pub(in crate::compute) async fn note_definition(&self, id: InstanceId) {
        let fingerprint = match self.node.hypervisor.fingerprint(id).await {
            Ok(fingerprint) => Some(fingerprint),
            Err(error) => {
                tracing::info!(instance = %id, %error, "changes by others will not be noticed");
                None
            }
        };
        {
            let mut registry = self.registry.lock();
            if let Some(instance) = registry.instances.get_mut(&id)
                && instance.fingerprint != fingerprint
            {
                instance.fingerprint = fingerprint;
                // The journal keeps the newest only.
                instance.revision += 1;
            }
        }
        self.registry.observe(id, |seen| (seen.redefined, seen.plugged) = (None, Vec::new()));
    }

    /// Start an instance's domain; on something else, if what it was defined for does not run.
    pub(super) async fn start_domain(&self, record: &InstanceRecord) -> Result<(), StepError> {
        self.same_devices(record).await?;
        match self.node.hypervisor.start(record.id).await {
            Err(error) if self.runs_on_something_else(&error).await => {
                self.define_domain(record).await?;
                self.run_domain(record).await
            }
            started => self.started(record, started).await,
        }
    }

    /// Start an instance's domain as it is defined, or let it go on where its memory is saved.
    pub(super) async fn run_domain(&self, record: &InstanceRecord) -> Result<(), StepError> {
        self.same_devices(record).await?;
        self.started(record, self.node.hypervisor.start(record.id).await).await
    }

    async fn started(
        &self,
        record: &InstanceRecord,
        started: Result<hypervisor::Change, hypervisor::Error>,
    ) -> Result<(), StepError> {
        started?;
        self.virtualization.works();
        self.power_seen(record.id, PowerState::Running).await;
        Ok(())
    }

    /// The domain of an instance: what an operator expects, virtio unless its image wants another.
    fn domain(
        &self,
        record: &InstanceRecord,
        choice: &VirtChoice,
        volumes: (Option<Disk>, Vec<Disk>),
    ) -> Result<DomainSpec, StepError> {
        let images = &self.node.images;
        // A rescue image takes the place of the root disk, which moves to the second.
        let direct = match &record.rescue {
            Some(rescue) => &rescue.direct,
            None => &record.direct,
        };
        let boot = match direct {
            None => Boot::Disk,
            Some(direct) => Boot::Kernel {
                kernel: images.path(&direct.kernel, Format::Kernel),
                initrd: direct.ramdisk.as_ref().map(|r| images.path(r, Format::Ramdisk)),
                cmdline: direct.command_line.clone(),
            },
        };
        let nics = self.node.wires.describe(&self.ports_of(record))?;
        let files = self.node.disks.files(record.id);
        let (console_log, uefi, secure_uefi) =
            (files.console_log.clone(), files.uefi.clone(), files.secure_uefi.clone());
        let disks = disks::of(record, files, volumes);
        let hardware = &record.hardware;
        let (firmware, variables) = match (hardware.firmware, hardware.secure_boot) {
            (FirmwareType::Bios, _) => (Firmware::Bios, None),
            // Each with a file of its own: variables made without the keys that sign would leave
            // secure boot without effect.
            (FirmwareType::Uefi, true) => (Firmware::Uefi(SecureBoot::Enforced), Some(secure_uefi)),
            (FirmwareType::Uefi, false) => (Firmware::Uefi(SecureBoot::Off), Some(uefi)),
        };
        Ok(DomainSpec {
            metadata: metadata(&self.registry.settings().host, record),
            virt_type: choice.virt_type,
            vcpus: record.vcpus,
            memory: record.memory,
            max_vcpus: record.max_vcpus.max(record.vcpus),
            max_memory: record.max_memory.max(record.memory),
            machine: match hardware.machine {
                MachineType::Q35 => Machine::Q35 { spare_slots: SPARE_SLOTS },
                MachineType::Pc => Machine::Pc,
            },
            cpu: choice.cpu.clone(),
            firmware,
            variables,
            boot,
            disks,
            nics,
            nic_model: hardware.vif_model,
            agent_channel: match hardware.guest_agent {
                true => AgentChannel::Present,
                false => AgentChannel::Absent,
            },
            ostler_port: Some(self.guest_socket(record.id)),
            serial_log: Some(console_log),
            vnc: self
                .registry
                .settings()
                .vnc
                .then_some(Vnc { listen: IpAddr::V4(Ipv4Addr::LOCALHOST) }),
            watchdog: watchdog(hardware.watchdog),
            memory_stats_period: Some(MEMORY_STATS_PERIOD),
            tpm: hardware.tpm.map_or(Tpm::Absent, Tpm::Emulated),
            on_crash: OnCrash::Destroy,
        })
    }
}

/// What the watchdog does; none if there is none.
const fn watchdog(wanted: Watchdog) -> Option<WatchdogAction> {
    match wanted {
        Watchdog::Reset => Some(WatchdogAction::Reset),
        Watchdog::Poweroff => Some(WatchdogAction::PowerOff),
        Watchdog::Pause => Some(WatchdogAction::Pause),
        Watchdog::None => Some(WatchdogAction::None),
        Watchdog::Disabled => None,
    }
}
