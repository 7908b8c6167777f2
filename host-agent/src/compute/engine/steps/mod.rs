//! The steps that operations are made of.
//!
//! * here: which function does a step, and which takes it back.
//! * `already`: what a step finds before it is begun.
//! * the rest: what the steps do, a file for each topic.

mod adjust;
mod already;
mod boot;
mod config_drive;
mod connection;
mod delete;
mod disks;
mod error;
mod image;
mod interface;
mod let_go;
mod memory;
mod network;
mod password;
mod power;
mod root;
mod snapshot;
mod swap;
mod volume;

use ostler_protocol::rpc::operation::{Progress, StepState, Subject};
use ostler_protocol::rpc::values::Name;
use tokio_util::sync::CancellationToken;

pub(in crate::compute) use error::StepError;
use error::missing;
pub(in crate::compute) use image::upload_of;
use interface::Rules;
use volume::Limits;

use super::Engine;
use crate::compute::operations::start::Start;
use crate::compute::operations::volume_delete_snapshot::VolumeDeleteSnapshot;
use crate::compute::operations::volume_revert::VolumeRevert;
use crate::compute::operations::volume_snapshot::VolumeSnapshot;
use crate::compute::outside::Outside;
use crate::compute::plan::Planned;
use crate::compute::registry::LiveOperation;
use crate::compute::step::Step;
use crate::compute::wires::Port;
use crate::image::Exported;
use crate::journal::records::{InstanceRecord, Running};

/// What follows a step that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next step.
    Next,
    /// Nothing: the operation has what it wanted.
    Finish,
}

