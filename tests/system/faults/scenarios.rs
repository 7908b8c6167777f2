//! What the bench does: for each kind of operation, the situations in which its plans differ.
//!
//! The table is a `match` over all kinds, so a new kind does not build without a scenario.

use std::time::Duration;

use ostler_protocol::rpc::operation::Kind;
use ostler_tests::guest_image::Mode;
use serde_json::{Value, json};

use super::elsewhere::elsewhere;

/// A request: a method, and its parameters for an instance as it is shown.
pub(super) type Deed = (&'static str, fn(&Value) -> Value);

/// What an operation is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum About {
    /// The instance the lane has.
    Instance,
    /// An instance it makes.
    NewInstance,
    /// An image.
    Image,
    /// A network.
    Network,
    /// A volume that no instance has.
    Volume,
    /// A port that no instance has.
    Port,
}

/// What the user's data on the root disk come to when the operation is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// They are there.
    Kept,
    /// The image's content is in their place: that was asked for.
    Replaced,
    /// There is no disk any more: that was asked for.
    Gone,
}

/// A network that has a tunnel.
pub(super) const VXLAN: &str = "with a VXLAN";
/// One that is there, and is to get a tunnel and another MTU.
pub(super) const CHANGED: &str = "of a network that is there";

/// One situation.
#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) kind: Kind,
    /// What is special about it.
    pub(super) when: &'static str,
    pub(super) about: About,
    /// Who is in the guest; nobody: firmware that finds nothing to boot.
    pub(super) guest: Option<Mode>,
    /// Ordinary operations that come first, from an instance that is ACTIVE.
    pub(super) first: Vec<Deed>,
    pub(super) asked: Deed,
    /// The instance's state when it is done.
    pub(super) then: &'static str,
    pub(super) fate: Fate,
    /// Whether the instance is of no use for another go afterwards.
    pub(super) once: bool,
    /// Whether it has no step that another one of its kind has not: the short form does without.
    pub(super) more: bool,
    /// Whether what is asked for is so already.
    pub(super) idle: bool,
}

impl Scenario {
    /// What it is called.
    pub(super) fn name(&self) -> String {
        match self.when {
            "" => self.kind.to_string(),
            when => format!("{} ({when})", self.kind),
        }
    }

    /// Whether there is anything to do but to write it down.
    pub(super) const fn has_steps(&self) -> bool {
        let noted = matches!(self.kind, Kind::Lock | Kind::Unlock)
            || matches!(self.about, About::Port)
            || matches!((self.kind, self.about), (Kind::VolumeUpdate, About::Volume));
        !self.idle && !noted
    }

    /// Whether its first step asks for what is not asked for twice: the operation ends there when
    /// it is cut off.
    pub(super) fn is_asked_once(&self) -> bool {
        self.kind == Kind::Password || (self.kind == Kind::Reboot && self.when.contains("comply"))
    }

    fn when(mut self, when: &'static str) -> Self {
        self.when = when;
        self
    }

    /// The same steps, met by other circumstances.
    fn more(self, when: &'static str) -> Self {
        Self { more: true, ..self.when(when) }
    }

    fn after(mut self, first: &[Deed]) -> Self {
        self.first = first.to_vec();
        self
    }

    /// It is so already: nothing is to be done.
    fn idle(self) -> Self {
        Self { idle: true, ..self.when("nothing to do") }
    }

    fn replaced(mut self) -> Self {
        self.fate = Fate::Replaced;
        self
    }

    /// No disk of its own is looked at.
    fn gone(mut self) -> Self {
        self.fate = Fate::Gone;
        self
    }

    fn once(mut self) -> Self {
        self.once = true;
        self
    }

    pub(super) fn in_guest(mut self, mode: Mode) -> Self {
        self.guest = Some(mode);
        self
    }

    /// How long it may take until it is over, on a busy machine.
    pub(super) const fn patience(&self) -> Duration {
        Duration::from_secs(120)
    }
}

