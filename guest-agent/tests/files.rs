//! Files, programs, keys and passwords of the built program, over a socket: what clients of stock
//! agents rely on, claim by claim, and what is better here.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ostler_protocol::qga::base64::{Base64Data, decode};
use serde_json::{Value, json};
use tempfile::TempDir;

const COMMANDS: &str = "guest-sync,guest-ping,guest-exec,guest-exec-status,guest-file-open,\
    guest-file-close,guest-file-read,guest-file-write,guest-file-seek,guest-file-flush,\
    guest-ssh-get-authorized-keys,guest-ssh-add-authorized-keys,guest-ssh-remove-authorized-keys,\
    guest-set-user-password";
/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

struct Agent {
    child: Child,
    stream: BufReader<UnixStream>,
    folder: TempDir,
}

impl Agent {
    fn start() -> Self {
        Self::with(&[], tempfile::tempdir().unwrap())
    }

    fn with(options: &[&str], folder: TempDir) -> Self {
        let socket = folder.path().join("socket");
        #[expect(clippy::disallowed_methods, reason = "the program under test")]
        let mut child = Command::new(env!("CARGO_BIN_EXE_ostler-guest-agent"))
            .args(["-v", "-m", "unix-listen", "-a", COMMANDS, "-t"])
            .arg(folder.path())
            .arg("-p")
            .arg(&socket)
            .args(options)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        // one of its first lines says that it listens
        assert!(log.by_ref().any(|line| line.unwrap().contains("serving")));
        std::thread::spawn(move || log.for_each(drop));
        let stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { child, stream: BufReader::new(stream), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn line(&mut self, command: &str, arguments: &Value) -> Vec<u8> {
        let request = json!({"execute": command, "arguments": arguments}).to_string();
        self.stream.get_mut().write_all(request.as_bytes()).unwrap();
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).unwrap();
        line
    }

    fn reply(&mut self, command: &str, arguments: Value) -> Value {
        serde_json::from_slice(&self.line(command, &arguments)).unwrap()
    }

    fn ask(&mut self, command: &str, arguments: Value) -> Value {
        let mut reply = self.reply(command, arguments);
        assert!(reply.get("return").is_some(), "{command}: {reply}");
        reply["return"].take()
    }

    fn error(&mut self, command: &str, arguments: Value) -> String {
        let reply = self.reply(command, arguments);
        assert_eq!(reply["error"]["class"], "GenericError", "{command}: {reply}");
        reply["error"]["desc"].as_str().unwrap().to_owned()
    }

    fn open(&mut self, path: &Path, mode: &str) -> i64 {
        self.ask("guest-file-open", json!({"path": path, "mode": mode})).as_i64().unwrap()
    }

    fn exec(&mut self, arguments: Value) -> i64 {
        self.ask("guest-exec", arguments)["pid"].as_i64().unwrap()
    }

    fn shell(&mut self, script: &str) -> i64 {
        self.exec(json!({"path": "/bin/sh", "arg": ["-c", script], "capture-output": true}))
    }

    /// Asks until the program has ended.
    fn end(&mut self, pid: i64) -> Value {
        let start = Instant::now();
        loop {
            let status = self.ask("guest-exec-status", json!({"pid": pid}));
            if status["exited"] == true {
                return status;
            }
            assert_eq!(status, json!({"exited": false}));
            assert!(start.elapsed() < PATIENCE, "it does not end");
        }
    }

    fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count()
    }

    fn children(&self) -> String {
        let id = self.child.id();
        fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap()
    }

