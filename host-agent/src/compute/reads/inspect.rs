//! Looking into instances: whether there is one to look at, then the driver's answer in the
//! caller's terms. Nothing here is an operation, and nothing is written down.

use crate::refusal::{Action, Reason, Refusal};
use ostler_protocol::rpc::console::{
    Close, LOG_MAX, Log, Open, Opened, Printed, Read, ReadLog, State, Taken, Write,
};
use ostler_protocol::rpc::host::Nothing;
use ostler_protocol::rpc::inspect::{
    CpuDetail, Definition as WireDefinition, Diagnostics, DiskDetail, MemoryDetail, NicDetail,
    OpenScreen, OpenedScreen, ReadXml, Screen as WireScreen, Xml,
};
use ostler_protocol::rpc::instance::{PowerState, VmState};
use ostler_protocol::rpc::values::{InstanceId, Secret, Timestamp};
use uuid::Uuid;

use super::Reads;
use crate::compute::causes::hypervisor_fault;
use crate::compute::outside::Outside;
use crate::console::{self, Consoles};
use crate::disk::Disks;
use crate::hypervisor::adjust::Adjust;
use crate::hypervisor::inspect::Inspect;
use crate::hypervisor::inspect::{Definition, DiskStats, DomainStats, NicStats, Screen, VcpuStats};
use crate::hypervisor::{self, Hypervisor};
use crate::threads::Threads;

/// How long a screen's password is taken, seconds: unless told, and at most.
const SCREEN_VALID: (u32, u32) = (60, 3600);
/// How many characters of a password VNC looks at.
const SCREEN_PASSWORD: usize = 8;
/// How much of a log is read unless told.
const LOG: u64 = 64 << 10;
/// As many logs read at once.
const LOG_THREADS: usize = 4;

/// The consoles of a node's instances, and what their reads run on.
pub struct Inspection<H> {
    consoles: Consoles<H>,
    threads: Threads,
}

impl<H> Clone for Inspection<H> {
    fn clone(&self) -> Self {
        Self { consoles: self.consoles.clone(), threads: self.threads.clone() }
    }
}

impl<H: Hypervisor> Inspection<H> {
    /// Ends all sessions and waits for them.
    pub async fn drain(&self) {
        self.consoles.drain().await;
    }
}

impl<O: Outside> Reads<O> {
    /// The means to look into this node's instances.
    pub fn inspection(&self) -> Inspection<O::Hypervisor> {
        let hypervisor = std::sync::Arc::clone(&self.node.hypervisor);
        Inspection {
            consoles: Consoles::new(hypervisor, &self.shutdown),
            threads: Threads::new("console-log", LOG_THREADS),
        }
    }

    /// `instance.xml`
    ///
    /// # Errors
    /// There is no such instance, or the hypervisor has no definition of it.
    pub async fn xml(&self, read: &ReadXml) -> Result<Xml, Refusal> {
        self.exists(read.id)?;
        let which = match read.definition {
            WireDefinition::Live => Definition::Live,
            WireDefinition::Persistent => Definition::Persistent,
        };
        let xml = self.node.hypervisor.xml(read.id, which).await.map_err(fault(read.id))?;
        Ok(Xml { xml })
    }

    /// `instance.diagnostics`
    ///
    /// # Errors
    /// There is no such instance, or it does not run.
    pub async fn diagnostics(&self, id: InstanceId) -> Result<Diagnostics, Refusal> {
        self.runs(id)?;
        let stats = self.node.hypervisor.stats(id).await.map_err(fault(id))?;
        let state = self.registry.lock().observed(id).power;
        let hypervisor = self.virtualization.word();
        Ok(diagnostics(id, state, &hypervisor, &stats))
    }

    /// `instance.vnc`
    ///
    /// # Errors
    /// There is no such instance, or it does not run, or has no screen.
    pub async fn vnc(&self, id: InstanceId) -> Result<WireScreen, Refusal> {
        let Screen { address, port } = self.screen(id).await?;
        Ok(WireScreen { address, port })
    }

    /// `instance.vnc_open`
    ///
    /// # Errors
    /// As `instance.vnc`, or its server takes no password.
    pub async fn open_vnc(&self, open: &OpenScreen) -> Result<OpenedScreen, Refusal> {
        let (usual, most) = SCREEN_VALID;
        let valid = open.valid.unwrap_or(usual);
        if !(1..=most).contains(&valid) {
            let text = format!("a password is valid for 1 to {most} seconds, not {valid}");
            return Err(Refusal::new(Reason::InvalidParams, text).about("parameter valid"));
        }
        let Screen { address, port } = self.screen(open.id).await?;
        let password = random_password();
        let until = Timestamp(Timestamp::now().0 + u64::from(valid) * 1000);
        self.node
            .hypervisor
            .set_vnc_password(open.id, &password, until)
            .await
            .map_err(fault(open.id))?;
        tracing::info!(instance = %open.id, valid, "its screen was opened by a new password");
        Ok(OpenedScreen { address, port, password, until })
    }

