//! Every option and every rule of the configuration files.

use super::*;
use crate::log::chain;
use crate::policy::Profile;
use crate::settings::{OSTLER_PORT, SERIAL_LINE, STANDARD_PORT};

fn settings(line: &str) -> Settings {
    match parse(line.split_whitespace().map(Into::into)) {
        Ok(Invocation::Serve(settings)) => *settings,
        other => panic!("{line}: {other:?}"),
    }
}

fn error(line: &str) -> OptionsError {
    parse(line.split_whitespace().map(Into::into)).unwrap_err()
}

/// The files of a system.
struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn surroundings(&self) -> Surroundings {
        Surroundings {
            stock_file: Some(self.folder.path().join("stock")),
            own_file: Some(self.folder.path().join("own")),
            activated: false,
        }
    }

    fn write(&self, name: &str, lines: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, format!("[general]\n{lines}")).unwrap();
        path.into_os_string().into_string().unwrap()
    }

    fn read(&self, line: &str) -> Result<Invocation, OptionsError> {
        read(line.split_whitespace().map(Into::into), &self.surroundings())
    }

    fn settings(&self, line: &str) -> Settings {
        match self.read(line) {
            Ok(Invocation::Serve(settings)) => *settings,
            other => panic!("{line}: {other:?}"),
        }
    }

    fn dump(&self, line: &str) -> String {
        match self.read(&format!("-D {line}")) {
            Ok(Invocation::Tell(text)) => text,
            other => panic!("{line}: {other:?}"),
        }
    }
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn both_ports_are_served_unless_told_otherwise() {
    let standard = settings("");
    assert_eq!(standard.method, Method::VirtioSerial);
    assert_eq!(standard.path, Some(STANDARD_PORT.into()));
    assert_eq!(standard.ostler, Some(OSTLER_PORT.into()));
    assert_eq!(standard.heartbeat, HEARTBEAT);
    assert_eq!(standard.log, Log::new(Verbosity::Errors));
    assert!(!standard.daemon && !standard.retry);
    assert_eq!(standard.hook, None);
    assert_eq!(settings("--ostler-path none").ostler, None);
}

#[test]
fn each_method_has_its_usual_place() {
    assert_eq!(settings("-m isa-serial").path, Some(SERIAL_LINE.into()));
    assert_eq!(settings("-m isa-serial").ostler, None);
    let vsock = settings("-m vsock-listen -p 3:1234");
    assert_eq!((vsock.method, vsock.path), (Method::VsockListen, Some("3:1234".into())));
    for method in ["unix-listen", "vsock-listen"] {
        assert!(
            matches!(error(&format!("-m {method}")), OptionsError::NoPath(name) if name == method)
        );
        let alone = settings(&format!("-m {method} --ostler-path /o"));
        assert_eq!((alone.path, alone.ostler), (None, Some("/o".into())));
        let activated = Surroundings { activated: true, ..Surroundings::default() };
        assert!(read(["-m".into(), method.into()].into_iter(), &activated).is_ok());
    }
}

#[test]
fn every_option_of_the_stock_agent_is_understood() {
    for line in [
        "-m unix-listen -p /s -l /log -f /pid -F/hook -t /state -v -d -b a,b -a c -r",
        "-munix-listen -p/s -l/log -f/pid -F/hook -t/state -vdr -ba -bb -ac",
        "--method=unix-listen --path=/s --logfile=/log --pidfile=/pid --fsfreeze-hook=/hook \
         --statedir=/state --verbose --daemonize --block-rpcs=a --blacklist b --allow-rpcs c \
         --retry-path",
        "--meth unix-listen --pat /s --log /log --pid /pid --fs=/hook --st /state --verb --da \
         --bl b,a, --al ,c --re",
    ] {
        let settings = settings(line);
        assert_eq!(settings.method, Method::UnixListen, "{line}");
        assert_eq!(settings.path, Some("/s".into()), "{line}");
        assert_eq!(settings.ostler, None, "{line}");
        assert_eq!(settings.log, Log::in_file(Verbosity::All, "/log".into()), "{line}");
        assert_eq!(settings.pid_file, PathBuf::from("/pid"), "{line}");
        assert_eq!(settings.hook, Some("/hook".into()), "{line}");
        assert_eq!(settings.state_directory, PathBuf::from("/state"), "{line}");
        assert_eq!(settings.policy.blocked, set(&["a", "b"]), "{line}");
        assert_eq!(settings.policy.allowed, Some(set(&["c"])), "{line}");
        assert!(settings.daemon && settings.retry, "{line}");
    }
    assert_eq!(settings("-F").hook, Some(HOOK.into()));
}

