//! Every driver's errors in the caller's words: why, and what to do next.

use crate::refusal::{Action, Reason, Refusal};

use crate::disk::DiskError;
use crate::guest;
use crate::hypervisor;
use crate::image::{ExportError, ImageError};
use crate::journal;
use crate::network::NetworkError;
use crate::volume::VolumeError;

/// The journal's error in the caller's words.
pub(super) fn journal_fault(error: &journal::Error) -> Refusal {
    let reason = if error.is_full() { Reason::NoSpace } else { Reason::Internal };
    Refusal::of(reason, error).next("see the agent's log, and free space where the journal is")
}

/// The network's error in the caller's words.
pub(super) fn network_fault(error: &NetworkError) -> Refusal {
    Refusal::of(Reason::NetworkFailed, error).next("see what manages the link: ip -d link show")
}

/// A disk's error in the caller's words.
pub(super) fn disk_fault(error: &DiskError) -> Refusal {
    let (reason, next) = match error {
        DiskError::NoSpace { .. } => {
            (Reason::NoSpace, "free space where the instances are, and ask again")
        }
        DiskError::Cancelled { .. }
        | DiskError::Base { .. }
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
    Refusal::of(reason, error).next(next)
}

/// A volume's error in the caller's words.
pub(super) fn volume_fault(error: &VolumeError) -> Refusal {
    let (reason, next) = match error {
        VolumeError::NoSpace { .. } => (Reason::NoSpace, "free space in the pool, and ask again"),
        VolumeError::NoPool { .. } => (Reason::NotFound, "see which pools there are"),
        VolumeError::NoSnapshot { .. } => (Reason::NotFound, "see which snapshots there are"),
        VolumeError::TooSmall { .. } => (Reason::InvalidParams, "ask for a larger volume"),
        VolumeError::TooDeep { .. } => (Reason::Conflict, "delete snapshots first"),
        VolumeError::Open { .. } => (
            Reason::InUse,
            "see what the process is, and end it if it is not wanted; then ask again",
        ),
        VolumeError::Unreachable { .. } => (
            Reason::VolumeFailed,
            "see whether the server runs and this node reaches it; then ask again",
        ),
        VolumeError::Unopened { .. } => {
            (Reason::VolumeFailed, "see to the cluster, or to the user and its key; then ask again")
        }
        VolumeError::Unavailable { .. } => {
            (Reason::VolumeFailed, "see to what it says, and ask again: it is tried again then")
        }
        VolumeError::Unfit { .. } => (Reason::InvalidParams, "use another pool for that"),
        VolumeError::NotWhole { .. } => (
            Reason::InvalidParams,
            "ask for a size that is: the next larger whole number of MiB or GiB",
        ),
        VolumeError::HalfGrown { .. } => (Reason::VolumeFailed, "extend it again"),
        VolumeError::Held { .. } => {
            (Reason::InUse, "see what has it: lsblk, dmsetup ls --tree; then ask again")
        }
        VolumeError::Lvm { .. } => {
            (Reason::VolumeFailed, "see to what it says; what the volume was is kept: ask again")
        }
        VolumeError::Used { .. } => {
            (Reason::InUse, "see what it is (lsblk), and name another; or free it, and ask again")
        }
        VolumeError::NotADevice { .. } => {
            (Reason::VolumeFailed, "see which devices there are: lsblk")
        }
        VolumeError::NotThere { .. } => (
            Reason::VolumeFailed,
            "mount it again; or restart the agent, if it is meant to be another",
        ),
        VolumeError::Gone { .. } => {
            (Reason::VolumeFailed, "see whether the pool is mounted; else put the volume back")
        }
        VolumeError::Manifest { .. }
        | VolumeError::Impossible { .. }
        | VolumeError::QemuImg { .. }
        | VolumeError::Cancelled { .. }
        | VolumeError::Io { .. } => (
            Reason::VolumeFailed,
            "see to the file it names; what the volume was is kept: ask again",
        ),
    };
    Refusal::of(reason, error).next(next)
}

/// What to do about a guest whose agent does not answer.
const NO_GUEST_AGENT: &str = "see whether its image has an agent installed, and wait for that";
/// What to do about one whose agent says no.
const REFUSED: &str = "see the agent's log in the guest, and what its owner lets it do";

/// The hypervisor's error in the caller's words.
pub(super) fn hypervisor_fault(error: &hypervisor::Error) -> Refusal {
    use hypervisor::Error;
    match error {
        Error::Unreachable { .. } => Refusal::of(Reason::HypervisorUnavailable, error)
            .next("see whether libvirtd runs: systemctl status libvirtd"),
        Error::Timeout { .. } => Refusal::of(Reason::TimedOut, error)
            .next("see what libvirtd and the instance's QEMU wait for, and ask again"),
        Error::NotOurs { domain, .. } => Refusal::of(Reason::Conflict, error).next(format!(
            "see whose it is: virsh dumpxml {domain}; what runs there goes on. If it is not wanted, \
             remove it with virsh, and ask again"
        )),
        Error::Busy { .. } => Refusal::of(Reason::Busy, error).next("ask again later"),
        Error::GuestAgentUnavailable { .. } => {
            Refusal::of(Reason::GuestUnavailable, error).next(NO_GUEST_AGENT).by(Action::GuestReportWait)
        }
        Error::GuestAgentRefused { .. } => Refusal::of(Reason::GuestFailed, error).next(REFUSED),
        Error::Failed { step: hypervisor::RESTORE, domain: Some(id), .. } => {
            Refusal::of(Reason::HypervisorFailed, error)
                .next("ask again, or throw the saved memory away and start from the disk")
                .by(Action::InstanceRebootHard(*id))
        }
        Error::NotFound { .. } | Error::Refused { .. } | Error::Failed { .. } => {
            Refusal::of(Reason::HypervisorFailed, error)
                .next("see libvirt's log and the instance's")
                .by(Action::InstanceShow(None))
        }
    }
}

/// The guest's error in the caller's words.
pub(super) fn guest_fault(error: &guest::Error) -> Refusal {
    if matches!(error, guest::Error::Busy { .. }) {
        Refusal::of(Reason::Busy, error).next("try again later")
    } else if error.is_unavailable() {
        Refusal::of(Reason::GuestUnavailable, error)
            .next(NO_GUEST_AGENT)
            .by(Action::GuestReportWait)
    } else {
        Refusal::of(Reason::GuestFailed, error).next(REFUSED)
    }
}

/// The cache's error in the caller's words.
pub(super) fn image_fault(error: &ImageError) -> Refusal {
    let (reason, next) = match error {
        ImageError::NoSpace { .. } => (Reason::NoSpace, "free space, or remove unused images"),
        ImageError::Digest { .. } => {
            (Reason::ImageInvalid, "fetch the image again, or correct the digest")
        }
        ImageError::Unfit { .. } | ImageError::TooLarge { .. } | ImageError::Empty { .. } => {
            (Reason::ImageInvalid, "convert it: qemu-img convert; declare the format it has")
        }
        ImageError::Packed { .. } => {
            (Reason::ImageInvalid, "declare the compression it has, or unpack it yourself")
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
            (Reason::ImageUnavailable, "say what it must be: give its sha256 or sha512")
        }
        ImageError::UploadGap { .. } => {
            (Reason::Conflict, "send it from there on; one that is left for an hour is removed")
        }
        ImageError::ManyUploads { .. } => {
            (Reason::Busy, "import them; one that is left for an hour is removed")
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
    Refusal::of(reason, error).next(next)
}

/// An export's error in the caller's words.
pub(super) fn export_fault(error: &ExportError) -> Refusal {
    let (reason, next) = match error {
        ExportError::NotAllowed { .. } => (
            Reason::ImageUnavailable,
            "export it to one of these, or add its directory to images.export_directories in the \
             agent's configuration",
        ),
        ExportError::Exists { .. } => (Reason::Conflict, "choose another name, or remove the file"),
        ExportError::NoSpace { .. } => {
            (Reason::NoSpace, "free space there, or export it to another directory")
        }
        ExportError::Status { status: 300..=399, .. } => (
            Reason::ImageUnavailable,
            "give the URL that the server redirects to: redirects are not followed",
        ),
        ExportError::Status { .. } => (
            Reason::ImageUnavailable,
            "see whether the server takes a PUT there; a signed URL may have expired",
        ),
        ExportError::Stalled { .. } | ExportError::TooSlow { .. } => {
            (Reason::TimedOut, "see how the server is, and export it again")
        }
        ExportError::Transfer { .. } | ExportError::Client(_) => (
            Reason::ImageUnavailable,
            "see whether the server runs and this node reaches it; then export it again",
        ),
        ExportError::Image { .. } | ExportError::Cancelled | ExportError::Io { .. } => {
            (Reason::ImageUnavailable, "see to the file it names, and export it again")
        }
    };
    Refusal::of(reason, error).next(next)
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
        assert_eq!(hypervisor_fault(&damaged).by, [Action::InstanceRebootHard(id)]);
    }
}
