//! The operations: each is a plan, a list of steps that the worker carries out.
//!
//! | kind | steps |
//! |---|---|
//! | boot | create root disk, ensure bridges, define domain, start domain |
//! | start | ensure bridges, define domain, start domain |
//! | stop | ask the guest to shut down (unless hard), power off |
//! | reboot | ask the guest to reboot (unless hard); if it does not: power off, and start |
//! | delete | power off, undefine domain, remove links, remove files |
//! | password | set password |
//! | image.import | fetch image |
//! | image.remove | remove image |
//! | network.ensure | ensure bridge |
//!
//! A step may be done again after a crash: drivers tell "made" from "already so". One that may
//! not, because doing it twice would be seen, says so in [`Step::may_repeat`].

mod boot;
mod delete;
mod image;
mod network;
mod password;
mod power;

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::instance::Manner;
use ostler_protocol::rpc::operation::{self, Kind, Progress, StepState, Subject};
use ostler_protocol::rpc::values::InstanceId;

use super::manager::Compute;
use super::registry::LiveOperation;
use crate::guest;
use crate::hypervisor::{self, Hypervisor};
pub(super) use crate::journal::records::Change;
use crate::journal::records::InstanceRecord;
use crate::network::{Network, NetworkError};
use crate::volume::VolumeError;

/// A step of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    CreateRootDisk,
    EnsureBridges,
    DefineDomain,
    StartDomain,
    AskShutdown,
    AskReboot,
    PowerOff,
    UndefineDomain,
    RemoveLinks,
    RemoveFiles,
    SetPassword,
    FetchImage,
    RemoveImage,
    EnsureBridge,
}

impl Step {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::CreateRootDisk => "create root disk",
            Self::EnsureBridges => "ensure bridges",
            Self::DefineDomain => "define domain",
            Self::StartDomain => "start domain",
            Self::AskShutdown => "ask the guest to shut down",
            Self::AskReboot => "ask the guest to reboot",
            Self::PowerOff => "power off",
            Self::UndefineDomain => "undefine domain",
            Self::RemoveLinks => "remove links",
            Self::RemoveFiles => "remove files",
            Self::SetPassword => "set password",
            Self::FetchImage => "fetch image",
            Self::RemoveImage => "remove image",
            Self::EnsureBridge => "ensure bridge",
        }
    }

    /// Whether it may be done again when a crash left open whether it was done.
    pub(super) const fn may_repeat(self) -> bool {
        match self {
            Self::AskReboot | Self::SetPassword => false,
            Self::CreateRootDisk
            | Self::EnsureBridges
            | Self::DefineDomain
            | Self::StartDomain
            | Self::AskShutdown
            | Self::PowerOff
            | Self::UndefineDomain
            | Self::RemoveLinks
            | Self::RemoveFiles
            | Self::FetchImage
            | Self::RemoveImage
            | Self::EnsureBridge => true,
        }
    }
}

const START: [Step; 3] = [Step::EnsureBridges, Step::DefineDomain, Step::StartDomain];

/// What a change comes down to.
pub(super) const fn plan(change: &Change) -> &'static [Step] {
    match change {
        Change::Boot => {
            &[Step::CreateRootDisk, Step::EnsureBridges, Step::DefineDomain, Step::StartDomain]
        }
        Change::Start => &START,
        Change::Stop { manner: Manner::Soft, .. } => &[Step::AskShutdown, Step::PowerOff],
        Change::Stop { manner: Manner::Hard, .. } => &[Step::PowerOff],
        Change::Reboot { manner: Manner::Soft, .. } => &[
            Step::AskReboot,
            Step::PowerOff,
            Step::EnsureBridges,
            Step::DefineDomain,
            Step::StartDomain,
        ],
        Change::Reboot { manner: Manner::Hard, .. } => {
            &[Step::PowerOff, Step::EnsureBridges, Step::DefineDomain, Step::StartDomain]
        }
        Change::Delete => {
            &[Step::PowerOff, Step::UndefineDomain, Step::RemoveLinks, Step::RemoveFiles]
        }
        Change::Password { .. } => &[Step::SetPassword],
        Change::ImageImport { .. } => &[Step::FetchImage],
        Change::ImageRemove => &[Step::RemoveImage],
        Change::NetworkEnsure { .. } => &[Step::EnsureBridge],
    }
}

