//! SELinux and AppArmor: whether they hold the agent back.

use super::Finding;
use super::agents::Agents;
use super::system::System;

/// The domain that distributions' policies have for the stock agent.
const DOMAIN: &str = "virt_qemu_ga_t";
/// What lifts its limits, and what for.
const BOOLEANS: [(&str, &str); 4] = [
    ("virt_qemu_ga_manage_ssh", "SSH keys of users"),
    ("virt_qemu_ga_read_nonsecurity_files", "reading files"),
    ("virt_qemu_ga_run_unconfined", "programs in their own domain"),
    ("virt_rw_qemu_ga_data", "writing files of its own"),
];
const AUDIT: &str = "/var/log/audit/audit.log";

pub(super) fn examine(system: &System, agents: &Agents) -> Vec<Finding> {
    let pid = agents.ours.first().map(|agent| agent.pid);
    let mut findings = selinux(system, pid);
    findings.extend(apparmor(system, pid));
    findings
}

fn selinux(system: &System, pid: Option<u32>) -> Vec<Finding> {
    const CHECK: &str = "SELinux";
    let Some(enforcing) = system.word("/sys/fs/selinux/enforce") else {
        return vec![Finding::fine(CHECK, "is not on")];
    };
    if enforcing != "1" {
        return vec![Finding::fine(CHECK, "is permissive: it holds nothing back")];
    }
    let context = pid.and_then(|pid| system.word(format!("/proc/{pid}/attr/current")));
    let domain = context.as_deref().and_then(|context| context.split(':').nth(2)).unwrap_or("");
    let mut findings = Vec::new();
    match domain {
        "" => findings
            .push(Finding::fine(CHECK, "enforces; no agent runs whose domain could be told")),
        DOMAIN => {
            let off: Vec<_> = BOOLEANS
                .iter()
                .filter(|(name, _)| {
                    let value = system.word(format!("/sys/fs/selinux/booleans/{name}"));
                    value.is_some_and(|value| value.starts_with('0'))
                })
                .collect();
            for (name, what) in &off {
                findings.push(Finding::warning(
                    CHECK,
                    format!("{DOMAIN} is kept from {what}: {name} is off"),
                    format!("if the host is to have it: setsebool -P {name} on"),
                ));
            }
            if off.is_empty() {
                findings.push(Finding::fine(CHECK, format!("enforces; the agent is in {DOMAIN}")));
            }
        }
        domain => {
            findings.push(Finding::fine(CHECK, format!("enforces; the agent is in {domain}")))
        }
    }
    findings.extend(denials(system, domain));
    findings
}

/// What was refused to the agent of late.
fn denials(system: &System, domain: &str) -> Option<Finding> {
    let log = system.read_end(AUDIT)?;
    let ours = |line: &&str| {
        line.contains("avc:  denied")
            && (line.contains("comm=\"ostler-guest-ag\"")
                || line.contains(DOMAIN)
                || (domain == DOMAIN && line.contains("comm=\"qemu-ga\"")))
    };
    let lines: Vec<_> = log.lines().filter(ours).collect();
    let last = lines.last()?;
    // type=AVC msg=audit(..): avc:  denied  { read } for  pid=..
    let what = last.split_once("avc:").map_or(*last, |(_, rest)| rest.trim());
    let what: String = what.chars().take(200).collect();
    Some(Finding::warning(
        "SELinux",
        format!("{} denials in {AUDIT}, the last: {what}", lines.len()),
        "ausearch -m avc -c ostler-guest-ag; audit2why -b says which boolean or label it is",
    ))
}

fn apparmor(system: &System, pid: Option<u32>) -> Option<Finding> {
    const CHECK: &str = "AppArmor";
    if system.word("/sys/module/apparmor/parameters/enabled")? != "Y" {
        return None;
    }
    let profile = pid.and_then(|pid| {
        system
            .word(format!("/proc/{pid}/attr/apparmor/current"))
            .or_else(|| system.word(format!("/proc/{pid}/attr/current")))
    });
    Some(match profile.as_deref() {
        None | Some("") => Finding::fine(CHECK, "is on; no agent runs whose profile could be told"),
        Some("unconfined") => Finding::fine(CHECK, "is on; the agent has no profile"),
        Some(profile) if profile.ends_with("(enforce)") => Finding::warning(
            CHECK,
            format!("holds the agent to a profile: {profile}"),
            "journalctl -k -g apparmor says what was refused",
        ),
        Some(profile) => Finding::fine(CHECK, format!("holds nothing back: {profile}")),
    })
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::system::fixture::Tree;
    use super::super::tests::healthy;
    use super::*;

    fn examined(tree: &Tree) -> Vec<Finding> {
        let system = tree.system();
        examine(&system, &Agents::running(&system))
    }

    #[test]
    fn a_confined_agent_is_told_which_booleans_are_off() {
        let tree = healthy();
        tree.file("sys/fs/selinux/enforce", "1");
        tree.file("proc/70/attr/current", "system_u:system_r:virt_qemu_ga_t:s0\0");
        tree.file("sys/fs/selinux/booleans/virt_qemu_ga_manage_ssh", "0 0");
        tree.file("sys/fs/selinux/booleans/virt_rw_qemu_ga_data", "1 1");
        let findings = examined(&tree);
        let [finding] = findings.as_slice() else { panic!("{findings:?}") };
        assert_eq!(finding.verdict, Verdict::Warning);
        assert!(finding.next.as_ref().unwrap().contains("setsebool -P virt_qemu_ga_manage_ssh on"));
        tree.file("sys/fs/selinux/enforce", "0");
        assert_eq!(examined(&tree)[0].verdict, Verdict::Fine);
    }

    #[test]
    fn denials_of_the_agent_are_counted_and_others_are_not() {
        let tree = healthy();
        tree.file("sys/fs/selinux/enforce", "1");
        tree.file("proc/70/attr/current", "system_u:system_r:unconfined_service_t:s0\0");
        let line = |name: &str| {
            format!(
                "type=AVC msg=audit(1.1:1): avc:  denied  {{ read }} for  pid=1 comm=\"{name}\"\n"
            )
        };
        tree.file(&AUDIT[1..], &line("sshd"));
        assert!(examined(&tree).iter().all(|finding| finding.verdict == Verdict::Fine));
        tree.file(&AUDIT[1..], &[line("ostler-guest-ag"), line("sshd")].concat().repeat(2));
        let findings = examined(&tree);
        let last = findings.last().unwrap();
        assert_eq!(last.verdict, Verdict::Warning);
        assert!(last.said.starts_with("2 denials"), "{}", last.said);
        assert!(last.said.contains("denied  { read }"), "{}", last.said);
    }

    #[test]
    fn a_profile_that_is_enforced_is_told() {
        let tree = healthy();
        tree.file("sys/module/apparmor/parameters/enabled", "Y\n");
        tree.file("proc/70/attr/current", "unconfined\n");
        assert!(examined(&tree).iter().all(|finding| finding.verdict == Verdict::Fine));
        tree.file("proc/70/attr/apparmor/current", "qemu-ga (enforce)\n");
        assert_eq!(examined(&tree)[1].verdict, Verdict::Warning);
    }
}