    /// In KiB.
    fn memory(&self, what: &str) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    fn stop(mut self) -> TempDir {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        std::mem::replace(&mut self.folder, tempfile::tempdir().unwrap())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn b64(data: &[u8]) -> Value {
    json!(Base64Data(data.to_vec()))
}

fn bytes(value: &Value) -> Vec<u8> {
    decode(value.as_str().unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    String::from_utf8(decode(value.as_str().unwrap()).unwrap()).unwrap()
}

#[test]
fn handles_begin_at_1000_and_are_never_given_again() {
    let mut agent = Agent::start();
    let null = Path::new("/dev/null");
    let mut given = vec![agent.open(null, "r"), agent.open(null, "w")];
    assert_eq!(given, [1000, 1001]);
    agent.ask("guest-file-close", json!({"handle": 1000}));
    given.push(agent.open(null, "a+"));
    let mut agent = Agent::with(&[], agent.stop());
    given.push(agent.open(null, "r"));
    let mut agent = Agent::with(&[], agent.stop());
    given.push(agent.open(null, "r"));
    assert!(given.is_sorted_by(|a, b| a < b), "{given:?}");
    let state = fs::read_to_string(agent.path("qga.state")).unwrap();
    let noted: i64 = state.strip_prefix("[global]\nfd_counter=").unwrap().trim().parse().unwrap();
    assert!(noted > given[4]);
}

#[test]
fn a_file_is_opened_as_its_mode_says() {
    let mut agent = Agent::start();
    let path = agent.path("f");
    let error = agent.error("guest-file-open", json!({"path": path}));
    let expected = format!("failed to open file '{}' (mode: 'r'): No such file", path.display());
    assert!(error.starts_with(&expected), "{error}");
    for mode in ["q", "", "rw", "rt"] {
        let error = agent.error("guest-file-open", json!({"path": path, "mode": mode}));
        assert_eq!(error, format!("invalid file open mode '{mode}'"));
    }
    let handle = agent.open(&path, "w");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o666);
    agent.ask("guest-file-write", json!({"handle": handle, "buf-b64": b64(b"one")}));
    assert_eq!(fs::read(&path).unwrap(), b"one", "it is there at once");
    let error = agent.error("guest-file-read", json!({"handle": handle}));
    assert!(error.starts_with("failed to read file: Bad file descriptor"), "{error}");
    let handle = agent.open(&path, "a");
    agent.ask("guest-file-write", json!({"handle": handle, "buf-b64": b64(b"two")}));
    assert_eq!(fs::read(&path).unwrap(), b"onetwo");
    let handle = agent.open(&path, "r");
    let error = agent.error("guest-file-write", json!({"handle": handle, "buf-b64": b64(b"x")}));
    assert!(error.starts_with("failed to write to file: Bad file descriptor"), "{error}");
    let handle = agent.open(agent.folder.path().to_owned().as_path(), "r");
    let error = agent.error("guest-file-read", json!({"handle": handle}));
    assert!(error.starts_with("failed to read file: Is a directory"), "{error}");
}

#[test]
fn the_end_is_told_when_it_is_hit() {
    let mut agent = Agent::start();
    let path = agent.path("f");
    let handle = agent.open(&path, "w+");
    let write = json!({"handle": handle, "buf-b64": b64(b"0123456789"), "count": 6});
    let line = agent.line("guest-file-write", &write);
    assert_eq!(line, b"{\"return\": {\"count\": 6, \"eof\": false}}\n");
    let mut seek = |offset: i64, whence: Value| {
        let seek = json!({"handle": handle, "offset": offset, "whence": whence});
        agent.ask("guest-file-seek", seek)
    };
    assert_eq!(seek(-1, json!("end")), json!({"position": 5, "eof": false}));
    assert_eq!(seek(1, json!(1)), json!({"position": 6, "eof": false}));
    assert_eq!(seek(0, json!("set")), json!({"position": 0, "eof": false}));
    let mut read = |count: i64| {
        let read = agent.ask("guest-file-read", json!({"handle": handle, "count": count}));
        (text(&read["buf-b64"]), read["count"].as_i64().unwrap(), read["eof"] == true)
    };
    assert_eq!(read(0), (String::new(), 0, false));
    assert_eq!(read(2), ("01".into(), 2, false));
    assert_eq!(read(4), ("2345".into(), 4, false), "all, but its end was not hit");
    assert_eq!(read(1), (String::new(), 0, true));
    assert_eq!(agent.ask("guest-file-flush", json!({"handle": handle})), json!({}));
    assert_eq!(agent.ask("guest-file-close", json!({"handle": handle})), json!({}));
    for command in ["read", "flush", "close"] {
        let error = agent.error(&format!("guest-file-{command}"), json!({"handle": handle}));
        assert_eq!(error, format!("handle '{handle}' has not been found"));
    }
}

#[test]
fn what_makes_no_sense_is_refused_in_known_words() {
    let mut agent = Agent::start();
    let handle = agent.open(&agent.path("f"), "w+");
    for count in [-1, 50_331_649] {
        let error = agent.error("guest-file-read", json!({"handle": handle, "count": count}));
        assert_eq!(error, format!("value '{count}' is invalid for argument count"));
    }
    let read = json!({"handle": handle, "count": 50_331_648});
    assert_eq!(agent.ask("guest-file-read", read), json!({"count": 0, "buf-b64": "", "eof": true}));
    for count in [-1, 4] {
        let write = json!({"handle": handle, "buf-b64": "QUJD", "count": count});
        let error = agent.error("guest-file-write", write);
        assert_eq!(error, format!("value '{count}' is invalid for argument count"));
    }
    for data in ["QU JD", "Q*JD", "QUI=\r\n"] {
        let error = agent.error("guest-file-write", json!({"handle": handle, "buf-b64": data}));
        assert_eq!(error, "Base64 data contains invalid characters");
    }
    for (data, count) in [("QUJD\n", 3), ("QQ==QQ==", 2), ("", 0), ("QUI", 2)] {
        let written = agent.ask("guest-file-write", json!({"handle": handle, "buf-b64": data}));
        assert_eq!(written, json!({"count": count, "eof": false}));
    }
    for (offset, whence, text) in [
        (0, json!(3), "invalid whence code 3"),
        (0, json!("SET"), "Parameter 'whence' does not accept value 'SET'"),
        (-9, json!(0), "failed to seek file: Invalid argument"),
    ] {
        let seek = json!({"handle": handle, "offset": offset, "whence": whence});
        let error = agent.error("guest-file-seek", seek);
        assert!(error.starts_with(text), "{error}");
    }
}

#[test]
fn tens_of_megabytes_go_through_in_one_request_and_in_little_memory() {
    let mut agent = Agent::start();
    let path = agent.path("f");
    let handle = agent.open(&path, "w");
    let data: Vec<u8> = (0..=250_u8).cycle().take(40 << 20).collect();
    let write = json!({"handle": handle, "buf-b64": b64(&data)});
    let written = agent.ask("guest-file-write", write);
    assert_eq!(written["count"], 40 << 20);
    assert!(fs::read(&path).unwrap() == data);
    let handle = agent.open(&path, "r");
    let read = agent.ask("guest-file-read", json!({"handle": handle, "count": 32 << 20}));
    assert_eq!((&read["count"], &read["eof"]), (&json!(32 << 20), &json!(false)));
    assert!(decode(read["buf-b64"].as_str().unwrap()).unwrap() == data[..32 << 20]);
    let (peak, text) = (agent.memory("VmHWM"), (40 << 10) / 3 * 4);
    eprintln!("peak {peak} KiB; the text of the write alone is {text} KiB");
}

#[test]
fn a_pipe_with_nobody_at_its_other_end_does_not_hold_the_agent() {
    let mut agent = Agent::start();
    let path = agent.path("pipe");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let error = agent.error("guest-file-open", json!({"path": path, "mode": "w"}));
    assert!(error.contains("No such device or address"), "{error}");
    let reader = agent.open(&path, "r");
    let _writer = agent.open(&path, "w");
    let error = agent.error("guest-file-read", json!({"handle": reader}));
    assert!(error.contains("failed to read file: Resource temporarily unavailable"), "{error}");
}

#[test]
fn only_so_many_files_are_open_at_a_time() {
    let mut agent = Agent::start();
    let zero = Path::new("/dev/zero");
    let handles: Vec<_> = (0..512).map(|_| agent.open(zero, "r")).collect();
    let error = agent.error("guest-file-open", json!({"path": zero}));
    assert!(error.contains("512 files are open"), "{error}");
    agent.ask("guest-file-close", json!({"handle": handles[7]}));
    agent.open(zero, "r");
}

#[test]
fn a_profile_that_forbids_writing_lets_files_be_read() {
    let mut agent = Agent::with(&["--profile", "manage"], tempfile::tempdir().unwrap());
    agent.open(Path::new("/dev/null"), "r");
    let reply = agent.reply("guest-file-open", json!({"path": "/dev/null", "mode": "r+"}));
    assert_eq!(
        reply["error"],
        json!({
            "class": "CommandNotFound",
            "desc": "Command guest-file-open has been disabled: \
                     the command is not allowed by profile 'manage'",
        })
    );
}

#[test]
fn what_a_program_wrote_is_told_from_a_place_on_as_often_as_asked() {
    let mut agent = Agent::start();
    let go = agent.path("go");
    let script = format!(
        "echo first; until [ -e {0} ]; do sleep 0.05; done; head -c 6000000 /dev/zero; echo e >&2",
        go.display()
    );
    let pid = agent.shell(&script);
    let from = |out: usize, err: usize| json!({"pid": pid, "out-from": out, "err-from": err});
    let start = Instant::now();
    let mut status = json!({});
    while status["out-data"].is_null() {
        status = agent.ask("guest-exec-status", from(0, 0));
        assert!(start.elapsed() < PATIENCE, "nothing is told while it runs");
    }
    assert_eq!((text(&status["out-data"]), &status["exited"]), ("first\n".into(), &json!(false)));
    fs::write(&go, "").unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        let status = agent.ask("guest-exec-status", from(out.len(), err.len()));
        for (kept, data) in [(&mut out, &status["out-data"]), (&mut err, &status["err-data"])] {
            if !data.is_null() {
                kept.extend(bytes(data));
            }
        }
        if status["exited"] == true {
            assert_eq!(status["exitcode"], 0);
            break;
        }
        assert!(start.elapsed() < PATIENCE, "it does not end");
    }
    assert_eq!((out.len(), &*err), (6_000_006, &b"e\n"[..]));
    // again, and from somewhere else
    for _ in 0..2 {
        let end = agent.ask("guest-exec-status", from(6_000_000, 2));
        assert_eq!((&end["exited"], bytes(&end["out-data"]).len()), (&json!(true), 6));
        let end = agent.ask("guest-exec-status", from(usize::MAX >> 1, 0));
        assert_eq!((&end["out-data"], text(&end["err-data"])), (&Value::Null, "e\n".into()));
        let piece = agent.ask("guest-exec-status", from(0, 0));
        assert_eq!((&piece["exited"], bytes(&piece["out-data"]).len()), (&json!(false), 256 << 10));
    }
    let forget = json!({"pid": pid, "out-from": 6_000_006, "forget": true});
    assert_eq!(agent.ask("guest-exec-status", forget)["exited"], true);
    let error = agent.error("guest-exec-status", json!({"pid": pid}));
    assert!(error.starts_with("Invalid parameter 'pid'"), "{error}");
}

#[test]
fn a_program_is_found_run_and_told_of() {
    let mut agent = Agent::start();
    let pid = agent.exec(json!({"path": "echo", "arg": ["a", "b"], "capture-output": true}));
    let status = agent.end(pid);
    assert_eq!(
        status,
        json!({"exited": true, "exitcode": 0, "out-data": "YSBiCg==", "out-truncated": false})
    );
    let error = agent.error("guest-exec-status", json!({"pid": pid}));
    assert!(error.starts_with("Invalid parameter 'pid'"), "told once: {error}");
    let pid = agent.exec(json!({
        "path": "sh", "arg": ["-c", "echo $0; cat; echo e >&2; exit 3"],
        "input-data": b64(b"in"), "capture-output": true,
    }));
    let status = agent.end(pid);
    assert_eq!(
        (text(&status["out-data"]), text(&status["err-data"])),
        ("sh\nin".into(), "e\n".into())
    );
    assert_eq!((&status["exitcode"], &status["err-truncated"]), (&json!(3), &json!(false)));
    let pid = agent.shell("kill -9 $$");
    assert_eq!(agent.end(pid), json!({"exited": true, "signal": 9}));
    // nothing captured, nothing told
    let pid = agent.exec(json!({"path": "echo", "arg": ["a"]}));
    assert_eq!(agent.end(pid), json!({"exited": true, "exitcode": 0}));
    // a script that does not say what for
    let script = agent.path("script");
    fs::write(&script, "echo \"hi $1\"\n").unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    let pid = agent.exec(json!({"path": script, "arg": ["x"], "capture-output": true}));
    assert_eq!(text(&agent.end(pid)["out-data"]), "hi x\n");
}

#[test]
fn a_program_that_cannot_be_started_is_an_error_at_once() {
    let mut agent = Agent::start();
    for (path, why) in [
        ("nosuch", "No such file or directory"),
        ("/nosuch", "No such file or directory"),
        ("", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/tmp", "Permission denied"),
    ] {
        let error = agent.error("guest-exec", json!({"path": path}));
        let expected = format!(
            "Guest agent command failed, error was 'Failed to execute child process \
             \u{201c}{path}\u{201d} ({why})'"
        );
        assert_eq!(error, expected);
    }
    let error = agent.error("guest-exec", json!({"path": "cat", "input-data": "Q*"}));
    assert_eq!(error, "Base64 data contains invalid characters");
    let error = agent.error("guest-exec", json!({"path": "sh", "env": ["PATH=/nonexistent"]}));
    assert!(error.contains("No such file or directory"), "{error}");
    for pid in [1, 0, -1, i64::MAX] {
        let error = agent.error("guest-exec-status", json!({"pid": pid}));
        assert!(error.starts_with("Invalid parameter 'pid'"), "{error}");
    }
    assert_eq!(agent.children().trim(), "");
}

#[test]
fn an_environment_replaces_the_agents() {
    let mut agent = Agent::start();
    let pid = agent.exec(json!({
        "path": "/usr/bin/env", "env": ["A=1", "A=2", "B", "C="], "capture-output": true,
    }));
    let output = text(&agent.end(pid)["out-data"]);
    assert_eq!(output.lines().collect::<BTreeSet<_>>(), BTreeSet::from(["A=1", "C="]));
    let pid = agent.exec(json!({"path": "/usr/bin/env", "capture-output": true}));
    assert!(text(&agent.end(pid)["out-data"]).contains("PATH="), "else it is the agent's");
}

#[test]
fn a_list_of_command_lines_lets_only_those_run() {
    let options = ["--exec-allow", "/bin/echo hello;/bin/true"];
    let mut agent = Agent::with(&options, tempfile::tempdir().unwrap());
    for allowed in [
        json!({"path": "echo", "arg": ["hello", "you"]}),
        json!({"path": "/bin/echo", "arg": ["hello"]}),
        json!({"path": "/bin/../bin/true", "arg": ["anything"]}),
    ] {
        let pid = agent.exec(allowed);
        assert_eq!(agent.end(pid), json!({"exited": true, "exitcode": 0}));
    }
    for refused in [
        json!({"path": "echo"}),
        json!({"path": "echo", "arg": ["hello you"]}),
        json!({"path": "sh", "arg": ["-c", "/bin/true"]}),
        json!({"path": "true", "env": ["LD_PRELOAD=/tmp/x.so"]}),
    ] {
        let error = agent.error("guest-exec", refused.clone());
        assert!(error.contains("exec-allow"), "{refused}: {error}");
    }
}

#[test]
fn each_way_of_capturing_keeps_what_it_says() {
    let mut agent = Agent::start();
    for (capture, out, err) in [
        (json!(false), None, None),
        (json!("none"), None, None),
        (json!("stdout"), Some("o\n"), None),
        (json!("stderr"), None, Some("e\n")),
        (json!("separated"), Some("o\n"), Some("e\n")),
        (json!(true), Some("o\n"), Some("e\n")),
        (json!("merged"), Some("o\ne\n"), None),
    ] {
        let pid = agent.exec(json!({
            "path": "/bin/sh", "arg": ["-c", "echo o; echo e >&2"], "capture-output": capture,
        }));
        let status = agent.end(pid);
        let told = |key: &str| status.get(key).map(text);
        assert_eq!(told("out-data").as_deref(), out, "{capture}");
        assert_eq!(told("err-data").as_deref(), err, "{capture}");
        assert_eq!(status.get("out-truncated").is_some(), out.is_some());
        assert_eq!(status.get("err-truncated").is_some(), err.is_some());
    }
}

#[test]
fn a_program_has_ended_when_its_output_has() {
    let mut agent = Agent::start();
    let go = agent.path("go");
    nix::unistd::mkfifo(&go, nix::sys::stat::Mode::S_IRWXU).unwrap();
    // one it leaves behind has its output open until it is told to go
    let pid = agent.shell(&format!("(read x <'{}') & echo told", go.display()));
    let wait = Instant::now();
    while !fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default().is_empty() {
        assert!(wait.elapsed() < PATIENCE);
    }
    assert_eq!(agent.ask("guest-exec-status", json!({"pid": pid})), json!({"exited": false}));
    fs::write(&go, "\n").unwrap();
    assert_eq!(text(&agent.end(pid)["out-data"]), "told\n");
}

#[test]
fn an_endless_talker_is_heard_to_its_end_and_cut() {
    let mut agent = Agent::start();
    let pid = agent.shell("head -c 17000000 /dev/zero; head -c 16777216 /dev/zero >&2");
    let status = agent.end(pid);
    assert_eq!((&status["out-truncated"], &status["err-truncated"]), (&json!(true), &json!(false)));
    for stream in ["out-data", "err-data"] {
        assert_eq!(decode(status[stream].as_str().unwrap()).unwrap().len(), 16 << 20);
    }
}

#[test]
fn a_program_begins_with_signals_as_they_should_be_and_a_group_of_its_own() {
    let mut agent = Agent::start();
    let pid = agent.shell("cat /proc/self/status; cut -d' ' -f5 /proc/$$/stat; ls /proc/self/fd");
    let output = text(&agent.end(pid)["out-data"]);
    let signals = |name: &str| {
        let line = output.lines().find(|line| line.starts_with(name)).unwrap();
        u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap()
    };
    assert_eq!(signals("SigBlk"), 0);
    assert_eq!(signals("SigIgn") & 1 << (13 - 1), 0, "SIGPIPE ends it");
    let rest: Vec<_> = output.lines().rev().take(5).collect();
    assert_eq!(rest, ["3", "2", "1", "0", &pid.to_string()], "no descriptor of the agent's");
}

#[test]
fn a_time_limit_ends_a_program_and_what_it_started() {
    let mut agent = Agent::start();
    let pid = agent.exec(json!({
        "path": "/bin/sh", "arg": ["-c", "sleep 1000 & sleep 1000"], "capture-output": true,
        "timeout": 1,
    }));
    assert_eq!(agent.end(pid), json!({"exited": true, "signal": 15, "timed-out": true}));
    for timeout in [0, -1] {
        let error = agent.error("guest-exec", json!({"path": "true", "timeout": timeout}));
        assert_eq!(error, format!("value '{timeout}' is invalid for argument timeout"));
    }
    let pid = agent.exec(json!({"path": "true", "timeout": 1000}));
    assert_eq!(agent.end(pid), json!({"exited": true, "exitcode": 0}));
}

#[test]
fn at_its_limit_a_program_is_over_whoever_holds_its_output() {
    let mut agent = Agent::start();
    let held = agent.path("held");
    for (leave, rest, end) in [
        // in the group, which is ended
        ("", "", json!({"exitcode": 0})),
        // out of it
        ("setsid", "", json!({"exitcode": 0})),
        ("setsid", "; sleep 1000", json!({"signal": 15})),
    ] {
        // a shell of its own: that it runs is told only after it has left
        let script = format!(
            "{leave} sh -c 'echo $$ > {0}.new; mv {0}.new {0}; exec sleep 1000' & \
            until test -e {0}; do :; done; echo x{rest}",
            held.display()
        );
        let arg = ["-c", &script];
        let start = Instant::now();
        let pid = agent
            .exec(json!({"path": "/bin/sh", "arg": arg, "capture-output": true, "timeout": 1}));
        let status = agent.end(pid);
        assert!(start.elapsed() < PATIENCE / 2);
        let mut told = json!({"exited": true, "out-data": "eAo=", "out-truncated": false,
            "timed-out": true});
        told.as_object_mut().unwrap().extend(end.as_object().unwrap().clone());
        assert_eq!(status, told, "{script}");
        let holder: i32 = fs::read_to_string(&held).unwrap().trim().parse().unwrap();
        let killed = kill(Pid::from_raw(holder), Signal::SIGKILL).is_ok();
        assert!(killed || leave.is_empty(), "who has left is left alone");
        fs::remove_file(&held).unwrap();
    }
}

#[test]
fn a_program_runs_where_and_as_whom_it_is_asked_to() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can do this");
        return;
    }
    let mut agent = Agent::start();
    let pid = agent.exec(json!({
        "path": "/bin/sh", "arg": ["-c", "pwd; id -u; id -g; id -G; echo $HOME $USER $LOGNAME"],
        "user": "daemon", "cwd": "/usr", "capture-output": true,
    }));
    assert_eq!(text(&agent.end(pid)["out-data"]), "/usr\n1\n1\n1\n/usr/sbin daemon daemon\n");
    let error = agent.error("guest-exec", json!({"path": "true", "user": "nobody-has-this"}));
    assert!(error.starts_with("failed to lookup user 'nobody-has-this'"), "{error}");
    let error = agent.error("guest-exec", json!({"path": "true", "cwd": "/no/such"}));
    assert!(error.contains("No such file or directory"), "{error}");
}

