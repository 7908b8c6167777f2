//! The built program as a process: how it starts, is told things, and ends.
//!
//! Nothing here sends a command that changes the machine.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, ttyname};
use tempfile::TempDir;

/// Nothing waited for takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn command(program: &str) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    Command::new(program)
}

fn program(arguments: &[&str]) -> Command {
    let mut command = command(env!("CARGO_BIN_EXE_ostler-guest-agent"));
    command.args(arguments).env_remove("QGA_CONF");
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().unwrap()
}

/// Waits until something that another process does has happened.
fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "{what}");
        // files cannot be waited for here, and processes of others neither
        poll(&mut [], PollTimeout::from(5_u8)).unwrap();
    }
}

struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// The options of an agent that listens and keeps all it has here.
    fn options(&self) -> Vec<String> {
        let mut options: Vec<_> =
            ["-m", "unix-listen", "-a", "guest-ping,guest-sync"].map(str::to_owned).into();
        options.extend([format!("-p{}", self.text("socket")), format!("-t{}", self.text(""))]);
        options.push(format!("-f{}", self.text("pid")));
        options
    }
}

/// An agent that ends with the test.
struct Agent(Child);

impl Agent {
    fn start(mut command: Command) -> Self {
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A daemon, which is nobody's child; it ends with the test.
struct Daemon(Pid);

impl Daemon {
    fn start(place: &Place, more: &[&str]) -> Self {
        let mut command = program(more);
        // relative to the folder of whoever starts it, which it leaves
        command.args(place.options()).args(["-d", "-l", "log"]).current_dir(place.0.path());
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        // the lock is there when the starter ends, and the id soon
        until("a process id is written", || place.pid().is_some());
        Self(Pid::from_raw(place.pid().unwrap()))
    }

    fn status(&self, key: &str) -> Option<String> {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.0)).ok()?;
        let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        Some(value.trim().to_owned())
    }
}

impl Place {
    fn pid(&self) -> Option<i32> {
        std::fs::read_to_string(self.path("pid")).ok()?.strip_suffix('\n')?.parse().ok()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if self.status("Name").is_some_and(|name| name.starts_with("ostler-guest")) {
            let _ = kill(self.0, Signal::SIGKILL);
        }
    }
}

fn connect(path: &Path) -> UnixStream {
    until("the agent listens", || UnixStream::connect(path).is_ok());
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ping(stream: &mut (impl Read + Write)) {
    stream.write_all(b"{'execute':'guest-ping'}").unwrap();
    let expected = b"{\"return\": {}}\n";
    let mut reply = [0; 15];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, expected);
}

#[test]
fn a_daemon_leaves_its_starters_world_and_its_id() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &["-v"]);
    ping(&mut connect(&place.path("socket")));
    let link = |name: &str| std::fs::read_link(format!("/proc/{}/{name}", daemon.0)).unwrap();
    assert_eq!(link("cwd"), Path::new("/"));
    for descriptor in ["fd/0", "fd/1", "fd/2"] {
        assert_eq!(link(descriptor), Path::new("/dev/null"));
    }
    assert_eq!(daemon.status("Umask").unwrap(), "0077");
    assert_eq!(nix::unistd::getsid(Some(daemon.0)).unwrap(), daemon.0);
    let ignored = u64::from_str_radix(&daemon.status("SigIgn").unwrap(), 16).unwrap();
    assert_ne!(ignored & 1 << (Signal::SIGPIPE as i32 - 1), 0);
    until("it logs", || std::fs::read_to_string(place.path("log")).unwrap().contains("serving"));

    kill(daemon.0, Signal::SIGTERM).unwrap();
    until("the process id file goes", || !place.path("pid").exists());
    until("the daemon ends", || daemon.status("State").is_none_or(|state| state.starts_with('Z')));
}

#[test]
fn a_second_daemon_is_refused_and_its_starter_told() {
    let place = Place::new();
    let daemon = Daemon::start(&place, &[]);
    let mut second = program(&["-d"]);
    let other = Place::new();
    second.args(other.options()).args(["-f", &place.text("pid")]);
    let output = second.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("another agent runs"), "{text}");
    assert_eq!(place.pid(), Some(daemon.0.as_raw()));
    ping(&mut connect(&place.path("socket")));
}