#[test]
fn a_daemon_finds_its_places_from_anywhere() {
    let here = std::env::current_dir().unwrap();
    let line = "-m unix-listen -p s --ostler-path o -l log -f pid -Fhook -t state";
    assert_eq!(settings(line).path, Some("s".into()));
    let daemon = settings(&format!("-d {line}"));
    assert_eq!(daemon.path, Some(here.join("s")));
    assert_eq!(daemon.ostler, Some(here.join("o")));
    assert_eq!(daemon.log, Log::in_file(Verbosity::Errors, here.join("log")));
    assert_eq!(daemon.pid_file, here.join("pid"));
    assert_eq!(daemon.hook, Some(here.join("hook")));
    assert_eq!(daemon.state_directory, here.join("state"));
    assert_eq!(settings("-d -m vsock-listen -p 3:4").path, Some("3:4".into()));
}

#[test]
fn ostlers_own_options_are_understood() {
    let settings = settings(
        "--profile manage --exec-allow /bin/a;/bin/b --exec-allow=/bin/c --freeze-lease 1 \
         --hook-timeout=2 --ostler-path /o --heartbeat 3 --baud 115200",
    );
    assert_eq!(settings.policy.profile, Profile::Manage);
    assert_eq!(settings.programs.unwrap(), ["/bin/a", "/bin/b", "/bin/c"]);
    assert_eq!(settings.freeze_lease, Duration::from_secs(1));
    assert_eq!(settings.hook_timeout, Duration::from_secs(2));
    assert_eq!(settings.ostler, Some("/o".into()));
    assert_eq!(settings.heartbeat, Duration::from_secs(3));
    assert_eq!(settings.baud, 115_200);
}

#[test]
fn what_is_not_understood_is_refused() {
    assert_eq!(error("-x"), OptionsError::Unknown("-x".into()));
    assert_eq!(error("--extra=1"), OptionsError::Unknown("--extra".into()));
    assert_eq!(error("-p"), OptionsError::NoValue("-p".into()));
    assert_eq!(error("--path"), OptionsError::NoValue("--path".into()));
    assert_eq!(error("--verbose=1"), OptionsError::Value("--verbose=1".into()));
    assert_eq!(error("-m tcp"), OptionsError::Method("tcp".into()));
    for option in ["heartbeat", "freeze-lease", "hook-timeout"] {
        for value in ["0", "-1", "1.5", "x", "4294967296"] {
            let line = format!("--{option}={value}");
            assert_eq!(error(&line), OptionsError::Seconds(value.into()), "{line}");
        }
    }
    assert_eq!(error("--baud 0"), OptionsError::Baud("0".into()));
    assert_eq!(
        chain(&error("--profile root")),
        "unknown profile 'root': it is observe, manage or full"
    );
}

#[test]
fn what_has_no_effect_is_told_and_does_not_stop_the_agent() {
    // a hook with a space before it: the usual mistake
    let settings = settings("-F /hook -s install -b guest-pong,guest-ping");
    assert_eq!(settings.hook, Some(HOOK.into()));
    assert_eq!(
        settings.warnings,
        [
            "'/hook' belongs to no option",
            "option '-s' is for Windows",
            "'guest-pong' is to be blocked, and there is no such command",
        ]
    );
}

#[test]
fn the_commands_the_version_and_the_options_can_be_told() {
    let told = |line: &str| match parse(line.split_whitespace().map(Into::into)) {
        Ok(Invocation::Tell(text)) => text,
        other => panic!("{line}: {other:?}"),
    };
    for line in ["-b help", "-b ?", "--block-rpcs=help", "--blacklist ?"] {
        assert!(told(line).lines().eq(TABLE.iter().map(|entry| entry.name)), "{line}");
    }
    assert!(told("-V").contains(env!("CARGO_PKG_VERSION")));
    let help = told("-vh");
    for row in key::ROWS.iter().filter(|row| row.long != "blacklist") {
        assert!(help.contains(&format!("--{}", row.long)), "{}", row.long);
    }
}

#[test]
fn files_may_be_missing() {
    assert_eq!(Files::new().settings("-v"), settings("-v"));
}

#[test]
fn every_key_of_the_stock_agent_is_read() {
    let files = Files::new();
    files.write(
        "stock",
        "daemon=true\nmethod=unix-listen\npath=/s\nlogfile=/log\npidfile=/pid\n\
         fsfreeze-hook=/hook\nstatedir=/state\nverbose=1\nretry-path=true\nblock-rpcs=a,b\n\
         allow-rpcs=c\n",
    );
    let line = "-d -m unix-listen -p /s -l /log -f /pid -F/hook -t /state -v -r -b a,b -a c";
    assert_eq!(files.settings(""), settings(line));
}

#[test]
fn the_old_name_of_the_block_list_is_read_and_adds_up() {
    let files = Files::new();
    files.write("stock", "blacklist=a;b\nblock-rpcs=c\n");
    assert_eq!(files.settings("").policy.blocked, set(&["a", "b", "c"]));
}

