//! What a guest says of itself, cleaned and bounded. Pure.
//!
//! Everything here came from a guest: it may lie, and it may try to be a burden or to write on an
//! operator's terminal. Texts lose control and direction characters and are cut; lists are cut in
//! number and, all entries of one part together, in size, so that what a node keeps of a guest is
//! under [`PART_BYTES`] for each part whatever the guest says.

use std::net::IpAddr;

use ostler_protocol::qga::bounds::ENTRIES;
use ostler_protocol::qga::commands::filesystem::FilesystemInfo;
use ostler_protocol::qga::commands::info::{AgentInfo, OsInfo};
use ostler_protocol::qga::commands::network::NetworkInterface;
use ostler_protocol::qga::events;
use ostler_protocol::rpc::guest::{Agent, Filesystem, Heartbeat, Interface, Os};
use ostler_protocol::rpc::values::Timestamp;

/// Characters of one text.
const TEXT: usize = 255;
/// Bytes of one part, by the text in it and what an entry takes beside.
const PART_BYTES: usize = 256 << 10;
/// What an entry of a list takes beside its text.
const ENTRY_BYTES: usize = 64;
/// The most of bytes: what a signed number of any client's holds.
const BYTES: u64 = i64::MAX as u64;
/// The highest load.
const LOAD: f64 = 1e6;
/// The longest a guest is up: a hundred years, in seconds.
const UPTIME: f64 = 100.0 * 365.25 * 86_400.0;

/// A text free of characters that do something, at most 255 characters of it.
pub(super) fn clean(text: &str) -> String {
    clean_to(text, TEXT)
}

/// The same, so many characters of it.
pub(super) fn clean_to(text: &str, most: usize) -> String {
    text.chars().filter(|c| !acts(*c)).take(most).collect()
}

/// Control characters, and those that turn the direction of text or break its lines.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200E}' | '\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}' | '\u{FEFF}')
}

fn clean_option(text: Option<&str>) -> Option<String> {
    text.map(clean).filter(|text| !text.is_empty())
}

/// A part of a report, and whether it is all of it.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) struct Part<T> {
    /// What is left of it.
    pub(super) value: T,
    /// Whether something was cut.
    pub(super) truncated: bool,
}

impl<T> Part<T> {
    /// All there was.
    pub(super) fn whole(value: T) -> Self {
        Self { value, truncated: false }
    }

    /// The same, if need be of something that was cut before.
    pub(super) fn of(self, truncated: bool) -> Self {
        Self { truncated: self.truncated || truncated, ..self }
    }
}

/// Takes entries while there is room.
struct Room {
    left: usize,
    truncated: bool,
}

impl Room {
    fn new() -> Self {
        Self { left: PART_BYTES, truncated: false }
    }

    /// The list of what `read` makes of each entry, and the size it says that has.
    fn list<T, U>(
        &mut self,
        entries: &[T],
        mut read: impl FnMut(&mut Self, &T) -> Option<(U, usize)>,
    ) -> Vec<U> {
        let mut list = Vec::new();
        for entry in entries {
            if list.len() == ENTRIES || self.left == 0 {
                self.truncated = true;
                break;
            }
            match read(self, entry) {
                Some((entry, size)) => {
                    self.left = self.left.saturating_sub(size + ENTRY_BYTES);
                    list.push(entry);
                }
                None => self.truncated = true,
            }
        }
        list
    }

    fn part<T>(self, value: T) -> Part<T> {
        Part { value, truncated: self.truncated }
    }
}

/// The agent's version and the commands it allows.
pub(super) fn agent(info: &AgentInfo) -> Part<Agent> {
    let mut room = Room::new();
    let enabled: Vec<_> = info.supported_commands.iter().filter(|c| c.enabled).collect();
    let mut commands = room.list(&enabled, |_, command| {
        let name = clean(&command.name);
        let size = name.len();
        Some((name, size))
    });
    commands.sort_unstable();
    room.part(Agent { version: clean(&info.version), commands })
}

