//! Snapshot: make an image of the root disk of an instance, the guest frozen for an instant.

use ostler_protocol::rpc::instance::Quiesce;

use super::prelude::*;
use super::sample;

/// It changes nothing of the instance, so a lock does not matter.
pub(in crate::compute) const LEGAL: Legal = Legal {
    heeds_lock: false,
    ..Legal::new(
        "copied to an image",
        TaskState::Snapshotting,
        &[VmState::Active, VmState::Stopped, VmState::Paused, VmState::Suspended],
    )
};

/// Make an image of the root disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Snapshot {
    /// What to call it.
    pub(in crate::compute) image: Name,
    /// Whether the guest is frozen for it.
    pub(in crate::compute) quiesce: Quiesce,
}

pub(super) fn ask(
    snapshot: instance::Snapshot,
    gate: &mut Admission<'_>,
) -> Result<Admitted, Refusal> {
    let instance::Snapshot { id, name: image, quiesce } = snapshot;
    if let Some(volume) = gate.known.instances.get(&id).and_then(InstanceRecord::root_volume) {
        let text = "conflict: the instance boots from a volume";
        return Err(Refusal::new(Reason::Conflict, text)
            .about(format!("instance {id}"))
            .next(format!("snapshot that: ostler volume snapshot {volume} NAME")));
    }
    writes(id, gate)?;
    let requires = |record: &InstanceRecord| record.hardware.require_quiesce;
    let quiesce = match quiesce {
        // What its image requires, whoever asks; but for who asks for none in so many words.
        Quiesce::Auto if gate.known.instances.get(&id).is_some_and(requires) => Quiesce::Require,
        Quiesce::Auto | Quiesce::Never | Quiesce::Require => quiesce,
    };
    gate.make_image(id, &LEGAL, image.clone(), Snapshot { image, quiesce })
}

/// Whether an instance has a root disk that it can have written anything to.
pub(super) fn writes(id: InstanceId, gate: &Admission<'_>) -> Result<(), Refusal> {
    if !gate.known.instances.get(&id).is_some_and(InstanceRecord::is_on_cdrom) {
        return Ok(());
    }
    let text = "conflict: the instance boots from a CD-ROM, and wrote nothing to it";
    Err(Refusal::new(Reason::Conflict, text)
        .about(format!("instance {id}"))
        .next("snapshot the volume it writes to: ostler volume snapshot VOLUME NAME"))
}

pub(super) fn samples() -> Vec<Change> {
    vec![Snapshot { image: sample::name("shot"), quiesce: Quiesce::Auto }.into()]
}

impl Describe for Snapshot {
    fn plan(&self, _: Running) -> Plan {
        Plan::of(&[Step::CopyDisk]).then_about(Step::StoreImage, Subject::Image(self.image.clone()))
    }

    fn permit(&self) -> Permit {
        Permit::Copy
    }

    fn beside(&self, record: &InstanceRecord) -> Bytes {
        record.disk
    }

    fn makes(&self) -> Option<&Name> {
        Some(&self.image)
    }
}
