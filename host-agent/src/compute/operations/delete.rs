//! Delete: an instance is switched off and kept for a while, so that it can be restored; or it is
//! removed with its disk, ports and sockets. A hard one takes the place of all that is under way.

use std::collections::BTreeMap;

use ostler_protocol::rpc::instance::DeleteMode;
use ostler_protocol::rpc::values::VolumeId;

use super::attach_volume::{AttachVolume, is_elsewhere};
use super::prelude::*;
use super::sample;
use super::volume_delete::deleted;
use crate::journal::records::VolumeRecord;
use crate::journal::{Entry, VolumeEntry};

pub(in crate::compute) const SOFT: Legal = Legal {
    unbuilt: true,
    ..Legal::new(
        "deleted",
        TaskState::SoftDeleting,
        &[
            VmState::Active,
            VmState::Paused,
            VmState::Suspended,
            VmState::Stopped,
            VmState::Rescued,
            VmState::Resized,
            VmState::Shelved,
            VmState::ShelvedOffloaded,
            VmState::SoftDeleted,
            VmState::Error,
            VmState::Deleted,
        ],
    )
};
pub(in crate::compute) const HARD: Legal = Legal {
    unbuilt: true,
    overrides: true,
    ..Legal::new("deleted", TaskState::Deleting, &VmState::ALL)
};

/// Remove it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Delete {
    /// The volumes that go with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::compute) volumes: Vec<VolumeId>,
    /// Those it has that are kept elsewhere: they are let go of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(in crate::compute) elsewhere: Vec<VolumeId>,
}

/// Switch it off; it can be restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct SoftDelete {
    /// How long the guest may take to shut down, milliseconds.
    pub(in crate::compute) timeout: u32,
}

pub(super) fn ask(delete: instance::Delete, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let instance::Delete { id, mode, ignore_error } = delete;
    let timeout = gate.patience(None);
    let legal = match mode {
        DeleteMode::Soft => &SOFT,
        DeleteMode::Hard => &HARD,
    };
    let admitted = gate.act(id, legal, |record, gate| {
        is_known_error(record.vm_state, ignore_error)?;
        // What is left of a boot that failed, or of a delete, has nothing to restore.
        let nothing = record.vm_state == VmState::Deleted || !record.built;
        Ok(match mode {
            DeleteMode::Soft if !nothing => SoftDelete { timeout }.into(),
            DeleteMode::Soft | DeleteMode::Hard => {
                let volumes = going_too(record, gate);
                Delete { volumes, elsewhere: elsewhere(record, gate) }.into()
            }
        })
    })?;
    if mode == DeleteMode::Hard {
        gate.known.cancel_pointless(&admitted.subject);
    }
    Ok(admitted)
}

/// The volumes that are deleted with an instance: those that were to be, and nobody else has or is
/// about to have.
fn going_too(record: &InstanceRecord, gate: &Admission<'_>) -> Vec<VolumeId> {
    let subject = Subject::Instance(record.id);
    let alone = |volume: &VolumeId| {
        gate.known.users_of(*volume).len() == 1 && !gate.known.is_at_volume(*volume, &subject)
    };
    let to_go = record.volumes.iter().filter(|there| there.delete_on_termination);
    to_go.map(|there| there.volume).filter(alone).collect()
}

/// The volumes an instance has, or may have been given by then, that are kept elsewhere.
fn elsewhere(record: &InstanceRecord, gate: &Admission<'_>) -> Vec<VolumeId> {
    let queue = gate.known.queues.get(&Subject::Instance(record.id));
    let attached = queue.into_iter().flatten().filter_map(|operation| {
        operation.change.downcast::<AttachVolume>().map(|change| change.attachment.volume)
    });
    let all = record.volumes.iter().map(|there| there.volume).chain(attached);
    all.filter(|id| is_elsewhere(&gate.known.volumes, *id)).collect()
}

/// Whether an instance may be deleted though it is in ERROR.
///
/// # Errors
/// `conflict`, unless the caller says that the error is known.
fn is_known_error(vm: VmState, ignore_error: bool) -> Result<(), Refusal> {
    if vm != VmState::Error || ignore_error {
        return Ok(());
    }
    Err(Refusal::new(
        Reason::Conflict,
        "conflict: the instance is in ERROR, and is kept until somebody has looked at it",
    )
    .next("see why, then delete it all the same")
    .by(Action::InstanceShow(None))
    .by(Action::InstanceDeleteIgnoring))
}

pub(super) fn samples() -> Vec<Change> {
    let with = Delete { volumes: vec![sample::volume_id()], elsewhere: Vec::new() };
    let letting_go = Delete { volumes: Vec::new(), elsewhere: vec![sample::volume_id()] };
    let alone = Delete { volumes: Vec::new(), elsewhere: Vec::new() };
    vec![SoftDelete { timeout: 1000 }.into(), alone.into(), with.into(), letting_go.into()]
}

impl Describe for SoftDelete {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&SHUT_DOWN)
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn goes_on(&self) -> bool {
        true
    }

    fn is_so(&self, vm: VmState, power: PowerState) -> bool {
        vm == VmState::SoftDeleted
            && matches!(power, PowerState::Shutdown | PowerState::Crashed | PowerState::None)
    }

    fn patience(&self) -> Option<u32> {
        Some(self.timeout)
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        // A second one must not forget what the first began with.
        record.deleted_from.get_or_insert(record.vm_state);
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::SoftDeleted
    }
}

impl Describe for Delete {
    fn plan(&self, _: Running) -> Plan {
        let plan = Plan::of(&[Step::PowerOff]).then(&REMOVE).then(&[Step::DropShelvedImage]);
        let plan = self.elsewhere.iter().fold(plan, |plan, volume| {
            plan.then_about(Step::DisconnectVolume, Subject::Volume(*volume))
        });
        self.volumes.iter().fold(plan, |plan, volume| {
            plan.then_about(Step::DeleteVolume, Subject::Volume(*volume))
        })
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn can_undo(&self) -> bool {
        false
    }

    fn goes_on(&self) -> bool {
        true
    }

    fn overrides(&self) -> bool {
        true
    }

    fn volumes(&self) -> Vec<VolumeId> {
        [self.volumes.as_slice(), &self.elsewhere].concat()
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        let gone = self.volumes.iter().flat_map(|id| deleted(known, *id, outcome, why));
        let let_go = self.elsewhere.iter().filter(|_| outcome == State::Succeeded);
        gone.chain(let_go.map(|id| Entry::Gone(*id))).collect()
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Deleted
    }

    fn taken_back(&self, _: State, _: &InstanceRecord) -> VmState {
        VmState::Error
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_looked_at_before_it_is_deleted() {
        for vm in VmState::ALL {
            assert_eq!(is_known_error(vm, false).is_ok(), vm != VmState::Error);
            assert!(is_known_error(vm, true).is_ok());
        }
    }
}