/// The operating system.
pub(super) fn os(info: &OsInfo) -> Os {
    Os {
        id: clean_option(info.id.as_deref()),
        pretty_name: clean_option(info.pretty_name.as_deref()),
        version_id: clean_option(info.version_id.as_deref()),
        kernel_release: clean_option(info.kernel_release.as_deref()),
        machine: clean_option(info.machine.as_deref()),
    }
}

/// The interfaces. An address that is none is left out.
pub(super) fn interfaces(given: &[NetworkInterface]) -> Part<Vec<Interface>> {
    let mut room = Room::new();
    let list = room.list(given, |room, given| {
        let addresses = given.ip_addresses.as_deref().unwrap_or_default();
        let interface = Interface {
            name: clean(&given.name),
            mac: clean_option(given.hardware_address.as_deref()),
            addresses: room.list(addresses, |_, given| {
                let address = address(&given.ip_address, given.prefix)?;
                let size = address.len();
                Some((address, size))
            }),
            rx_bytes: given.statistics.map(|s| s.rx_bytes.min(BYTES)),
            tx_bytes: given.statistics.map(|s| s.tx_bytes.min(BYTES)),
        };
        let size = interface.name.len() + interface.mac.as_ref().map_or(0, String::len);
        Some((interface, size))
    });
    room.part(list)
}

fn address(address: &str, prefix: i64) -> Option<String> {
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    (0..=most).contains(&prefix).then(|| format!("{address}/{prefix}"))
}

/// The filesystems.
pub(super) fn filesystems(given: &[FilesystemInfo]) -> Part<Vec<Filesystem>> {
    let mut room = Room::new();
    let list = room.list(given, |room, given| {
        let total = given.total_bytes.map_or(BYTES, |total| total.min(BYTES));
        let serials: Vec<_> = given.disk.iter().filter_map(|d| d.serial.as_deref()).collect();
        let filesystem = Filesystem {
            mountpoint: clean(&given.mountpoint),
            kind: clean(&given.kind),
            device: clean(&given.name),
            used: given.used_bytes.map(|used| used.min(total)),
            total: given.total_bytes.map(|_| total),
            serials: room.list(&serials, |_, serial| {
                let serial = clean(serial);
                let size = serial.len();
                Some((serial, size))
            }),
        };
        let size = filesystem.mountpoint.len() + filesystem.kind.len() + filesystem.device.len();
        Some((filesystem, size))
    });
    room.part(list)
}

