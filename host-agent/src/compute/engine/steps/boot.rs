//! Booting and starting: a disk, bridges, a domain.

use std::net::{IpAddr, Ipv4Addr};

use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;

use super::adjust::metadata;
use super::{Engine, StepError};
use crate::compute::outside::Outside;
use crate::compute::record::{CONFIG_DRIVE, ROOT_DISK, root_serial};
use crate::compute::wires::Wires;
use crate::disk::Disks;
use crate::hypervisor::inspect::Inspect;
use crate::hypervisor::spec::{
    Boot, Discard, Disk, DiskAccess, DiskBus, DiskCache, DiskFormat, DiskSource, DiskTarget,
    DomainSpec, Firmware, Machine, OnCrash, Sharing, Tpm, Vnc, WatchdogAction,
};
use crate::hypervisor::{self, Hypervisor, VirtChoice};
use crate::image::Images;
use crate::journal::records::InstanceRecord;

/// Slots kept free for devices plugged in later.
const SPARE_SLOTS: u8 = 8;
/// Seconds between the balloon's memory reports; nova's default.
const MEMORY_STATS_PERIOD: u32 = 10;
/// The guest's serial number of a rescue disk.
const RESCUE_SERIAL: &str = "rescue";
/// That of the config drive.
const CONFIG_DRIVE_SERIAL: &str = "config";

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
        self.registry.observe(id, |seen| seen.redefined = None);
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

    /// The domain of an instance: what an operator expects, virtio throughout.
    fn domain(
        &self,
        record: &InstanceRecord,
        choice: &VirtChoice,
        volumes: Vec<Disk>,
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
        let rescue = record.rescue.as_ref().map(|_| (files.rescue, RESCUE_SERIAL.to_owned()));
        let root = (files.root, root_serial(record.id));
        // Volumes keep their places; the root disk has the next that is free.
        let is_free = |target: &DiskTarget| {
            let taken = |disk: &Disk| disk.bus == DiskBus::Virtio && disk.target == *target;
            *target != CONFIG_DRIVE && !volumes.iter().any(taken)
        };
        let places = (ROOT_DISK.0..).map(DiskTarget).filter(is_free);
        let own =
            rescue.into_iter().chain([root]).zip(places).map(|((file, serial), target)| Disk {
                source: DiskSource::File(file),
                format: DiskFormat::Qcow2,
                bus: DiskBus::Virtio,
                target,
                alias: String::new(),
                serial,
                access: DiskAccess::ReadWrite,
                sharing: Sharing::Exclusive,
                cache: DiskCache::Writeback,
                discard: Discard::Unmap,
            });
        let mut disks: Vec<Disk> = own.collect();
        disks.extend(record.config_drive.as_ref().map(|_| Disk {
            source: DiskSource::File(files.config_drive),
            format: DiskFormat::Raw,
            bus: DiskBus::Virtio,
            target: CONFIG_DRIVE,
            alias: String::new(),
            serial: CONFIG_DRIVE_SERIAL.to_owned(),
            access: DiskAccess::ReadOnly,
            sharing: Sharing::Exclusive,
            cache: DiskCache::Writeback,
            discard: Discard::Ignore,
        }));
        disks.extend(volumes);
        Ok(DomainSpec {
            metadata: metadata(&self.registry.settings().host, record),
            virt_type: choice.virt_type,
            vcpus: record.vcpus,
            memory: record.memory,
            max_vcpus: record.max_vcpus.max(record.vcpus),
            max_memory: record.max_memory.max(record.memory),
            machine: Machine::Q35 { spare_slots: SPARE_SLOTS },
            cpu: choice.cpu.clone(),
            firmware: Firmware::Bios,
            boot,
            disks,
            nics,
            ostler_port: Some(self.guest_socket(record.id)),
            serial_log: Some(files.console_log),
            vnc: self
                .registry
                .settings()
                .vnc
                .then_some(Vnc { listen: IpAddr::V4(Ipv4Addr::LOCALHOST) }),
            watchdog: Some(WatchdogAction::Reset),
            memory_stats_period: Some(MEMORY_STATS_PERIOD),
            tpm: Tpm::Absent,
            on_crash: OnCrash::Destroy,
        })
    }
}
