//! The program that is told of freezing and thawing, and the scripts it runs.

use std::path::{Path, PathBuf};

use super::Finding;
use super::system::System;

const CHECK: &str = "hook";
/// Where hooks are by custom, set or not.
const PLACES: [&str; 2] = ["/etc/qemu/fsfreeze-hook", "/etc/qemu-ga/fsfreeze-hook"];
/// Left over from editors and package managers; the shipped hook passes over them.
const LEFT_OVER: [&str; 8] =
    ["~", ".bak", ".orig", ".rpmnew", ".rpmorig", ".rpmsave", ".sample", ".dpkg-"];

pub(super) fn examine(system: &System, hook: Option<&Path>) -> Vec<Finding> {
    let Some(hook) = hook else { return vec![unset(system)] };
    let place = hook.display();
    let first = if !system.exists(hook) {
        Finding::problem(
            CHECK,
            format!("{place} is set and not there: every freeze fails"),
            "install it, or set none: fsfreeze-hook in /etc/ostler/guest-agent.conf",
        )
    } else if !system.is_program(hook) {
        Finding::problem(
            CHECK,
            format!("{place} cannot be run: every freeze fails"),
            format!("chmod 755 {place}"),
        )
    } else if let Some(why) = system.foreign(hook) {
        foreign(hook, &why)
    } else {
        Finding::fine(CHECK, format!("{place} is run"))
    };
    let mut findings = vec![first];
    findings
        .extend(scripts(system, hook).iter().filter_map(|script| examine_script(system, script)));
    findings
}

/// No hook is set; scripts for one may be there all the same, and nobody runs them.
fn unset(system: &System) -> Finding {
    for hook in PLACES {
        let waiting = scripts(system, Path::new(hook))
            .iter()
            .any(|script| system.is_program(script) && !is_left_over(&System::file_name(script)));
        if waiting {
            return Finding::warning(
                CHECK,
                format!("none is set, and there are scripts in {hook}.d that nobody runs"),
                format!("set it: fsfreeze-hook = {hook} in /etc/ostler/guest-agent.conf"),
            );
        }
    }
    Finding::fine(CHECK, "none is set")
}

fn scripts(system: &System, hook: &Path) -> Vec<PathBuf> {
    let folder = hook.with_file_name("fsfreeze-hook.d");
    system.list(&folder).into_iter().map(|name| folder.join(name)).collect()
}

fn is_left_over(name: &str) -> bool {
    LEFT_OVER.iter().any(|end| match *end {
        ".dpkg-" => name.contains(".dpkg-"),
        end => name.ends_with(end),
    })
}

fn examine_script(system: &System, script: &Path) -> Option<Finding> {
    let place = script.display();
    if is_left_over(&System::file_name(script)) || system.is_directory(script) {
        return None;
    }
    if !system.is_program(script) {
        return Some(Finding::warning(
            CHECK,
            format!("{place} cannot be run and is passed over"),
            format!("chmod 755 {place}, or remove it"),
        ));
    }
    system.foreign(script).map(|why| foreign(script, &why))
}

/// Whoever can write what root runs is root.
fn foreign(path: &Path, why: &str) -> Finding {
    let place = path.display();
    Finding::problem(
        CHECK,
        format!("{place} {why}, and is run as root"),
        format!("chown root:root {place}; chmod 755 {place}; and look what is in it"),
    )
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::system::fixture::Tree;
    use super::*;

    const HOOK: &str = "/etc/qemu/fsfreeze-hook";

    fn verdicts(tree: &Tree) -> Vec<Verdict> {
        examine(&tree.system(), Some(Path::new(HOOK))).iter().map(|it| it.verdict).collect()
    }

    #[test]
    fn a_hook_has_to_be_there_to_be_run_and_to_be_roots() {
        let tree = Tree::new();
        assert_eq!(verdicts(&tree), [Verdict::Problem]);
        tree.file("etc/qemu/fsfreeze-hook", "");
        assert_eq!(verdicts(&tree), [Verdict::Problem]);
        tree.mode("etc/qemu/fsfreeze-hook", 0o755);
        assert_eq!(verdicts(&tree), [Verdict::Fine]);
        tree.mode("etc/qemu/fsfreeze-hook", 0o775);
        assert_eq!(verdicts(&tree), [Verdict::Problem]);
        tree.mode("etc/qemu/fsfreeze-hook", 0o755);
        let findings = examine(&tree.of_another_user(), Some(Path::new(HOOK)));
        assert!(findings[0].said.contains("belongs to user"), "{findings:?}");
    }

    #[test]
    fn scripts_of_the_hook_are_looked_at_and_what_is_left_over_is_not() {
        let tree = Tree::new();
        tree.program("etc/qemu/fsfreeze-hook");
        tree.program("etc/qemu/fsfreeze-hook.d/10-good");
        tree.file("etc/qemu/fsfreeze-hook.d/20-good.dpkg-old", "");
        tree.file("etc/qemu/fsfreeze-hook.d/30-good~", "");
        assert_eq!(verdicts(&tree), [Verdict::Fine]);
        tree.file("etc/qemu/fsfreeze-hook.d/40-mode", "");
        tree.program("etc/qemu/fsfreeze-hook.d/50-open");
        tree.mode("etc/qemu/fsfreeze-hook.d/50-open", 0o777);
        assert_eq!(verdicts(&tree), [Verdict::Fine, Verdict::Warning, Verdict::Problem]);
    }

    #[test]
    fn scripts_that_nobody_runs_are_told() {
        let tree = Tree::new();
        assert_eq!(examine(&tree.system(), None)[0].verdict, Verdict::Fine);
        tree.program("etc/qemu-ga/fsfreeze-hook.d/10-mysql.sample");
        assert_eq!(examine(&tree.system(), None)[0].verdict, Verdict::Fine);
        tree.program("etc/qemu-ga/fsfreeze-hook.d/10-mysql");
        assert_eq!(examine(&tree.system(), None)[0].verdict, Verdict::Warning);
    }
}
