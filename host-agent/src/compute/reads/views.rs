//! Answers to reads: what is known, in the caller's terms. Nothing here waits on libvirt.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::refusal::{Action, Operation, Reason, Refusal};
use ostler_protocol::rpc::guest::{Query, Report};
use ostler_protocol::rpc::host::{Host, Link as WireLink, Pong};
use ostler_protocol::rpc::image::Image;
use ostler_protocol::rpc::instance::{Instance, List, Port, Status, VmState};
use ostler_protocol::rpc::operation::{self, Wait};
use ostler_protocol::rpc::values::{InstanceId, OperationId, Timestamp};
use ostler_protocol::rpc::versions;

use super::Reads;
use super::select::{fits, no_instance};
use super::volumes::attached;
use crate::compute::causes::{guest_fault, journal_fault};
use crate::compute::claims::Shares;
use crate::compute::lifecycle;
use crate::compute::operations::image_remove::{lying_on, users_of};
use crate::compute::outside::Outside;
use crate::compute::registry::{Known, Observed};
use crate::compute::stalled::stalled;
use crate::hypervisor::spec::NAME_PREFIX;
use crate::hypervisor::{Hypervisor, Link};
use crate::image::Images;
use crate::journal::records::InstanceRecord;
use crate::network::tap_name;

/// The longest a request is kept waiting; whoever wants to wait longer asks again.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How long `operation.wait` waits unless told.
const WAIT: Duration = Duration::from_secs(30);
/// How many operations a list holds unless told, and at most.
const LIST: (u32, u32) = (100, 1000);

/// An instance as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// All but its fault.
    pub instance: Instance,
    /// Why it is in ERROR, or the last thing that failed.
    pub fault: Option<Refusal>,
}

impl<O: Outside> Reads<O> {
    /// `host.ping`
    pub fn ping(&self) -> Pong {
        Pong {
            host: self.registry.settings().host.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            protocol: versions::CURRENT,
            protocol_oldest: versions::OLDEST,
            time: Timestamp::now(),
            started: self.registry.started,
        }
    }

