//! `ostler-guest-agent doctor`: what is missing in this guest, and the next step.
//!
//! ```text
//!  options, configuration --> Subject --+
//!                                       +--> the checks --> findings --> table or JSON, exit code
//!            /proc, /sys, /etc --> System +
//! ```
//!
//! It looks and changes nothing. It opens no port, for a port can be opened once; and it runs no program,
//! for what is wrong may be the programs. What it looks at lies under a root that tests give it.

mod agents;
mod confinement;
mod hook;
mod means;
mod ports;
mod report;
mod service;
mod system;

use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use nix::unistd::AccessFlags;
use serde::Serialize;

use crate::log::chain;
use crate::options::{self, Invocation};
use crate::settings::{Method, OSTLER_PORT, STANDARD_PORT, Settings};
use report::Form;
use system::System;

/// The program was not used as it is to be, as `sysexits` has it.
const USAGE: u8 = 64;

/// How bad it is, the least first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Fine,
    /// It works, and something about it will not.
    Warning,
    /// It does not work.
    Problem,
}

/// What one look has shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    said: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

impl Finding {
    fn fine(check: &'static str, said: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Fine, said: said.into(), next: None }
    }

    fn warning(check: &'static str, said: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Warning, said: said.into(), next: Some(next.into()) }
    }

    fn problem(check: &'static str, said: impl Into<String>, next: impl Into<String>) -> Self {
        Self { check, verdict: Verdict::Problem, said: said.into(), next: Some(next.into()) }
    }
}

/// Whether there is a port for the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offered {
    Yes,
    No,
}

/// What the agent is told to use, as far as it can be wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Subject {
    /// Virtio-serial ports.
    ports: Vec<PathBuf>,
    /// Serial lines.
    lines: Vec<PathBuf>,
    /// Sockets that it binds.
    sockets: Vec<PathBuf>,
    state_directory: PathBuf,
    pid_file: PathBuf,
    log_file: Option<PathBuf>,
    hook: Option<PathBuf>,
    /// What the host may not do, if there is such.
    limits: Option<String>,
}

impl Subject {
    /// Of an agent that is told nothing.
    fn by_default() -> Self {
        Self {
            ports: vec![STANDARD_PORT.into(), OSTLER_PORT.into()],
            state_directory: options::STATE_DIRECTORY.into(),
            pid_file: options::PID_FILE.into(),
            ..Self::default()
        }
    }

    fn of(settings: &Settings) -> Self {
        let channels = || settings.path.iter().chain(&settings.ostler).cloned().collect();
        let (mut ports, mut lines, mut sockets) = (Vec::new(), Vec::new(), Vec::new());
        match settings.method {
            Method::VirtioSerial => ports = channels(),
            Method::IsaSerial => lines = channels(),
            Method::UnixListen => sockets = channels(),
            // one that listens there can only be asked by its host
            Method::VsockListen => {}
        }
        let policy = &settings.policy;
        let mut limits = Vec::new();
        if policy.profile != crate::policy::Profile::Full {
            limits.push(format!("profile {}", policy.profile));
        }
        if let Some(allowed) = &policy.allowed {
            limits.push(format!("{} commands permitted", allowed.len()));
        }
        if !policy.blocked.is_empty() {
            limits.push(format!("{} commands refused", policy.blocked.len()));
        }
        Self {
            ports,
            lines,
            sockets,
            state_directory: settings.state_directory.clone(),
            pid_file: settings.pid_file.clone(),
            log_file: settings.log.file().map(Path::to_owned),
            hook: settings.hook.clone(),
            limits: (!limits.is_empty()).then(|| limits.join(", ")),
        }
    }
}

/// The program `ostler-guest-agent doctor`, with what comes after that word.
pub fn main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let terminal = std::io::stdout().is_terminal();
    let (form, options) = match Form::read(arguments, terminal) {
        Ok(read) => read,
        Err(word) => {
            let mut error = std::io::stderr();
            let _ = writeln!(error, "ostler-guest-agent: unknown output '{word}': table or json");
            return ExitCode::from(USAGE);
        }
    };
    let system = System::here();
    let findings = examine(&system, options);
    let text = report::write(&findings, form);
    if std::io::stdout().write_all(text.as_bytes()).is_err() {
        return ExitCode::FAILURE;
    }
    exit_code(&findings)
}

