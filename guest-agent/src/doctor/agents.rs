//! The agents that run: this one's service, and a stock one that is in its way.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::system::{Process, System};
use super::{Finding, Offered, Subject};

const NAME: &str = "ostler-guest-agent";
const STOCK: &str = "qemu-ga";
/// How the kernel marks the file of a process that has been replaced.
const REPLACED: &str = " (deleted)";
/// For an agent to answer on its socket.
const ANSWER: Duration = Duration::from_secs(2);

/// The agents among the programs that run.
#[derive(Debug)]
pub(super) struct Agents {
    pub(super) ours: Vec<Process>,
    pub(super) stock: Vec<Process>,
    /// All that was seen, to say who has a port.
    pub(super) all: Vec<Process>,
    options: Vec<OsString>,
}

impl Agents {
    pub(super) fn running(system: &System) -> Self {
        let all = system.processes();
        let of =
            |wanted: fn(&Process) -> bool| all.iter().filter(|it| wanted(it)).cloned().collect();
        let ours: Vec<Process> = of(is_ours);
        let options = ours.first().map(|agent| system.arguments(agent.pid)).unwrap_or_default();
        Self { stock: of(|it| it.name == STOCK && !is_ours(it)), ours, all, options }
    }

    /// What the agent that runs was told; nothing where none does.
    pub(super) fn options(&self) -> Vec<OsString> {
        self.options.clone()
    }

    /// What is to be said of them.
    pub(super) fn examine(
        &self,
        system: &System,
        subject: &Subject,
        offered: Offered,
    ) -> Vec<Finding> {
        let mut findings = vec![self.state(system, offered)];
        for socket in &subject.sockets {
            findings.push(answer(socket));
        }
        findings.extend(self.pid_file(system, &subject.pid_file));
        findings.extend(self.stock.first().map(|stock| {
            Finding::warning(
                "stock agent",
                format!("{STOCK} runs too (pid {}), and a port can be opened once", stock.pid),
                "remove the package qemu-guest-agent, or: systemctl mask --now qemu-guest-agent",
            )
        }));
        findings
    }

    fn state(&self, system: &System, offered: Offered) -> Finding {
        const CHECK: &str = "agent";
        let Some(agent) = self.ours.first() else {
            return match offered {
                Offered::Yes => Finding::problem(
                    CHECK,
                    "does not run, and there is a port for it",
                    "systemctl start ostler-guest-agent; without systemd, start \
                     /usr/bin/ostler-guest-agent from whatever starts programs here",
                ),
                Offered::No => Finding::fine(CHECK, "does not run; there is no port for it either"),
            };
        };
        let pid = agent.pid;
        if self.ours.len() > 1 {
            let pids: Vec<_> = self.ours.iter().map(|agent| agent.pid.to_string()).collect();
            return Finding::warning(
                CHECK,
                format!("runs {} times (pids {})", pids.len(), pids.join(", ")),
                "end those that no service has started: they wait for each other's ports",
            );
        }
        let stat = system.read(format!("/proc/{pid}/stat")).unwrap_or_default();
        // the name before it, in parentheses, may hold anything
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        match state {
            Some('T' | 't') => Finding::problem(
                CHECK,
                format!("is stopped (pid {pid})"),
                format!("kill -CONT {pid}, unless a debugger has it"),
            ),
            Some('Z') => Finding::problem(
                CHECK,
                format!("has ended, and its parent does not take notice (pid {pid})"),
                "start it again, and look at what has started it",
            ),
            Some('D') => Finding::warning(
                CHECK,
                format!("waits for a disk or a file system (pid {pid})"),
                format!("look again; if it stays: cat /proc/{pid}/stack"),
            ),
            _ if replaced(agent) => Finding::warning(
                CHECK,
                format!("runs (pid {pid}) a program that has been replaced since"),
                "systemctl restart ostler-guest-agent",
            ),
            _ => Finding::fine(
                CHECK,
                format!(
                    "runs (pid {pid}); whether it answers on a port, its host can say: \
                     virsh qemu-agent-command NAME '{{\"execute\":\"guest-ping\"}}'"
                ),
            ),
        }
    }

    fn pid_file(&self, system: &System, path: &Path) -> Option<Finding> {
        const CHECK: &str = "pid file";
        let place = path.display();
        let text = system.read(path)?;
        let pid: Option<u32> = text.trim().parse().ok();
        let known = |agents: &[Process]| agents.iter().any(|agent| Some(agent.pid) == pid);
        if known(&self.ours) || known(&self.stock) {
            return Some(Finding::fine(CHECK, format!("{place} is of an agent that runs")));
        }
        Some(Finding::warning(
            CHECK,
            format!("{place} names no agent that runs ({})", text.trim()),
            format!("rm {place}"),
        ))
    }
}

