//! What starts the agent, where systemd does.

use std::path::Path;

use super::Finding;
use super::system::System;

/// Where units are, the first outranking the rest.
const UNITS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];
const RULES: [&str; 4] =
    ["/etc/udev/rules.d", "/run/udev/rules.d", "/usr/lib/udev/rules.d", "/lib/udev/rules.d"];
const UNIT: &str = "ostler-guest-agent.service";
const STOCK_UNIT: &str = "qemu-guest-agent.service";
const INSTALL: &str = "install the agent's package";

pub(super) fn examine(system: &System) -> Vec<Finding> {
    const CHECK: &str = "service";
    if !system.exists("/run/systemd/system") {
        let said = "systemd does not run; whatever does has to start the agent";
        return vec![Finding::fine(CHECK, said)];
    }
    let unit = match found(system, UNIT) {
        None => Finding::problem(CHECK, format!("{UNIT} is not installed"), INSTALL),
        Some(Unit::Masked) => Finding::problem(
            CHECK,
            format!("{UNIT} is masked: nothing starts it"),
            format!("systemctl unmask {UNIT}"),
        ),
        Some(Unit::Alias | Unit::File) => Finding::fine(CHECK, format!("{UNIT} is installed")),
    };
    let mut findings = vec![unit];
    match found(system, STOCK_UNIT) {
        None | Some(Unit::Alias) => {}
        Some(Unit::Masked) => findings.push(Finding::warning(
            CHECK,
            format!("{STOCK_UNIT} is masked, which does not stop the agent by its own name"),
            format!("if it is not to run: systemctl mask {UNIT}; else unmask the other"),
        )),
        Some(Unit::File) => findings.push(Finding::warning(
            CHECK,
            format!("{STOCK_UNIT} of a stock agent is installed too"),
            "remove the package qemu-guest-agent: both want the same port",
        )),
    }
    findings.push(rule(system));
    findings
}

fn rule(system: &System) -> Finding {
    const CHECK: &str = "udev rule";
    let mut rules = RULES.iter().flat_map(|place| {
        system.list(place).into_iter().map(move |name| Path::new(place).join(name))
    });
    // the first of a name outranks the rest
    let rule = rules.find(|path| path.to_string_lossy().ends_with("ostler-guest-agent.rules"));
    let Some(path) = rule else {
        let said = "not installed: nothing starts the agent when its port comes";
        return Finding::problem(CHECK, said, INSTALL);
    };
    let place = path.display();
    if system.link(&path).as_deref() == Some(Path::new("/dev/null")) {
        return Finding::problem(
            CHECK,
            format!("{place} hides it: nothing starts the agent when its port comes"),
            format!("rm {place}; udevadm control --reload"),
        );
    }
    Finding::fine(CHECK, format!("{place} starts the agent when its port comes"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unit {
    Masked,
    /// Another name of this agent's.
    Alias,
    File,
}

fn found(system: &System, name: &str) -> Option<Unit> {
    UNITS.iter().find_map(|place| {
        let path = Path::new(place).join(name);
        match system.link(&path) {
            Some(target) if target == Path::new("/dev/null") => Some(Unit::Masked),
            Some(target) if System::file_name(&target) == UNIT => Some(Unit::Alias),
            _ => system.exists(&path).then_some(Unit::File),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::system::fixture::Tree;
    use super::super::tests::healthy;
    use super::*;

    fn bad(tree: &Tree) -> Vec<(Verdict, &'static str)> {
        let findings = examine(&tree.system());
        let bad = findings.into_iter().filter(|finding| finding.verdict != Verdict::Fine);
        bad.map(|finding| (finding.verdict, finding.check)).collect()
    }

    #[test]
    fn what_starts_the_agent_has_to_be_installed_where_systemd_runs() {
        let tree = Tree::new();
        assert_eq!(bad(&tree), []);
        tree.directory("run/systemd/system");
        assert_eq!(bad(&tree), [(Verdict::Problem, "service"), (Verdict::Problem, "udev rule")]);
        assert_eq!(bad(&healthy()), []);
    }

    #[test]
    fn masks_are_seen() {
        let tree = healthy();
        tree.link("/dev/null", "etc/systemd/system/qemu-guest-agent.service");
        assert_eq!(bad(&tree), [(Verdict::Warning, "service")]);
        tree.remove("etc/systemd/system/qemu-guest-agent.service");
        tree.link("/dev/null", "etc/systemd/system/ostler-guest-agent.service");
        assert_eq!(bad(&tree), [(Verdict::Problem, "service")]);
        let tree = healthy();
        tree.link("/dev/null", "etc/udev/rules.d/99-ostler-guest-agent.rules");
        assert_eq!(bad(&tree), [(Verdict::Problem, "udev rule")]);
    }

    #[test]
    fn a_stock_unit_beside_this_one_is_told() {
        let tree = healthy();
        tree.remove("usr/lib/systemd/system/qemu-guest-agent.service");
        tree.file("lib/systemd/system/qemu-guest-agent.service", "[Unit]\n");
        assert_eq!(bad(&tree), [(Verdict::Warning, "service")]);
        tree.link(
            "/usr/lib/systemd/system/ostler-guest-agent.service",
            "etc/systemd/system/qemu-guest-agent.service",
        );
        assert_eq!(bad(&tree), [], "a name that outranks it");
    }
}
