//! The built program and the real kernel: file systems on loop devices are frozen and thawed.
//!
//! This machine's own file systems must never be. So each agent runs in a mount namespace whose root is
//! a file system in memory that has nothing of this machine in it, and a test that finds a device of
//! this machine there does not begin. It needs root, loop devices and the programs that make file
//! systems; without them it says so and does nothing.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
#![expect(clippy::print_stdout, reason = "a test that is skipped says why")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the namespace: its root in memory, with a shell, the agent, and what `$1` says.
const SETUP: &str = r#"
set -e
new="$FOLDER/root"
mkdir "$new"
mount -t tmpfs none "$new"
mkdir "$new/bin" "$new/proc" "$new/sys" "$new/dev" "$new/run" "$new/old" "$new/lib64"
cp "$BUSYBOX" "$new/bin/busybox"
cp "$AGENT" "$new/bin/agent"
for library in $(ldd "$AGENT" | grep -o '/[^ ]*' || true); do
    mkdir -p "$new${library%/*}"
    cp -L "$library" "$new$library"
done
cp -r "$FOLDER/images" "$new/images"
mount -t proc proc "$new/proc"
mount -t sysfs sysfs "$new/sys"
mount -t devtmpfs dev "$new/dev"
cd "$new"
pivot_root . old
cd /
export PATH=/bin
busybox --install -s /bin
umount -l /old
rmdir /old
eval "$1"
echo ready
read -r end || true
"#;

fn command(program: impl AsRef<std::ffi::OsStr>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the programs of the test")]
    Command::new(program)
}

fn has(program: &str) -> bool {
    ["/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .iter()
        .any(|folder| Path::new(folder).join(program).exists())
}

/// A guest of its own within this machine.
struct Guest {
    holder: Child,
    /// Its end is the namespace's.
    lifeline: Option<ChildStdin>,
    agent: Option<Child>,
    options: Vec<&'static str>,
    /// Thawed at the end, whatever happens: a frozen file system outlives its mounts.
    places: Vec<&'static str>,
    _images: tempfile::TempDir,
}

impl Guest {
    /// One with images, made by a program each, and mounted at places by a script.
    fn new(images: &[Image], places: &[&'static str], script: &str) -> Option<Self> {
        let mut missing: Vec<_> = images.iter().map(|image| image.make[0]).collect();
        missing.extend(["unshare", "nsenter", "pivot_root", "busybox", "fsfreeze", "ldd"]);
        missing.retain(|program| !has(program));
        if !nix::unistd::geteuid().is_root() || !Path::new("/dev/loop-control").exists() {
            println!("skipped: freezing needs root and loop devices");
            return None;
        }
        if !missing.is_empty() {
            println!("skipped: there is no {}", missing.join(", "));
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("images")).unwrap();
        for Image { name, mebibytes, make } in images {
            let path = folder.path().join("images").join(name);
            File::create(&path).unwrap().set_len(mebibytes << 20).unwrap();
            let made = command(make[0]).args(&make[1..]).arg(&path).output().unwrap();
            assert!(made.status.success(), "{make:?}: {made:?}");
        }
        let busybox =
            if Path::new("/bin/busybox").exists() { "/bin/busybox" } else { "/usr/bin/busybox" };
        let mut holder = command("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", SETUP, "setup", script])
            .env("BUSYBOX", busybox)
            .env("AGENT", env!("CARGO_BIN_EXE_ostler-guest-agent"))
            .env("FOLDER", folder.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lifeline = holder.stdin.take();
        let mut line = String::new();
        BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let mut guest = Self {
            holder,
            lifeline,
            agent: None,
            options: Vec::new(),
            places: places.to_vec(),
            _images: folder,
        };
        assert_eq!(line, "ready\n", "the namespace was not set up");
        guest.check();
        guest.start();
        Some(guest)
    }

    /// Nothing of this machine may be in sight.
    fn check(&self) {
        let device = fs::metadata("/").unwrap().dev();
        let own = format!(" {}:{} ", nix::libc::major(device), nix::libc::minor(device));
        let mounts = fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        assert!(!mounts.contains(&own), "{mounts}");
        for mount in mounts.lines() {
            let device = mount.split(' ').nth(2).unwrap();
            let memory_or_loop = device.starts_with("0:") || device.starts_with("7:");
            assert!(memory_or_loop, "{mount}");
        }
    }

    fn path(&self, path: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{path}", self.holder.id()))
    }

    fn within(&self, program: &[&str]) -> Command {
        let mut nsenter = command("nsenter");
        nsenter.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).args(program);
        nsenter.env("PATH", "/usr/bin:/usr/sbin:/bin:/sbin");
        nsenter
    }

    fn start(&mut self) {
        self.check();
        let program = ["/bin/agent", "-m", "unix-listen", "-p", "/run/agent", "-t", "/run", "-v"];
        let mut child =
            self.within(&program).args(&self.options).stderr(Stdio::piped()).spawn().unwrap();
        // what the log has to say may be in a file, or be held
        let log = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || log.lines().for_each(drop));
        self.agent = Some(child);
        let until = Instant::now() + PATIENCE;
        while UnixStream::connect(self.path("/run/agent")).is_err() {
            assert!(Instant::now() < until, "the agent did not start");
        }
    }

    fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
    }

    /// As somebody else would. The path leads through the namespace, or nowhere.
    fn fsfreeze(&self, what: &str, place: &str) -> bool {
        let path = self.path(place);
        let mut program = command("fsfreeze");
        program.arg(what).arg(path).stderr(Stdio::null()).status().is_ok_and(|end| end.success())
    }

    fn client(&self) -> Client {
        let stream = UnixStream::connect(self.path("/run/agent")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Client(BufReader::new(stream))
    }

    /// Begins to write to a file, and tells whether it is done.
    fn writer(&self, path: &str) -> Writer {
        let path = self.path(path);
        let (sender, done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let mut file = File::create(path).unwrap();
            file.write_all(b"x").unwrap();
            file.sync_all().unwrap();
            sender.send(()).unwrap();
        });
        Writer(done)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if self.agent.is_some() {
            self.kill();
        }
        // outermost first
        for place in &self.places {
            let _ = self.fsfreeze("-u", place);
        }
        drop(self.lifeline.take());
        let _ = self.holder.wait();
    }
}

