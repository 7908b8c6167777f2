//! Boot: make an instance from an image, and start it. What it had made goes when it fails; the
//! record stays, in ERROR, to tell why.

use std::collections::BTreeMap;

use ostler_protocol::rpc::values::VolumeId;

use super::prelude::*;
use super::sample;
use super::volume_create::changed;
use crate::compute::admission::{Reservation, size};
use crate::journal::records::{VolumeRecord, VolumeState};
use crate::journal::{Entry, VolumeEntry, Write};

/// Make the instance and start it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct Boot {
    /// Whether it has a config drive.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(in crate::compute) config_drive: bool,
    /// The volume it boots from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::compute) volume: Option<RootVolume>,
}

/// The volume an instance boots from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::compute) struct RootVolume {
    /// Which.
    pub(in crate::compute) id: VolumeId,
    /// Whether it is made with the instance.
    pub(in crate::compute) new: bool,
}

pub(super) fn ask(boot: instance::Boot, gate: &mut Admission<'_>) -> Result<Admitted, Refusal> {
    gate.need_hypervisor()?;
    let size::Admitted { record, volume: new, ports } = size::admit(&boot, gate)?;
    let volume = record.root_volume().map(|id| RootVolume { id, new: new.is_some() });
    let change = Boot { config_drive: record.config_drive.is_some(), volume };
    gate.known.instances.insert(record.id, record.clone());
    if let Some(volume) = &new {
        gate.known.volumes.insert(volume.id, volume.clone());
    }
    for port in &ports {
        gate.known.ports.insert(port.id, port.clone());
    }
    let reserved = Reservation {
        new_instance: Some(record.id),
        new_volume: new.as_ref().map(|volume| volume.id),
        new_ports: ports.iter().map(|port| port.id).collect(),
        ..Reservation::default()
    };
    let volumes = new.into_iter().map(Entry::Put).collect();
    let ports = ports.into_iter().map(Entry::Put).collect();
    Ok(Admitted {
        reserved,
        write: Write { instance: Some(record.clone()), volumes, ports, ..Write::default() },
        ..Admitted::of(Subject::Instance(record.id), change)
    })
}

pub(super) fn samples() -> Vec<Change> {
    let id = sample::volume_id();
    let volume = |new| Some(RootVolume { id, new });
    [(false, None), (true, None), (true, volume(false)), (true, volume(true))]
        .map(|(config_drive, volume)| Boot { config_drive, volume }.into())
        .into()
}

impl Describe for Boot {
    fn plan(&self, _: Running) -> Plan {
        let plan = Plan::of(&[Step::CreateRootDisk]);
        let plan = match self.volume {
            None => plan,
            Some(RootVolume { id, new: true }) => {
                plan.then_about(Step::CreateVolume, Subject::Volume(id))
            }
            Some(RootVolume { id, new: false }) => {
                plan.then_about(Step::ConnectVolume, Subject::Volume(id))
            }
        };
        plan.then(config_drive(self.config_drive)).then(&START)
    }

    fn permit(&self) -> Permit {
        Permit::Boot
    }

    fn is_fresh(&self) -> bool {
        true
    }

    fn volumes(&self) -> Vec<VolumeId> {
        self.volume.map(|volume| volume.id).into_iter().collect()
    }

    // A volume made for an instance that is not to be goes with it.
    fn volumes_after(
        &self,
        known: &BTreeMap<VolumeId, VolumeRecord>,
        outcome: State,
        why: Option<&Refusal>,
    ) -> Vec<VolumeEntry> {
        match (self.volume, outcome) {
            (Some(RootVolume { id, new: true }), State::Succeeded) => {
                changed(known, id, |record| record.state = VolumeState::Available)
            }
            (Some(RootVolume { id, new: true }), State::Undone | State::Cancelled) => {
                vec![Entry::Gone(id)]
            }
            (Some(RootVolume { id, new: true }), State::Failed) => changed(known, id, |record| {
                (record.state, record.fault) = (VolumeState::Error, why.cloned());
            }),
            (
                None | Some(RootVolume { .. }),
                State::Queued
                | State::Running
                | State::Succeeded
                | State::Undone
                | State::Cancelled
                | State::Failed,
            ) => Vec::new(),
        }
    }

    fn apply(&self, record: &mut InstanceRecord, _: Running) {
        record.built = true;
    }

    // One that is not to be has nothing of others'.
    fn not_done(&self, record: &mut InstanceRecord, whole: bool) {
        if whole {
            record.volumes.clear();
            record.ports.retain(|port| !port.kept);
        }
    }

    fn done(&self, _: &InstanceRecord, _: Running) -> VmState {
        VmState::Active
    }

    fn taken_back(&self, outcome: State, _: &InstanceRecord) -> VmState {
        if outcome == State::Cancelled { VmState::Deleted } else { VmState::Error }
    }

    fn failed(&self, _: &InstanceRecord) -> VmState {
        VmState::Error
    }
}
