//! Reset: put the root disk of an instance back to its image, which is a rebuild from what it was
//! made from.

use super::prelude::*;
use super::rebuild::{self, Rebuild};
use crate::compute::record::{root_device, root_serial};

pub(in crate::compute) const LEGAL: Legal =
    Legal::new("reset", TaskState::Rebuilding, rebuild::LEGAL.from);

pub(super) fn ask(reset: instance::Reset, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.act(reset.id, &LEGAL, |record, _| {
        is_root(record, &reset.root_device)?;
        let on_volume = || {
            Refusal::new(Reason::Conflict, "conflict: the instance boots from a volume")
                .next("stop it, and put the volume back to a snapshot: ostler volume revert")
        };
        let from = record.source().ok_or_else(on_volume)?;
        let config_drive = record.config_drive.is_some();
        Ok(Rebuild { from, hardware: None, config_drive, on_volume: false }.into())
    })
}

fn is_root(record: &InstanceRecord, named: &str) -> Result<(), Refusal> {
    let target = root_device(record);
    let serial = root_serial(record.id);
    if named == target || named == serial {
        return Ok(());
    }
    let text = format!("{named:?} is not the root device of the instance");
    Err(Refusal::new(Reason::InvalidParams, text)
        .about("parameter root_device")
        .next(format!("its root device is {target}, with the serial {serial}")))
}

pub(super) fn samples() -> Vec<Change> {
    rebuild::samples()
}