fn is_ours(process: &Process) -> bool {
    // it may have been started by another name, and be replaced since
    let file = process.program.as_deref().map(System::file_name);
    match file {
        Some(file) => file.trim_end_matches(REPLACED) == NAME,
        // the kernel cuts names to 15 characters
        None => process.name == NAME[..15],
    }
}

fn replaced(process: &Process) -> bool {
    process.program.as_deref().is_some_and(|file| System::file_name(file).ends_with(REPLACED))
}

/// Asks an agent on its socket. One client is served at a time, so a busy one does not answer either.
fn answer(socket: &Path) -> Finding {
    const CHECK: &str = "socket";
    let place = socket.display();
    let ask = || {
        let mut peer = UnixStream::connect(socket)?;
        peer.set_read_timeout(Some(ANSWER))?;
        peer.set_write_timeout(Some(ANSWER))?;
        // the byte begins anew, whatever the last client has left
        peer.write_all(b"\xFF{\"execute\":\"guest-ping\",\"id\":\"doctor\"}\n")?;
        let mut said = Vec::new();
        let mut some = [0; 512];
        while !said.windows(6).any(|bytes| bytes == b"doctor") {
            match peer.read(&mut some)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => said.extend_from_slice(&some[..count]),
            }
            if said.len() > 1 << 16 {
                return Err(std::io::ErrorKind::InvalidData.into());
            }
        }
        Ok::<_, std::io::Error>(())
    };
    match ask() {
        Ok(()) => Finding::fine(CHECK, format!("an agent answers at {place}")),
        Err(error) => Finding::problem(
            CHECK,
            format!("no agent answers at {place}: {error}"),
            "start it, or end the client that it serves",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::super::system::fixture::Tree;
    use super::*;
    use std::os::unix::net::UnixListener;

    fn examine(tree: &Tree, offered: Offered) -> Vec<Finding> {
        let system = tree.system();
        Agents::running(&system).examine(&system, &Subject::by_default(), offered)
    }

    fn agent(tree: &Tree) {
        tree.process(70, "ostler-guest-ag", "/usr/bin/ostler-guest-agent", &[]);
    }

    #[test]
    fn none_that_runs_is_a_problem_only_with_a_port() {
        let tree = Tree::new();
        assert_eq!(examine(&tree, Offered::Yes)[0].verdict, Verdict::Problem);
        assert_eq!(examine(&tree, Offered::No)[0].verdict, Verdict::Fine);
        agent(&tree);
        assert_eq!(examine(&tree, Offered::Yes)[0].verdict, Verdict::Fine);
    }

    #[test]
    fn one_that_is_stopped_or_replaced_is_told() {
        let tree = Tree::new();
        agent(&tree);
        for (state, verdict) in
            [("S", Verdict::Fine), ("T", Verdict::Problem), ("D", Verdict::Warning)]
        {
            tree.file("proc/70/stat", &format!("70 (a) Z) {state} 1"));
            assert_eq!(examine(&tree, Offered::Yes)[0].verdict, verdict, "{state}");
        }
        let tree = Tree::new();
        tree.process(70, "ostler-guest-ag", "/usr/bin/ostler-guest-agent (deleted)", &[]);
        assert!(examine(&tree, Offered::Yes)[0].said.contains("replaced"));
    }

    #[test]
    fn the_stock_one_is_told_from_this_one_by_its_file() {
        let tree = Tree::new();
        tree.process(70, "qemu-ga", "/usr/bin/ostler-guest-agent", &[]);
        assert!(examine(&tree, Offered::Yes).iter().all(|it| it.verdict == Verdict::Fine));
        tree.process(71, "qemu-ga", "/usr/sbin/qemu-ga", &[]);
        let findings = examine(&tree, Offered::Yes);
        let stock = findings.iter().find(|finding| finding.check == "stock agent").unwrap();
        assert_eq!(stock.verdict, Verdict::Warning, "what it has open is told of the ports");
        assert!(stock.said.contains("71"), "{}", stock.said);
    }

    #[test]
    fn a_pid_file_is_of_an_agent_or_stale() {
        let tree = Tree::new();
        agent(&tree);
        tree.file("run/qemu-ga.pid", "70\n");
        assert_eq!(examine(&tree, Offered::Yes)[1].verdict, Verdict::Fine);
        tree.file("run/qemu-ga.pid", "71\n");
        assert_eq!(examine(&tree, Offered::Yes)[1].verdict, Verdict::Warning);
    }

    #[test]
    fn a_socket_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        assert_eq!(answer(&path).verdict, Verdict::Problem);
        let listener = UnixListener::bind(&path).unwrap();
        let agent = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 512];
            let count = client.read(&mut request).unwrap();
            assert_eq!(request[0], 0xFF);
            assert!(count > 1);
            client.write_all(b"{\"return\": {}, \"id\": \"doc").unwrap();
            client.write_all(b"tor\"}\n").unwrap();
        });
        assert_eq!(answer(&path).verdict, Verdict::Fine);
        agent.join().unwrap();
    }
}