/// The steps of a plan as the caller sees them, none begun.
pub(super) fn pending(change: &Change) -> Vec<operation::Step> {
    let pending = |step: &Step| operation::Step {
        name: step.name().to_owned(),
        state: StepState::Pending,
        progress: None,
        started: None,
        finished: None,
    };
    plan(change).iter().map(pending).collect()
}

/// Whether an operation of this kind leaves things as they were when it fails.
pub(super) const fn can_undo(kind: Kind) -> bool {
    match kind {
        Kind::Boot | Kind::Start | Kind::ImageImport | Kind::NetworkEnsure => true,
        // What was asked of a guest cannot be taken back, and a removal goes on when asked again.
        Kind::Stop | Kind::Reboot | Kind::Delete | Kind::Password | Kind::ImageRemove => false,
    }
}

/// Whether an operation of this kind can be stopped on request.
pub(super) const fn can_cancel(kind: Kind) -> bool {
    match kind {
        Kind::Boot | Kind::Start | Kind::Stop | Kind::Reboot | Kind::ImageImport => true,
        Kind::Delete | Kind::Password | Kind::ImageRemove | Kind::NetworkEnsure => false,
    }
}

/// What follows a step that was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// The next step.
    Next,
    /// Nothing: the operation has what it wanted.
    Finish,
}

/// Why a step was not done.
#[derive(Debug)]
pub(super) enum StepError {
    /// It failed.
    Failed(Box<Fault>),
    /// libvirt was lost; whether it was done is not known.
    Unreachable(Box<Fault>),
    /// Somebody asked for it to stop.
    Cancelled,
    /// The agent is stopping.
    Suspended,
}

impl StepError {
    pub(super) fn failed(fault: Fault) -> Self {
        Self::Failed(Box::new(fault))
    }
}

impl From<hypervisor::Error> for StepError {
    fn from(error: hypervisor::Error) -> Self {
        let fault = Box::new(hypervisor_fault(&error));
        match error {
            hypervisor::Error::Unreachable { .. } => Self::Unreachable(fault),
            hypervisor::Error::NotFound { .. }
            | hypervisor::Error::Busy { .. }
            | hypervisor::Error::Timeout { .. }
            | hypervisor::Error::GuestAgentUnavailable { .. }
            | hypervisor::Error::GuestAgentRefused { .. }
            | hypervisor::Error::Refused { .. }
            | hypervisor::Error::Failed { .. } => Self::Failed(fault),
        }
    }
}

impl From<NetworkError> for StepError {
    fn from(error: NetworkError) -> Self {
        let next = "see what manages the link: ip -d link show";
        Self::failed(Fault::of(Reason::NetworkFailed, &error).next(next))
    }
}

impl From<VolumeError> for StepError {
    fn from(error: VolumeError) -> Self {
        let reason = match error {
            VolumeError::NoSpace { .. } => Reason::NoSpace,
            VolumeError::Base { .. }
            | VolumeError::BasePath { .. }
            | VolumeError::NotADisk { .. }
            | VolumeError::TooSmall { .. }
            | VolumeError::Impossible { .. }
            | VolumeError::Different { .. }
            | VolumeError::NoRoot { .. }
            | VolumeError::Occupied { .. }
            | VolumeError::NotAFile { .. }
            | VolumeError::Unusable { .. }
            | VolumeError::Changed { .. }
            | VolumeError::QemuImg { .. }
            | VolumeError::Cancelled { .. }
            | VolumeError::Io { .. } => Reason::VolumeFailed,
        };
        Self::failed(Fault::of(reason, &error))
    }
}

/// The hypervisor's error in the caller's words.
pub(super) fn hypervisor_fault(error: &hypervisor::Error) -> Fault {
    use hypervisor::Error;
    match error {
        Error::Unreachable { .. } => Fault::of(Reason::HypervisorUnavailable, error)
            .next("see whether libvirtd runs: systemctl status libvirtd"),
        Error::Timeout { .. } => Fault::of(Reason::TimedOut, error),
        Error::Busy { .. } => Fault::of(Reason::Busy, error).next("ask again later"),
        Error::GuestAgentUnavailable { .. } => Fault::of(Reason::GuestUnavailable, error),
        Error::GuestAgentRefused { .. } => Fault::of(Reason::GuestFailed, error),
        Error::NotFound { .. } | Error::Refused { .. } | Error::Failed { .. } => {
            Fault::of(Reason::HypervisorFailed, error)
                .next("see libvirt's log and the instance's: ostler instance show")
        }
    }
}

