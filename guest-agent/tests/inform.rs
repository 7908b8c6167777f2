//! The built program, asked what it knows of the system it runs on.
//!
//! What hangs is made here: a FUSE that nobody serves, in a mount namespace of the test's own. Where a
//! stock agent is installed (or named by `OSTLER_STOCK_AGENT`) both are asked and compared. A test that
//! lacks what it needs says so and passes.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]
#![expect(clippy::print_stderr, reason = "a skip says why")]

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use ostler_protocol::qga::bounds;
use serde_json::{Value, json};
use tempfile::TempDir;

/// No answer takes so long.
const PATIENCE: Duration = Duration::from_secs(60);
const STOCK: &str = "/usr/sbin/qemu-ga";

fn program(path: impl AsRef<Path>) -> Command {
    #[expect(clippy::disallowed_methods, reason = "the program under test, or one to compare with")]
    Command::new(path.as_ref())
}

/// What a program writes, if it is there and succeeds.
fn output(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Option<String> {
    let told = program(name).args(arguments).envs(variables.iter().copied()).output().ok()?;
    told.status.success().then(|| String::from_utf8(told.stdout).unwrap())
}

struct Agent {
    child: Child,
    folder: TempDir,
}

impl Agent {
    fn start(variables: &[(&str, &str)]) -> Self {
        let path = PathBuf::from(env!("CARGO_BIN_EXE_ostler-guest-agent"));
        Self::run(&path, variables, &["--ostler-path", "FOLDER/ostler"])
    }

    fn stock(variables: &[(&str, &str)]) -> Option<Self> {
        let path = std::env::var_os("OSTLER_STOCK_AGENT").map_or(STOCK.into(), PathBuf::from);
        if !path.exists() {
            eprintln!("not compared: there is no stock agent");
            return None;
        }
        Some(Self::run(&path, variables, &["-f", "FOLDER/pid"]))
    }

    fn run(path: &Path, variables: &[(&str, &str)], options: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().to_str().unwrap();
        let child = program(path)
            .args(["-m", "unix-listen", "-p", &format!("{place}/s"), "-t", place])
            .args(options.iter().map(|option| option.replace("FOLDER", place)))
            .envs(variables.iter().copied())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    fn client(&self, socket: &str) -> Client {
        let path = self.folder.path().join(socket);
        let began = Instant::now();
        loop {
            match UnixStream::connect(&path) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(PATIENCE)).unwrap();
                    return Client(BufReader::new(stream));
                }
                Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
            }
            std::thread::yield_now();
        }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

struct Client(BufReader<UnixStream>);

impl Client {
    fn reply(&mut self, request: &Value) -> Value {
        self.0.get_mut().write_all(request.to_string().as_bytes()).unwrap();
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).unwrap();
            let message: Value = serde_json::from_str(&line).unwrap();
            if message.get("event").is_none() {
                return message;
            }
        }
    }

    fn ask(&mut self, name: &str) -> Value {
        let reply = self.reply(&json!({"execute": name}));
        reply.get("return").unwrap_or_else(|| panic!("{name}: {reply}")).clone()
    }

    fn list(&mut self, name: &str) -> Vec<Value> {
        self.ask(name).as_array().unwrap().clone()
    }
}

/// Runs on a thread with namespaces of its own, or says why it cannot.
fn apart(what: CloneFlags, test: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            if let Err(error) = unshare(what) {
                eprintln!("skipped: no namespace of its own: {error}");
                return;
            }
            if what.contains(CloneFlags::CLONE_NEWNS) {
                let flags = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).unwrap();
            }
            test();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

/// A loop device, until it is dropped and no longer mounted.
struct Loop(String);

impl Loop {
    fn new(folder: &Path) -> Option<Self> {
        let image = folder.join("image");
        File::create(&image).unwrap().set_len(1 << 20).unwrap();
        let device = output("losetup", &["-f", "--show", image.to_str().unwrap()], &[])?;
        Some(Self(device.trim().to_owned()))
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = output("losetup", &["-d", &self.0], &[]);
    }
}