impl<O: Outside> Engine<O> {
    /// Do a step.
    pub(super) async fn perform(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<Flow, StepError> {
        match planned.step {
            Step::AskShutdown => return self.ask_shutdown(operation).await,
            Step::AskReboot => return self.ask_reboot(operation).await,
            Step::FetchImage => self.fetch_image(operation).await?,
            Step::ExportImage => self.export_image(operation).await?,
            Step::KeepExport => self.end_export(operation, Exported::Kept).await?,
            Step::RemoveImage => self.remove_image(operation).await?,
            Step::EnsureBridge => self.ensure_bridge(operation).await?,
            Step::RemoveBridge => self.remove_bridge(operation).await?,
            Step::SetPassword => self.set_password(operation).await?,
            Step::CreateRootDisk => self.create_root_disk(&self.target(operation)?).await?,
            Step::WriteConfigDrive => self.write_config_drive(&self.target(operation)?).await?,
            Step::EnsureBridges => self.ensure_bridges(&self.target(operation)?).await?,
            Step::DefineDomain => self.define_domain(&self.target(operation)?).await?,
            Step::StartDomain => self.start_domain(&self.target(operation)?).await?,
            Step::PowerOff => self.power_off(self.record_of(operation)?.id).await?,
            Step::DiscardMemory => self.discard_memory(self.record_of(operation)?.id).await?,
            Step::Pause => self.pause(self.record_of(operation)?.id).await?,
            Step::Unpause => self.unpause(self.record_of(operation)?.id).await?,
            Step::SaveMemory => self.save_memory(operation).await?,
            Step::RestoreMemory => self.run_domain(&self.target(operation)?).await?,
            Step::SyncClock => self.sync_clock(self.record_of(operation)?.id).await,
            Step::SetRootAside => self.set_root_aside(operation).await?,
            Step::CopyRootAside => self.copy_root_aside(operation).await?,
            Step::GrowRoot => self.grow_root(operation).await?,
            Step::PutRootBack => self.put_root_back(operation).await?,
            Step::DropAside => self.drop_aside(operation).await?,
            Step::CreateRescueDisk => self.create_rescue_disk(operation).await?,
            Step::DropRescueDisk => self.drop_rescue_disk(operation).await?,
            Step::CopyDisk => self.copy_disk(operation).await?,
            Step::StoreImage => self.store_image(operation, planned).await?,
            Step::DropShelvedImage => self.drop_shelved_image(operation, planned).await?,
            Step::AdjustVcpus => self.adjust_vcpus(&self.target(operation)?).await?,
            Step::AdjustMemory => self.adjust_memory(&self.target(operation)?).await?,
            Step::WriteMetadata => self.write_metadata(&self.target(operation)?).await?,
            Step::UndefineDomain => self.undefine_domain(self.record_of(operation)?.id).await?,
            Step::RemoveLinks => self.remove_links(&self.record_of(operation)?).await?,
            Step::RemoveFiles => self.remove_files(self.record_of(operation)?.id).await?,
            Step::DropBase => self.drop_base(operation).await?,
            Step::CreateVolume => self.create_volume(operation, planned).await?,
            Step::ConnectVolume => self.connect_volume(operation, planned).await?,
            Step::PlugVolume => {
                self.can_define(operation).await?;
                self.plug_volume(operation, planned).await?;
            }
            Step::UnplugVolume => {
                self.can_define(operation).await?;
                self.unplug_volume(operation, planned, &operation.cancel).await?;
            }
            Step::PlugInterface => {
                self.can_define(operation).await?;
                self.plug_interface(operation).await?;
            }
            Step::UnplugInterface => {
                self.can_define(operation).await?;
                self.unplug_interface(operation, &operation.cancel).await?;
            }
            Step::RemoveLink => self.remove_link(operation).await?,
            Step::GuardPort => self.guard_port(operation, Rules::New).await?,
            Step::DisconnectVolume => self.disconnect_volume(operation, planned).await?,
            Step::CopyVolume => self.copy_volume(operation).await?,
            Step::SwitchVolume => self.switch_volume(operation).await?,
            Step::ExtendVolume => self.extend_volume(operation, planned).await?,
            Step::SnapshotVolume => {
                self.snapshot_volume(operation, planned, snapshot_name(operation)?).await?;
            }
            Step::RevertVolume => {
                self.revert_volume(operation, planned, snapshot_name(operation)?).await?;
            }
            Step::DropVolumeSnapshot => {
                self.drop_volume_snapshot(operation, planned, snapshot_name(operation)?).await?;
            }
            Step::DeleteVolume => self.delete_volume(operation, planned).await?,
            Step::LimitVolume => self.limit_volume(operation, planned, Limits::New).await?,
        }
        Ok(Flow::Next)
    }

    /// Take a step back that did not find it so already ([`Self::is_so_already`]). It may have been
    /// done wholly, in part or not at all.
    pub(super) async fn take_back(
        &self,
        operation: &LiveOperation,
        planned: &Planned,
    ) -> Result<(), StepError> {
        let fresh = operation.change.is_fresh();
        match planned.step {
            Step::FetchImage => self.drop_partial_image(operation).await,
            Step::ExportImage => self.end_export(operation, Exported::Dropped).await,
            Step::EnsureBridge => self.remove_new_bridge(operation).await,
            Step::RemoveBridge => self.keep_network(operation).await,
            Step::CreateRootDisk if fresh => self.remove_files(self.record_of(operation)?.id).await,
            Step::DefineDomain if fresh => {
                self.undefine_domain(self.record_of(operation)?.id).await
            }
            // A start defines what is defined already.
            Step::DefineDomain if operation.change.is::<Start>() => Ok(()),
            Step::DefineDomain => self.define_domain(&self.record_of(operation)?).await,
            Step::StartDomain => {
                let record = self.record_of(operation)?;
                self.power_off(record.id).await?;
                self.remove_links(&record).await
            }
            Step::PowerOff if operation.was == Running::Yes => {
                let record = self.record_of(operation)?;
                self.ensure_bridges(&record).await?;
                self.run_domain(&record).await
            }
            Step::Pause => self.unpause(self.record_of(operation)?.id).await,
            Step::Unpause => self.pause(self.record_of(operation)?.id).await,
            Step::SaveMemory => self.unsave_memory(operation).await,
            Step::SetRootAside | Step::CopyRootAside => self.put_root_back(operation).await,
            Step::CreateRescueDisk => self.drop_rescue_disk(operation).await,
            Step::CopyDisk => self.drop_copy(operation).await,
            Step::StoreImage => self.drop_stored_image(operation, planned).await,
            Step::AdjustVcpus => self.adjust_vcpus(&self.record_of(operation)?).await,
            Step::AdjustMemory => self.adjust_memory(&self.record_of(operation)?).await,
            Step::WriteMetadata => self.write_metadata(&self.record_of(operation)?).await,
            Step::CreateVolume => self.drop_new_volume(operation, planned).await,
            Step::LimitVolume => self.limit_volume(operation, planned, Limits::Old).await,
            Step::ExtendVolume => self.note_true_size(operation, planned).await,
            Step::ConnectVolume => self.unconnect_volume(operation, planned).await,
            Step::PlugVolume => {
                self.unplug_volume(operation, planned, &CancellationToken::new()).await
            }
            Step::UnplugVolume => self.plug_volume(operation, planned).await,
            Step::PlugInterface => {
                self.unplug_interface(operation, &CancellationToken::new()).await?;
                self.remove_link(operation).await
            }
            Step::UnplugInterface => self.plug_interface(operation).await,
            Step::GuardPort => self.guard_port(operation, Rules::Old).await,
            Step::CopyVolume => self.drop_mirror(operation).await,
            Step::SnapshotVolume => {
                let name = snapshot_name(operation)?;
                self.undo_snapshot_of_volume(operation, planned, name).await
            }
            // Bridges belong to their networks and outlive instances; a disk that was made or
            // grown in the place of one set aside goes when that comes back; a config drive says
            // what the one before it said, and goes with a new instance's folder; and the rest
            // changes nothing that could be put back.
            Step::CreateRootDisk
            | Step::WriteConfigDrive
            | Step::EnsureBridges
            | Step::GrowRoot
            | Step::PowerOff
            | Step::AskShutdown
            | Step::AskReboot
            | Step::DiscardMemory
            | Step::RestoreMemory
            | Step::SyncClock
            | Step::PutRootBack
            | Step::DropAside
            | Step::DropRescueDisk
            | Step::DropShelvedImage
            | Step::UndefineDomain
            | Step::RemoveLinks
            | Step::RemoveLink
            | Step::RemoveFiles
            | Step::DropBase
            | Step::SetPassword
            | Step::KeepExport
            | Step::RemoveImage
            | Step::DisconnectVolume
            | Step::SwitchVolume
            | Step::RevertVolume
            | Step::DropVolumeSnapshot
            | Step::DeleteVolume => Ok(()),
        }
    }

    /// The record of the instance an operation is about, as it is.
    fn record_of(&self, operation: &LiveOperation) -> Result<InstanceRecord, StepError> {
        let Subject::Instance(id) = operation.subject else {
            return Err(missing(&operation.subject));
        };
        let record = self.registry.lock().instances.get(&id).cloned();
        record.ok_or_else(|| missing(&operation.subject))
    }

    /// The record of the instance an operation is about, as it shall be.
    fn target(&self, operation: &LiveOperation) -> Result<InstanceRecord, StepError> {
        let record = self.registry.lock().target(operation);
        record.ok_or_else(|| missing(&operation.subject))
    }

    /// The ports of an instance, each with its network where that is known.
    fn ports_of(&self, record: &InstanceRecord) -> Vec<Port> {
        record.ports.iter().map(|interface| self.port_of(interface)).collect()
    }

    /// Show how far the step at work is.
    pub(super) fn show_progress(&self, operation: &LiveOperation, progress: Progress) {
        operation.now.send_modify(|o| {
            let at_work = o.steps.iter_mut().find(|step| step.state == StepState::Running);
            if let Some(step) = at_work {
                step.progress = Some(progress);
                o.revision += 1;
            }
        });
    }
}

/// The snapshot an operation on a volume is about.
fn snapshot_name(operation: &LiveOperation) -> Result<&Name, StepError> {
    let change = &operation.change;
    let taken = change.downcast::<VolumeSnapshot>().map(|change| &change.name);
    let reverted = || change.downcast::<VolumeRevert>().map(|change| &change.name);
    let dropped = || change.downcast::<VolumeDeleteSnapshot>().map(|change| &change.name);
    taken.or_else(reverted).or_else(dropped).ok_or_else(|| missing(&operation.subject))
}