#[test]
fn a_log_that_was_moved_away_is_begun_anew_on_sighup() {
    let place = Place::new();
    let mut command = program(&["-v", "-l", &place.text("log")]);
    command.args(place.options());
    let mut agent = Agent::start(command);
    ping(&mut connect(&place.path("socket")));
    until("it logs", || std::fs::metadata(place.path("log")).unwrap().len() > 0);
    std::fs::rename(place.path("log"), place.path("old")).unwrap();
    agent.signal(Signal::SIGHUP);
    until("the log is there again", || place.path("log").exists());
    // a command that fails is told
    let mut client = connect(&place.path("socket"));
    client.write_all(b"{'execute':'guest-sync'}").unwrap();
    let mut line = String::new();
    BufReader::new(&client).read_line(&mut line).unwrap();
    assert!(line.contains("missing"), "{line}");
    let text = |name: &str| std::fs::read_to_string(place.path(name)).unwrap();
    until("it logs", || text("log").contains("guest-sync failed"));
    assert!(!text("log").contains("serving"));
    assert!(text("old").contains("serving"));
    drop(client);
    agent.signal(Signal::SIGTERM);
    assert!(agent.0.wait().unwrap().success());
}

#[test]
fn a_dump_is_a_configuration_that_says_the_same() {
    let place = Place::new();
    let dump = |arguments: &[&str], configuration: Option<&str>| {
        let mut command = program(arguments);
        if let Some(path) = configuration {
            command.env("QGA_CONF", path);
        }
        let output = command.output().unwrap();
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = dump(
        &[
            "-D",
            "-d",
            "-v",
            "-munix-listen",
            "-p/s",
            "-F/hook",
            "-bguest-exec",
            "-aguest-ping",
            "-r",
        ],
        None,
    );
    assert!(first.starts_with("[general]\ndaemon=true\nmethod=unix-listen\npath=/s\n"), "{first}");
    std::fs::write(place.path("conf"), &first).unwrap();
    let path = place.text("conf");
    assert_eq!(dump(&["-D", "-c", &path], None), first);
    assert_eq!(dump(&["--dump-conf"], Some(&path)), first);
    assert_ne!(dump(&["-D", "-p", "/other"], Some(&path)), first);
    assert!(dump(&["-D"], Some("/no/such/file")).contains("method=virtio-serial"));
}

/// What Debian's agent lists, and this one is to take the place of.
const STOCK: &str = "guest-sync-delimited guest-sync guest-ping guest-info guest-shutdown \
    guest-network-get-interfaces guest-get-fsinfo guest-set-user-password guest-get-host-name \
    guest-get-osinfo";

#[test]
fn the_list_of_commands_has_the_stock_ones_in_the_order_of_their_names() {
    let output = run(&["-b", "help"]);
    let text = String::from_utf8(output.stdout).unwrap();
    let names: Vec<_> = text.lines().collect();
    assert!(names.is_sorted());
    for name in STOCK.split_whitespace() {
        assert!(names.contains(&name), "{name}");
    }
    assert_eq!(run(&["-b", "?"]).stdout, text.as_bytes());
}

#[test]
fn what_cannot_be_used_ends_the_agent_with_one_and_is_named() {
    let place = Place::new();
    std::fs::write(place.path("junk"), "[general]\njunk\n").unwrap();
    let junk = place.text("junk");
    let state = place.text("");
    for (arguments, named) in [
        (&["-c", &junk][..], junk.as_str()),
        (&["-c", "/no/such/conf"], "/no/such/conf"),
        (&["-t", "/no/such/state"], "/no/such/state"),
        (&["-t", &state, "-l", "/no/such/log"], "/no/such/log"),
        (&["-t", &state, "-d", "-f", "/no/such/pid"], "/no/such/pid"),
        (&["-t", &state, "-m", "isa-serial", "-p", "/no/such/line"], "/no/such/line"),
        (&["-t", &state, "-m", "isa-serial", "-p", "/dev/null"], "/dev/null"),
        (&["-t", &state, "-m", "unix-listen", "-p", "/no/such/socket"], "/no/such/socket"),
        (&["-t", &state, "-m", "vsock-listen", "-p", "/dev/vsock"], "'/dev/vsock'"),
        (&["-m", "vsock-listen"], "vsock-listen"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(text.matches(named).count(), 1, "{arguments:?}: {text}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
}

#[test]
fn a_word_too_many_is_told_and_does_no_harm() {
    let place = Place::new();
    let mut command = program(&["-F", "/hook"]);
    command.args(place.options()).stderr(Stdio::piped());
    let mut agent = Agent::start(command);
    let mut line = String::new();
    BufReader::new(agent.0.stderr.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.ends_with(": warning: '/hook' belongs to no option\n"), "{line}");
    ping(&mut connect(&place.path("socket")));
}

/// An agent that is passed a socket as a service manager does it: as descriptor 3.
fn activated(socket: OwnedFd, count: &str, options: &[String]) -> Command {
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=$0 exec \"$@\"";
    let mut shell = command("/bin/sh");
    shell.args(["-c", script, count, env!("CARGO_BIN_EXE_ostler-guest-agent")]);
    shell.args(options).stdin(Stdio::from(socket));
    shell
}

#[test]
fn a_socket_that_is_passed_takes_the_place_of_the_standard_channel() {
    let place = Place::new();
    let listener = UnixListener::bind(place.path("passed")).unwrap();
    let _agent = Agent(activated(listener.into(), "1", &place.options()).spawn().unwrap());
    ping(&mut connect(&place.path("passed")));
    ping(&mut connect(&place.path("passed")));
    assert!(!place.path("socket").exists());
}

#[test]
fn what_is_passed_and_cannot_be_served_is_refused() {
    let place = Place::new();
    let tcp = || OwnedFd::from(std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    for (count, named) in [("1", "no unix or vsock socket"), ("2", "2 sockets")] {
        let output = activated(tcp(), count, &place.options()).output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains(named), "{text}");
    }
}

#[test]
fn the_service_manager_hears_of_start_life_and_end() {
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let told = || {
        let mut buffer = [0; 64];
        let count = manager.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..count].to_vec()).unwrap()
    };
    let mut command = program(&[]);
    command.args(place.options());
    command.env("NOTIFY_SOCKET", place.path("notify")).env("WATCHDOG_USEC", "20000");
    let mut agent = Agent::start(command);
    assert_eq!(told(), "READY=1");
    // it serves when it says so
    ping(&mut UnixStream::connect(place.path("socket")).unwrap());
    for _ in 0..3 {
        assert_eq!(told(), "WATCHDOG=1");
    }
    agent.signal(Signal::SIGTERM);
    while told() != "STOPPING=1" {}
    assert!(agent.0.wait().unwrap().success());
}

/// The host's end of a serial line.
struct Host(File);

impl Host {
    /// What comes until the end of a line.
    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        while line.last() != Some(&b'\n') {
            let mut ready = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            let patience = PollTimeout::try_from(PATIENCE).unwrap();
            assert_eq!(poll(&mut ready, patience).unwrap(), 1, "a line comes: {line:?}");
            let mut byte = [0];
            self.0.read_exact(&mut byte).unwrap();
            line.extend(byte);
        }
        line
    }
}

#[test]
fn a_serial_line_carries_bytes_as_they_are() {
    let place = Place::new();
    let ends = openpty(None, None).unwrap();
    let mut host = Host(ends.master.into());
    let line = ttyname(ends.slave.as_fd()).unwrap();
    let mut command = program(&["-m", "isa-serial", "--baud", "115200", "-t", &place.text("")]);
    command.arg("-p").arg(&line).args(["-a", "guest-sync-delimited,guest-sync,guest-ping"]);
    command.env("NOTIFY_SOCKET", place.path("notify"));
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut agent = Agent::start(command);
    // before that the line would echo
    manager.recv(&mut [0; 64]).unwrap();

    host.0.write_all(b"{'execute': 'half").unwrap();
    host.0.write_all(b"\xFF{'execute':'guest-sync-delimited','arguments':{'id':7}}").unwrap();
    while host.line() != b"\xFF{\"return\": 7}\n" {}
    // a byte that a terminal would take for an interrupt is but a wrong one
    host.0.write_all(b"\x03\n{'execute':'guest-sync','arguments':{'id':8}}\r\n").unwrap();
    let refused = host.line();
    assert!(refused.starts_with(b"{\"error\""), "{refused:?}");
    while host.line() != b"{\"return\": 8}\n" {}
    // more than the line takes at a time
    for _ in 0..1000 {
        host.0.write_all(b"{'execute':'guest-ping'}").unwrap();
        assert_eq!(host.line(), b"{\"return\": {}}\n");
    }
    agent.signal(Signal::SIGTERM);
    assert!(agent.0.wait().unwrap().success());
}

#[test]
fn a_socket_of_vsock_is_served() {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, VsockAddr, bind, connect, getsockname, socket,
    };
    use std::os::fd::AsRawFd;
    let new = || socket(AddressFamily::Vsock, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
    // a port nobody has
    let free = new().and_then(|socket| {
        bind(socket.as_raw_fd(), &VsockAddr::new(u32::MAX, u32::MAX))?;
        getsockname::<VsockAddr>(socket.as_raw_fd())
    });
    let Ok(free) = free else {
        eprintln!("skipped: this kernel has no vsock");
        return;
    };
    let place = Place::new();
    let manager = UnixDatagram::bind(place.path("notify")).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = format!("4294967295:{}", free.port());
    let mut command = program(&["-m", "vsock-listen", "-p", &address, "-a", "guest-ping"]);
    command.args(["-t", &place.text("")]).env("NOTIFY_SOCKET", place.path("notify"));
    let _agent = Agent::start(command);
    manager.recv(&mut [0; 64]).unwrap();
    let client = new().unwrap();
    // one's own context
    match connect(client.as_raw_fd(), &VsockAddr::new(1, free.port())) {
        Ok(()) => ping(&mut UnixStream::from(client)),
        Err(error) => eprintln!("skipped beyond listening: no vsock to oneself here: {error}"),
    }
}
