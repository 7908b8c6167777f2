//! What is known is compared with what is: when libvirt can be reached (again), when events were
//! missed, and from time to time.
//!
//! * power states, from evidence only: a query that failed is none;
//! * after the node's restart, what ran before it is started again;
//! * a domain of this node's that the journal does not know is an orphan: reported, adopted or
//!   removed, as the setting says. A domain without our metadata, or with that of another node, is
//!   never touched;
//! * a definition that is not the one the agent made is shown as drift, and so are disks that are
//!   not those by the record, and volumes that are not as they were left;
//! * soft-deleted instances whose time is over are deleted;
//! * files in the image cache that nothing needs, as a crash may leave them, are removed, and so is what was
//!   sent to be imported and is not.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use futures_util::{StreamExt, stream};
use ostler_protocol::rpc::image::State as ImageState;
use ostler_protocol::rpc::instance::{Delete, DeleteMode, PowerState, TaskState, VmState};
use ostler_protocol::rpc::operation::Kind;
use ostler_protocol::rpc::values::{InstanceId, Timestamp};

use super::Watch;
use crate::compute::causes::journal_fault;
use crate::compute::context::Context;
use crate::compute::engine::{StepError, upload_of};
use crate::compute::operations::Command;
use crate::compute::operations::image_import::ImageImport;
use crate::compute::operations::start::Start;
use crate::compute::outside::Outside;
use crate::compute::registry::LiveOperation;
use crate::config::Orphans;
use crate::disk::Disks;
use crate::hypervisor::inspect::Inspect;
use crate::hypervisor::{DomainRecord, DomainState, Error, Hypervisor, PowerReason};
use crate::image::Images;
use crate::journal::records::{ImageRecord, InstanceRecord, PortRecord, Running};
use crate::journal::{Entry, PortEntry, Write};

/// Definitions asked for at once.
const AT_ONCE: usize = 4;

impl<O: Outside> Watch<O> {
    /// Compare what we know with all domains there are.
    pub(super) async fn reconcile(self: &Arc<Self>) {
        let before = self.registry.lock().sightings.clone();
        let domains = match self.node.hypervisor.list().await {
            Ok(domains) => domains,
            Err(error) => {
                // A failed query is no evidence of anything.
                tracing::warn!(%error, "cannot list the domains");
                return;
            }
        };
        self.orphans(&domains).await;
        // Of somebody else's domain under an instance's id nothing is believed.
        let state = |domain: &DomainRecord| match self.is_ours(domain) {
            true => domain.state,
            false => PowerState::Unknown.into(),
        };
        let seen: HashMap<InstanceId, DomainState> =
            domains.iter().map(|domain| (domain.id, state(domain))).collect();
        let known: Vec<InstanceRecord> = {
            let registry = self.registry.lock();
            let placed = |i: &&InstanceRecord| i.vm_state != VmState::Deleted;
            registry.instances.values().filter(placed).cloned().collect()
        };
        let restarted = self.node_restarted.load(Ordering::Relaxed);
        let mut all_begun = true;
        for record in known {
            let mut now = seen.get(&record.id).copied().unwrap_or(PowerState::None.into());
            if now.reason == PowerReason::IoError {
                // How its disk failed is told only when asked. If not, that is no evidence.
                now = self.node.hypervisor.state(record.id).await.unwrap_or(now);
            }
            if restarted && self.registry.settings().autostart && shall_start(&record, now.power) {
                tracing::info!(instance = %record.id, "starting an instance that ran before the node's restart");
                let start = (TaskState::PoweringOn, Start {}.into(), Kind::Start);
                if let Err(fault) = self.gate.by_itself(record.id, start, |_| true).await {
                    tracing::error!(instance = %record.id, %fault, "cannot start an instance again after the node's restart");
                    all_begun = false;
                    continue;
                }
            }
            self.engine.power_found(record.id, now, before.get(&record.id).copied()).await;
        }
        if all_begun {
            let boot = self.node.host.inventory().boot.clone();
            match self.registry.journal.booted(boot).await {
                Ok(()) => self.node_restarted.store(false, Ordering::Relaxed),
                Err(error) => tracing::warn!(%error, "cannot write the node's boot to the journal"),
            }
        }
        // What follows takes longer, and nobody waits for it.
        let rest = Arc::clone(self);
        self.engine.tasks.spawn(async move {
            let Ok(_alone) = rest.tidying.try_lock() else { return };
            rest.find_redefined().await;
            rest.find_unplugged().await;
            rest.find_changed_volumes().await;
            rest.reclaim().await;
            rest.sweep_images().await;
            rest.sweep_uploads().await;
        });
    }

    fn is_ours(&self, domain: &DomainRecord) -> bool {
        domain.ours.as_ref().is_some_and(|ours| ours.node == self.registry.settings().host.as_str())
    }