    async fn screen(&self, id: InstanceId) -> Result<Screen, Refusal> {
        self.runs(id)?;
        self.node.hypervisor.screen(id).await.map_err(fault(id))?.ok_or_else(|| {
            Refusal::new(Reason::Conflict, "conflict: the instance was started without a screen")
                .about(subject(id))
                .next("set hypervisor.vnc in the node's configuration, then reboot it with --hard")
        })
    }

    /// `instance.console_log`
    ///
    /// # Errors
    /// There is no such instance, or its log cannot be read.
    pub async fn console_log(
        &self,
        inspection: &Inspection<O::Hypervisor>,
        read: &ReadLog,
    ) -> Result<Log, Refusal> {
        self.exists(read.id)?;
        let most = read.bytes.unwrap_or(LOG);
        if most > LOG_MAX {
            let text = format!("at most {LOG_MAX} bytes are read at once, not {most}");
            return Err(Refusal::new(Reason::InvalidParams, text).about("parameter bytes"));
        }
        let path = self.node.disks.files(read.id).console_log;
        let read_log = inspection.threads.run(move || console::log::tail(&path, most)).await;
        let log = read_log.map_err(|error| Refusal::of(Reason::Internal, &error))?;
        log.map_err(|error| console_fault(&error).about(subject(read.id)))
    }

    /// `console.open`
    ///
    /// # Errors
    /// There is no such instance, or too many sessions; the agent is stopping.
    pub fn console_open(
        &self,
        inspection: &Inspection<O::Hypervisor>,
        open: &Open,
    ) -> Result<Opened, Refusal> {
        self.exists(open.id)?;
        self.is_here_to_stay()?;
        let opened = inspection.consoles.open(open.id);
        opened.map_err(|error| console_fault(&error).about(subject(open.id)))
    }

    /// `console.read`
    ///
    /// # Errors
    /// There is no such session, or no such instance any more.
    pub async fn console_read(
        &self,
        inspection: &Inspection<O::Hypervisor>,
        read: &Read,
    ) -> Result<Printed, Refusal> {
        let consoles = &inspection.consoles;
        let printed = consoles.read(read).await.map_err(|e| console_fault(&e))?;
        if printed.state == State::Waiting && printed.data.bytes().is_empty() {
            // Of an instance that is gone there is nothing to wait for.
            let id = consoles.instance(read.session).map_err(|e| console_fault(&e))?;
            self.exists(id).inspect_err(|_| consoles.close(read.session))?;
        }
        Ok(printed)
    }

    /// `console.write`
    ///
    /// # Errors
    /// There is no such session.
    pub async fn console_write(
        &self,
        inspection: &Inspection<O::Hypervisor>,
        write: &Write,
    ) -> Result<Taken, Refusal> {
        inspection.consoles.write(write).await.map_err(|error| console_fault(&error))
    }

    /// `console.close`
    pub fn console_close(&self, inspection: &Inspection<O::Hypervisor>, close: &Close) -> Nothing {
        inspection.consoles.close(close.session);
        Nothing {}
    }

    /// An instance there is.
    pub(super) fn exists(&self, id: InstanceId) -> Result<(), Refusal> {
        match self.registry.lock().instances.get(&id) {
            Some(record) if record.vm_state != VmState::Deleted => Ok(()),
            Some(_) | None => {
                Err(Refusal::new(Reason::NotFound, format!("there is no instance {id}"))
                    .about(subject(id))
                    .next("see which there are")
                    .by(Action::InstanceList))
            }
        }
    }

    /// An instance that is not known to be off.
    fn runs(&self, id: InstanceId) -> Result<(), Refusal> {
        self.exists(id)?;
        match self.registry.lock().observed(id).power {
            PowerState::Shutdown | PowerState::Crashed | PowerState::None => Err(off(id)),
            PowerState::Unknown
            | PowerState::Running
            | PowerState::Paused
            | PowerState::Suspended => Ok(()),
        }
    }
}

fn subject(id: InstanceId) -> String {
    format!("instance {id}")
}

fn off(id: InstanceId) -> Refusal {
    Refusal::new(Reason::Conflict, "conflict: the instance does not run")
        .about(subject(id))
        .next("start it")
        .by(Action::InstanceStart(Some(id)))
}

