//! Snapshot: make an image of the root disk of an instance, the guest frozen for an instant.

use ostler_protocol::rpc::fault::Fault;
use ostler_protocol::rpc::instance::{self, Quiesce, TaskState, VmState};
use ostler_protocol::rpc::values::{Bytes, Name};
use serde::{Deserialize, Serialize};

use super::{Change, Describe, Legal, Permit, Traits, sample};
use crate::compute::gate::{Admitted, Gate};
use crate::compute::steps::Step;
use crate::journal::records::{InstanceRecord, Running};

/// It changes nothing of the instance, so a lock does not matter.
pub(in crate::compute) const LEGAL: Legal = Legal {
    heeds_lock: false,
    ..Legal::new(
        "copied to an image",
        TaskState::Snapshotting,
        &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended],
    )
};
pub(super) const TRAITS: Traits = Traits { permit: Permit::Copy, can_cancel: true };

/// Make an image of the root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Snapshot {
    /// What to call it.
    pub(in crate::compute) image: Name,
    /// Whether the guest is frozen for it.
    pub(in crate::compute) quiesce: Quiesce,
}

pub(super) fn ask(snapshot: instance::Snapshot, gate: &mut Gate<'_>) -> Result<Admitted, Fault> {
    let instance::Snapshot { id, name: image, quiesce } = snapshot;
    gate.make_image(id, &LEGAL, image.clone(), Snapshot { image, quiesce }.into())
}

pub(super) fn samples() -> Vec<Change> {
    vec![Snapshot { image: sample::name("shot"), quiesce: Quiesce::Auto }.into()]
}

impl Describe for Snapshot {
    fn plan(&self, _: Running) -> Vec<Step> {
        vec![Step::CopyDisk, Step::StoreImage]
    }

    fn beside(&self, record: &InstanceRecord) -> Bytes {
        record.disk
    }

    fn makes(&self) -> Option<&Name> {
        Some(&self.image)
    }
}
