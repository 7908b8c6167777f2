//! The built program, over a socket.
//!
//! The commands that change the machine are never sent to an agent that would carry them out: each
//! agent here is started with a list of what it may do.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

const HARMLESS: &str = "guest-sync,guest-sync-delimited,guest-ping,guest-info,guest-get-osinfo,\
    guest-get-host-name,guest-network-get-interfaces,guest-get-fsinfo";
/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

fn program(arguments: &[&str]) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the program under test")]
    let mut command = Command::new(env!("CARGO_BIN_EXE_ostler-guest-agent"));
    command.args(arguments);
    command
}

struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let standard = folder.path().join("standard");
        let ostler = folder.path().join("ostler");
        let mut child = program(&["-v", "-m", "unix-listen", "-a", HARMLESS])
            .arg("-p")
            .arg(&standard)
            .arg("--ostler-path")
            .arg(&ostler)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // its first line says that it listens
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        log.read_line(&mut line).unwrap();
        assert!(line.contains("serving"), "{line}");
        std::thread::spawn(move || log.lines().for_each(drop));
        Self { child, folder }
    }

    fn standard(&self) -> PathBuf {
        self.folder.path().join("standard")
    }

    fn ostler(&self) -> PathBuf {
        self.folder.path().join("ostler")
    }

    fn stop(mut self, signal: Signal) -> ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client {
    stream: BufReader<UnixStream>,
}

impl Client {
    fn connect(path: &Path) -> Self {
        let stream = UnixStream::connect(path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    fn line(&mut self) -> Vec<u8> {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        line
    }

    fn reply(&mut self) -> Value {
        serde_json::from_slice(&self.line()).unwrap()
    }

    fn ask(&mut self, request: &str) -> Value {
        self.send(request.as_bytes());
        self.reply()
    }

    /// Throws away what comes before the answer to a delimited sync.
    fn resynchronize(&mut self, id: i64) {
        let request = json!({"execute": "guest-sync-delimited", "arguments": {"id": id}});
        self.send(b"\xFF");
        self.send(request.to_string().as_bytes());
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the agent has closed the channel");
            if let Some(reply) = line.strip_prefix(b"\xFF") {
                let reply: Value = serde_json::from_slice(reply).unwrap();
                if reply == json!({"return": id}) {
                    return;
                }
            }
        }
    }
}

#[test]
fn every_harmless_command_answers() {
    let agent = Agent::start();
    let mut client = Client::connect(&agent.standard());
    for name in HARMLESS.split(',').filter(|name| !name.contains("sync")) {
        let reply = client.ask(&json!({"execute": name, "id": name}).to_string());
        assert_eq!(reply["id"], name);
        assert!(reply.get("return").is_some(), "{reply}");
    }
    let reply = client.ask("{'execute': 'guest-shutdown'}");
    assert_eq!(reply["error"]["class"], "CommandNotFound");
}

#[test]
fn requests_may_come_in_any_pieces() {
    let agent = Agent::start();
    let mut client = Client::connect(&agent.standard());
    for byte in b"{\"execute\": \"guest-sync\", \"arguments\": {\"id\": 1}}" {
        client.send(&[*byte]);
    }
    assert_eq!(client.line(), b"{\"return\": 1}\n");
    client.send(b"{'execute':'guest-ping','id':1}{'execute':'guest-ping','id':2}");
    assert_eq!(client.line(), b"{\"return\": {}, \"id\": 1}\n");
    assert_eq!(client.line(), b"{\"return\": {}, \"id\": 2}\n");
}

#[test]
fn a_client_that_has_sent_its_last_still_gets_its_answers() {
    let agent = Agent::start();
    let mut client = Client::connect(&agent.standard());
    client.send(b"{'execute':'guest-get-fsinfo'}{'execute':'guest-ping','id':2}");
    client.stream.get_mut().shutdown(Shutdown::Write).unwrap();
    assert!(client.reply().get("return").is_some());
    assert_eq!(client.reply()["id"], 2);
    assert_eq!(client.line(), b"", "then the channel is closed");
}

#[test]
fn the_next_client_waits_and_begins_afresh() {
    let agent = Agent::start();
    let mut first = Client::connect(&agent.standard());
    assert_eq!(first.ask("{'execute':'guest-ping'}"), json!({"return": {}}));
    let mut second = Client::connect(&agent.standard());
    second.send(b"{'execute':'guest-ping'}");
    // half a request, and a string that would swallow the other client's
    first.send(b"{'execute': \"");
    drop(first);
    assert_eq!(second.reply(), json!({"return": {}}));
}

#[test]
fn large_requests_are_read_and_too_large_ones_are_refused_alone() {
    let agent = Agent::start();
    let mut client = Client::connect(&agent.standard());
    let mut request = |megabytes: usize| {
        let data = vec![b'Q'; megabytes << 20];
        client.send(b"{'execute':'guest-ping','arguments':{'x':'");
        client.send(&data);
        client.send(b"'}}\n");
        client.reply()["error"]["desc"].clone()
    };
    assert_eq!(request(53), "Parameter 'x' is unexpected");
    assert_eq!(request(65), "JSON token size limit exceeded");
    assert_eq!(request(1), "Parameter 'x' is unexpected");
}

#[test]
fn ostlers_channel_greets_and_answers_by_id() {
    let agent = Agent::start();
    let mut client = Client::connect(&agent.ostler());
    let ready = client.reply();
    assert_eq!(ready["event"], "OSTLER_READY");
    assert!(ready["timestamp"]["seconds"].as_i64().unwrap() > 0);
    for id in 0..20 {
        client.send(json!({"execute": "guest-get-osinfo", "id": id}).to_string().as_bytes());
    }
    let mut ids = Vec::new();
    let mut events = Vec::new();
    while ids.len() < 20 || events.len() < 3 {
        let message = client.reply();
        match message.get("event") {
            Some(event) => events.push(event.as_str().unwrap().to_owned()),
            None => ids.push(message["id"].as_i64().unwrap()),
        }
    }
    ids.sort_unstable();
    assert_eq!(ids, Vec::from_iter(0..20));
    events.sort_unstable();
    assert_eq!(
        events,
        ["OSTLER_FILESYSTEMS_CHANGED", "OSTLER_HEARTBEAT", "OSTLER_NETWORK_CHANGED"]
    );
}

#[test]
fn both_signals_end_it_well() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let agent = Agent::start();
        let mut client = Client::connect(&agent.ostler());
        assert_eq!(client.reply()["event"], "OSTLER_READY");
        assert!(agent.stop(signal).success());
    }
}