/// A heartbeat; a number that is none, or below nothing, is nothing, and none is beyond what can be.
pub(super) fn heartbeat(given: &events::Heartbeat, at: Timestamp) -> Heartbeat {
    let sound = |number: f64, most| if number.is_finite() { number.clamp(0.0, most) } else { 0.0 };
    let total = given.memory.total.min(BYTES);
    Heartbeat {
        at,
        uptime: sound(given.uptime, UPTIME),
        load: given.load.map(|load| sound(load, LOAD)),
        memory_total: total,
        memory_available: given.memory.available.min(total),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read<T: serde::de::DeserializeOwned>(value: Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn texts_cannot_act_on_a_terminal_and_are_cut() {
        assert_eq!(clean("\u{1b}[31mred\r\n\0\u{9b}\u{202e}x\u{2028}"), "[31mredx");
        assert_eq!(clean(&"ü".repeat(300)).chars().count(), 255);
        assert_eq!(clean("web-1 ✓"), "web-1 ✓");
    }

    #[test]
    fn only_addresses_are_addresses() {
        let given: Vec<NetworkInterface> = read(json!([{
            "name": "eth0", "hardware-address": "52:54:00:00:00:01",
            "ip-addresses": [
                {"ip-address": "10.0.0.5", "ip-address-type": "ipv4", "prefix": 24},
                {"ip-address": "fe80::1", "ip-address-type": "ipv6", "prefix": 64},
                {"ip-address": "10.0.0.5", "ip-address-type": "ipv4", "prefix": 33},
                {"ip-address": "\u{1b}[2J", "ip-address-type": "ipv4", "prefix": 24}
            ]
        }, {"name": "lo"}]));
        let part = interfaces(&given);
        assert_eq!(part.value[0].addresses, ["10.0.0.5/24", "fe80::1/64"]);
        assert_eq!(part.value[1].addresses, [""; 0]);
        assert!(part.truncated);
    }

    #[test]
    fn lists_are_cut_in_number() {
        let given = vec![json!({"name": "eth0"}); 2000];
        let part = interfaces(&read::<Vec<NetworkInterface>>(given.into()));
        assert_eq!((part.value.len(), part.truncated), (1024, true));
    }

    #[test]
    fn lists_in_lists_are_cut_in_size() {
        let address = json!({"ip-address": "10.0.0.5", "ip-address-type": "ipv4", "prefix": 24});
        let one = json!({"name": "eth0", "ip-addresses": vec![address; 1024]});
        let part = interfaces(&read::<Vec<NetworkInterface>>(vec![one; 100].into()));
        let addresses: usize = part.value.iter().map(|i| i.addresses.len()).sum();
        assert!(addresses < 5000 && part.truncated, "{addresses}");
    }

    #[test]
    fn the_agents_forbidden_commands_are_left_out() {
        let command =
            |name, enabled| json!({"name": name, "enabled": enabled, "success-response": true});
        let info = json!({"version": "1.0\n", "supported_commands":
            [command("guest-ping", true), command("guest-exec", false), command("guest-info", true)]});
        let part = agent(&read(info));
        assert_eq!(part.value.version, "1.0");
        assert_eq!(part.value.commands, ["guest-info", "guest-ping"]);
        assert!(!part.truncated);
    }

    #[test]
    fn serials_lead_from_a_filesystem_to_its_volumes() {
        let pci = json!({"domain": 0, "bus": 0, "slot": 4, "function": 0});
        let disk = json!({"pci-controller": pci, "bus-type": "virtio", "bus": 0, "target": 0,
            "unit": 0, "serial": "0f8fad5b"});
        let given = json!([{"name": "vda1", "mountpoint": "/", "type": "ext4", "used-bytes": 1,
            "total-bytes": 2, "disk": [disk]}]);
        let part = filesystems(&read::<Vec<FilesystemInfo>>(given));
        assert_eq!(part.value[0].serials, ["0f8fad5b"]);
        assert_eq!((part.value[0].used, part.value[0].total), (Some(1), Some(2)));
    }

    #[test]
    fn heartbeats_hold_sound_numbers() {
        let given = events::Heartbeat {
            uptime: -1.0,
            load: [f64::NAN, f64::INFINITY, 0.5],
            memory: events::Memory { total: 1, available: 2 },
            interval: 1,
        };
        let beat = heartbeat(&given, Timestamp(7));
        assert_eq!((beat.uptime, beat.load), (0.0, [0.0, 0.0, 0.5]));
        assert_eq!(beat.memory_available, 1);
    }

    #[test]
    fn no_number_is_beyond_what_can_be() {
        let memory = events::Memory { total: u64::MAX, available: u64::MAX };
        let given =
            events::Heartbeat { uptime: 1e308, load: [1e308, 1e300, 2.0], memory, interval: 1 };
        let beat = heartbeat(&given, Timestamp(7));
        assert_eq!((beat.uptime, beat.load), (UPTIME, [LOAD, LOAD, 2.0]));
        assert_eq!((beat.memory_total, beat.memory_available), (BYTES, BYTES));
        for (used, total, kept) in [(9, 5, (5, 5)), (u64::MAX, u64::MAX, (BYTES, BYTES))] {
            let given = json!([{"name": "a", "mountpoint": "/", "type": "b", "disk": [],
                "used-bytes": used, "total-bytes": total}]);
            let one = &filesystems(&read::<Vec<FilesystemInfo>>(given)).value[0];
            assert_eq!((one.used, one.total), (Some(kept.0), Some(kept.1)));
        }
        let counted = json!({"rx-bytes": u64::MAX, "rx-packets": 0, "rx-errs": 0, "rx-dropped": 0,
            "tx-bytes": u64::MAX, "tx-packets": 0, "tx-errs": 0, "tx-dropped": 0});
        let given = json!([{"name": "eth0", "statistics": counted}]);
        let one = &interfaces(&read::<Vec<NetworkInterface>>(given)).value[0];
        assert_eq!((one.rx_bytes, one.tx_bytes), (Some(BYTES), Some(BYTES)));
    }
}