#[test]
fn a_file_system_that_hangs_is_listed_without_usage_and_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    apart(CloneFlags::CLONE_NEWNS, || {
        let (Ok(fuse), Some(device)) =
            (File::options().read(true).write(true).open("/dev/fuse"), Loop::new(folder.path()))
        else {
            return eprintln!("skipped: no FUSE, or no loop device");
        };
        let at = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(&path).unwrap();
            path
        };
        let hung = at("hung");
        let options =
            format!("fd={},rootmode=40000,user_id=0,group_id=0,blksize=512", fuse.as_raw_fd());
        let kind = Some("fuseblk");
        if let Err(error) =
            mount(Some(device.0.as_str()), &hung, kind, MsFlags::MS_NOSUID, Some(options.as_str()))
        {
            return eprintln!("skipped: no FUSE on a disk: {error}");
        }
        // among many others, of a kind that is listed and a kind that is not
        let many = at("many");
        let none = None::<&str>;
        mount(Some("many"), &many, Some("tmpfs"), MsFlags::empty(), none).unwrap();
        for number in 0..1000 {
            let place = many.join(number.to_string());
            fs::create_dir(&place).unwrap();
            mount(Some("/etc"), &place, none, MsFlags::MS_BIND, none).unwrap();
        }

        let agent = Agent::start(&[]);
        let (mut standard, mut other) = (agent.client("s"), agent.client("ostler"));
        other.ask("guest-ping");
        let began = Instant::now();
        let listed = std::thread::scope(|scope| {
            let listing = scope.spawn(|| standard.list("guest-get-fsinfo"));
            let mut pings = 0;
            while !listing.is_finished() {
                other.ask("guest-ping");
                pings += 1;
            }
            assert!(pings > 1, "others are answered meanwhile");
            listing.join().unwrap()
        });
        assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
        let entry = |listed: &[Value], place: &Path| {
            let place = place.to_str().unwrap();
            listed.iter().find(|told| told["mountpoint"] == place).cloned()
        };
        let stuck = entry(&listed, &hung).unwrap();
        assert_eq!((stuck.get("used-bytes"), &stuck["type"]), (None, &json!("fuseblk")));
        let disks = |listed: &[Value]| {
            let whole = listed.iter().filter(|told| told.get("total-bytes").is_some());
            (listed.len(), whole.count())
        };
        let (total, answered) = disks(&listed);
        assert_eq!(answered, total - 1, "{listed:?}");

        // it is known to hang now, and not waited for
        let began = Instant::now();
        let again = standard.list("guest-get-fsinfo");
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        assert_eq!(disks(&again), (total, answered));
        drop(fuse);
    });
}

#[test]
fn a_file_system_that_hangs_over_a_file_that_never_did_holds_nobody_up() {
    apart(CloneFlags::CLONE_NEWNS, || {
        let agent = Agent::start(&[]);
        let (mut standard, mut other) = (agent.client("s"), agent.client("ostler"));
        for (name, file) in [
            ("guest-get-diskstats", "/proc/diskstats"),
            ("guest-get-cpustats", "/proc/stat"),
            ("guest-get-vcpus", "/sys/devices/system/cpu/online"),
            ("guest-get-osinfo", "/etc/os-release"),
        ] {
            // what is quick is so from the second time on
            for _ in 0..3 {
                standard.ask(name);
            }
            let Ok(fuse) = File::options().read(true).write(true).open("/dev/fuse") else {
                return eprintln!("skipped: no FUSE");
            };
            let options = format!("fd={},rootmode=100444,user_id=0,group_id=0", fuse.as_raw_fd());
            let (kind, flags) = (Some("fuse"), MsFlags::MS_NOSUID);
            mount(Some("hung"), file, kind, flags, Some(options.as_str())).unwrap();
            std::thread::scope(|scope| {
                let asking = scope.spawn(|| standard.reply(&json!({"execute": name})));
                for _ in 0..100 {
                    other.ask("guest-ping");
                }
                assert!(!asking.is_finished(), "{name} does hang");
                drop(fuse);
                asking.join().unwrap();
            });
            umount2(file, MntFlags::MNT_DETACH).unwrap();
        }
    });
}

