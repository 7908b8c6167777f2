//! Volume revert: go back to a snapshot. What was written since is lost; the size stays.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume;

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::volume::snapshot_of;
use crate::journal::VolumeEntry;
use crate::journal::records::VolumeRecord;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("put back to a snapshot", TaskState::ChangingVolume, &[VmState::Stopped]);

/// Go back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeRevert {
    /// Which volume.
    pub(in crate::compute) volume: VolumeId,
    /// To which snapshot.
    pub(in crate::compute) name: Name,
    /// Whether an instance has the volume: its domain is to find it in its new place.
    pub(in crate::compute) attached: bool,
}

pub(super) fn ask(
    asked: volume::SelectSnapshot,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    let volume::SelectSnapshot { id, name } = asked;
    gate.act_on_volume(id, &LEGAL, |record, instance, _| {
        snapshot_of(record, &name)?;
        Ok(VolumeRevert { volume: id, name, attached: instance.is_some() }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    let (volume, name) = (sample::volume_id(), sample::name("before"));
    let of = |attached| VolumeRevert { volume, name: name.clone(), attached }.into();
    [true, false].map(of).into()
}

impl Describe for VolumeRevert {
    fn plan(&self, _: Running) -> Plan {
        let define: &[Step] = if self.attached { &[Step::DefineDomain] } else { &[] };
        Plan::default().then_about(Step::RevertVolume, Subject::Volume(self.volume)).then(define)
    }

    fn can_cancel(&self) -> bool {
        false
    }

    // What was written since the snapshot is gone with the first step.
    fn can_undo(&self) -> bool {
        false
    }

    fn volumes(&self) -> Vec<VolumeId> {
        vec![self.volume]
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        _: State,
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        changed(known, self.volume, |record| record.fault = why.cloned())
    }
}
