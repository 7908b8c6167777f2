//! Images for people.

use ostler_protocol::rpc::image::{Image, State};
use ostler_protocol::rpc::values::Timestamp;

use super::table::{Field, Mood, fields, list};
use super::time::{age, instant};
use super::{Look, Show};

impl Show for Vec<Image> {
    fn show(&self, look: Look) -> String {
        if self.is_empty() {
            return "no images".to_owned();
        }
        let header = ["NAME", "STATE", "FORMAT", "SIZE", "DISK", "INSTANCES", "AGE"];
        let now = Timestamp::now();
        let rows = self.iter().map(|image| {
            vec![
                Field::plain(&image.name),
                state(image.state),
                Field::plain(image.format.as_str()),
                Field::plain(image.size),
                if image.format.is_disk() {
                    Field::plain(image.virtual_size)
                } else {
                    Field::plain("-")
                },
                Field::plain(image.instances),
                Field::plain(age(image.created, now)),
            ]
        });
        list(look, &header, rows)
    }
}

impl Show for Image {
    fn show(&self, look: Look) -> String {
        let mut rows = vec![
            ("name", Field::plain(&self.name)),
            ("state", state(self.state)),
            ("format", Field::plain(self.format.as_str())),
            ("source", Field::plain(&self.source)),
            ("sha256", Field::maybe(self.sha256.as_ref())),
            ("size", Field::plain(self.size)),
        ];
        if self.format.is_disk() {
            rows.push(("disk", Field::plain(self.virtual_size)));
        }
        let properties = &self.properties;
        for (name, value) in [("kernel", &properties.kernel), ("ramdisk", &properties.ramdisk)] {
            if let Some(value) = value {
                rows.push((name, Field::plain(value)));
            }
        }
        if let Some(line) = &properties.command_line {
            rows.push(("command line", Field::plain(line)));
        }
        if let Some(memory) = properties.min_memory {
            rows.push(("least memory", Field::plain(memory)));
        }
        rows.push(("instances", Field::plain(self.instances)));
        rows.push(("created", Field::plain(instant(self.created))));
        fields(look, rows)
    }
}

fn state(state: State) -> Field {
    match state {
        State::Importing => Field::new("importing", Mood::Moving),
        State::Ready => Field::new("ready", Mood::Good),
    }
}