    /// `host.show`
    ///
    /// # Errors
    /// The node's own use cannot be read.
    pub async fn host(&self, broker: WireLink) -> Result<Host, Refusal> {
        let capacity = self.measured.capacity().await?;
        let usage = self.measured.usage().await?;
        let inventory = self.node.host.inventory();
        let choice = self.virtualization.known();
        let link = *self.node.hypervisor.link().borrow();
        let boards = match link {
            Link::Up => self.measured.boards().await.ok(),
            Link::Down => None,
        };
        let registry = self.registry.lock();
        let claims = registry.claimed();
        let shares = Shares::of(capacity, claims, &self.registry.settings().admission);
        Ok(Host {
            host: self.registry.settings().host.to_string(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started: self.registry.started,
            hypervisor: match link {
                Link::Up => WireLink::Up,
                Link::Down => WireLink::Down,
            },
            broker,
            virt_type: self.virtualization.word(),
            cpu_mode: choice.as_ref().map(|choice| choice.cpu.to_string()).unwrap_or_default(),
            virt_type_reason: choice.map(|choice| choice.why.clone()).unwrap_or_default(),
            boards,
            kernel: inventory.kernel.clone(),
            cpu_model: inventory.cpu_model.clone(),
            cpus: inventory.cpus,
            load: usage.load,
            memory: inventory.memory,
            memory_available: usage.memory_available,
            disk: usage.disk.total,
            disk_available: usage.disk.free,
            vcpus_share: shares.vcpus,
            memory_share: shares.memory,
            disk_share: shares.disk,
            instances: by_status(&registry.instances),
            operations: registry.live.len() as u32,
            flavors: self.registry.settings().flavors.clone(),
            orphans: registry.orphans.clone(),
        })
    }

    /// `instance.show`
    ///
    /// # Errors
    /// There is no such instance.
    pub fn instance(&self, id: InstanceId) -> Result<Shown, Refusal> {
        let registry = self.registry.lock();
        let record = registry.instances.get(&id).ok_or_else(|| no_instance(id))?;
        Ok(self.view(&registry, record))
    }

    /// `instance.list`
    ///
    /// # Errors
    /// There is no instance that is the marker.
    pub fn instances(&self, filter: &List) -> Result<Vec<Shown>, Refusal> {
        let registry = self.registry.lock();
        let wanted = |record: &&InstanceRecord| {
            let status = Status::of(record.vm_state, record.task_state);
            filter.name.as_ref().is_none_or(|name| fits(name, record.name.as_str()))
                && filter.owner.as_ref().is_none_or(|owner| record.owner.as_ref() == Some(owner))
                && match filter.status {
                    Some(wanted) => status == wanted,
                    None => !matches!(record.vm_state, VmState::Deleted | VmState::SoftDeleted),
                }
        };
        let mut found: Vec<&InstanceRecord> = registry.instances.values().filter(wanted).collect();
        found.sort_by(|a, b| (&a.name, a.id).cmp(&(&b.name, b.id)));
        if let Some(marker) = filter.marker {
            let last = registry.instances.get(&marker).ok_or_else(|| no_instance(marker))?;
            found.retain(|record| (&record.name, record.id) > (&last.name, last.id));
        }
        let most = filter.limit.map_or(usize::MAX, |limit| limit as usize);
        Ok(found.into_iter().take(most).map(|record| self.view(&registry, record)).collect())
    }

    fn view(&self, registry: &Known, record: &InstanceRecord) -> Shown {
        let settings = self.registry.settings();
        let seen = registry.observed(record.id);
        let stalled = stalled(record, seen.stall, settings.resume_when_room);
        let ports = record.ports.iter().map(|port| Port {
            id: port.id,
            network: port.network.clone(),
            mac: port.mac,
            bridge: registry
                .networks
                .get(&port.network)
                .map_or_else(String::new, |n| n.bridge.clone()),
            tap: tap_name(port.id).as_str().to_owned(),
        });
        let instance = Instance {
            id: record.id,
            name: record.name.clone(),
            status: Status::of(record.vm_state, record.task_state),
            vm_state: record.vm_state,
            task_state: record.task_state,
            power_state: seen.power,
            operation: record.operation,
            host: self.registry.settings().host.to_string(),
            domain: format!("{NAME_PREFIX}{}", record.id),
            image: record.image.clone(),
            flavor: record.flavor.clone(),
            vcpus: record.vcpus,
            memory: record.memory,
            disk: record.disk,
            max_vcpus: record.max_vcpus.max(record.vcpus),
            max_memory: record.max_memory.max(record.memory),
            hardware: record.hardware.clone(),
            owner: record.owner.clone(),
            metadata: record.metadata.clone(),
            config_drive: record.config_drive.as_ref().map(|drive| drive.layout),
            hostname: record.config_drive.as_ref().map(|drive| drive.hostname.clone()),
            locked: record.locked.clone(),
            rescue_image: record.rescue.as_ref().map(|rescue| rescue.image.clone()),
            shelved_image: record.shelved.as_ref().map(|shelved| shelved.image.clone()),
            reclaimed_at: record.reclaimed_at(self.registry.settings().reclaim_after),
            resized_from: record.resized.as_ref().map(|resized| resized.from.clone()),
            drift: drift(record, &seen, stalled.is_some()),
            stalled,
            ports: ports.collect(),
            volumes: attached(registry, record),
            guest: self.node.guests.summary(record.id),
            fault: None,
            created: record.created,
            updated: record.updated,
        };
        Shown { instance, fault: record.fault.clone() }
    }

    /// `guest.report`
    ///
    /// # Errors
    /// There is no such instance, or nothing was ever heard from its guest.
    pub async fn guest_report(&self, query: &Query) -> Result<Report, Refusal> {
        if !self.registry.lock().instances.contains_key(&query.id) {
            return Err(no_instance(query.id));
        }
        let wait = Duration::from_millis(query.wait.unwrap_or(0).into()).min(WAIT_MAX);
        let report = self.node.guests.report(query.id, wait, query.cached).await;
        report.map_err(|error| guest_fault(&error).about(format!("instance {}", query.id)))
    }

    /// `operation.get`
    ///
    /// # Errors
    /// There is no such operation, or the journal cannot be read.
    pub async fn operation(&self, id: OperationId) -> Result<Operation, Refusal> {
        if let Some(live) = self.registry.live(id) {
            return Ok(live.operation());
        }
        let found = self.registry.journal.operation(id).await.map_err(|e| journal_fault(&e))?;
        found.ok_or_else(|| {
            Refusal::new(Reason::NotFound, format!("there is no operation {id}"))
                .next("see which there are; those long over are forgotten")
                .by(Action::OperationList)
        })
    }

    /// Whether `operation.wait` has to wait: not for what is over, or has moved on already.
    pub fn has_to_wait(&self, wait: &Wait) -> bool {
        wait.timeout != Some(0)
            && self.registry.live(wait.id).is_some_and(|live| !moved(wait, &live.operation()))
    }

    /// `operation.wait`
    ///
    /// # Errors
    /// There is no such operation, or the journal cannot be read.
    pub async fn wait(&self, wait: &Wait) -> Result<Operation, Refusal> {
        let limit = wait.timeout.map_or(WAIT, |ms| Duration::from_millis(ms.into())).min(WAIT_MAX);
        let Some(live) = self.registry.live(wait.id) else { return self.operation(wait.id).await };
        let mut now = live.now.subscribe();
        tokio::select! {
            // The sender is in `live`, so this ends only when it has moved.
            _ = now.wait_for(|operation| moved(wait, operation)) => {}
            () = tokio::time::sleep(limit) => {}
            () = self.shutdown.cancelled() => {}
        }
        Ok(live.operation())
    }

    /// `operation.list`
    ///
    /// # Errors
    /// The journal cannot be read.
    pub async fn operations(&self, filter: operation::List) -> Result<Vec<Operation>, Refusal> {
        let (usual, most) = LIST;
        let limit = filter.limit.unwrap_or(usual).min(most);
        let found =
            self.registry.journal.operations(filter, limit).await.map_err(|e| journal_fault(&e))?;
        // What is at work is further than its last write.
        let fresh = |o: Operation| self.registry.live(o.id).map_or(o, |live| live.operation());
        Ok(found.into_iter().map(fresh).collect())
    }

    /// `image.list`
    pub async fn images(&self) -> Vec<Image> {
        // Where the cache cannot be read, what is known is told all the same.
        let files = self.node.images.list().await.unwrap_or_default();
        let registry = self.registry.lock();
        let view = |image: &crate::journal::records::ImageRecord| Image {
            name: image.name.clone(),
            state: image.state,
            format: image.format,
            source: image.source.clone(),
            sha256: image.sha256.clone(),
            size: image.size,
            virtual_size: image.virtual_size,
            properties: image.properties.clone(),
            instances: users_of(&registry, &image.name) as u32,
            volumes: lying_on(&registry, image) as u32,
            used: files
                .iter()
                .find(|file| {
                    image.format == file.format && image.sha256.as_ref() == Some(&file.sha256)
                })
                .map(|file| file.used),
            created: image.created,
        };
        registry.images.values().map(view).collect()
    }
}

/// The counts of instances by status.
fn by_status(instances: &BTreeMap<InstanceId, InstanceRecord>) -> BTreeMap<String, u32> {
    instances.values().fold(BTreeMap::new(), |mut counts, i| {
        let status = Status::of(i.vm_state, i.task_state).to_string();
        *counts.entry(status).or_default() += 1;
        counts
    })
}

/// In what an instance differs from what the agent made. While somebody is working on it, nothing
/// can be said.
fn drift(record: &InstanceRecord, seen: &Observed, stalled: bool) -> Vec<String> {
    if record.task_state.is_some() {
        return Vec::new();
    }
    let power = lifecycle::power_drift(record.vm_state, seen.power).filter(|_| !stalled);
    power
        .map(str::to_owned)
        .into_iter()
        .chain(seen.redefined.clone())
        .chain(seen.plugged.clone())
        .collect()
}

/// Whether this is news to who waits.
fn moved(wait: &Wait, operation: &Operation) -> bool {
    operation.state.is_over() || wait.revision.is_some_and(|seen| operation.revision > seen)
}