/// The guest's error in the caller's words.
pub(in crate::compute) fn guest_fault(error: &guest::Error) -> Fault {
    if error.is_unavailable() {
        Fault::of(Reason::GuestUnavailable, error)
            .next("wait for its agent: ostler guest report --wait; is one installed in the image?")
    } else {
        Fault::of(Reason::GuestFailed, error)
    }
}

impl<H: Hypervisor, N: Network> Compute<H, N> {
    /// Do a step.
    pub(super) async fn perform(
        &self,
        operation: &LiveOperation,
        step: Step,
    ) -> Result<Flow, StepError> {
        match step {
            Step::CreateRootDisk => self.create_root_disk(&self.record_of(operation)?).await?,
            Step::EnsureBridges => self.ensure_bridges(&self.record_of(operation)?).await?,
            Step::DefineDomain => self.define_domain(&self.record_of(operation)?).await?,
            Step::StartDomain => self.start_domain(&self.record_of(operation)?).await?,
            Step::AskShutdown => return self.ask_shutdown(operation).await,
            Step::AskReboot => return self.ask_reboot(operation).await,
            Step::PowerOff => self.power_off(self.record_of(operation)?.id).await?,
            Step::UndefineDomain => self.undefine_domain(self.record_of(operation)?.id).await?,
            Step::RemoveLinks => self.remove_links(&self.record_of(operation)?).await?,
            Step::RemoveFiles => self.remove_files(self.record_of(operation)?.id).await?,
            Step::SetPassword => self.set_password(operation).await?,
            Step::FetchImage => self.fetch_image(operation).await?,
            Step::RemoveImage => self.remove_image(operation).await?,
            Step::EnsureBridge => self.ensure_bridge(operation).await?,
        }
        Ok(Flow::Next)
    }

    /// Take a step back. It may have been done wholly, in part or not at all.
    pub(super) async fn take_back(
        &self,
        operation: &LiveOperation,
        kind: Kind,
        step: Step,
    ) -> Result<(), StepError> {
        match step {
            Step::CreateRootDisk => self.remove_files(self.record_of(operation)?.id).await,
            // A start that failed leaves the definition the instance had before.
            Step::DefineDomain if kind == Kind::Boot => {
                self.undefine_domain(self.record_of(operation)?.id).await
            }
            Step::StartDomain => {
                let record = self.record_of(operation)?;
                self.power_off(record.id).await?;
                self.remove_links(&record).await
            }
            Step::FetchImage => self.drop_partial_image(operation).await,
            Step::EnsureBridge => self.remove_new_bridge(operation).await,
            // Bridges belong to their networks and outlive instances; the rest changes nothing
            // that could be put back.
            Step::DefineDomain
            | Step::EnsureBridges
            | Step::AskShutdown
            | Step::AskReboot
            | Step::PowerOff
            | Step::UndefineDomain
            | Step::RemoveLinks
            | Step::RemoveFiles
            | Step::SetPassword
            | Step::RemoveImage => Ok(()),
        }
    }

    /// The record of the instance an operation is about.
    fn record_of(&self, operation: &LiveOperation) -> Result<InstanceRecord, StepError> {
        let Subject::Instance(id) = operation.subject else {
            return Err(missing(&operation.subject));
        };
        let record = self.registry.lock().instances.get(&id).cloned();
        record.ok_or_else(|| missing(&operation.subject))
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

fn missing(subject: &Subject) -> StepError {
    StepError::failed(Fault::new(Reason::NotFound, format!("{subject} is not known any more")))
}

/// The guest's serial number of the root disk: an id that is as long as virtio-blk allows.
pub(super) fn root_serial(id: InstanceId) -> String {
    id.0.simple().to_string().chars().take(20).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_soft_stop_ends_by_force() {
        let change = Change::Stop { manner: Manner::Soft, timeout: 1 };
        assert_eq!(plan(&change).last(), Some(&Step::PowerOff));
    }

    #[test]
    fn what_a_guest_would_see_twice_is_not_repeated() {
        assert!(!Step::AskReboot.may_repeat());
        assert!(Step::PowerOff.may_repeat());
    }
}