#[test]
fn programs_outlive_the_agent() {
    let mut agent = Agent::start();
    let pid = agent.exec(json!({"path": "sleep", "arg": ["1000"]}));
    drop(agent.stop());
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
}

#[test]
fn results_nobody_collects_go_and_the_newest_stay() {
    let mut agent = Agent::start();
    let pid = agent.shell("true");
    agent.end(pid);
    let descriptors = agent.descriptors();
    let all: Vec<_> = (0..200).map(|_| agent.shell("head -c 1000000 /dev/zero")).collect();
    let wait = Instant::now();
    while !agent.children().trim().is_empty() || agent.descriptors() > descriptors {
        assert!(wait.elapsed() < PATIENCE, "{} {}", agent.descriptors(), agent.children());
        agent.ask("guest-ping", json!({}));
    }
    let all: BTreeSet<_> = all.into_iter().collect();
    let known = all.iter().filter(|pid| {
        agent.reply("guest-exec-status", json!({"pid": pid})).get("return").is_some()
    });
    assert_eq!(known.count(), 64);
}

#[test]
fn what_is_opened_and_run_leaves_nothing_behind() {
    let mut agent = Agent::start();
    let round = |agent: &mut Agent, times: usize| {
        for _ in 0..times {
            let handle = agent.open(Path::new("/dev/zero"), "r");
            agent.ask("guest-file-read", json!({"handle": handle, "count": 100_000}));
            agent.ask("guest-file-close", json!({"handle": handle}));
            let pid = agent.shell("echo x");
            agent.end(pid);
        }
    };
    round(&mut agent, 50);
    let (memory, descriptors) = (agent.memory("VmRSS"), agent.descriptors());
    round(&mut agent, 300);
    assert_eq!(agent.descriptors(), descriptors);
    assert_eq!(agent.children().trim(), "");
    let grown = agent.memory("VmRSS").saturating_sub(memory);
    assert!(grown < 512, "it has grown by {grown} KiB");
}