/// The driver's error, where what does not run or is not defined is a matter of state.
fn fault(id: InstanceId) -> impl Fn(hypervisor::Error) -> Refusal {
    use hypervisor::Error;
    move |error| match &error {
        Error::NotFound { .. } => Refusal::new(
            Reason::Conflict,
            "conflict: libvirt has no definition of the instance now",
        )
        .about(subject(id))
        .next("see what it is doing")
        .by(Action::InstanceShow(Some(id))),
        Error::Refused { .. } => Refusal::of(Reason::Conflict, &error)
            .about(subject(id))
            .next("see whether it runs")
            .by(Action::InstanceShow(Some(id))),
        Error::NotOurs { .. }
        | Error::Busy { .. }
        | Error::Unreachable { .. }
        | Error::Timeout { .. }
        | Error::GuestAgentUnavailable { .. }
        | Error::GuestAgentRefused { .. }
        | Error::Failed { .. } => hypervisor_fault(&error).about(subject(id)),
    }
}

/// A console's error in the caller's words.
fn console_fault(error: &console::Error) -> Refusal {
    use console::Error;
    match error {
        Error::Unknown { .. } => {
            Refusal::of(Reason::NotFound, error).next("begin another by console.open")
        }
        Error::Full { .. } => Refusal::of(Reason::Busy, error).next("leave one of them first"),
        Error::Ahead { .. } => Refusal::of(Reason::InvalidParams, error)
            .about("parameter at")
            .next("go on at the last answer's `at`"),
        Error::TooMuch { .. } => Refusal::of(Reason::InvalidParams, error).about("parameter data"),
        Error::Log { .. } => Refusal::of(Reason::Internal, error),
    }
}

/// A word of so many letters, digits, `-` and `_`, six random bits each.
fn random_password() -> Secret {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let uuid = Uuid::new_v4();
    let bytes = uuid.as_bytes();
    // Bytes 6 and 8 hold a UUID's version and variant.
    let random = bytes[..6].iter().chain(&bytes[9..]).take(SCREEN_PASSWORD);
    Secret::new(random.map(|byte| char::from(LETTERS[usize::from(byte & 63)])).collect())
}

fn diagnostics(
    id: InstanceId,
    state: PowerState,
    hypervisor: &str,
    stats: &DomainStats,
) -> Diagnostics {
    let cpu = |vcpu: &VcpuStats| CpuDetail { id: vcpu.id, time: vcpu.time };
    let nic = |nic: &NicStats| NicDetail {
        mac: nic.mac,
        tap: nic.tap.clone(),
        rx_octets: nic.received.bytes,
        rx_packets: nic.received.packets,
        rx_errors: nic.received.errors,
        rx_drop: nic.received.drops,
        tx_octets: nic.sent.bytes,
        tx_packets: nic.sent.packets,
        tx_errors: nic.sent.errors,
        tx_drop: nic.sent.drops,
    };
    let disk = |disk: &DiskStats| DiskDetail {
        target: disk.target.clone(),
        read_bytes: disk.read_bytes,
        read_requests: disk.read_requests,
        write_bytes: disk.write_bytes,
        write_requests: disk.write_requests,
        flush_requests: disk.flush_requests,
        errors: disk.errors,
    };
    let memory = &stats.memory;
    Diagnostics {
        id,
        state,
        driver: "libvirt".to_owned(),
        hypervisor: hypervisor.to_owned(),
        uptime: stats.uptime,
        cpu_time: stats.cpu_time,
        num_cpus: stats.vcpus.len() as u32,
        num_nics: stats.nics.len() as u32,
        num_disks: stats.disks.len() as u32,
        cpu_details: stats.vcpus.iter().map(cpu).collect(),
        nic_details: stats.nics.iter().map(nic).collect(),
        disk_details: stats.disks.iter().map(disk).collect(),
        memory_details: MemoryDetail {
            maximum: memory.maximum,
            used: memory.current,
            rss: memory.rss,
            guest_total: memory.available,
            guest_free: memory.unused,
            guest_available: memory.usable,
            guest_caches: memory.caches,
            swap_in: memory.swap_in,
            swap_out: memory.swap_out,
            major_faults: memory.major_faults,
            minor_faults: memory.minor_faults,
            told: memory.told,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_as_long_as_vnc_reads_and_differ() {
        let (one, two) = (random_password(), random_password());
        assert_eq!(one.expose().len(), SCREEN_PASSWORD);
        assert_ne!(one, two);
    }
}