#[test]
fn interfaces_are_told_with_every_address_and_counters() {
    apart(CloneFlags::CLONE_NEWNET, || {
        let ip = |line: &str| output("ip", &line.split(' ').collect::<Vec<_>>(), &[]);
        if ip("link add one address 02:00:00:00:00:01 type veth peer name two").is_none() {
            return eprintln!("skipped: no ip, or no veth");
        }
        for line in [
            "link set lo up",
            "addr add 192.0.2.1/24 dev one",
            "addr add 192.0.2.129/32 dev one label one:x",
            "addr add 198.51.100.1 peer 198.51.100.2/32 dev one",
            "addr add 2001:db8::1/64 dev one nodad",
            "link set one up",
            "link set two up",
            "route add default via 192.0.2.254",
        ] {
            ip(line).unwrap();
        }
        let agent = Agent::start(&[]);
        let mut client = agent.client("s");
        let interfaces = client.list("guest-network-get-interfaces");
        let find = |interfaces: &[Value], name: &str| {
            interfaces.iter().find(|told| told["name"] == name).unwrap().clone()
        };
        let one = find(&interfaces, "one");
        assert_eq!(one["hardware-address"], "02:00:00:00:00:01");
        let address = |address: &str, kind: &str, prefix: u8| json!({"ip-address": address, "ip-address-type": kind, "prefix": prefix});
        let addresses = one["ip-addresses"].as_array().unwrap();
        for expected in [
            address("192.0.2.1", "ipv4", 24),
            address("198.51.100.1", "ipv4", 32),
            address("2001:db8::1", "ipv6", 64),
        ] {
            assert!(addresses.contains(&expected), "{expected} in {one}");
        }
        let label = find(&interfaces, "one:x");
        assert_eq!(label["ip-addresses"], json!([address("192.0.2.129", "ipv4", 32)]));
        assert!(
            interfaces
                .iter()
                .all(|told| { told.get("statistics").is_some() != (told["name"] == "one:x") })
        );
        let routes = client.list("guest-network-get-route");
        let default = routes.iter().find(|told| told["gateway"] == "192.0.2.254").unwrap();
        assert_eq!(
            (&default["destination"], &default["mask"]),
            (&json!("0.0.0.0"), &json!("0.0.0.0"))
        );
        let six = routes.iter().find(|told| told["destination"] == "2001:db8::").unwrap();
        assert_eq!((&six["desprefixlen"], &six["version"]), (&json!("64"), &json!(6)));

        let Some(stock) = Agent::stock(&[]) else { return };
        let theirs = stock.client("s").list("guest-network-get-interfaces");
        let strip = |interfaces: &[Value]| -> Vec<Value> {
            let mut interfaces = interfaces.to_vec();
            for interface in &mut interfaces {
                interface.as_object_mut().unwrap().remove("statistics");
            }
            interfaces
        };
        assert_eq!(strip(&interfaces), strip(&theirs));
    });
}

/// Both agents' answers, without what changes from one moment to the next.
#[test]
fn a_stock_agent_tells_the_same() {
    let Some(stock) = Agent::stock(&[]) else { return };
    let agent = Agent::start(&[]);
    let (mut ours, mut theirs) = (agent.client("s"), stock.client("s"));
    for (name, key) in [
        ("guest-get-vcpus", "logical-id"),
        ("guest-get-memory-blocks", "phys-index"),
        ("guest-get-disks", "name"),
    ] {
        let sorted = |client: &mut Client| {
            let mut list = client.list(name);
            list.sort_by_key(|told| told[key].to_string());
            list
        };
        // a serial number is told here without udev too
        let without_serial = |mut list: Vec<Value>| {
            for told in &mut list {
                if let Some(address) = told.get_mut("address").and_then(Value::as_object_mut) {
                    address.remove("serial");
                }
            }
            list
        };
        assert_eq!(
            without_serial(sorted(&mut ours)),
            without_serial(sorted(&mut theirs)),
            "{name}"
        );
    }
    for name in [
        "guest-get-memory-block-info",
        "guest-get-osinfo",
        "guest-get-timezone",
        "guest-get-users",
        "guest-get-host-name",
    ] {
        assert_eq!(ours.ask(name), theirs.ask(name), "{name}");
    }
    let shape = |list: Vec<Value>| -> Vec<(Value, Vec<String>)> {
        let keys = |told: &Value| told.as_object().unwrap().keys().cloned().collect();
        list.iter()
            .map(|told| {
                let stats = told.get("stats").unwrap_or(told);
                (told.get("name").or(told.get("cpu")).unwrap().clone(), keys(stats))
            })
            .collect()
    };
    for name in ["guest-get-diskstats", "guest-get-cpustats"] {
        let (mut ours, mut theirs) = (shape(ours.list(name)), shape(theirs.list(name)));
        ours.sort_by_key(|(name, _)| name.to_string());
        theirs.sort_by_key(|(name, _)| name.to_string());
        assert_eq!(ours, theirs, "{name}");
    }
    for request in [
        json!({"execute": "guest-set-vcpus", "arguments": {"vcpus": []}}),
        json!({"execute": "guest-set-vcpus", "arguments": {"vcpus": [{"logical-id": 1}]}}),
        json!({"execute": "guest-set-vcpus"}),
        json!({"execute": "guest-set-memory-blocks",
               "arguments": {"mem-blks": [{"phys-index": 1_000_000_000, "online": true}]}}),
        json!({"execute": "guest-set-memory-blocks", "arguments": {"mem-blks": {}}}),
    ] {
        assert_eq!(ours.reply(&request), theirs.reply(&request), "{request}");
    }
}

