//! Networks for people.

use ostler_protocol::rpc::network::{Kind, Network, State, Vxlan};
use ostler_protocol::rpc::values::Timestamp;

use super::shown::Row;
use super::table::{Field, Mood, fields};
use super::time::instant;
use super::{Look, Show};

impl Row for Network {
    const NONE: &'static str = "no networks";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("NAME", "/name"),
        ("BRIDGE", "/bridge"),
        ("STATE", "/state"),
        ("KIND", "/kind"),
        ("UPLINK", "/uplink"),
        ("MTU", "/mtu"),
        ("INSTANCES", "/instances"),
    ];

    fn row(&self, _: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(&self.name),
            Field::plain(&self.bridge),
            state(self.state),
            Field::maybe(self.kind.map(Kind::as_str)),
            Field::maybe(self.uplink.as_ref()),
            Field::plain(self.mtu),
            Field::plain(self.instances),
        ]
    }
}

impl Show for Network {
    fn show(&self, look: Look) -> String {
        let mut rows = vec![
            ("name", Field::plain(&self.name)),
            ("bridge", Field::plain(&self.bridge)),
            ("state", state(self.state)),
        ];
        rows.extend(self.drift.iter().map(|what| ("differs", Field::plain(what))));
        rows.push(("kind", Field::maybe(self.kind.map(Kind::as_str))));
        rows.push(("uplink", Field::maybe(self.uplink.as_ref())));
        if let Some(vlan) = self.vlan {
            rows.push(("vlan", Field::plain(vlan)));
        }
        if let Some(Vxlan { vni, local, remotes, group, port }) = &self.vxlan {
            rows.push(("vxlan", Field::plain(vni)));
            rows.push(("local", Field::plain(local)));
            rows.extend(remotes.iter().map(|remote| ("remote", Field::plain(remote))));
            rows.extend(group.map(|group| ("group", Field::plain(group))));
            rows.push(("port", Field::plain(port.unwrap_or(4789))));
        }
        if let Some(link) = &self.link {
            rows.push(("link", Field::plain(link)));
        }
        rows.push(("mtu", Field::plain(self.mtu)));
        rows.extend(self.ports.iter().map(|port| ("has port", Field::plain(&port.name))));
        rows.push(("instances", Field::plain(self.instances)));
        rows.push(("created", Field::plain(instant(self.created))));
        fields(look, rows)
    }
}

fn state(state: State) -> Field {
    match state {
        State::Up => Field::new("up", Mood::Good),
        State::Drifted => Field::new("drifted", Mood::Moving),
        State::Missing => Field::new("missing", Mood::Bad),
    }
}