    /// See to the domains of this node that the journal does not know.
    async fn orphans(&self, domains: &[DomainRecord]) {
        let mut left = Vec::new();
        let reported = self.registry.lock().orphans.clone();
        for domain in domains.iter().filter(|domain| self.is_ours(domain)) {
            let known = {
                let registry = self.registry.lock();
                registry.instances.get(&domain.id).map(|i| i.vm_state)
            };
            if known.is_some_and(|vm| vm != VmState::Deleted) {
                continue;
            }
            // It may be one that the journal has, and that cannot be read.
            let unread = self.registry.lock().unread;
            let seen_to = match self.registry.settings().orphans {
                Orphans::Report => Ok(false),
                Orphans::Adopt | Orphans::Remove if unread => Ok(false),
                // What was deleted is not brought back.
                Orphans::Adopt if known.is_some() => Ok(false),
                Orphans::Adopt => self.adopt(domain).await,
                Orphans::Remove => self.remove_orphan(domain).await.map(|()| true),
            };
            match seen_to {
                Ok(true) => {}
                Ok(false) => {
                    if !reported.contains(&domain.name) {
                        tracing::warn!(
                            domain = domain.name,
                            next = "see what it is; instances.orphans says what becomes of it",
                            "an orphan: a domain of this node that the journal does not know"
                        );
                    }
                    left.push(domain.name.clone());
                }
                Err(error) => {
                    tracing::error!(
                        domain = domain.name,
                        ?error,
                        "cannot adopt or remove an orphan"
                    );
                    left.push(domain.name.clone());
                }
            }
        }
        self.registry.lock().orphans = left;
    }

    /// Take an orphan into the journal, as its own metadata describes it; whether that was
    /// possible.
    async fn adopt(&self, domain: &DomainRecord) -> Result<bool, StepError> {
        let Some(mut record) = described(domain) else { return Ok(false) };
        record.vm_state = match domain.state.power {
            PowerState::Running | PowerState::Suspended => VmState::Active,
            PowerState::Paused => VmState::Paused,
            PowerState::Shutdown | PowerState::Crashed => VmState::Stopped,
            PowerState::Unknown | PowerState::None => return Ok(false),
        };
        (record.built, record.task_state, record.operation) = (true, None, None);
        record.revision += 1;
        // Of its ports, no more is known than the instance says.
        let ports: Vec<PortRecord> = {
            let known = self.registry.lock();
            let lost = record.ports.iter().filter(|there| !known.ports.contains_key(&there.id));
            lost.map(|there| PortRecord::of(there, record.owner.clone(), record.created)).collect()
        };
        let write = Write {
            instance: Some(record.clone()),
            ports: ports.iter().cloned().map(Entry::Put).collect(),
            ..Write::default()
        };
        if let Err(error) = self.registry.journal.write(write).await {
            return Err(StepError::failed(journal_fault(&error)));
        }
        {
            let mut known = self.registry.lock();
            known.ports.extend(ports.into_iter().map(|port| (port.id, port)));
            known.instances.insert(record.id, record);
        }
        self.mend_network().await;
        self.engine.note_definition(domain.id).await;
        tracing::warn!(domain = domain.name, "an orphan was adopted");
        Ok(true)
    }

    async fn remove_orphan(&self, domain: &DomainRecord) -> Result<(), StepError> {
        tracing::warn!(domain = domain.name, "an orphan is removed");
        self.engine.power_off(domain.id).await?;
        self.engine.undefine_domain(domain.id).await?;
        if let Some(record) = described(domain) {
            self.engine.remove_links(&record).await?;
            self.forget_ports(&record).await?;
        }
        self.engine.remove_files(domain.id).await
    }

    /// Forget the ports that go with an instance that the journal does not know.
    async fn forget_ports(&self, record: &InstanceRecord) -> Result<(), StepError> {
        let goes: Vec<PortEntry> = {
            let known = self.registry.lock();
            let there = record.ports.iter().filter(|there| !there.kept);
            let unused = there.filter(|there| known.user_of_port(there.id).is_none());
            unused.map(|there| Entry::Gone(there.id)).collect()
        };
        let write = Write { ports: goes.clone(), ..Write::default() };
        let written = self.registry.journal.write(write).await;
        written.map_err(|error| StepError::failed(journal_fault(&error)))?;
        let mut known = self.registry.lock();
        goes.iter().for_each(|entry| known.set_port(entry));
        Ok(())
    }

    /// Look for definitions that are not what the agent made.
    async fn find_redefined(&self) {
        let known: Vec<(InstanceId, u64, String)> = {
            let registry = self.registry.lock();
            let quiet = |i: &&InstanceRecord| i.task_state.is_none();
            let made = |i: &InstanceRecord| Some((i.id, i.revision, i.fingerprint.clone()?));
            registry.instances.values().filter(quiet).filter_map(made).collect()
        };
        let asked = known.into_iter().map(|(id, revision, made)| async move {
            (id, revision, made, self.node.hypervisor.fingerprint(id).await)
        });
        let mut answers = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((id, revision, made, found)) = answers.next().await {
            let redefined = match found {
                Ok(found) if found == made => None,
                Ok(_) => Some("its definition was changed behind the agent".to_owned()),
                Err(error @ Error::NotOurs { .. }) => Some(error.to_string()),
                // That it is gone is told by its power state.
                Err(Error::NotFound { .. }) => None,
                Err(error) => {
                    tracing::info!(instance = %id, %error, "cannot read an instance's definition");
                    continue;
                }
            };
            let quiet = {
                let registry = self.registry.lock();
                let now = registry.instances.get(&id);
                now.is_some_and(|i| i.task_state.is_none() && i.revision == revision)
            };
            // One that was worked on meanwhile is looked at the next time.
            if quiet && self.registry.observe(id, |seen| seen.redefined.clone_from(&redefined)) {
                if let Some(what) = &redefined {
                    tracing::warn!(instance = %id, what, "drift");
                }
                self.registry.tell_instance(id);
            }
        }
    }