#[test]
fn what_is_not_there_cannot_be_changed_and_that_is_told() {
    let agent = Agent::start(&[]);
    let mut client = agent.client("s");
    let vcpu = json!([{"logical-id": 1_000_000, "online": true}]);
    let reply = client.reply(&json!({"execute": "guest-set-vcpus", "arguments": {"vcpus": vcpu}}));
    assert_eq!(reply["error"]["class"], "GenericError");
    assert!(reply["error"]["desc"].as_str().unwrap().contains("#1000000"), "{reply}");
    let reply = client.reply(&json!({"execute": "guest-get-devices"}));
    let expected = "The command guest-get-devices has not been found";
    assert_eq!(reply["error"], json!({"class": "CommandNotFound", "desc": expected}));
    let load = client.ask("guest-get-load");
    assert!(["load1m", "load5m", "load15m"].iter().all(|over| load[over].is_number()));
}

#[test]
fn thousands_of_addresses_are_told_as_many_as_a_host_reads() {
    apart(CloneFlags::CLONE_NEWNET, || {
        const ALL: usize = 10_000;
        let folder = tempfile::tempdir().unwrap();
        let batch = folder.path().join("batch");
        let lines = (0..ALL).map(|n| format!("addr add 10.1.{}.{}/32 dev lo\n", n / 250, n % 250));
        fs::write(&batch, lines.collect::<String>()).unwrap();
        if output("ip", &["-batch", batch.to_str().unwrap()], &[]).is_none() {
            return eprintln!("skipped: no ip, or it sets no addresses");
        }
        let agent = Agent::start(&[]);
        let told = |interfaces: &Value| interfaces[0]["ip-addresses"].as_array().unwrap().len();
        let mut ostler = agent.client("ostler");
        let event = loop {
            let mut line = String::new();
            ostler.0.read_line(&mut line).unwrap();
            let event: Value = serde_json::from_str(&line).unwrap();
            if event["event"] == "OSTLER_NETWORK_CHANGED" {
                assert!(line.len() <= bounds::EVENT_BYTES);
                break event;
            }
        };
        assert_eq!(event["data"]["truncated"], true);
        assert_eq!(told(&event["data"]["interfaces"]), bounds::ENTRIES);
        let ask = json!({"execute": "guest-network-get-interfaces"});
        let reply = ostler.reply(&ask);
        assert_eq!((&reply["truncated"], told(&reply["return"])), (&json!(true), bounds::ENTRIES));
        let reply = agent.client("s").reply(&ask);
        assert_eq!(
            (reply.get("truncated"), told(&reply["return"])),
            (None, ALL),
            "as stock agents"
        );
    });
}

#[test]
fn the_time_zone_is_the_c_librarys() {
    for zone in [
        "UTC0",
        "CET-1CEST,M3.5.0,M10.5.0/3",
        "<+1245>-12:45<+1345>,M9.5.0/2:45,M4.1.0/3:45",
        "Europe/Berlin",
        "America/New_York",
        "Asia/Kolkata",
        "Australia/Lord_Howe",
        "Africa/Casablanca",
        "America/Nuuk",
    ] {
        let variables = [("TZ", zone)];
        if zone.contains('/') && !zone.contains(',') {
            let file = Path::new("/usr/share/zoneinfo").join(zone);
            if !file.exists() {
                eprintln!("{zone} skipped: there is no such file");
                continue;
            }
        }
        let told = Agent::start(&variables).client("s").ask("guest-get-timezone");
        let date = output("date", &["+%::z %Z"], &variables).unwrap();
        let (offset, name) = date.trim().split_once(' ').unwrap();
        let parts: Vec<i64> = offset[1..].split(':').map(|part| part.parse().unwrap()).collect();
        let seconds = parts[0] * 3600 + parts[1] * 60 + parts[2];
        let seconds = if offset.starts_with('-') { -seconds } else { seconds };
        assert_eq!(told, json!({"zone": name, "offset": seconds}), "{zone}");
    }
}
