//! Instances for people.

use ostler_protocol::rpc::guest::{GuestState, GuestSummary, Transport};
use ostler_protocol::rpc::instance::{Instance, PowerState, Status, TaskState, VmState};
use ostler_protocol::rpc::values::Timestamp;

use super::table::{Field, Mood, fields, list};
use super::time::{age, instant};
use super::{Look, Show};

impl Show for Vec<Instance> {
    fn show(&self, look: Look) -> String {
        if self.is_empty() {
            return "no instances".to_owned();
        }
        let header = ["ID", "NAME", "STATUS", "TASK", "POWER", "GUEST", "VCPUS", "MEMORY", "AGE"];
        let now = Timestamp::now();
        let rows = self.iter().map(|instance| {
            vec![
                Field::plain(instance.id),
                Field::plain(&instance.name),
                status(instance.status),
                Field::maybe(instance.task_state.map(task_word)),
                power(instance.power_state),
                guest_state(instance.guest.state),
                Field::plain(instance.vcpus),
                Field::plain(instance.memory),
                Field::plain(age(instance.created, now)),
            ]
        });
        list(look, &header, rows)
    }
}

impl Show for Instance {
    fn show(&self, look: Look) -> String {
        let now = Timestamp::now();
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("name", Field::plain(&self.name)),
            ("status", status(self.status)),
            ("vm state", Field::plain(vm_word(self.vm_state))),
            ("task", Field::maybe(self.task_state.map(task_word))),
            ("power", power(self.power_state)),
            ("host", Field::plain(&self.host)),
            ("domain", Field::plain(&self.domain)),
            ("image", Field::plain(&self.image)),
            ("flavor", Field::maybe(self.flavor.as_ref())),
            ("vcpus", Field::plain(self.vcpus)),
            ("memory", Field::plain(self.memory)),
            ("disk", Field::plain(self.disk)),
        ];
        for port in &self.ports {
            let text = format!(
                "{} on {} (bridge {}, tap {}, port {})",
                port.mac, port.network, port.bridge, port.tap, port.id
            );
            rows.push(("nic", Field::plain(text)));
        }
        rows.push(("guest", guest_summary(&self.guest, now)));
        if let Some(operation) = self.operation {
            rows.push(("operation", Field::plain(operation)));
        }
        if let Some(fault) = &self.fault {
            rows.push(("fault", Field::new(fault, Mood::Bad)));
            if let Some(next) = &fault.data.next {
                rows.push(("next", Field::plain(next)));
            }
        }
        rows.push(("created", Field::plain(instant(self.created))));
        rows.push(("updated", Field::plain(instant(self.updated))));
        fields(look, rows)
    }
}

fn status(status: Status) -> Field {
    let mood = match status {
        Status::Active => Mood::Good,
        Status::Build | Status::Reboot | Status::HardReboot | Status::Password => Mood::Moving,
        Status::Error => Mood::Bad,
        Status::Shutoff | Status::Deleted => Mood::Neutral,
    };
    Field::new(status, mood)
}

pub(super) fn power(state: PowerState) -> Field {
    let (word, mood) = match state {
        PowerState::Unknown => ("unknown", Mood::Moving),
        PowerState::None => ("none", Mood::Neutral),
        PowerState::Running => ("running", Mood::Good),
        PowerState::Paused => ("paused", Mood::Moving),
        PowerState::Shutdown => ("shutdown", Mood::Neutral),
        PowerState::Crashed => ("crashed", Mood::Bad),
        PowerState::Suspended => ("suspended", Mood::Moving),
    };
    Field::new(word, mood)
}

/// A guest's state as a word.
pub(super) fn guest_state(state: GuestState) -> Field {
    let (word, mood) = match state {
        GuestState::Off => ("off", Mood::Neutral),
        GuestState::Waiting => ("waiting", Mood::Moving),
        GuestState::Ready => ("ready", Mood::Good),
        GuestState::Silent => ("silent", Mood::Bad),
        GuestState::Garbled => ("garbled", Mood::Bad),
    };
    Field::new(word, mood)
}

fn guest_summary(guest: &GuestSummary, now: Timestamp) -> Field {
    let mut text = guest_state(guest.state).into_text();
    if let Some(agent) = &guest.agent {
        text.push_str(&format!(", agent {agent}"));
    }
    if let Some(transport) = guest.transport {
        text.push_str(&format!(" by {}", transport_word(transport)));
    }
    if let Some(heard) = guest.heard {
        text.push_str(&format!(", heard {} ago", age(heard, now)));
    }
    Field::plain(text)
}

/// The way to a guest's agent, as words.
pub(super) const fn transport_word(transport: Transport) -> &'static str {
    match transport {
        Transport::Ostler => "its own port",
        Transport::Libvirt => "libvirt",
    }
}

const fn vm_word(state: VmState) -> &'static str {
    match state {
        VmState::Building => "building",
        VmState::Active => "active",
        VmState::Stopped => "stopped",
        VmState::Error => "error",
        VmState::Deleted => "deleted",
    }
}

const fn task_word(state: TaskState) -> &'static str {
    match state {
        TaskState::Spawning => "spawning",
        TaskState::PoweringOn => "powering-on",
        TaskState::PoweringOff => "powering-off",
        TaskState::Rebooting => "rebooting",
        TaskState::RebootingHard => "rebooting_hard",
        TaskState::UpdatingPassword => "updating_password",
        TaskState::Deleting => "deleting",
    }
}
