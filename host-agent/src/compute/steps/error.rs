//! Why a step was not done, and every driver's errors in the caller's words.

use ostler_protocol::rpc::fault::{Fault, Reason};
use ostler_protocol::rpc::operation::Subject;

use crate::disk::DiskError;
use crate::guest;
use crate::hypervisor;
use crate::image::ImageError;
use crate::network::NetworkError;

/// Why a step was not done.
#[derive(Debug)]
pub(in crate::compute) enum StepError {
    /// It failed.
    Failed(Box<Fault>),
    /// It will not be done, however often it is asked for, unless somebody sees to something.
    Refused(Box<Fault>),
    /// libvirt was lost; whether it was done is not known.
    Unreachable(Box<Fault>),
    /// Somebody asked for it to stop.
    Cancelled,
    /// The agent is stopping.
    Suspended,
}

impl StepError {
    /// It failed. There is always something to do next.
    pub(in crate::compute) fn failed(mut fault: Fault) -> Self {
        fault.data.next.get_or_insert_with(|| ANY.to_owned());
        Self::Failed(Box::new(fault))
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
        let next = "see what manages the link: ip -d link show";
        Self::failed(Fault::of(Reason::NetworkFailed, &error).next(next))
    }
}

impl From<DiskError> for StepError {
    fn from(error: DiskError) -> Self {
        let (reason, next) = match error {
            DiskError::Cancelled { .. } => return Self::Cancelled,
            DiskError::NoSpace { .. } => (
                Reason::NoSpace,
                "free space where the instances are (ostler image list, ostler host show), and ask \
                 again",
            ),
            DiskError::Base { .. }
            | DiskError::BasePath { .. }
            | DiskError::NotADisk { .. }
            | DiskError::TooSmall { .. }
            | DiskError::Impossible { .. }
            | DiskError::Different { .. }
            | DiskError::NoRoot { .. }
            | DiskError::Occupied { .. }
            | DiskError::NotAFile { .. }
            | DiskError::Unusable { .. }
            | DiskError::Changed { .. }
            | DiskError::QemuImg { .. }
            | DiskError::Io { .. } => (
                Reason::VolumeFailed,
                "see to the file it names; what the instance was is kept: ask again",
            ),
        };
        Self::failed(Fault::of(reason, &error).next(next))
    }
}

/// What to do where nothing better is known.
const ANY: &str = "see the node's log (journalctl -u ostler-host-agent), mend it, and ask again";
/// What to do about a guest whose agent does not answer.
const NO_GUEST_AGENT: &str =
    "wait for its agent: ostler guest report --wait; is one installed in the image?";
/// What to do about one whose agent says no.
const REFUSED: &str = "see the agent's log in the guest, and what its owner lets it do";

/// The hypervisor's error in the caller's words.
pub(in crate::compute) fn hypervisor_fault(error: &hypervisor::Error) -> Fault {
    use hypervisor::Error;
    match error {
        Error::Unreachable { .. } => Fault::of(Reason::HypervisorUnavailable, error)
            .next("see whether libvirtd runs: systemctl status libvirtd"),
        Error::Timeout { .. } => Fault::of(Reason::TimedOut, error)
            .next("see what libvirtd and the instance's QEMU wait for, and ask again"),
        Error::NotOurs { domain, .. } => Fault::of(Reason::Conflict, error).next(format!(
            "see whose it is: virsh dumpxml {domain}; what runs there goes on. If it is not wanted, \
             remove it with virsh, and ask again"
        )),
        Error::Busy { .. } => Fault::of(Reason::Busy, error).next("ask again later"),
        Error::GuestAgentUnavailable { .. } => {
            Fault::of(Reason::GuestUnavailable, error).next(NO_GUEST_AGENT)
        }
        Error::GuestAgentRefused { .. } => Fault::of(Reason::GuestFailed, error).next(REFUSED),
        Error::Failed { step: hypervisor::RESTORE, domain: Some(id), .. } => {
            Fault::of(Reason::HypervisorFailed, error).next(format!(
                "ask again, or do without the saved memory: ostler instance reboot --hard {id} \
                 throws it away and starts from the disk"
            ))
        }
        Error::NotFound { .. } | Error::Refused { .. } | Error::Failed { .. } => {
            Fault::of(Reason::HypervisorFailed, error)
                .next("see libvirt's log and the instance's: ostler instance show")
        }
    }
}

/// The guest's error in the caller's words.
pub(in crate::compute) fn guest_fault(error: &guest::Error) -> Fault {
    if matches!(error, guest::Error::Busy { .. }) {
        Fault::of(Reason::Busy, error).next("try again later")
    } else if error.is_unavailable() {
        Fault::of(Reason::GuestUnavailable, error).next(NO_GUEST_AGENT)
    } else {
        Fault::of(Reason::GuestFailed, error).next(REFUSED)
    }
}

/// The cache's error in the caller's words.
pub(super) fn image_fault(error: &ImageError) -> Fault {
    let (reason, next) = match error {
        ImageError::NoSpace { .. } => (Reason::NoSpace, "free space, or remove unused images"),
        ImageError::Digest { .. } => {
            (Reason::ImageInvalid, "fetch the image again, or correct the digest")
        }
        ImageError::Unfit { .. } | ImageError::TooLarge { .. } | ImageError::Empty { .. } => {
            (Reason::ImageInvalid, "convert it: qemu-img convert; declare the format it has")
        }
        ImageError::Stalled { .. } | ImageError::TooSlow { .. } => {
            (Reason::TimedOut, "import it again: what was received is kept for a while")
        }
        ImageError::NotAllowed { .. } => (
            Reason::ImageUnavailable,
            "move it to one of these, or add its directory to images.directories in the agent's \
             configuration",
        ),
        ImageError::NoEnd { .. } => {
            (Reason::ImageUnavailable, "say what it must be: give its sha256")
        }
        ImageError::Unreadable { .. }
        | ImageError::NotAFile { .. }
        | ImageError::ChangedWhileRead { .. }
        | ImageError::Status { .. }
        | ImageError::Transfer { .. }
        | ImageError::Answer { .. }
        | ImageError::Redirect { .. }
        | ImageError::Client(_)
        | ImageError::QemuImg(_)
        | ImageError::Gone { .. }
        | ImageError::Cancelled { .. }
        | ImageError::Io { .. } => {
            (Reason::ImageUnavailable, "see whether the node can read the source")
        }
    };
    Fault::of(reason, error).next(next)
}

pub(super) fn missing(subject: &Subject) -> StepError {
    StepError::failed(Fault::new(Reason::NotFound, format!("{subject} is not known any more")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::rpc::values::InstanceId;

    #[test]
    fn what_is_to_be_done_about_damaged_memory_is_a_command_that_helps() {
        let id = InstanceId::random();
        let message = "the saved memory is damaged".to_owned();
        let damaged =
            hypervisor::Error::Failed { step: hypervisor::RESTORE, domain: Some(id), message };
        let next = hypervisor_fault(&damaged).data.next.unwrap();
        assert!(next.contains(&format!("ostler instance reboot --hard {id}")), "{next}");
    }
}