#[test]
fn a_key_that_is_none_and_a_user_that_is_none_are_refused() {
    let mut agent = Agent::start();
    let user = "nobody-has-this";
    for key in ["#x", "a\nb"] {
        let add = json!({"username": user, "keys": [key]});
        for command in ["guest-ssh-add-authorized-keys", "guest-ssh-remove-authorized-keys"] {
            let error = agent.error(command, add.clone());
            assert_eq!(error, format!("invalid OpenSSH public key: '{key}'"));
        }
    }
    for command in ["get", "add", "remove"] {
        let mut arguments = json!({"username": user, "keys": []});
        if command == "get" {
            arguments.as_object_mut().unwrap().remove("keys");
        }
        let error = agent.error(&format!("guest-ssh-{command}-authorized-keys"), arguments);
        assert!(error.starts_with("failed to lookup user 'nobody-has-this'"), "{error}");
    }
}

#[test]
fn a_password_that_cannot_be_set_is_refused_in_known_words() {
    let mut agent = Agent::start();
    let user = "nobody-has-this";
    for (name, password, text) in [
        (user, json!("*"), "Base64 data contains invalid characters"),
        (user, b64(b"a\nb"), "forbidden characters in raw password"),
        (user, b64(b"a\0b"), "forbidden characters in raw password"),
        (user, b64(b""), "the password is empty"),
        ("a:b", b64(b"x"), "forbidden characters in username"),
        ("", b64(b"x"), "the username is empty"),
        (user, b64(b"hunter2"), "user 'nobody-has-this' does not exist"),
    ] {
        let arguments = json!({"username": name, "password": password, "crypted": false});
        assert_eq!(agent.error("guest-set-user-password", arguments), text);
    }
    let error = agent.error("guest-set-user-password", json!({"username": "", "password": ""}));
    assert_eq!(error, "Parameter 'crypted' is missing");
}