fn nothing(_: &Value) -> Value {
    json!({})
}

const STOP: Deed = ("instance.stop", |_| json!({"manner": "hard"}));
const PAUSE: Deed = ("instance.pause", nothing);
const SUSPEND: Deed = ("instance.suspend", nothing);
const RESCUE: Deed = ("instance.rescue", nothing);
const RESIZE: Deed = ("instance.resize", |shown| {
    let disk = shown["disk"].as_u64().unwrap_or_default();
    json!({"vcpus": 2, "disk": disk + (16 << 20)})
});
const SHELVE: Deed = ("instance.shelve", |_| json!({"timeout": 300}));
const OFFLOAD: Deed = ("instance.offload", nothing);
const LOCK: Deed = ("instance.lock", |_| json!({"reason": "bench"}));
const SOFT_DELETE: Deed = ("instance.delete", |_| json!({"mode": "soft"}));
const DELETE: Deed = ("instance.delete", |_| json!({"mode": "hard"}));
const REBUILD: Deed = ("instance.rebuild", |_| json!({"image": "other"}));
const RESET: Deed = ("instance.reset", |_| json!({"root_device": "vda"}));
const REVERT: Deed = ("instance.revert_resize", nothing);
const CONFIRM: Deed = ("instance.confirm_resize", nothing);
const UNSHELVE: Deed = ("instance.unshelve", nothing);
const SNAPSHOT: Deed = ("instance.snapshot", |_| json!({"name": "shot"}));

// An instance's volume has the same id: it is told by its kind.
const VOLUME: Deed = (
    "volume.create",
    |shown| json!({"id": shown["id"], "name": "data", "size": 2 << 20, "format": "raw"}),
);
const ROOT_VOLUME: Deed = (
    "volume.create",
    |shown| json!({"id": shown["id"], "name": "root", "source": {"image": "blank"}}),
);
const ATTACH: Deed = ("instance.attach_volume", |shown| json!({"volume": shown["id"]}));
const ATTACH_FOR_GOOD: Deed = (
    "instance.attach_volume",
    |shown| json!({"volume": shown["id"], "how": {"delete_on_termination": true}}),
);
const ATTACH_ELSEWHERE: Deed =
    ("instance.attach_volume", |shown| json!({"volume": shown["id"], "connection": elsewhere()}));
const DETACH: Deed = ("instance.detach_volume", |shown| json!({"volume": shown["id"]}));
const OTHER_VOLUME: Deed = (
    "volume.create",
    |shown| json!({"id": other_of(&shown["id"]), "name": "other", "size": 2 << 20}),
);
const SWAP: Deed =
    ("instance.swap_volume", |shown| json!({"volume": shown["id"], "new": other_of(&shown["id"])}));
const EXTEND: Deed = ("volume.extend", |shown| json!({"id": shown["id"], "size": 3 << 20}));
const VOLUME_SNAPSHOT: Deed =
    ("volume.snapshot", |shown| json!({"id": shown["id"], "name": "before"}));
const VOLUME_REVERT: Deed = ("volume.revert", |shown| json!({"id": shown["id"], "name": "before"}));

// So has its port.
const PORT: Deed =
    ("port.create", |shown| json!({"id": shown["id"], "name": "extra", "network": "lan"}));
const ATTACH_PORT: Deed =
    ("instance.attach_interface", |shown| json!({"interface": {"port": shown["id"]}}));
const DETACH_PORT: Deed = ("instance.detach_interface", |shown| json!({"port": shown["id"]}));

/// The volume that takes the place of an instance's own.
pub(super) fn other_of(id: &Value) -> String {
    format!("00000000{}", &id.as_str().unwrap_or_default()[8..])
}

