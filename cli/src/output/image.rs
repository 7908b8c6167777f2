//! Images for people.

use ostler_protocol::rpc::image::{Image, Properties, State};
use ostler_protocol::rpc::values::Timestamp;
use serde_json::Value;

use super::shown::Row;
use super::table::{Field, Mood, fields};
use super::time::{age, instant};
use super::{Look, Show};

impl Row for Image {
    const NONE: &'static str = "no images";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("NAME", "/name"),
        ("STATE", "/state"),
        ("FORMAT", "/format"),
        ("SIZE", "/size"),
        ("DISK", "/virtual_size"),
        ("INSTANCES", "/instances"),
        ("AGE", "/created"),
    ];

    fn row(&self, now: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(&self.name),
            state(self.state),
            Field::plain(self.format.as_str()),
            Field::plain(self.size),
            if self.format.is_disk() { Field::plain(self.virtual_size) } else { Field::plain("-") },
            Field::plain(self.instances),
            Field::plain(age(self.created, now)),
        ]
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
        if let Some(disk) = properties.min_disk {
            rows.push(("least disk", Field::plain(disk)));
        }
        for (key, value) in hardware(properties) {
            rows.push(("property", Field::plain(format!("{key}={value}"))));
        }
        rows.push(("instances", Field::plain(self.instances)));
        if self.volumes > 0 {
            rows.push(("volumes", Field::plain(self.volumes)));
        }
        if let Some(used) = self.used {
            rows.push(("last used", Field::plain(instant(used))));
        }
        rows.push(("created", Field::plain(instant(self.created))));
        fields(look, rows)
    }
}

/// The properties that are glance's, by its keys.
fn hardware(properties: &Properties) -> Vec<(String, String)> {
    let Ok(Value::Object(all)) = serde_json::to_value(properties) else { return Vec::new() };
    let glance = |key: &str| key.starts_with("hw_") || key.starts_with("os_");
    let words = all.into_iter().filter_map(|(key, value)| {
        let word = value.as_str()?.to_owned();
        glance(&key).then_some((key, word))
    });
    words.collect()
}

fn state(state: State) -> Field {
    match state {
        State::Importing => Field::new("importing", Mood::Moving),
        State::Ready => Field::new("ready", Mood::Good),
    }
}
