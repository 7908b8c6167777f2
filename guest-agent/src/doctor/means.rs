//! What the guest has for what the agent is asked to do, and what stands in where it is missing.

use super::Finding;
use super::system::System;

pub(super) fn examine(system: &System) -> Vec<Finding> {
    vec![passwords(system), power(system), suspend(system), clock(system)]
}

fn passwords(system: &System) -> Finding {
    const CHECK: &str = "passwords";
    let chpasswd = system.find("chpasswd");
    // one that chooses its own algorithm is not asked
    let busybox = chpasswd.as_deref().is_some_and(|path| {
        system.resolve(path).is_some_and(|file| System::file_name(&file).starts_with("busybox"))
    });
    match chpasswd {
        Some(path) if !busybox => Finding::fine(CHECK, format!("set by {}", path.display())),
        _ if system.exists("/etc/shadow") => Finding::fine(
            CHECK,
            "no chpasswd but a busybox's at most: the agent writes /etc/shadow",
        ),
        _ if system.exists("/etc/passwd") => Finding::warning(
            CHECK,
            "neither chpasswd nor /etc/shadow: the agent writes /etc/passwd, which all can read",
            "pwconv, or: install -m 600 /dev/null /etc/shadow",
        ),
        _ => {
            Finding::warning(CHECK, "no accounts: /etc/passwd is not there", "make one, if wanted")
        }
    }
}

fn power(system: &System) -> Finding {
    const CHECK: &str = "power";
    for name in ["poweroff", "shutdown", "busybox"] {
        if let Some(path) = system.find(name) {
            return Finding::fine(CHECK, format!("shut down by {}", path.display()));
        }
    }
    Finding::warning(
        CHECK,
        "neither poweroff, shutdown nor busybox: the kernel is told, and services are not stopped",
        "install what stops services here",
    )
}

fn suspend(system: &System) -> Finding {
    const CHECK: &str = "suspend";
    let states = system.word("/sys/power/state").unwrap_or_default();
    let states: Vec<_> =
        states.split_whitespace().filter(|state| matches!(*state, "mem" | "disk")).collect();
    if states.is_empty() {
        return Finding::fine(CHECK, "not possible in this guest");
    }
    let by = ["systemctl", "pm-suspend"].iter().find_map(|name| system.find(name));
    let by = by.map_or_else(|| "the kernel alone".to_owned(), |path| path.display().to_string());
    Finding::fine(CHECK, format!("to {}, by {by}", states.join(" and ")))
}

fn clock(system: &System) -> Finding {
    const CHECK: &str = "clock";
    if ["/dev/rtc0", "/dev/rtc"].iter().any(|path| system.exists(path)) {
        return Finding::fine(CHECK, "there is a real-time clock");
    }
    Finding::fine(CHECK, "no real-time clock: a time that is set lasts until the guest stops")
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::system::fixture::Tree;
    use super::*;

    #[test]
    fn what_sets_passwords_is_named() {
        let tree = Tree::new();
        let said = |tree: &Tree| {
            let finding = passwords(&tree.system());
            (finding.verdict, finding.said)
        };
        assert_eq!(said(&tree).0, Verdict::Warning);
        tree.file("etc/passwd", "");
        assert!(said(&tree).1.contains("/etc/passwd, which all can read"));
        tree.file("etc/shadow", "");
        assert_eq!(said(&tree).0, Verdict::Fine);
        tree.program("bin/busybox");
        tree.link("../bin/busybox", "sbin/chpasswd");
        assert!(said(&tree).1.contains("the agent writes /etc/shadow"), "{:?}", said(&tree));
        tree.program("usr/sbin/chpasswd");
        assert_eq!(said(&tree).1, "set by /usr/sbin/chpasswd");
    }

    #[test]
    fn what_stands_in_for_power_is_named() {
        let tree = Tree::new();
        assert_eq!(power(&tree.system()).verdict, Verdict::Warning);
        assert_eq!(suspend(&tree.system()).said, "not possible in this guest");
        tree.program("bin/busybox");
        assert_eq!(power(&tree.system()).said, "shut down by /bin/busybox");
        tree.file("sys/power/state", "freeze mem disk\n");
        assert_eq!(suspend(&tree.system()).said, "to mem and disk, by the kernel alone");
        tree.program("usr/bin/systemctl");
        assert_eq!(suspend(&tree.system()).said, "to mem and disk, by /usr/bin/systemctl");
    }
}
