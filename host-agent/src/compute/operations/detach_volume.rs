//! Detach: take a volume from an instance. A running guest is asked to let go of it, and has to.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume;

use super::attach_volume::{PATIENCE, is_elsewhere};
use super::prelude::*;
use super::sample;
use crate::compute::admission::volume::WITH_VOLUMES;
use crate::journal::records::{AttachmentRecord, VolumeRecord};
use crate::journal::{Entry, VolumeEntry};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("made to give a volume back", TaskState::DetachingVolume, WITH_VOLUMES);

/// Take the volume from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct DetachVolume {
    /// Which.
    pub(in crate::compute) volume: VolumeId,
    /// How long the guest may take to let go of it, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(asked: volume::Detach, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let volume::Detach { id, volume, timeout } = asked;
    gate.act(id, &LEGAL, |instance, gate| {
        may_go(attachment(instance, volume)?, instance)?;
        if let Some(operation) = gate.known.at_volume(volume) {
            let text = format!("conflict: volume {volume} is being worked on");
            return Err(Refusal::new(Reason::Conflict, text)
                .next("wait for it")
                .by(Action::OperationWait(Some(operation.id))));
        }
        Ok(DetachVolume { volume, timeout: timeout.unwrap_or(PATIENCE) }.into())
    })
}

/// How an instance has a volume.
pub(super) fn attachment(
    instance: &InstanceRecord,
    volume: VolumeId,
) -> Result<&AttachmentRecord, Refusal> {
    instance.volumes.iter().find(|there| there.volume == volume).ok_or_else(|| {
        let text = format!("the instance does not have volume {volume}");
        Refusal::new(Reason::NotFound, text)
            .next("see which it has")
            .by(Action::InstanceShow(Some(instance.id)))
    })
}

/// The disk a running system is on stays.
fn may_go(attachment: &AttachmentRecord, instance: &InstanceRecord) -> Result<(), Refusal> {
    if !attachment.root || instance.vm_state == VmState::Stopped {
        return Ok(());
    }
    let text = "conflict: the instance runs from this volume";
    Err(Refusal::new(Reason::Conflict, text).next("stop the instance first"))
}

pub(super) fn samples() -> Vec<Change> {
    vec![DetachVolume { volume: sample::volume_id(), timeout: PATIENCE }.into()]
}

impl Describe for DetachVolume {
    fn plan(&self, was: Running) -> Plan {
        let volume = || Subject::Volume(self.volume);
        let plan = match was {
            Running::Yes => Plan::default().then_about(Step::UnplugVolume, volume()),
            Running::No => Plan::default(),
        };
        plan.then(&[Step::DefineDomain]).then_about(Step::DisconnectVolume, volume())
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn volumes(&self) -> Vec<VolumeId> {
        vec![self.volume]
    }

    // With the instance that had it, a volume that is kept elsewhere is forgotten.
    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        _: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        match outcome == State::Succeeded && is_elsewhere(known, self.volume) {
            true => vec![Entry::Gone(self.volume)],
            false => Vec::new(),
        }
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.volumes.retain(|there| there.volume != self.volume);
    }
}