/// 1 if there is a problem, 2 if there are warnings only.
fn exit_code(findings: &[Finding]) -> ExitCode {
    match worst(findings) {
        Verdict::Fine => ExitCode::SUCCESS,
        Verdict::Problem => ExitCode::FAILURE,
        Verdict::Warning => ExitCode::from(2),
    }
}

fn worst(findings: &[Finding]) -> Verdict {
    findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Fine)
}

/// Looks at everything. Without options of its own, it looks with those of the agent that runs.
fn examine(system: &System, options: Vec<OsString>) -> Vec<Finding> {
    let agents = agents::Agents::running(system);
    let options = if options.is_empty() { agents.options() } else { options };
    let (subject, configuration) = read(system, options);
    let mut findings = vec![system.user()];
    findings.push(ports::machine(system));
    let ports = ports::examine(system, &subject, &agents);
    let offered = ports.offered;
    findings.extend(ports.findings);
    findings.extend(agents.examine(system, &subject, offered));
    findings.extend(configuration);
    findings.extend(subject.limits.as_ref().map(|limits| Finding::fine("policy", limits.clone())));
    findings.extend(service::examine(system));
    findings.push(folder(system, "state directory", &subject.state_directory));
    findings.extend(subject.log_file.as_deref().and_then(Path::parent).map(|place| {
        // opening the file for a try would make it
        folder(system, "log file", place)
    }));
    findings.extend(hook::examine(system, subject.hook.as_deref()));
    findings.extend(confinement::examine(system, &agents));
    findings.extend(means::examine(system));
    findings
}

/// What options and configuration come to.
fn read(system: &System, options: Vec<OsString>) -> (Subject, Vec<Finding>) {
    const CHECK: &str = "configuration";
    match options::read(options.into_iter(), &system.surroundings()) {
        Ok(Invocation::Serve(settings)) => {
            let mut findings: Vec<_> = settings
                .warnings
                .iter()
                .map(|warning| Finding::warning(CHECK, warning, "correct or remove it"))
                .collect();
            if findings.is_empty() {
                findings.push(Finding::fine(CHECK, "options and configuration are understood"));
            }
            (Subject::of(&settings), findings)
        }
        Ok(Invocation::Tell(_)) => {
            (Subject::by_default(), vec![Finding::fine(CHECK, "these options ask for no service")])
        }
        Err(error) => {
            let next = "correct it; man ostler-guest-agent has all options and keys";
            (Subject::by_default(), vec![Finding::problem(CHECK, chain(&error), next)])
        }
    }
}

fn folder(system: &System, check: &'static str, path: &Path) -> Finding {
    let place = path.display();
    if !system.is_directory(path) {
        let next = format!("mkdir -p {place}");
        if path == Path::new(options::STATE_DIRECTORY) {
            let said = format!("{place} is no directory: nothing outlives a restart of the agent");
            return Finding::warning(check, said, next);
        }
        let said = format!("{place} is no directory: the agent does not start");
        return Finding::problem(check, said, next);
    }
    if !system.may(path, AccessFlags::W_OK | AccessFlags::X_OK) {
        return Finding::problem(
            check,
            format!("{place} cannot be written to"),
            "mount it writable, or run this as root",
        );
    }
    Finding::fine(check, format!("{place} can be written to"))
}

#[cfg(test)]
mod tests {
    use super::system::fixture::Tree;
    use super::*;

    /// A guest as it should be.
    pub(super) fn healthy() -> Tree {
        let tree = Tree::new();
        tree.file("sys/class/dmi/id/sys_vendor", "QEMU\n");
        tree.file("sys/class/dmi/id/product_name", "Standard PC (Q35 + ICH9, 2009)\n");
        tree.file("dev/vport1p1", "");
        tree.mode("dev/vport1p1", 0o600);
        tree.link("../vport1p1", "dev/virtio-ports/org.qemu.guest_agent.0");
        tree.file("sys/class/virtio-ports/vport1p1/name", "org.qemu.guest_agent.0\n");
        tree.process(70, "ostler-guest-ag", "/usr/bin/ostler-guest-agent", &["/dev/vport1p1"]);
        tree.directory("run/systemd/system");
        tree.file("usr/lib/systemd/system/ostler-guest-agent.service", "[Unit]\n");
        tree.link("ostler-guest-agent.service", "usr/lib/systemd/system/qemu-guest-agent.service");
        tree.file("usr/lib/udev/rules.d/99-ostler-guest-agent.rules", "");
        tree.program("usr/sbin/chpasswd");
        tree.program("usr/sbin/poweroff");
        tree.program("usr/bin/systemctl");
        tree.file("etc/shadow", "root:!:::::::\n");
        tree.file("dev/rtc0", "");
        tree
    }

