//! Volume extend: make a volume larger. A guest that has it sees that at once.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;
use ostler_protocol::rpc::volume::{self, Format};

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::volume::{self as rules, WITH_VOLUMES};
use crate::journal::VolumeEntry;
use crate::journal::records::VolumeRecord;

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("extended", TaskState::ChangingVolume, WITH_VOLUMES);

/// Make it so large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct VolumeExtend {
    /// Which.
    pub(in crate::compute) volume: VolumeId,
    /// How large.
    pub(in crate::compute) size: Bytes,
}

pub(super) fn ask(extend: volume::Extend, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    let volume::Extend { id, size } = extend;
    rules::size(size)?;
    gate.act_on_volume(id, &LEGAL, |record, instance, gate| {
        let runs =
            instance.is_some_and(|i| matches!(i.vm_state, VmState::Active | VmState::Paused));
        if record.format == Some(Format::Luks) && !runs {
            let text = format!(
                "conflict: volume {} is encrypted, and only the QEMU of its guest can extend it",
                record.name
            );
            return Err(Refusal::new(Reason::Conflict, text)
                .next("ask again while an instance runs that has it"));
        }
        // One that failed may have left a guest that was not told: it is, when asked again.
        let again = size == record.size && record.fault.is_some();
        if size <= record.size && !again {
            let text = format!(
                "a volume never shrinks: {} has {}, and {size} is asked for",
                record.name, record.size
            );
            return Err(Refusal::new(Reason::InvalidParams, text).about("parameter size"));
        }
        if let Some(pool) = &record.pool {
            gate.room_in(pool, Bytes(size.0 - record.size.0))?;
        }
        Ok(VolumeExtend { volume: id, size }.into())
    })
}

pub(super) fn samples() -> Vec<Change> {
    vec![VolumeExtend { volume: sample::volume_id(), size: Bytes::mib(32) }.into()]
}

impl Describe for VolumeExtend {
    fn plan(&self, _: Running) -> Plan {
        Plan::default().then_about(Step::ExtendVolume, Subject::Volume(self.volume))
    }

    fn can_cancel(&self) -> bool {
        false
    }

    fn volumes(&self) -> Vec<VolumeId> {
        vec![self.volume]
    }

    fn extends_to(&self) -> Option<Bytes> {
        Some(self.size)
    }

    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        changed(known, self.volume, |record| {
            record.fault = why.cloned();
            if outcome == State::Succeeded {
                record.size = record.size.max(self.size);
            }
        })
    }
}
