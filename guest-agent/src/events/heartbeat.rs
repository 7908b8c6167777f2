//! What a heartbeat says: three small files of `/proc`.

use std::time::Duration;

use ostler_protocol::qga::events::{Heartbeat, Memory};

/// How the guest is now.
pub(super) fn read(interval: Duration) -> Heartbeat {
    let file = |path| std::fs::read_to_string(path).unwrap_or_default();
    let mut uptime = numbers(&file("/proc/uptime"));
    let mut load = numbers(&file("/proc/loadavg"));
    Heartbeat {
        uptime: uptime.next().unwrap_or_default(),
        load: std::array::from_fn(|_| load.next().unwrap_or_default()),
        memory: memory(&file("/proc/meminfo")),
        interval: interval.as_secs(),
    }
}

fn numbers(text: &str) -> impl Iterator<Item = f64> + use<> {
    text.split_whitespace().map_while(|word| word.parse().ok()).collect::<Vec<_>>().into_iter()
}

fn memory(text: &str) -> Memory {
    let bytes = |key| {
        text.lines()
            .find_map(|line| {
                line.strip_prefix(key)?.trim().strip_suffix(" kB")?.parse::<u64>().ok()
            })
            .map_or(0, |kibibytes| kibibytes * 1024)
    };
    Memory { total: bytes("MemTotal:"), available: bytes("MemAvailable:") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:        2048 kB\nMemFree:  1 kB\nMemAvailable:     1024 kB\n";
        assert_eq!(memory(text), Memory { total: 2 << 20, available: 1 << 20 });
        assert_eq!(memory(""), Memory::default());
    }

    #[test]
    fn this_machine_has_a_pulse() {
        let beat = read(Duration::from_secs(10));
        assert!(beat.uptime > 0.0 && beat.memory.total > beat.memory.available);
        assert_eq!(beat.interval, 10);
    }
}
