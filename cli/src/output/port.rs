//! Ports for people.

use ostler_protocol::rpc::port::{AddressPair, Dropped, Port, Status};
use ostler_protocol::rpc::values::Timestamp;

use super::shown::Row;
use super::table::{Field, Mood, fields};
use super::time::{age, instant};
use super::{Look, Show};

impl Row for Port {
    const NONE: &'static str = "no ports";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("ID", "/id"),
        ("NAME", "/name"),
        ("STATUS", "/status"),
        ("NETWORK", "/network"),
        ("MAC", "/mac"),
        ("FIXED IPS", "/fixed_ips"),
        ("INSTANCE", "/binding/name"),
        ("AGE", "/created"),
    ];

    fn row(&self, now: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(self.id),
            Field::plain(&self.name),
            status(self.status),
            Field::plain(&self.network),
            Field::plain(self.mac),
            Field::maybe(addresses(self)),
            Field::maybe(self.binding.as_ref().map(|binding| &binding.name)),
            Field::plain(age(self.created, now)),
        ]
    }
}

impl Show for Port {
    fn show(&self, look: Look) -> String {
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("name", Field::plain(&self.name)),
            ("status", status(self.status)),
            ("network", Field::plain(&self.network)),
            ("mac", Field::plain(self.mac)),
            ("fixed ips", Field::maybe(addresses(self))),
        ];
        for AddressPair { ip_address, mac_address } in &self.allowed_address_pairs {
            let mac = mac_address.map(|mac| format!(" of {mac}")).unwrap_or_default();
            rows.push(("may send from", Field::plain(format!("{ip_address}{mac}"))));
        }
        let security = if self.port_security { "yes" } else { "no" };
        rows.push(("port security", Field::plain(security)));
        if let Some(binding) = &self.binding {
            let text = format!("{} ({})", binding.name, binding.instance);
            rows.push(("instance", Field::plain(text)));
            let goes = if self.delete_on_termination { "yes" } else { "no" };
            rows.push(("goes with it", Field::plain(goes)));
        }
        rows.push(("tap", Field::plain(&self.tap)));
        rows.push(("owner", Field::maybe(self.owner.as_ref())));
        if let Some(operation) = self.operation {
            rows.push(("operation", Field::plain(operation)));
        }
        rows.push(("created", Field::plain(instant(self.created))));
        rows.push(("updated", Field::plain(instant(self.updated))));
        fields(look, rows)
    }
}

impl Row for Dropped {
    const NONE: &'static str = "nothing is dropped: its guest is not held to anything";
    const COLUMNS: &'static [(&'static str, &'static str)] =
        &[("DROPPED FOR", "/reason"), ("PACKETS", "/packets"), ("BYTES", "/bytes")];

    fn row(&self, _: Timestamp) -> Vec<Field> {
        vec![Field::plain(&self.reason), Field::plain(self.packets), Field::plain(self.bytes)]
    }
}

fn addresses(port: &Port) -> Option<String> {
    let all: Vec<String> = port.fixed_ips.iter().map(ToString::to_string).collect();
    (!all.is_empty()).then(|| all.join(", "))
}

fn status(status: Status) -> Field {
    match status {
        Status::Active => Field::new(status, Mood::Good),
        Status::Build => Field::new(status, Mood::Moving),
        Status::Down => Field::plain(status),
    }
}
