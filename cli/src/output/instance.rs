//! Instances for people.

use ostler_protocol::rpc::guest::{GuestState, GuestSummary, Transport};
use ostler_protocol::rpc::hardware::Hardware;
use ostler_protocol::rpc::instance::{Instance, PowerState, Size, Status};
use ostler_protocol::rpc::values::Timestamp;
use ostler_protocol::rpc::volume::AttachedVolume;

use super::shown::Row;
use super::table::{Field, Mood, fields};
use super::time::{age, instant};
use super::{Look, Show, fault_rows};
use crate::failure::reason_word;
use crate::reply::MaybeNewer;

impl Row for Instance {
    const NONE: &'static str = "no instances";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("ID", "/id"),
        ("NAME", "/name"),
        ("STATUS", "/status"),
        ("TASK", "/task_state"),
        ("POWER", "/power_state"),
        ("GUEST", "/guest/state"),
        ("VCPUS", "/vcpus"),
        ("MEMORY", "/memory"),
        ("OWNER", "/owner"),
        ("AGE", "/created"),
    ];

    fn row(&self, now: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(self.id),
            Field::plain(&self.name),
            status(self.status),
            Field::maybe(self.task_state.map(MaybeNewer::Known)),
            power(self.power_state),
            guest_state(self.guest.state),
            Field::plain(self.vcpus),
            Field::plain(self.memory),
            Field::maybe(self.owner.as_ref()),
            Field::plain(age(self.created, now)),
        ]
    }
}

impl Show for Instance {
    fn show(&self, look: Look) -> String {
        let now = Timestamp::now();
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("name", Field::plain(&self.name)),
            ("status", status(self.status)),
            ("vm state", Field::plain(MaybeNewer::Known(self.vm_state))),
            ("task", Field::maybe(self.task_state.map(MaybeNewer::Known))),
            ("power", power(self.power_state)),
        ];
        if let Some(stalled) = &self.stalled {
            rows.push(("stalled", Field::new(&stalled.message, Mood::Moving)));
        }
        if let Some(why) = &self.locked {
            let text = if why.is_empty() { "yes".to_owned() } else { format!("yes: {why}") };
            rows.push(("locked", Field::new(text, Mood::Moving)));
        }
        rows.extend([
            ("owner", Field::maybe(self.owner.as_ref())),
            ("host", Field::plain(&self.host)),
            ("domain", Field::plain(&self.domain)),
            ("image", Field::maybe(self.image.as_ref())),
            ("flavor", Field::maybe(self.flavor.as_ref())),
            ("vcpus", up_to(self.vcpus, self.max_vcpus)),
            ("memory", up_to(self.memory, self.max_memory)),
            ("disk", Field::plain(self.disk)),
            ("machine", Field::plain(machine(&self.hardware))),
        ]);
        if let Some(size) = &self.resized_from {
            let Size { vcpus, memory, disk, .. } = size;
            let text = format!("{vcpus} vcpus, {memory} memory, {disk} disk");
            rows.push(("resized from", Field::new(text, Mood::Moving)));
        }
        if let Some(image) = &self.rescue_image {
            rows.push(("rescued with", Field::new(image, Mood::Moving)));
        }
        if let Some(image) = &self.shelved_image {
            rows.push(("shelved as", Field::plain(image)));
        }
        for (key, value) in &self.metadata {
            rows.push(("metadata", Field::plain(format!("{key}={value}"))));
        }
        if let Some(layout) = self.config_drive {
            rows.push(("config drive", Field::plain(layout.as_str())));
        }
        if let Some(hostname) = &self.hostname {
            rows.push(("hostname", Field::plain(hostname)));
        }
        for port in &self.ports {
            let text = format!(
                "{} on {} (bridge {}, tap {}, port {})",
                port.mac, port.network, port.bridge, port.tap, port.id
            );
            rows.push(("nic", Field::plain(text)));
        }
        for there in &self.volumes {
            let how = if there.read_only { ", read-only" } else { "" };
            let AttachedVolume { name, volume, size, device, .. } = there;
            let text = format!("{name} ({volume}), {size}, as {device}{how}");
            rows.push(("volume", Field::plain(text)));
        }
        rows.push(("guest", guest_summary(&self.guest, now)));
        if let Some(operation) = self.operation {
            rows.push(("operation", Field::plain(operation)));
        }
        for difference in &self.drift {
            rows.push(("drift", Field::new(difference, Mood::Moving)));
        }
        if let Some(fault) = &self.fault {
            rows.extend(fault_rows("fault", fault, &reason_word(fault.data.reason)));
        }
        if let Some(at) = self.reclaimed_at {
            let text = format!("{}: it can be restored until then", instant(at));
            rows.push(("reclaimed at", Field::new(text, Mood::Moving)));
        }
        rows.push(("created", Field::plain(instant(self.created))));
        rows.push(("updated", Field::plain(instant(self.updated))));
        fields(look, rows)
    }
}

/// The board, as in `q35, uefi with secure boot, tpm-crb`.
fn machine(hardware: &Hardware) -> String {
    let Hardware { machine, firmware, secure_boot, tpm, .. } = hardware;
    let secure = if *secure_boot { " with secure boot" } else { "" };
    let tpm = tpm.map(|model| format!(", {}", model.as_str())).unwrap_or_default();
    format!("{}, {}{secure}{tpm}", machine.as_str(), firmware.as_str())
}

fn status(status: Status) -> Field {
    let mood = match status {
        Status::Active => Mood::Good,
        Status::Build
        | Status::Reboot
        | Status::HardReboot
        | Status::Password
        | Status::Rebuild
        | Status::Rescue
        | Status::Resize
        | Status::VerifyResize
        | Status::RevertResize => Mood::Moving,
        Status::Error => Mood::Bad,
        Status::Shutoff
        | Status::Paused
        | Status::Suspended
        | Status::Shelved
        | Status::ShelvedOffloaded
        | Status::SoftDeleted
        | Status::Deleted => Mood::Neutral,
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

/// How much there is, and how much there can be without a restart, where that is more.
fn up_to<T: std::fmt::Display + PartialOrd>(now: T, most: T) -> Field {
    if most > now {
        Field::plain(format!("{now} (at most {most} while it runs)"))
    } else {
        Field::plain(now)
    }
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
