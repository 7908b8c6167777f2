//! Networks for people.

use ostler_protocol::rpc::network::{Network, State};

use super::table::{Field, Mood, fields, list};
use super::time::instant;
use super::{Look, Show};

impl Show for Vec<Network> {
    fn show(&self, look: Look) -> String {
        if self.is_empty() {
            return "no networks".to_owned();
        }
        let header = ["NAME", "BRIDGE", "STATE", "UPLINK", "MTU", "INSTANCES"];
        let rows = self.iter().map(|network| {
            vec![
                Field::plain(&network.name),
                Field::plain(&network.bridge),
                state(network.state),
                Field::maybe(network.uplink.as_ref()),
                Field::plain(network.mtu),
                Field::plain(network.instances),
            ]
        });
        list(look, &header, rows)
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
