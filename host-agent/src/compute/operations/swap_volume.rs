//! Swap: another volume takes the place of one that an instance has, with what that holds. A guest
//! that runs does not notice: to it the disk is the one it was.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume::{self, Format};

use super::attach_volume::{is_elsewhere, is_known};
use super::detach_volume::attachment;
use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::volume::WITH_VOLUMES;
use crate::compute::lifecycle;
use crate::journal::records::{AttachmentRecord, ConnectionRecord, VolumeRecord, VolumeState};
use crate::journal::{Entry, VolumeEntry};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("given another volume for one it has", TaskState::ChangingVolume, WITH_VOLUMES);

/// Put the one in the place of the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct SwapVolume {
    /// The one it has.
    pub(in crate::compute) volume: VolumeId,
    /// The one it shall have.
    pub(in crate::compute) new: VolumeId,
}

pub(super) fn ask(asked: volume::Swap, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let volume::Swap { id, volume, new } = asked;
    let to = gate.free_volume(new, "put in the place of another")?;
    gate.act(id, &LEGAL, |instance, gate| {
        let has = attachment(instance, volume)?;
        let from = gate.idle_volume(volume)?;
        let was = lifecycle::running(gate.known.observed(id).power);
        can_be_copied(&from, has, was)?;
        can_take(&to, &from, was)?;
        if has.known_as() != new {
            is_known(new, instance)?;
        }
        Ok(SwapVolume { volume, new }.into())
    })
}

/// Whether somebody can copy a volume as its instance has it.
fn can_be_copied(from: &VolumeRecord, has: &AttachmentRecord, was: Running) -> Result<(), Refusal> {
    let no = |text: String, next: &str| {
        Err(Refusal::new(Reason::Conflict, format!("conflict: {text}"))
            .about(Subject::Volume(from.id).to_string())
            .next(next))
    };
    if from.format == Some(Format::Luks) {
        return no(format!("volume {} is encrypted", from.name), "copy it in its guest");
    }
    let is_on_server = match &from.connection {
        None | Some(ConnectionRecord::Local { .. }) => false,
        Some(_) => true,
    };
    if from.multiattach {
        let text = format!("volume {} is for several instances, who may write to it", from.name);
        return no(text, "copy it while nobody has it: volume clone");
    }
    match was {
        Running::Yes if has.read_only => {
            let text = format!("the guest has volume {} read-only, and runs", from.name);
            no(text, "stop the instance first")
        }
        Running::No if is_on_server => {
            let text = format!("volume {} is on a server, where only QEMU reads it", from.name);
            no(text, "start the instance first")
        }
        Running::Yes | Running::No => Ok(()),
    }
}

/// Whether a volume can hold what another one does, and nothing else.
fn can_take(to: &VolumeRecord, from: &VolumeRecord, was: Running) -> Result<(), Refusal> {
    let no = |text: String, next: &str| {
        Err(Refusal::new(Reason::Conflict, format!("conflict: {text}"))
            .about(Subject::Volume(to.id).to_string())
            .next(next))
    };
    if to.size < from.size {
        let text = format!(
            "volume {} is {}, and {} is {}: it has to be as large",
            to.name, to.size, from.name, from.size
        );
        return no(text, "extend it first, or take another");
    }
    if was == Running::Yes && from.size > Bytes(0) && to.size != from.size {
        return Err(not_equal(to, &from.name, from.size));
    }
    if to.multiattach {
        return no(format!("volume {} is for several instances", to.name), "take another");
    }
    if to.format == Some(Format::Luks) {
        return no(format!("volume {} is encrypted", to.name), "take another");
    }
    // What it lies on would show through.
    if to.base.is_some() || !to.snapshots.is_empty() {
        let text = format!("volume {} was made from an image, or has snapshots", to.name);
        return no(text, "take an empty one");
    }
    Ok(())
}

/// QEMU copies a disk to one of its size only.
pub(in crate::compute) fn not_equal(to: &VolumeRecord, name: &Name, size: Bytes) -> Refusal {
    let text = format!(
        "conflict: volume {} is {}, and {name} is {size}: while the guest runs it has to be as large, \
         and no larger",
        to.name, to.size
    );
    Refusal::new(Reason::Conflict, text)
        .about(Subject::Volume(to.id).to_string())
        .next("take one of the same size and extend it afterwards, or stop the instance first")
}

pub(super) fn samples() -> Vec<Change> {
    vec![SwapVolume { volume: sample::volume_id(), new: sample::other_volume_id() }.into()]
}

impl Describe for SwapVolume {
    fn plan(&self, was: Running) -> Plan {
        let new = || Subject::Volume(self.new);
        let plan = Plan::default()
            .then_about(Step::ConnectVolume, new())
            .then_about(Step::CopyVolume, new());
        let plan = match was {
            // It is defined anew with it.
            Running::Yes => plan.then_about(Step::SwitchVolume, new()),
            Running::No => plan.then(&[Step::DefineDomain]),
        };
        plan.then_about(Step::DisconnectVolume, Subject::Volume(self.volume))
    }

    fn permit(&self) -> Permit {
        Permit::Copy
    }

    fn volumes(&self) -> Vec<VolumeId> {
        vec![self.new, self.volume]
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        match outcome {
            State::Succeeded => {}
            // QEMU may be writing to it still: nobody is to have it.
            State::Failed => {
                return changed(known, self.new, |new| {
                    (new.state, new.fault) = (VolumeState::Error, why.cloned());
                });
            }
            State::Queued | State::Running | State::Undone | State::Cancelled => return Vec::new(),
        }
        let bootable = known.get(&self.volume).is_some_and(|old| old.bootable);
        let mut after = changed(known, self.new, |new| new.bootable |= bootable);
        if is_elsewhere(known, self.volume) {
            after.push(Entry::Gone(self.volume));
        }
        after
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        for there in record.volumes.iter_mut().filter(|there| there.volume == self.volume) {
            there.known_as = Some(there.known_as()).filter(|known| *known != self.new);
            there.volume = self.new;
        }
    }
}
