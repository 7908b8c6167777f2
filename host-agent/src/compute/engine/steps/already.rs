//! What a step finds: whether that is so already which it is to bring about. It is looked at, and
//! written down with the intent, before the step is begun for the first time; so that an undo takes
//! back what this very operation did, and nothing else, also after a crash.

use std::io::ErrorKind;
use std::path::Path;

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::instance::PowerState;
use ostler_protocol::rpc::values::InstanceId;

use super::{Engine, StepError};
use crate::compute::operations::network_ensure::NetworkEnsure;
use crate::compute::outside::Outside;
use crate::compute::plan::Planned;
use crate::compute::registry::LiveOperation;
use crate::compute::step::Step;
use crate::compute::wires::bridge_spec;
use crate::disk::{DiskError, Disks};
use crate::hypervisor::{Error, Hypervisor};
use crate::network::{Condition, Network};

impl<O: Outside> Engine<O> {
    /// Whether a step that an undo would take back is done before it is begun.
    pub(in crate::compute) async fn is_so_already(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<bool, StepError> {
        let fresh = operation.change.is_fresh();
        match planned.step {
            // What is not known to be off is not switched off for having been "started".
            Step::StartDomain | Step::RestoreMemory => {
                Ok(!is_off(self.power_of(self.record_of(operation)?.id).await?))
            }
            Step::SaveMemory => Ok(is_off(self.power_of(self.record_of(operation)?.id).await?)),
            Step::Pause => {
                Ok(self.power_of(self.record_of(operation)?.id).await? == PowerState::Paused)
            }
            Step::Unpause => {
                Ok(self.power_of(self.record_of(operation)?.id).await? != PowerState::Paused)
            }
            Step::DefineDomain if fresh => {
                Ok(self.power_of(self.record_of(operation)?.id).await? != PowerState::None)
            }
            Step::CreateRootDisk if fresh => {
                let files = self.node.disks.files(self.record_of(operation)?.id);
                exists(&files.folder).await
            }
            Step::CreateRescueDisk => {
                let files = self.node.disks.files(self.record_of(operation)?.id);
                exists(&files.rescue).await
            }
            // One from before would be put back later, in the place of the instance's own.
            Step::CopyRootAside => {
                let instance = self.record_of(operation)?.id;
                match exists(&self.node.disks.files(instance).aside).await? {
                    true => Err(DiskError::Occupied { instance }.into()),
                    false => Ok(false),
                }
            }
            Step::EnsureBridge => {
                let Some(NetworkEnsure { network }) = operation.change.downcast() else {
                    return Ok(false);
                };
                let seen = self.node.network.observe(&[bridge_spec(network)?]).await?;
                Ok(seen.iter().any(|bridge| bridge.condition != Condition::Missing))
            }
            Step::CreateVolume => self.is_volume_there(operation, planned).await,
            Step::PlugVolume => self.is_plugged(operation, planned).await,
            Step::UnplugVolume => Ok(!self.is_plugged(operation, planned).await?),
            Step::PlugInterface => self.is_wired(operation).await,
            Step::UnplugInterface => Ok(!self.is_wired(operation).await?),
            // An undo of these takes nothing back, or puts back what the instance's record says.
            Step::CreateRootDisk
            | Step::WriteConfigDrive
            | Step::DefineDomain
            | Step::EnsureBridges
            | Step::AskShutdown
            | Step::PowerOff
            | Step::AskReboot
            | Step::DiscardMemory
            | Step::SyncClock
            | Step::SetRootAside
            | Step::GrowRoot
            | Step::PutRootBack
            | Step::DropAside
            | Step::DropRescueDisk
            | Step::CopyDisk
            | Step::StoreImage
            | Step::DropShelvedImage
            | Step::AdjustVcpus
            | Step::AdjustMemory
            | Step::WriteMetadata
            | Step::UndefineDomain
            | Step::RemoveLinks
            | Step::RemoveLink
            | Step::GuardPort
            | Step::RemoveFiles
            | Step::DropBase
            | Step::SetPassword
            | Step::FetchImage
            | Step::ExportImage
            | Step::KeepExport
            | Step::RemoveImage
            | Step::RemoveBridge
            | Step::ConnectVolume
            | Step::DisconnectVolume
            | Step::CopyVolume
            | Step::SwitchVolume
            | Step::ExtendVolume
            | Step::SnapshotVolume
            | Step::RevertVolume
            | Step::DropVolumeSnapshot
            | Step::DeleteVolume
            | Step::LimitVolume => Ok(false),
        }
    }

    /// What an instance's domain does; `None` if there is no domain.
    pub(super) async fn power_of(&self, id: InstanceId) -> Result<PowerState, StepError> {
        match self.node.hypervisor.state(id).await {
            Ok(state) => Ok(state.power),
            Err(Error::NotFound { .. }) => Ok(PowerState::None),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) const fn is_off(power: PowerState) -> bool {
    match power {
        PowerState::None | PowerState::Shutdown | PowerState::Crashed => true,
        PowerState::Unknown | PowerState::Running | PowerState::Paused | PowerState::Suspended => {
            false
        }
    }
}

async fn exists(path: &Path) -> Result<bool, StepError> {
    match tokio::fs::symlink_metadata(path).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => {
            let text = format!("cannot examine {}: {error}", path.display());
            Err(StepError::failed(Refusal::new(Reason::VolumeFailed, text)))
        }
    }
}
