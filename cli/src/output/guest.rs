//! Guests' reports for people. All of it comes from guests: every field is cleaned on its way into
//! the table.

use ostler_protocol::rpc::guest::work::{Clock, Keys, Trimmed};
use ostler_protocol::rpc::guest::{Filesystem, Interface, Report};
use ostler_protocol::rpc::values::{Bytes, Timestamp};

use super::instance::{guest_state, transport_word};
use super::table::{Field, Mood, fields, list};
use super::time::{instant, span};
use super::{Look, Show};
use crate::clean::clean;

impl Show for Report {
    fn show(&self, look: Look) -> String {
        let agent = format!(
            "{}, {} commands, by {}",
            self.agent.version,
            self.agent.commands.len(),
            transport_word(self.transport)
        );
        let os = self.os.clone().unwrap_or_default();
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("guest", guest_state(self.state)),
            ("taken", Field::plain(format!("{} ({} ago)", instant(self.taken), span(self.age)))),
            ("agent", Field::plain(agent)),
            ("host name", Field::maybe(self.host_name.as_ref())),
            ("os", Field::maybe(os.pretty_name.or(os.id))),
            ("kernel", Field::maybe(os.kernel_release)),
            ("machine", Field::maybe(os.machine)),
        ];
        if let Some(beat) = &self.heartbeat {
            let [one, five, fifteen] = beat.load;
            let uptime = std::time::Duration::try_from_secs_f64(beat.uptime).unwrap_or_default();
            let (free, total) = (Bytes(beat.memory_available), Bytes(beat.memory_total));
            rows.push(("up", Field::plain(span(uptime.as_millis() as u64))));
            rows.push(("load", Field::plain(format!("{one:.2} {five:.2} {fifteen:.2}"))));
            rows.push(("memory", Field::plain(format!("{free} available of {total}"))));
        }
        rows.extend(self.interfaces.iter().map(|one| ("interface", interface(one))));
        rows.extend(self.filesystems.iter().map(|one| ("filesystem", filesystem(one))));
        for missing in &self.missing {
            let text = format!("{}: {}", missing.command, missing.why);
            rows.push(("missing", Field::new(text, Mood::Moving)));
        }
        if self.truncated {
            rows.push(("truncated", Field::new("a list was longer than is kept", Mood::Moving)));
        }
        fields(look, rows)
    }
}

fn interface(interface: &Interface) -> Field {
    let mut text = interface.name.clone();
    if let Some(mac) = &interface.mac {
        text.push_str(&format!(" {mac}"));
    }
    for address in &interface.addresses {
        text.push_str(&format!(" {address}"));
    }
    if let (Some(rx), Some(tx)) = (interface.rx_bytes, interface.tx_bytes) {
        text.push_str(&format!(" (received {}, sent {})", Bytes(rx), Bytes(tx)));
    }
    Field::plain(text)
}

fn filesystem(filesystem: &Filesystem) -> Field {
    let Filesystem { mountpoint, kind, device, .. } = filesystem;
    let mut text = format!("{mountpoint} {kind} on {device}");
    if let (Some(used), Some(total)) = (filesystem.used, filesystem.total) {
        text.push_str(&format!(", {} of {} used", Bytes(used), Bytes(total)));
    }
    Field::plain(text)
}

/// A clock that is further off than this is worth a look, milliseconds.
const OFF: u64 = 1000;

impl Show for Clock {
    fn show(&self, look: Look) -> String {
        let off = self.offset.unsigned_abs();
        let offset = match self.offset {
            0 => "none".to_owned(),
            1.. => format!("{off} ms ahead of the node"),
            _ => format!("{off} ms behind the node"),
        };
        let mood =
            if off > OFF.saturating_add(self.uncertainty) { Mood::Moving } else { Mood::Good };
        let time = Timestamp(u64::try_from(self.time).unwrap_or(0));
        fields(
            look,
            [
                ("time", Field::plain(instant(time))),
                ("offset", Field::new(offset, mood)),
                ("known to", Field::plain(format!("{} ms", self.uncertainty))),
            ],
        )
    }
}

impl Show for Keys {
    fn show(&self, _: Look) -> String {
        let mut lines: Vec<String> = self.keys.iter().flatten().map(|key| clean(key)).collect();
        if self.truncated {
            lines.push("# there are more".to_owned());
        }
        lines.join("\n")
    }
}

impl Show for Trimmed {
    fn show(&self, look: Look) -> String {
        let rows = self.filesystems.iter().map(|one| {
            let outcome = match (&one.error, one.trimmed) {
                (Some(error), _) => Field::new(error, Mood::Moving),
                (None, Some(bytes)) => Field::new(Bytes(bytes), Mood::Good),
                (None, None) => Field::plain("-"),
            };
            vec![Field::plain(&one.mountpoint), outcome]
        });
        list(look, &["FILE SYSTEM", "TRIMMED"], rows)
    }
}