/// The situations of a kind.
pub(super) fn of(kind: Kind) -> Vec<Scenario> {
    // Boot, images and networks make their own parameters: see `Lane::params`.
    let of = |params: fn(&Value) -> Value, then| Scenario {
        kind,
        when: "",
        about: About::Instance,
        guest: None,
        first: Vec::new(),
        asked: (kind.method(), params),
        then,
        fate: Fate::Kept,
        once: false,
        more: false,
        idle: false,
    };
    let deed = |deed: Deed, then| of(deed.1, then);
    let about = |about, then| Scenario { about, ..of(nothing, then) };
    match kind {
        Kind::Boot => vec![
            about(About::NewInstance, "active").replaced(),
            // What it made goes with it, for the bench deletes it whole.
            Scenario {
                about: About::NewInstance,
                ..of(|_| json!({"volume_size": 16 << 20, "delete_on_termination": true}), "active")
                    .when("on a new volume")
                    .gone()
            },
            Scenario {
                about: About::NewInstance,
                ..of(|shown| json!({"image": null, "volume": shown["id"]}), "active")
                    .when("on a volume")
                    .after(&[ROOT_VOLUME])
                    .gone()
            },
        ],
        Kind::Start => {
            vec![of(nothing, "active").after(&[STOP]), of(nothing, "active").idle()]
        }
        Kind::Stop => vec![
            deed(STOP, "stopped"),
            of(|_| json!({"timeout": 300}), "stopped").when("the guest does not comply"),
            of(|_| json!({"timeout": 300}), "stopped").idle().after(&[STOP]),
        ],
        Kind::Reboot => vec![
            of(|_| json!({"manner": "hard"}), "active"),
            of(|_| json!({"timeout": 300}), "active").when("the guest does not comply"),
            of(|_| json!({"manner": "hard"}), "active")
                .more("its memory is saved")
                .after(&[SUSPEND]),
        ],
        Kind::Pause => {
            vec![deed(PAUSE, "paused"), deed(PAUSE, "paused").idle().after(&[PAUSE])]
        }
        Kind::Unpause => {
            vec![of(nothing, "active").after(&[PAUSE]), of(nothing, "active").idle()]
        }
        Kind::Suspend => {
            vec![deed(SUSPEND, "suspended"), deed(SUSPEND, "suspended").idle().after(&[SUSPEND])]
        }
        Kind::Resume => {
            vec![of(nothing, "active").after(&[SUSPEND]), of(nothing, "active").idle()]
        }
        Kind::Rebuild => vec![
            deed(REBUILD, "active").replaced(),
            deed(REBUILD, "stopped").more("off").after(&[STOP]).replaced(),
        ],
        Kind::Reset => vec![
            deed(RESET, "active").replaced(),
            deed(RESET, "stopped").more("off").after(&[STOP]).replaced(),
        ],
        Kind::Rescue => vec![
            deed(RESCUE, "rescued"),
            of(|_| json!({"image": "other"}), "rescued").more("off, by another").after(&[STOP]),
        ],
        Kind::Unrescue => vec![of(nothing, "active").after(&[RESCUE])],
        Kind::Resize => {
            vec![deed(RESIZE, "resized"), deed(RESIZE, "resized").more("off").after(&[STOP])]
        }
        Kind::ConfirmResize => vec![deed(CONFIRM, "active").after(&[RESIZE]).once()],
        Kind::RevertResize => vec![
            deed(REVERT, "active").after(&[RESIZE]),
            deed(REVERT, "stopped").more("off").after(&[STOP, RESIZE]),
        ],
        Kind::Adjust => vec![
            of(|_| json!({"vcpus": 2, "memory": 64u64 << 20}), "active").once(),
            of(|_| json!({"vcpus": 2, "memory": 64u64 << 20}), "stopped")
                .more("off")
                .after(&[STOP])
                .once(),
            of(|_| json!({"vcpus": 1, "memory": 48u64 << 20}), "active").idle(),
        ],
        Kind::Snapshot => {
            vec![deed(SNAPSHOT, "active"), deed(SNAPSHOT, "stopped").more("off").after(&[STOP])]
        }
        Kind::Shelve => vec![
            deed(SHELVE, "shelved"),
            of(|_| json!({"offload": true, "timeout": 300}), "shelved_offloaded").when("offloaded"),
            deed(SHELVE, "shelved").more("off").after(&[STOP]),
        ],
        Kind::Offload => vec![of(nothing, "shelved_offloaded").after(&[SHELVE])],
        Kind::Unshelve => vec![
            deed(UNSHELVE, "active").after(&[SHELVE]),
            deed(UNSHELVE, "active").when("offloaded").after(&[SHELVE, OFFLOAD]),
        ],
        Kind::Update => vec![
            of(|_| json!({"owner": "bench", "metadata": {"role": "tried"}}), "active"),
            of(|_| json!({"name": "renamed"}), "stopped").more("off").after(&[STOP]),
            of(|_| json!({}), "active").more("as it is"),
        ],
        Kind::Lock => vec![deed(LOCK, "active"), deed(LOCK, "active").idle().after(&[LOCK])],
        Kind::Unlock => vec![of(nothing, "active").after(&[LOCK]), of(nothing, "active").idle()],
        Kind::Delete => {
            let delete = |then| Scenario { fate: Fate::Gone, ..deed(DELETE, then) };
            vec![
                deed(SOFT_DELETE, "soft-delete").when("soft"),
                delete("deleted"),
                delete("deleted").when("with a volume").after(&[VOLUME, ATTACH_FOR_GOOD]),
                delete("deleted").when("with a volume from elsewhere").after(&[ATTACH_ELSEWHERE]),
                delete("deleted").more("its memory is saved").after(&[SUSPEND]),
                delete("deleted").more("rescued").after(&[RESCUE]),
                delete("deleted").more("resized").after(&[RESIZE]),
                delete("deleted").more("offloaded").after(&[SHELVE, OFFLOAD]),
                delete("deleted").more("deleted").after(&[DELETE]),
                deed(SOFT_DELETE, "soft-delete").idle().after(&[SOFT_DELETE]),
            ]
        }
        Kind::Restore => vec![of(nothing, "active").after(&[SOFT_DELETE])],
        Kind::Password => vec![
            of(|_| json!({"user": "root", "password": {"plain": "ostler"}}), "active")
                .in_guest(Mode::Ostler),
        ],
        Kind::ImageImport => vec![about(About::Image, "")],
        Kind::ImageExport => vec![about(About::Image, "")],
        Kind::ImageRemove => vec![about(About::Image, "")],
        Kind::NetworkEnsure => vec![
            about(About::Network, ""),
            about(About::Network, "").when(VXLAN),
            about(About::Network, "").when(CHANGED),
        ],
        Kind::NetworkRemove => {
            vec![about(About::Network, ""), about(About::Network, "").when(VXLAN)]
        }
        // Only a guest that is up lets go, at a detach and at an undo of an attach.
        Kind::AttachVolume => vec![
            deed(ATTACH, "active").after(&[VOLUME]).in_guest(Mode::Ostler),
            deed(ATTACH, "stopped").more("off").after(&[STOP, VOLUME]),
        ],
        Kind::DetachVolume => vec![
            deed(DETACH, "active").after(&[VOLUME, ATTACH]).in_guest(Mode::Ostler),
            deed(DETACH, "stopped").more("off").after(&[STOP, VOLUME, ATTACH]),
        ],
        Kind::AttachInterface => vec![
            deed(ATTACH_PORT, "active").after(&[PORT]).in_guest(Mode::Ostler),
            of(|_| json!({"interface": {"network": "lan"}}), "stopped")
                .more("off, a new one")
                .after(&[STOP]),
        ],
        Kind::DetachInterface => vec![
            deed(DETACH_PORT, "active").after(&[PORT, ATTACH_PORT]).in_guest(Mode::Ostler),
            deed(DETACH_PORT, "stopped").more("off").after(&[STOP, PORT, ATTACH_PORT]),
        ],
        Kind::PortCreate => vec![Scenario { about: About::Port, ..deed(PORT, "") }],
        Kind::PortUpdate => vec![
            Scenario { about: About::Port, ..of(|_| json!({"owner": "bench"}), "") },
            of(|shown| json!({"id": shown["id"], "fixed_ips": ["192.0.2.7"]}), "active")
                .when("addresses, in use")
                .after(&[PORT, ATTACH_PORT]),
        ],
        Kind::PortDelete => vec![Scenario { about: About::Port, ..of(nothing, "") }],
        Kind::SwapVolume => vec![
            deed(SWAP, "active").after(&[VOLUME, ATTACH, OTHER_VOLUME]),
            deed(SWAP, "stopped").when("off").after(&[STOP, VOLUME, ATTACH, OTHER_VOLUME]),
        ],
        Kind::VolumeCreate => vec![
            Scenario { about: About::Volume, ..of(|_| json!({"name": "a", "size": 2 << 20}), "") },
            Scenario {
                about: About::Volume,
                ..of(|_| json!({"name": "a", "source": {"image": "blank"}}), "").more("of an image")
            },
        ],
        Kind::VolumeUpdate => vec![
            Scenario { about: About::Volume, ..of(|_| json!({"owner": "bench"}), "") },
            of(|shown| json!({"id": shown["id"], "qos": {"total_iops_sec": 500}}), "active")
                .when("limits, in use")
                .after(&[VOLUME, ATTACH]),
        ],
        Kind::VolumeExtend => vec![
            Scenario { about: About::Volume, ..deed(EXTEND, "") },
            deed(EXTEND, "active").more("in use").after(&[VOLUME, ATTACH]),
        ],
        Kind::VolumeSnapshot => vec![
            Scenario { about: About::Volume, ..deed(VOLUME_SNAPSHOT, "") },
            deed(VOLUME_SNAPSHOT, "active").when("in use").after(&[VOLUME, ATTACH]),
            deed(VOLUME_SNAPSHOT, "stopped").more("off").after(&[STOP, VOLUME, ATTACH]),
        ],
        Kind::VolumeDeleteSnapshot => vec![
            Scenario { about: About::Volume, ..deed(VOLUME_REVERT, "") },
            deed(VOLUME_REVERT, "active").more("in use").after(&[VOLUME, ATTACH, VOLUME_SNAPSHOT]),
        ],
        Kind::VolumeRevert => vec![
            Scenario { about: About::Volume, ..deed(VOLUME_REVERT, "") },
            deed(VOLUME_REVERT, "stopped").when("off").after(&[
                STOP,
                VOLUME,
                ATTACH,
                VOLUME_SNAPSHOT,
            ]),
        ],
        Kind::VolumeDelete => vec![Scenario { about: About::Volume, ..of(nothing, "") }],
    }
}

/// All of them.
pub(super) fn all() -> Vec<Scenario> {
    Kind::ALL.iter().flat_map(|kind| of(*kind)).collect()
}

/// Whether an operation of this kind may end as `failed` after a crash: something was asked that
/// is not asked twice, so that whether it took effect is not known.
pub(super) const fn may_be_interrupted(kind: Kind) -> bool {
    matches!(kind, Kind::Reboot | Kind::Password)
}

/// The steps that end an instance's QEMU, or may.
pub(super) const ENDS_QEMU: [&str; 4] =
    ["ask the guest to shut down", "ask the guest to reboot", "power off", "save memory"];

/// The steps that talk to the guest.
pub(super) const ASKS_THE_GUEST: [&str; 5] = [
    "ask the guest to shut down",
    "ask the guest to reboot",
    "set the guest's clock",
    "copy disk",
    "set password",
];
