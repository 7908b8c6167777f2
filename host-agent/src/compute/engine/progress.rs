//! What is noted of an operation: how far it is, and what it came to.

use std::sync::Arc;
use std::time::Duration;

use ostler_protocol::rpc::instance::VmState;
use ostler_protocol::rpc::operation::{State, StepState, Subject};
use ostler_protocol::rpc::values::{PortId, Timestamp, VolumeId};

use super::Engine;
use super::steps::upload_of;
use crate::compute::causes::journal_fault;
use crate::compute::faults::{self, Moment};
use crate::compute::operations::volume_create::changed;
use crate::compute::outside::Outside;
use crate::compute::plan::committed;
use crate::compute::registry::LiveOperation;
use crate::image::Images;
use crate::journal::records::InstanceRecord;
use crate::journal::{Entry, VolumeEntry, Write};
use crate::refusal::{Operation, Refusal};

impl<O: Outside> Engine<O> {
    /// Set a step's state, for all to see; on disk with the next write.
    pub(super) fn mark(&self, operation: &LiveOperation, n: usize, state: StepState) {
        operation.now.send_modify(|o| {
            let now = Timestamp::now();
            if let Some(step) = o.steps.get_mut(n) {
                step.state = state;
                match state {
                    StepState::Running => drop(step.started.get_or_insert(now)),
                    StepState::Pending => step.started = None,
                    StepState::Done | StepState::Failed | StepState::Undone => {
                        step.finished = Some(now);
                    }
                }
            }
            o.state = State::Running;
            o.started.get_or_insert(now);
            o.revision += 1;
        });
        self.registry.tell_operation(operation);
    }

    /// Write down how far an operation is, and what its steps have noted of their instance: a step
    /// that is done is not done again, so it could not be noted again either.
    pub(super) async fn write_progress(&self, operation: &LiveOperation) -> Result<(), Refusal> {
        let instance = match &operation.subject {
            Subject::Instance(id) => self.registry.lock().instances.get(id).cloned(),
            Subject::Image(_) | Subject::Network(_) | Subject::Volume(_) | Subject::Port(_) => None,
        };
        let write = Write { operation: Some(operation.record()), instance, ..Write::default() };
        self.registry.journal.write(write).await.map_err(|e| journal_fault(&e))
    }

