//! Refusals in JSON-RPC's words: faults, with the command an operator would type.

use ostler_protocol::rpc::event::{Event, News};
use ostler_protocol::rpc::fault::{self, Fault};
use ostler_protocol::rpc::instance::{Instance, Stalled};
use ostler_protocol::rpc::operation::Operation;
use ostler_protocol::rpc::values::InstanceId;
use ostler_protocol::rpc::volume::Volume;

use crate::compute::{Shown, ShownVolume};
use crate::refusal::{self, Action, Reason, Refusal};

impl From<Refusal> for Fault {
    fn from(refusal: Refusal) -> Self {
        let Refusal { reason, message, subject, step, causes, next, by } = refusal;
        let commands: Vec<String> = by.iter().map(command).collect();
        let next = next.map(|next| match commands.is_empty() {
            true => next,
            false => format!("{next}: {}", commands.join(", ")),
        });
        let mut fault = Self::new(word(reason), message);
        fault.data = fault::Detail { subject, step, causes, next, ..fault.data };
        fault
    }
}

/// An operation as it is told.
pub(super) fn operation(operation: refusal::Operation) -> Operation {
    operation.map_error(Fault::from)
}

/// An event as it is told.
pub(super) fn event(event: Event<Refusal>) -> Event {
    let mut told = event.map_error(Fault::from);
    if let News::Instance { id, stalled: Some(stalled), .. } = &mut told.news {
        say_unpause(stalled, *id);
    }
    told
}

/// An instance as it is told.
pub(super) fn instance(shown: Shown) -> Instance {
    let mut told = Instance { fault: shown.fault.map(Fault::from), ..shown.instance };
    if let Some(stalled) = &mut told.stalled {
        say_unpause(stalled, told.id);
    }
    told
}

/// A volume as it is told.
pub(super) fn volume(shown: ShownVolume) -> Volume {
    Volume { fault: shown.fault.map(Fault::from), ..shown.volume }
}

/// What is said of an instance that stands still ends in what may be done about it.
fn say_unpause(stalled: &mut Stalled, id: InstanceId) {
    stalled.message.push_str(&format!(": ostler instance unpause {id}"));
}

const fn word(reason: Reason) -> fault::Reason {
    match reason {
        Reason::InvalidParams => fault::Reason::InvalidParams,
        Reason::NotFound => fault::Reason::NotFound,
        Reason::Conflict => fault::Reason::Conflict,
        Reason::InUse => fault::Reason::InUse,
        Reason::NoCapacity => fault::Reason::NoCapacity,
        Reason::Busy => fault::Reason::Busy,
        Reason::Expired => fault::Reason::Expired,
        Reason::KeyReused => fault::Reason::KeyReused,
        Reason::Draining => fault::Reason::Draining,
        Reason::HypervisorUnavailable => fault::Reason::HypervisorUnavailable,
        Reason::HypervisorFailed => fault::Reason::HypervisorFailed,
        Reason::GuestUnavailable => fault::Reason::GuestUnavailable,
        Reason::GuestFailed => fault::Reason::GuestFailed,
        Reason::ImageUnavailable => fault::Reason::ImageUnavailable,
        Reason::ImageInvalid => fault::Reason::ImageInvalid,
        Reason::NetworkFailed => fault::Reason::NetworkFailed,
        Reason::VolumeFailed => fault::Reason::VolumeFailed,
        Reason::NoSpace => fault::Reason::NoSpace,
        Reason::TimedOut => fault::Reason::TimedOut,
        Reason::Cancelled => fault::Reason::Cancelled,
        Reason::Interrupted => fault::Reason::Interrupted,
        Reason::Internal => fault::Reason::Internal,
    }
}

/// What an operator types for an action.
fn command(action: &Action) -> String {
    let id = |id: &Option<InstanceId>| id.map_or_else(String::new, |id| format!(" {id}"));
    let words = match action {
        Action::InstanceShow(which) => return format!("ostler instance show{}", id(which)),
        Action::InstanceStart(which) => return format!("ostler instance start{}", id(which)),
        Action::InstanceRebootHard(id) => return format!("ostler instance reboot --hard {id}"),
        Action::OperationWait(Some(id)) => return format!("ostler operation wait {id}"),
        Action::OperationWait(None) => "operation wait",
        Action::HostShow => "host show",
        Action::InstanceList => "instance list",
        Action::InstanceUnpause => "instance unpause",
        Action::InstanceResume => "instance resume",
        Action::InstanceUnrescue => "instance unrescue",
        Action::InstanceResize => "instance resize",
        Action::InstanceResizeEnd => "instance resize --confirm, --revert",
        Action::InstanceUnshelve => "instance unshelve",
        Action::InstanceRestore => "instance restore",
        Action::InstanceUnlock => "instance unlock",
        Action::InstancePassword => "instance password",
        Action::InstanceDelete => "instance delete",
        Action::InstanceDeleteIgnoring => "instance delete --ignore",
        Action::GuestReport => "guest report",
        Action::GuestReportWait => "guest report --wait",
        Action::ImageImport => "image import",
        Action::ImageList => "image list",
        Action::ImageRemove => "image remove",
        Action::NetworkEnsure => "network ensure",
        Action::NetworkList => "network list",
        Action::NetworkRemove => "network remove",
        Action::PortList => "port list",
        Action::InstanceDetachInterface => "instance detach-interface",
        Action::VolumeList => "volume list",
        Action::VolumeShow(Some(id)) => return format!("ostler volume show {id}"),
        Action::VolumeShow(None) => "volume show",
        Action::VolumeDeleteForced => "volume delete --force",
        Action::InstanceAttachVolume => "instance attach-volume",
        Action::InstanceDetachVolume => "instance detach-volume",
        Action::VolumePools => "volume pools",
        Action::OperationList => "operation list",
    };
    format!("ostler {words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_next_ends_in_the_commands_that_do_it() {
        let id = InstanceId::random();
        let told = |refusal: Refusal| Fault::from(refusal).data.next.unwrap();
        let refusal = || Refusal::new(Reason::Conflict, "conflict: no").next("see why");
        assert_eq!(told(refusal()), "see why");
        let shown = refusal().by(Action::InstanceShow(Some(id)));
        assert_eq!(told(shown.clone()), format!("see why: ostler instance show {id}"));
        let both = shown.by(Action::InstanceRebootHard(id));
        let next =
            format!("see why: ostler instance show {id}, ostler instance reboot --hard {id}");
        assert_eq!(told(both), next);
        assert_eq!(Fault::from(refusal()).data.reason, fault::Reason::Conflict);
    }
}