struct Writer(std::sync::mpsc::Receiver<()>);

impl Writer {
    fn is_blocked(&self) -> bool {
        self.0.recv_timeout(Duration::from_millis(300)).is_err()
    }

    fn goes_on(&self) {
        self.0.recv_timeout(PATIENCE).unwrap();
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        let request = json!({"execute": command, "arguments": arguments});
        self.0.get_mut().write_all(request.to_string().as_bytes()).unwrap();
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn returned(&mut self, command: &str) -> Value {
        self.ask(command, &json!({}))["return"].clone()
    }
}

/// A file with a file system, made by a program. The sizes are the least these programs take.
struct Image {
    name: &'static str,
    mebibytes: u64,
    make: &'static [&'static str],
}

const EXT4: Image = Image { name: "ext4", mebibytes: 64, make: &["mkfs.ext4", "-q"] };
const XFS: Image = Image { name: "xfs", mebibytes: 320, make: &["mkfs.xfs", "-q"] };
const BTRFS: Image = Image { name: "btrfs", mebibytes: 128, make: &["mkfs.btrfs", "-q"] };

const ONE: &str = "mkdir /a && mount -t ext4 -o loop /images/ext4 /a";

#[test]
fn writers_wait_while_frozen_and_go_on_after() {
    for image in [EXT4, XFS, BTRFS] {
        let name = image.name;
        let script = format!("mkdir /a && mount -t {name} -o loop /images/{name} /a");
        let Some(guest) = Guest::new(&[image], &["/a"], &script) else { continue };
        let mut client = guest.client();
        assert_eq!(client.returned("guest-fsfreeze-status"), "thawed");
        assert_eq!(client.returned("guest-fsfreeze-freeze"), 1, "{name}");
        assert_eq!(client.returned("guest-fsfreeze-status"), "frozen");
        let writer = guest.writer("/a/file");
        assert!(writer.is_blocked(), "{name}");
        let refused = client.ask("guest-get-fsinfo", &json!({}));
        assert_eq!(refused["error"]["class"], "CommandNotFound");
        assert_eq!(client.returned("guest-fsfreeze-thaw"), 1, "{name}");
        writer.goes_on();
        assert_eq!(client.returned("guest-fsfreeze-thaw"), 0);
    }
}