    fn bad(findings: &[Finding]) -> Vec<&Finding> {
        findings.iter().filter(|finding| finding.verdict != Verdict::Fine).collect()
    }

    #[test]
    fn a_guest_as_it_should_be_has_nothing_wrong() {
        let tree = healthy();
        let findings = examine(&tree.system(), Vec::new());
        assert_eq!(bad(&findings), Vec::<&Finding>::new());
        assert_eq!(exit_code(&findings), ExitCode::SUCCESS);
    }

    #[test]
    fn an_empty_system_has_problems_each_with_a_next_step() {
        let findings = examine(&Tree::new().system(), Vec::new());
        let bad = bad(&findings);
        assert!(bad.iter().all(|finding| finding.next.is_some()), "{bad:?}");
        for check in ["machine", "ports", "power", "state directory"] {
            assert!(bad.iter().any(|finding| finding.check == check), "{check}: {bad:?}");
        }
        assert_eq!(exit_code(&findings), ExitCode::FAILURE);
    }

    #[test]
    fn options_that_are_not_understood_are_a_problem_and_end_nothing() {
        let findings = examine(&healthy().system(), vec!["--profile".into(), "all".into()]);
        let bad = bad(&findings);
        let [finding] = bad.as_slice() else { panic!("{bad:?}") };
        assert_eq!(finding.check, "configuration");
        assert!(finding.said.contains("'all'"), "{}", finding.said);
        assert!(findings.len() > 5, "the rest is looked at all the same");
    }

    #[test]
    fn the_configuration_is_read_as_the_agent_reads_it() {
        let tree = healthy();
        tree.file("etc/ostler/guest-agent.conf", "[general]\nprofile=observe\nprofil=manage\n");
        let findings = examine(&tree.system(), Vec::new());
        let found = bad(&findings);
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        assert!(finding.said.contains("'profil'"), "{}", finding.said);
        assert!(findings.iter().any(|it| it.check == "policy" && it.said == "profile observe"));
        tree.file("etc/ostler/guest-agent.conf", "[general]\nprofile\n");
        let findings = examine(&tree.system(), Vec::new());
        let found = bad(&findings);
        let [finding] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!(finding.verdict, Verdict::Problem);
        assert!(finding.said.contains("line 2"), "{}", finding.said);
    }

    #[test]
    fn a_serial_line_that_is_not_there_is_told() {
        let tree = healthy();
        let options = ["-m", "isa-serial"].map(Into::into).to_vec();
        let findings = examine(&tree.system(), options.clone());
        assert_eq!(bad(&findings)[0].verdict, Verdict::Problem);
        tree.file("dev/ttyS0", "");
        tree.mode("dev/ttyS0", 0o660);
        tree.link("/dev/ttyS0", "proc/70/fd/1");
        assert_eq!(bad(&examine(&tree.system(), options)), Vec::<&Finding>::new());
    }

    #[test]
    fn the_options_of_the_agent_that_runs_are_looked_at() {
        let tree = healthy();
        tree.file("proc/70/cmdline", "/usr/bin/ostler-guest-agent\0--statedir\0/absent\0");
        let findings = examine(&tree.system(), Vec::new());
        let state = findings.iter().find(|finding| finding.check == "state directory").unwrap();
        assert_eq!(state.verdict, Verdict::Problem);
        assert!(state.said.contains("/absent"), "{}", state.said);
        let findings = examine(&tree.system(), vec!["-v".into()]);
        let state = findings.iter().find(|finding| finding.check == "state directory").unwrap();
        assert_eq!(state.verdict, Verdict::Fine, "options that are given come before them");
    }

    #[test]
    fn the_exit_code_tells_problems_from_warnings() {
        let warning = Finding::warning("x", "", "");
        let problem = Finding::problem("x", "", "");
        assert_eq!(exit_code(&[Finding::fine("x", "")]), ExitCode::SUCCESS);
        assert_eq!(exit_code(std::slice::from_ref(&warning)), ExitCode::from(2));
        assert_eq!(exit_code(&[problem, warning]), ExitCode::FAILURE);
    }
}