#[test]
fn a_dead_socket_is_replaced_and_a_living_one_is_not() {
    let agent = Agent::start();
    let path = agent.standard();
    let second = program(&["-m", "unix-listen", "-p"]).arg(&path).output().unwrap();
    assert!(!second.status.success());
    let text = String::from_utf8(second.stderr).unwrap();
    assert!(text.contains("cannot listen on"), "{text}");
    let mut client = Client::connect(&path);
    assert_eq!(client.ask("{'execute':'guest-ping'}"), json!({"return": {}}));

    let folder = tempfile::tempdir().unwrap();
    let dead = folder.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let mut third = program(&["-v", "-m", "unix-listen", "-a", HARMLESS, "-p"])
        .arg(&dead)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(third.stderr.as_mut().unwrap()).read_line(&mut line).unwrap();
    let mut client = Client::connect(&dead);
    assert_eq!(client.ask("{'execute':'guest-ping'}"), json!({"return": {}}));
    third.kill().unwrap();
    third.wait().unwrap();
}

#[test]
fn options_have_the_exit_codes_units_rely_on() {
    let run = |arguments: &[&str]| -> Output { program(arguments).output().unwrap() };
    for good in [&["-V"][..], &["--help"], &["-b", "help"], &["--block-rpcs=?"]] {
        let output = run(good);
        assert_eq!(output.status.code(), Some(0), "{good:?}");
        assert!(!output.stdout.is_empty() && output.stderr.is_empty(), "{good:?}");
    }
    for bad in [&["-x"][..], &["-m", "tcp"], &["-m", "unix-listen", "-p", "/no/such"]] {
        let output = run(bad);
        assert_eq!(output.status.code(), Some(1), "{bad:?}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{bad:?}");
    }
}

/// A request, damaged.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let request = proptest::sample::select(vec![
        json!({"execute": "guest-ping", "id": [1, null, "x"]}),
        json!({"execute": "guest-sync", "arguments": {"id": 1}}),
        json!({"execute": "guest-sync-delimited", "arguments": {"id": -1}, "id": "\u{e9}"}),
        json!({"execute": "guest-info", "arguments": {}}),
        json!({"execute": "guest-get-host-name", "id": 18_446_744_073_709_551_615_u64}),
    ]);
    let damage = (any::<proptest::sample::Index>(), 0..4_u8, any::<u8>());
    (request, proptest::collection::vec(damage, 0..6)).prop_map(|(request, damages)| {
        let mut bytes = request.to_string().into_bytes();
        for (place, kind, byte) in damages {
            if bytes.is_empty() {
                break;
            }
            let at = place.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
        bytes
    })
}

#[test]
fn nothing_a_client_sends_keeps_it_from_the_next_sync() {
    let agent = Agent::start();
    let client = std::cell::RefCell::new(Client::connect(&agent.standard()));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let id = std::cell::Cell::new(1000);
    let noise = proptest::collection::vec(damaged(), 1..20);
    runner
        .run(&noise, |requests| {
            id.set(id.get() + 1);
            let mut client = client.borrow_mut();
            client.send(&requests.concat());
            client.resynchronize(id.get());
            Ok(())
        })
        .unwrap();
}