    /// The operation is over: write it down together with what follows for its subject, then tell.
    pub(super) async fn settle(
        &self,
        operation: &Arc<LiveOperation>,
        state: State,
        error: Option<Refusal>,
    ) {
        let mut over: Operation = operation.operation();
        over.state = state;
        over.error.clone_from(&error);
        over.finished = Some(Timestamp::now());
        over.started.get_or_insert(over.accepted);
        over.revision += 1;
        let mut record = operation.record();
        record.operation = over.clone();
        let mut write = Write { operation: Some(record), ..Write::default() };
        let mut upload = None;
        {
            let mut known = self.registry.lock();
            let before = match &operation.subject {
                Subject::Instance(id) => known.instances.get(id).cloned(),
                Subject::Image(_) | Subject::Network(_) | Subject::Volume(_) | Subject::Port(_) => {
                    None
                }
            };
            let had = volumes_of(before.as_ref());
            match &operation.subject {
                Subject::Instance(id) => {
                    let made = state == State::Succeeded || committed(&over.steps);
                    if let (Some(image), false) = (operation.change.makes(), made) {
                        write.image = Some(Entry::Gone(image.clone()));
                    }
                    write.instance = known.update(*id, |instance| {
                        let vm_state = operation.change.settled(state, instance, operation.was);
                        if made {
                            *instance = operation.change.applied(instance, operation.was);
                        } else {
                            operation.change.not_done(instance, state != State::Failed);
                        }
                        instance.vm_state = vm_state;
                        // It is remembered for a while; what may be secret is not.
                        if vm_state == VmState::Deleted {
                            instance.config_drive = None;
                        }
                        // A delete that came meanwhile owns the instance already.
                        if instance.operation == Some(operation.id) {
                            instance.task_state = None;
                            instance.operation = None;
                        }
                        if state != State::Cancelled {
                            instance.fault.clone_from(&error);
                        }
                    });
                }
                Subject::Image(name) => {
                    let image = known.images.get(name);
                    upload = image.and_then(upload_of);
                    write.image = operation.change.image_after(name, image, state);
                }
                Subject::Network(_) => write.network = operation.change.network_after(state),
                Subject::Volume(_) => {}
                Subject::Port(id) => {
                    write.ports.extend(operation.change.port_after(known.ports.get(id), state));
                }
            }
            write.volumes = operation.change.volumes_after(&known.volumes, state, error.as_ref());
            // One that is kept elsewhere stays known as long as anybody has it.
            let subject = &operation.subject;
            for volume in operation.change.volumes() {
                if !known.is_user(volume, subject) {
                    known.leaving.insert((volume, subject.clone()));
                }
            }
            let is_elsewhere =
                |id: &VolumeId| known.volumes.get(id).is_some_and(|v| v.connection.is_some());
            write.volumes.retain(|entry| match entry {
                Entry::Put(_) => true,
                Entry::Gone(id) => {
                    let has = !known.users_of(*id).is_empty();
                    !is_elsewhere(id) || !(has || known.is_needed(*id, subject))
                }
            });
            let has = volumes_of(write.instance.as_ref());
            let freed = had.iter().filter(|volume| !has.contains(volume));
            let said = write.volumes.iter().map(VolumeEntry::id).collect::<Vec<_>>();
            let freed = freed.filter(|volume| !said.contains(volume));
            let freed = freed.flat_map(|volume| changed(&known.volumes, *volume, |_| {}));
            write.volumes.extend(freed.collect::<Vec<_>>());
            let unused = unused_ports(before.as_ref(), write.instance.as_ref());
            let unmade = operation.change.new_port();
            let unmade = unmade.filter(|id| known.user_of_port(*id).is_none());
            write.ports.extend(unused.into_iter().chain(unmade).map(Entry::Gone));
            write.ports.iter().for_each(|entry| known.set_port(entry));
            write.volumes.iter().for_each(|entry| known.set_volume(entry));
            write.image.iter().for_each(|entry| known.set_image(entry));
            write.network.iter().for_each(|entry| known.set_network(entry));
        }
        let _ = faults::reach(Moment::Settling, over.kind, "");
        // The outcome must not be lost, so this is tried until it is on disk.
        while let Err(error) = self.registry.journal.write(write.clone()).await {
            tracing::error!(%error, "cannot write an operation's outcome to the journal; trying again");
            tokio::select! {
                () = tokio::time::sleep(Duration::from_secs(1)) => {}
                () = self.shutdown.cancelled() => return,
            }
        }
        let _ = faults::reach(Moment::Settled, over.kind, "");
        // Not before the outcome is on disk: an import that is taken up again needs it.
        if let Some(upload) = upload
            && let Err(error) = self.node.images.drop_upload(upload).await
        {
            tracing::warn!(%error, "cannot remove what an image was imported from");
        }
        {
            let mut known = self.registry.lock();
            known.live.remove(&operation.id);
            known.leaving.retain(|(_, leaving)| *leaving != operation.subject);
        }
        operation.now.send_replace(over);
        self.registry.tell_operation(operation);
        if let Subject::Instance(id) = operation.subject {
            self.after_task(id).await;
        }
    }
}

/// The volumes that an instance has; of those it gives back, it is noted when they were last used.
fn volumes_of(record: Option<&InstanceRecord>) -> Vec<VolumeId> {
    let record = record.filter(|record| record.vm_state != VmState::Deleted);
    record.map_or_else(Vec::new, |i| i.volumes.iter().map(|there| there.volume).collect())
}

/// The ports that an instance had, has no more, and that go with it.
fn unused_ports(before: Option<&InstanceRecord>, now: Option<&InstanceRecord>) -> Vec<PortId> {
    let has = now.filter(|now| now.vm_state != VmState::Deleted);
    let has = |id| has.is_some_and(|now| now.interface(id).is_some());
    let had = before.map(|before| before.ports.as_slice()).unwrap_or_default();
    had.iter().filter(|had| !had.kept && !has(had.id)).map(|had| had.id).collect()
}