#[test]
fn ostlers_file_is_read_after_the_stock_agents() {
    let files = Files::new();
    files.write("stock", "path=/stock\nstatedir=/stock\nblock-rpcs=a\nprofile=full\n");
    files.write("own", "path=/own\nblock-rpcs=b\nprofile=observe\nfreeze-lease=9\n");
    let settings = files.settings("");
    assert_eq!(settings.path, Some("/own".into()));
    assert_eq!(settings.state_directory, PathBuf::from("/stock"));
    assert_eq!(settings.policy.blocked, set(&["a", "b"]));
    assert_eq!(settings.policy.profile, Profile::Observe);
    assert_eq!(settings.freeze_lease, Duration::from_secs(9));
}

#[test]
fn the_command_line_wins_and_its_lists_add_up() {
    let files = Files::new();
    files.write("stock", "path=/file\nblock-rpcs=a\nallow-rpcs=x\nexec-allow=/bin/a b;/bin/c\n");
    let settings = files.settings("-p /line -b b -a y --exec-allow /bin/d");
    assert_eq!(settings.path, Some("/line".into()));
    assert_eq!(settings.policy.blocked, set(&["a", "b"]));
    assert_eq!(settings.policy.allowed, Some(set(&["x", "y"])));
    assert_eq!(settings.programs.unwrap(), ["/bin/a b", "/bin/c", "/bin/d"]);
}

#[test]
fn a_named_file_replaces_the_stock_agents_and_not_the_owners_policy() {
    let files = Files::new();
    files.write("stock", "path=/stock\n");
    files.write("own", "profile=observe\n");
    let named = files.write("named", "statedir=/named\n");
    let settings = files.settings(&format!("-c {named}"));
    assert_eq!(settings.path, Some(STANDARD_PORT.into()));
    assert_eq!(settings.state_directory, PathBuf::from("/named"));
    assert_eq!(settings.policy.profile, Profile::Observe);
    let text = chain(&files.read("--config /no/such/file").unwrap_err());
    assert!(text.contains("/no/such/file"), "{text}");
}

#[test]
fn a_malformed_file_is_refused_and_named() {
    for name in ["stock", "own"] {
        let files = Files::new();
        let path = files.write(name, "verbose=perhaps\n");
        let text = chain(&files.read("").unwrap_err());
        assert!(text.contains(&path) && text.contains("line 2"), "{text}");
    }
}

#[test]
fn an_unknown_key_is_told_with_its_file() {
    let files = Files::new();
    let path = files.write("own", "speed=9\n");
    assert_eq!(files.settings("").warnings, [format!("unknown key 'speed' in {path}")]);
}

#[test]
fn an_empty_list_of_programs_permits_none_and_one_of_commands_all() {
    let files = Files::new();
    files.write("own", "exec-allow=\nallow-rpcs=\nfsfreeze-hook=\nlogfile=\n");
    let settings = files.settings("");
    assert_eq!(settings.programs.unwrap(), Vec::<String>::new());
    assert_eq!(settings.policy.allowed, None);
    assert_eq!(settings.hook, None);
    assert_eq!(settings.log.file(), None);
}

#[test]
fn a_dump_reads_back_to_the_same_settings() {
    for line in [
        "",
        "-m isa-serial --baud 9600",
        "-m unix-listen -p /s --ostler-path /o",
        "-d -m vsock-listen -p 4294967295:1234 -l /log -f /pid -F/hook -t /state -v -r -b a,b -a c \
         --profile observe --exec-allow /bin/a;/bin/b --freeze-lease 1 --hook-timeout 2 \
         --heartbeat 3 --ostler-path none",
        "--exec-allow=",
    ] {
        let files = Files::new();
        let dump = files.dump(line);
        let (head, body) = dump.split_once('\n').unwrap();
        assert_eq!(head, "[general]");
        let path = files.write("dumped", body);
        assert_eq!(files.settings(&format!("-c {path}")), files.settings(line), "{line}");
        assert_eq!(files.dump(&format!("-c {path}")), dump, "{line}");
    }
}

#[test]
fn a_dump_says_nothing_of_the_port_that_only_its_method_has() {
    let files = Files::new();
    let path = files.write("dumped", files.dump("").split_once('\n').unwrap().1);
    let settings = files.settings(&format!("-c {path} -m unix-listen -p /s"));
    assert_eq!((settings.path, settings.ostler), (Some("/s".into()), None));
}

#[test]
fn a_dump_has_the_stock_agents_keys_in_its_order() {
    let dump = Files::new().dump("-l /log -F");
    let keys: Vec<_> =
        dump.lines().skip(1).map(|line| line.split_once('=').unwrap().0).take(11).collect();
    assert_eq!(
        keys,
        [
            "daemon",
            "method",
            "path",
            "logfile",
            "pidfile",
            "fsfreeze-hook",
            "statedir",
            "verbose",
            "retry-path",
            "block-rpcs",
            "allow-rpcs"
        ]
    );
}