    /// Delete what was soft-deleted long enough ago.
    async fn reclaim(self: &Arc<Self>) {
        let (keep, now) = (self.registry.settings().reclaim_after, Timestamp::now());
        let over: Vec<InstanceId> = {
            let registry = self.registry.lock();
            let over = |i: &&InstanceRecord| {
                i.task_state.is_none() && i.reclaimed_at(keep).is_some_and(|at| at < now)
            };
            registry.instances.values().filter(over).map(|i| i.id).collect()
        };
        for id in over {
            tracing::info!(instance = %id, "deleting a soft-deleted instance: its time to be restored is over");
            let delete = Delete { id, mode: DeleteMode::Hard, ignore_error: true };
            if let Err(fault) = self.gate.submit(Command::Delete(delete), Context::default()).await
            {
                tracing::warn!(instance = %id, %fault, "cannot delete a soft-deleted instance whose time is over");
            }
        }
    }

    /// Remove files from the image cache that nothing needs: what is left by a crash between the
    /// arrival of a file and the note of it. While images come in, and while there are disks
    /// nobody knows, nothing can be said.
    async fn sweep_images(&self) {
        let (folders, files) = match (self.node.disks.list().await, self.node.images.list().await) {
            (Ok(folders), Ok(files)) => (folders, files),
            (folders, files) => {
                let (folders, files) = (folders.err(), files.err());
                tracing::warn!(?folders, ?files, "cannot list the image cache");
                return;
            }
        };
        let unneeded = {
            let registry = self.registry.lock();
            let brings = |operation: &Arc<LiveOperation>| {
                operation.change.is::<ImageImport>() || operation.change.makes().is_some()
            };
            let known: HashSet<InstanceId> = registry.instances.keys().copied().collect();
            let strangers: Vec<&InstanceId> =
                folders.iter().filter(|id| !known.contains(id)).collect();
            if !strangers.is_empty() {
                tracing::warn!(
                    ?strangers,
                    "found disks of instances that the journal does not know"
                );
                return;
            }
            if registry.live.values().any(brings) {
                return;
            }
            let unneeded =
                files.into_iter().filter(|file| !registry.needs(&file.sha256, file.format, None));
            unneeded.collect::<Vec<_>>()
        };
        // Each is decided again when it is removed.
        for file in unneeded {
            let path = file.path.display();
            tracing::info!(%path, "an image file that nothing needs is removed");
            if let Err(error) =
                self.engine.drop_bytes(&file.sha256, file.format, None, |_| ()).await
            {
                tracing::warn!(?error, "cannot remove it");
            }
        }
    }

    /// Remove what was sent to be imported, and nobody imports.
    async fn sweep_uploads(&self) {
        let registry = Arc::clone(&self.registry);
        let is_needed = move |id| {
            let known = registry.lock();
            let importing = |image: &&ImageRecord| image.state == ImageState::Importing;
            known.images.values().filter(importing).any(|image| upload_of(image) == Some(id))
        };
        match self.node.images.sweep_uploads(is_needed).await {
            Ok(0) => {}
            Ok(removed) => tracing::info!(removed, "uploads that nobody imported are removed"),
            Err(error) => tracing::warn!(%error, "cannot look for old uploads"),
        }
    }
}

/// Whether an instance that is off ran before the node's restart.
fn shall_start(record: &InstanceRecord, power: PowerState) -> bool {
    let off = matches!(power, PowerState::Shutdown | PowerState::Crashed);
    let ran = match record.vm_state {
        VmState::Active | VmState::Rescued => true,
        VmState::Resized => record.resized.as_ref().is_some_and(|r| r.was == Running::Yes),
        VmState::Building
        | VmState::Paused
        | VmState::Suspended
        | VmState::Stopped
        | VmState::Shelved
        | VmState::ShelvedOffloaded
        | VmState::SoftDeleted
        | VmState::Error
        | VmState::Deleted => false,
    };
    off && ran && record.task_state.is_none()
}

/// The instance a domain's metadata describes, if it is this one.
fn described(domain: &DomainRecord) -> Option<InstanceRecord> {
    let text = &domain.ours.as_ref()?.record;
    match serde_json::from_str::<InstanceRecord>(text) {
        Ok(record) if record.id == domain.id => Some(record),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(domain = domain.name, %error, "cannot read a domain's metadata");
            None
        }
    }
}
