//! Networks for people.

use ostler_protocol::rpc::network::{Network, State};
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
        ("UPLINK", "/uplink"),
        ("MTU", "/mtu"),
        ("INSTANCES", "/instances"),
    ];

    fn row(&self, _: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(&self.name),
            Field::plain(&self.bridge),
            state(self.state),
            Field::maybe(self.uplink.as_ref()),
            Field::plain(self.mtu),
            Field::plain(self.instances),
        ]
    }
}

impl Show for Network {
    fn show(&self, look: Look) -> String {
        let rows = [
            ("name", Field::plain(&self.name)),
            ("bridge", Field::plain(&self.bridge)),
            ("state", state(self.state)),
            ("uplink", Field::maybe(self.uplink.as_ref())),
            ("mtu", Field::plain(self.mtu)),
            ("instances", Field::plain(self.instances)),
            ("created", Field::plain(instant(self.created))),
        ];
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
