//! Volumes for people.

use ostler_protocol::rpc::values::Timestamp;
use ostler_protocol::rpc::volume::{
    AttachedVolume, Attachment, Bus, Format, Pool, Snapshot, Source, Status, Volume,
};

use super::shown::Row;
use super::table::{Field, Mood, fields};
use super::time::{age, instant};
use super::{Look, Show, fault_rows};
use crate::failure::reason_word;

impl Row for Volume {
    const NONE: &'static str = "no volumes";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("ID", "/id"),
        ("NAME", "/name"),
        ("STATUS", "/status"),
        ("SIZE", "/size"),
        ("POOL", "/pool"),
        ("ATTACHED TO", "/attachments/0/name"),
        ("OWNER", "/owner"),
        ("AGE", "/created"),
    ];

    fn row(&self, now: Timestamp) -> Vec<Field> {
        let names: Vec<&str> = self.attachments.iter().map(|there| there.name.as_str()).collect();
        vec![
            Field::plain(self.id),
            Field::plain(&self.name),
            status(self.status),
            Field::plain(self.size),
            Field::maybe(self.pool.as_ref()),
            Field::maybe((!names.is_empty()).then(|| names.join(", "))),
            Field::maybe(self.owner.as_ref()),
            Field::plain(age(self.created, now)),
        ]
    }
}

impl Show for Volume {
    fn show(&self, look: Look) -> String {
        let mut rows = vec![
            ("id", Field::plain(self.id)),
            ("name", Field::plain(&self.name)),
            ("status", status(self.status)),
            ("size", Field::plain(self.size)),
            ("pool", Field::maybe(self.pool.as_ref())),
            ("format", Field::maybe(self.format.map(format))),
            ("owner", Field::maybe(self.owner.as_ref())),
            ("made from", Field::maybe(self.source.as_ref().map(source))),
            ("bootable", Field::plain(if self.bootable { "yes" } else { "no" })),
        ];
        if let Some(elsewhere) = &self.elsewhere {
            rows.push(("kept elsewhere", Field::plain(elsewhere)));
        }
        if self.multiattach {
            rows.push(("multiattach", Field::plain("yes")));
        }
        for (limit, most) in &self.qos {
            rows.push(("limit", Field::plain(format!("{}={most}", limit.as_str()))));
        }
        for (key, value) in &self.metadata {
            rows.push(("metadata", Field::plain(format!("{key}={value}"))));
        }
        for Attachment { instance, name, device, read_only } in &self.attachments {
            let how = if *read_only { ", read-only" } else { "" };
            let text = format!("{name} ({instance}) as {device}{how}");
            rows.push(("attached to", Field::plain(text)));
        }
        for Snapshot { name, size, created } in &self.snapshots {
            let text = format!("{name}: {size}, {}", instant(*created));
            rows.push(("snapshot", Field::plain(text)));
        }
        if let Some(operation) = self.operation {
            rows.push(("operation", Field::plain(operation)));
        }
        for difference in &self.drift {
            rows.push(("drift", Field::new(difference, Mood::Moving)));
        }
        if let Some(fault) = &self.fault {
            rows.extend(fault_rows("fault", fault, &reason_word(fault.data.reason)));
        }
        rows.push(("created", Field::plain(instant(self.created))));
        rows.push(("updated", Field::plain(instant(self.updated))));
        fields(look, rows)
    }
}

impl Row for AttachedVolume {
    const NONE: &'static str = "no volumes";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("VOLUME", "/volume"),
        ("NAME", "/name"),
        ("SIZE", "/size"),
        ("DEVICE", "/device"),
        ("BUS", "/bus"),
        ("ACCESS", "/read_only"),
        ("GOES WITH IT", "/delete_on_termination"),
    ];

    fn row(&self, _: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(self.volume),
            Field::plain(&self.name),
            Field::plain(self.size),
            Field::plain(&self.device),
            Field::plain(match self.bus {
                Bus::Virtio => "virtio",
                Bus::Scsi => "scsi",
            }),
            Field::plain(if self.read_only { "read-only" } else { "read-write" }),
            Field::plain(if self.delete_on_termination { "yes" } else { "no" }),
        ]
    }
}

impl Row for Snapshot {
    const NONE: &'static str = "no snapshots";
    const COLUMNS: &'static [(&'static str, &'static str)] =
        &[("NAME", "/name"), ("SIZE", "/size"), ("AGE", "/created")];

    fn row(&self, now: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(&self.name),
            Field::plain(self.size),
            Field::plain(age(self.created, now)),
        ]
    }
}

impl Row for Pool {
    const NONE: &'static str = "no pools";
    const COLUMNS: &'static [(&'static str, &'static str)] = &[
        ("NAME", "/name"),
        ("DRIVER", "/driver"),
        ("VOLUMES", "/volumes"),
        ("PROMISED", "/promised"),
        ("FREE", "/free"),
        ("TOTAL", "/total"),
        ("TROUBLE", "/trouble"),
    ];

    fn row(&self, _: Timestamp) -> Vec<Field> {
        vec![
            Field::plain(&self.name),
            Field::plain(&self.driver),
            Field::plain(self.volumes),
            Field::plain(self.promised),
            Field::maybe(self.free),
            Field::maybe(self.total),
            match &self.trouble {
                Some(trouble) => Field::new(trouble, Mood::Bad),
                None => Field::plain("-"),
            },
        ]
    }
}

fn status(status: Status) -> Field {
    let mood = match status {
        Status::Available | Status::InUse => Mood::Good,
        Status::Creating
        | Status::Attaching
        | Status::Detaching
        | Status::Extending
        | Status::Reverting
        | Status::Deleting => Mood::Moving,
        Status::Error | Status::ErrorDeleting => Mood::Bad,
    };
    Field::new(status, mood)
}

const fn format(format: Format) -> &'static str {
    match format {
        Format::Qcow2 => "qcow2",
        Format::Raw => "raw",
        Format::Luks => "luks",
    }
}

fn source(source: &Source) -> String {
    match source {
        Source::Image(name) => format!("image {name}"),
        Source::Volume(id) => format!("volume {id}"),
        Source::Snapshot { volume, name } => format!("snapshot {name} of volume {volume}"),
    }
}