#[test]
fn a_file_system_in_a_file_of_another_is_frozen_first_and_mounts_of_one_count_once() {
    // the outer one is mounted again after the inner one: the order of mounting, backwards, would have
    // the inner one write to the outer one when that is frozen
    let script = "mkdir /outer /inner /again && mount -t xfs -o loop /images/xfs /outer \
        && mv /images/ext4 /outer/image && mount -t ext4 -o loop /outer/image /inner \
        && mkdir /outer/sub && mount --bind /outer/sub /again && mount --bind /inner /outer/sub";
    let Some(guest) = Guest::new(&[EXT4, XFS], &["/outer", "/inner"], script) else { return };
    let mut client = guest.client();
    // data that freezing the inner one must write to the outer one
    fs::write(guest.path("/inner/data"), vec![7; 8 << 20]).unwrap();
    assert_eq!(client.returned("guest-fsfreeze-freeze"), 2);
    let (outer, inner) = (guest.writer("/outer/file"), guest.writer("/inner/file"));
    assert!(outer.is_blocked() && inner.is_blocked());
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 2);
    outer.goes_on();
    inner.goes_on();
}

#[test]
fn subvolumes_are_one_file_system_and_any_of_their_places_names_it() {
    let script = "mkdir /a /b && mount -t btrfs -o loop /images/btrfs /a && mkdir /a/x \
        && mount --bind /a/x /b";
    let Some(guest) = Guest::new(&[BTRFS], &["/a"], script) else { return };
    let mut client = guest.client();
    let list = json!({"mountpoints": ["/b", "/nowhere"]});
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", &list)["return"], 1);
    let writer = guest.writer("/a/file");
    assert!(writer.is_blocked());
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 1);
    writer.goes_on();
}

#[test]
fn what_is_not_listed_stays_writable() {
    let script = format!("{ONE} && mkdir /b && mount -t xfs -o loop /images/xfs /b");
    let Some(guest) = Guest::new(&[EXT4, XFS], &["/a", "/b"], &script) else { return };
    let mut client = guest.client();
    let list = json!({"mountpoints": ["/a"]});
    assert_eq!(client.ask("guest-fsfreeze-freeze-list", &list)["return"], 1);
    guest.writer("/b/file").goes_on();
    let writer = guest.writer("/a/file");
    assert!(writer.is_blocked());
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 1);
    writer.goes_on();
}

#[test]
fn a_freeze_that_nobody_ends_ends_by_itself_though_its_client_has_left() {
    let Some(guest) = Guest::new(&[EXT4], &["/a"], ONE) else { return };
    let mut client = guest.client();
    assert_eq!(client.ask("guest-fsfreeze-freeze", &json!({"lease": 1}))["return"], 1);
    drop(client);
    guest.writer("/a/file").goes_on();
    let mut client = guest.client();
    let until = Instant::now() + PATIENCE;
    while client.returned("guest-fsfreeze-status") != "thawed" {
        assert!(Instant::now() < until);
    }
    let reply = client.ask("guest-fsfreeze-thaw", &json!({}));
    let text = reply["error"]["desc"].as_str().unwrap();
    assert!(text.contains("lapsed") && text.contains("1 s"), "{text}");
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 0);
}

#[test]
fn an_agent_that_is_killed_while_frozen_starts_frozen_and_thaws() {
    let Some(mut guest) = Guest::new(&[EXT4], &["/a"], ONE) else { return };
    assert_eq!(guest.client().returned("guest-fsfreeze-freeze"), 1);
    guest.kill();
    let writer = guest.writer("/a/file");
    assert!(writer.is_blocked());
    guest.start();
    let mut client = guest.client();
    assert_eq!(client.returned("guest-fsfreeze-status"), "frozen");
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 1);
    writer.goes_on();
    assert!(!guest.path("/run/qga.state.isfrozen").exists());
    guest.kill();
    guest.start();
    assert_eq!(guest.client().returned("guest-fsfreeze-status"), "thawed");
}

#[test]
fn an_agent_that_is_killed_while_frozen_keeps_the_lease() {
    let Some(mut guest) = Guest::new(&[EXT4], &["/a"], ONE) else { return };
    let reply = guest.client().ask("guest-fsfreeze-freeze", &json!({"lease": 2}));
    assert_eq!(reply["return"], 1);
    guest.kill();
    guest.start();
    guest.writer("/a/file").goes_on();
}

#[test]
fn what_somebody_else_froze_is_left_out_and_thawed() {
    let Some(guest) = Guest::new(&[EXT4], &["/a"], ONE) else { return };
    assert!(guest.fsfreeze("-f", "/a"));
    let mut client = guest.client();
    assert_eq!(client.returned("guest-fsfreeze-freeze"), 0);
    let writer = guest.writer("/a/file");
    assert!(writer.is_blocked(), "it is not the agent's to thaw unasked");
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 1);
    writer.goes_on();
}

