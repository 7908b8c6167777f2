//! Why a step was not done.

use crate::refusal::{Reason, Refusal};
use ostler_protocol::rpc::operation::Subject;

use crate::compute::causes::{
    disk_fault, export_fault, hypervisor_fault, image_fault, network_fault, volume_fault,
};
use crate::disk::DiskError;
use crate::hypervisor;
use crate::image::{ExportError, ImageError};
use crate::network::NetworkError;
use crate::volume::VolumeError;

/// Why a step was not done.
#[derive(Debug)]
pub(in crate::compute) enum StepError {
    /// It failed.
    Failed(Box<Refusal>),
    /// It will not be done, however often it is asked for, unless somebody sees to something.
    Refused(Box<Refusal>),
    /// The same of a step that destroys, which found that it cannot and has done nothing: what came
    /// before it is undone.
    NotBegun(Box<Refusal>),
    /// libvirt was lost; whether it was done is not known.
    Unreachable(Box<Refusal>),
    /// Somebody asked for it to stop.
    Cancelled,
    /// The agent is stopping.
    Suspended,
}

impl StepError {
    /// It failed. There is always something to do next.
    pub(in crate::compute) fn failed(mut fault: Refusal) -> Self {
        fault.next.get_or_insert_with(|| ANY.to_owned());
        Self::Failed(Box::new(fault))
    }
}

/// What to do where nothing better is known.
const ANY: &str = "see the node's log (journalctl -u ostler-host-agent), mend it, and ask again";

impl From<Refusal> for StepError {
    fn from(fault: Refusal) -> Self {
        Self::failed(fault)
    }
}

impl From<hypervisor::Error> for StepError {
    fn from(error: hypervisor::Error) -> Self {
        let fault = Box::new(hypervisor_fault(&error));
        match error {
            hypervisor::Error::Unreachable { .. } => Self::Unreachable(fault),
            hypervisor::Error::NotOurs { .. } => Self::Refused(fault),
            hypervisor::Error::NotFound { .. }
            | hypervisor::Error::Busy { .. }
            | hypervisor::Error::Timeout { .. }
            | hypervisor::Error::GuestAgentUnavailable { .. }
            | hypervisor::Error::GuestAgentRefused { .. }
            | hypervisor::Error::Refused { .. }
            | hypervisor::Error::Failed { .. } => Self::failed(*fault),
        }
    }
}

impl From<NetworkError> for StepError {
    fn from(error: NetworkError) -> Self {
        Self::failed(network_fault(&error))
    }
}

impl From<ImageError> for StepError {
    fn from(error: ImageError) -> Self {
        if matches!(error, ImageError::Cancelled { .. }) {
            return Self::Cancelled;
        }
        Self::failed(image_fault(&error))
    }
}

impl From<ExportError> for StepError {
    fn from(error: ExportError) -> Self {
        if matches!(error, ExportError::Cancelled) {
            return Self::Cancelled;
        }
        Self::failed(export_fault(&error))
    }
}

impl From<DiskError> for StepError {
    fn from(error: DiskError) -> Self {
        if matches!(error, DiskError::Cancelled { .. }) {
            return Self::Cancelled;
        }
        Self::failed(disk_fault(&error))
    }
}

impl From<VolumeError> for StepError {
    fn from(error: VolumeError) -> Self {
        let fault = || volume_fault(&error);
        match &error {
            VolumeError::Cancelled { .. } => Self::Cancelled,
            // Whoever has it open does not let go because it is asked for again.
            VolumeError::Open { .. } | VolumeError::Held { .. } | VolumeError::Used { .. } => {
                Self::Refused(Box::new(fault()))
            }
            VolumeError::NoPool { .. }
            | VolumeError::NotThere { .. }
            | VolumeError::Gone { .. }
            | VolumeError::NoSnapshot { .. }
            | VolumeError::Manifest { .. }
            | VolumeError::Impossible { .. }
            | VolumeError::TooSmall { .. }
            | VolumeError::TooDeep { .. }
            | VolumeError::QemuImg { .. }
            | VolumeError::Unreachable { .. }
            | VolumeError::Unopened { .. }
            | VolumeError::NotADevice { .. }
            | VolumeError::NoSpace { .. }
            | VolumeError::Unavailable { .. }
            | VolumeError::Unfit { .. }
            | VolumeError::NotWhole { .. }
            | VolumeError::HalfGrown { .. }
            | VolumeError::Lvm { .. }
            | VolumeError::Io { .. } => Self::failed(fault()),
        }
    }
}

pub(super) fn missing(subject: &Subject) -> StepError {
    StepError::failed(Refusal::new(Reason::NotFound, format!("{subject} is not known any more")))
}