/// A hook that writes into the file system that is frozen, and does to `freeze` what is said.
fn hook(freeze: &str) -> String {
    format!(
        "{ONE} && printf '#!/bin/sh\\necho $1 >> /a/told\\ntest $1 = thaw || {{ {freeze}; }}\\n' \
        > /run/hook && chmod 755 /run/hook"
    )
}

fn restart_with(guest: &mut Guest, options: &[&'static str]) {
    guest.kill();
    guest.options = options.to_vec();
    guest.start();
}

#[test]
fn the_hook_runs_before_freezing_and_after_thawing() {
    let Some(mut guest) = Guest::new(&[EXT4], &["/a"], &hook("true")) else { return };
    restart_with(&mut guest, &["-F/run/hook"]);
    let mut client = guest.client();
    assert_eq!(client.returned("guest-fsfreeze-freeze"), 1);
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 1);
    assert_eq!(fs::read_to_string(guest.path("/a/told")).unwrap(), "freeze\nthaw\n");
}

#[test]
fn a_hook_that_fails_or_hangs_prevents_the_freeze() {
    for (freeze, text) in [("echo busy; exit 3", "busy"), ("sleep 600", "did not end in time")] {
        let Some(mut guest) = Guest::new(&[EXT4], &["/a"], &hook(freeze)) else { return };
        restart_with(&mut guest, &["-F/run/hook", "--hook-timeout=1"]);
        let mut client = guest.client();
        let reply = client.ask("guest-fsfreeze-freeze", &json!({}));
        assert!(reply["error"]["desc"].as_str().unwrap().contains(text), "{reply}");
        assert_eq!(client.returned("guest-fsfreeze-status"), "thawed");
        guest.writer("/a/file").goes_on();
        assert_eq!(fs::read_to_string(guest.path("/a/told")).unwrap(), "freeze\nthaw\n");
    }
}

#[test]
fn a_log_file_on_a_frozen_file_system_hangs_nothing_and_has_it_all_afterwards() {
    let Some(mut guest) = Guest::new(&[EXT4], &["/a"], ONE) else { return };
    guest.kill();
    guest.options = vec!["-l", "/a/log"];
    guest.start();
    let mut client = guest.client();
    assert_eq!(client.returned("guest-fsfreeze-freeze"), 1);
    let before = fs::read_to_string(guest.path("/a/log")).unwrap();
    assert!(client.ask("guest-get-time", &json!({}))["error"].is_object());
    assert_eq!(client.returned("guest-ping"), json!({}));
    assert_eq!(fs::read_to_string(guest.path("/a/log")).unwrap(), before);
    assert_eq!(client.returned("guest-fsfreeze-thaw"), 1);
    let until = Instant::now() + PATIENCE;
    while !fs::read_to_string(guest.path("/a/log")).unwrap().contains("are thawed") {
        assert!(Instant::now() < until);
    }
}

#[test]
fn trimming_tells_of_each_file_system_once() {
    let script = format!("{ONE} && mkdir /b && mount --bind /a /b && mount -o remount,ro,bind /b");
    let Some(guest) = Guest::new(&[EXT4], &["/a"], &script) else { return };
    let mut client = guest.client();
    let report = client.ask("guest-fstrim", &json!({"minimum": 4096}));
    let paths = report["return"]["paths"].as_array().unwrap();
    assert_eq!(paths.len(), 1, "{report}");
    assert_eq!(paths[0]["path"], "/a");
    assert!(paths[0]["trimmed"].as_i64().unwrap() > 0, "{report}");
    assert!(paths[0]["minimum"].as_i64().unwrap() >= 4096, "{report}");
}

/// Nothing is lost if this machine has no clock of the kind: the range is looked at first.
#[test]
fn a_time_out_of_range_is_refused() {
    let Some(guest) = Guest::new(&[], &[], ":") else { return };
    let mut client = guest.client();
    for time in [-1, i64::MIN, i64::MAX, 3_155_760_000_000_000_000] {
        let reply = client.ask("guest-set-time", &json!({"time": time}));
        assert_eq!(reply["error"]["desc"], "Invalid time");
    }
    let mut uptime = String::new();
    File::open("/proc/uptime").unwrap().read_to_string(&mut uptime).unwrap();
    let now = client.returned("guest-get-time").as_i64().unwrap();
    let ours = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((i128::from(now) - ours.as_nanos().cast_signed()).abs() < 60_000_000_000);
}
