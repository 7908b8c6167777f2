//! The configuration file that is shipped, and the page that explains it, against the program:
//! they parse, they name every key there is and no other, and the defaults they tell are true.

#![expect(clippy::unwrap_used, reason = "a test that unwraps in vain has failed")]

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ostler_host_agent::config::Settings;

const MANUAL: &str = include_str!("../../packaging/host-agent/ostler-host-agent.8");
const SHIPPED: &str = include_str!("../../packaging/host-agent/host-agent.toml");
const PAGE: &str = include_str!("../../docs/configuration.md");

/// The tables of the file; the first is the file itself.
const TABLES: [&str; 11] = [
    "",
    "socket",
    "broker",
    "hypervisor",
    "limits",
    "admission",
    "guest",
    "images",
    "instances",
    "journal",
    "log",
];

fn load(text: &str) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("host-agent.toml");
    std::fs::write(&file, text).unwrap();
    Settings::load(Some(&file)).map_err(|error| error.to_string())
}

/// The keys of a table, told by the program itself: it names them when it is given another.
fn keys(table: &str) -> BTreeSet<String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let told = load(&format!("{header}no_such_key = 1\n")).unwrap_err();
    let (_, expected) = told.split_once("expected").unwrap();
    expected.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// The shipped file with everything in it that is commented out.
fn uncommented() -> String {
    let is_code = |line: &str| {
        line.strip_prefix('#')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase() || c == '['))
    };
    SHIPPED
        .lines()
        .map(|line| if is_code(line) { &line[1..] } else { line })
        .fold(String::new(), |text, line| text + line + "\n")
}

/// The keys a file sets, by table.
fn set(text: &str, table: &str) -> BTreeSet<String> {
    let mut at = "";
    let mut found = BTreeSet::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[') {
            at = name.trim_end_matches(']');
        } else if let Some((key, _)) = line.split_once(" = ")
            && at == table
            && !line.starts_with('#')
        {
            found.insert(key.to_owned());
        }
    }
    found
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the program itself is under test")]
fn the_shipped_file_is_valid_as_it_stands() {
    let shipped =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/host-agent/host-agent.toml");
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_ostler-host-agent"));
    let output = check.arg("--config").arg(shipped).arg("check-config").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the program itself is under test")]
fn the_manual_has_every_option_and_command_of_the_program_and_no_other() {
    let mut program = std::process::Command::new(env!("CARGO_BIN_EXE_ostler-host-agent"));
    let help = String::from_utf8(program.arg("--help").output().unwrap().stdout).unwrap();
    let options = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        words.filter(|word| word.starts_with("--")).map(str::to_owned).collect()
    };
    assert_eq!(options(&MANUAL.replace('\\', "")), options(&help));
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    let commands = commands.lines().filter_map(|line| line.split_whitespace().next());
    for command in commands.filter(|command| *command != "help") {
        assert!(MANUAL.contains(&format!("\n.B {command}\n")), "{command} has no paragraph");
    }
}

#[test]
fn the_shipped_file_and_the_page_have_every_key_and_no_other() {
    let file = uncommented();
    for table in TABLES {
        let keys: BTreeSet<String> =
            keys(table).into_iter().filter(|key| !TABLES.contains(&key.as_str())).collect();
        let mut wanted = keys.clone();
        // tables that are given as such
        wanted.remove("flavors");
        wanted.remove("pools");
        assert_eq!(set(&file, table), wanted, "[{table}] in packaging/host-agent/host-agent.toml");
        for key in keys {
            let name = if table.is_empty() { key } else { format!("{table}.{key}") };
            assert!(PAGE.contains(&format!("`{name}`")), "{name} is not in docs/configuration.md");
        }
    }
    let told: BTreeSet<String> = keys("");
    let tables: BTreeSet<String> = TABLES[1..].iter().map(ToString::to_string).collect();
    assert!(tables.is_subset(&told), "{told:?}");
}

#[test]
fn the_defaults_that_are_told_are_the_defaults() {
    let folder = tempfile::tempdir().unwrap();
    let uris: PathBuf = folder.path().join("uris");
    std::fs::write(&uris, "").unwrap();
    let text = uncommented().replace("/etc/ostler/broker-uris", &uris.to_string_lossy());
    // all fields, so that a new one is not forgotten here
    let Settings {
        host,
        state_dir,
        run_dir,
        socket,
        socket_group,
        broker,
        hypervisor_uri,
        virt_type,
        vnc,
        limits,
        admission,
        shutdown_timeout,
        answer_timeout,
        image_max,
        image_directories,
        image_export_directories,
        image_bandwidth,
        image_proxy,
        reclaim_after,
        orphans,
        autostart,
        resume_when_room,
        reconcile_interval,
        config_drive,
        mut flavors,
        mut pools,
        keep,
        log_format,
        log_filter,
    } = load(&text).unwrap();
    let default = load("host = \"node-1\"").unwrap();
    assert_eq!((host, state_dir, run_dir), (default.host, default.state_dir, default.run_dir));
    assert_eq!((socket, broker), (default.socket, default.broker));
    assert_eq!(
        (hypervisor_uri, virt_type, vnc),
        (default.hypervisor_uri, default.virt_type, default.vnc)
    );
    assert_eq!((limits, admission), (default.limits, default.admission));
    assert_eq!((reclaim_after, orphans), (default.reclaim_after, default.orphans));
    assert_eq!((autostart, reconcile_interval), (default.autostart, default.reconcile_interval));
    assert_eq!(resume_when_room, default.resume_when_room);
    assert_eq!(config_drive, default.config_drive);
    assert_eq!(
        (shutdown_timeout, answer_timeout),
        (default.shutdown_timeout, default.answer_timeout)
    );
    assert_eq!((image_max, keep), (default.image_max, default.keep));
    assert_eq!(image_directories, default.image_directories);
    assert_eq!((log_format, log_filter), (default.log_format, default.log_filter));
    // examples, where there is no default or more than it is shown
    assert_eq!((socket_group.as_deref(), default.socket_group), (Some("ostler"), None));
    assert!((image_bandwidth.is_some(), default.image_bandwidth.is_none()) == (true, true));
    assert_eq!((image_export_directories.len(), default.image_export_directories.len()), (1, 0));
    assert!((image_proxy.is_some(), default.image_proxy.is_none()) == (true, true));
    assert!(flavors.remove(&"big".parse().unwrap()).is_some());
    assert_eq!(flavors, default.flavors);
    assert_eq!(pools.pop().map(|pool| pool.name.to_string()), Some("fast".to_owned()));
    assert_eq!(pools, default.pools);
}

#[test]
fn the_page_marks_the_keys_that_need_a_restart_and_no_other() {
    let marked: BTreeSet<&str> = PAGE
        .lines()
        .filter(|line| line.ends_with("(restart) |"))
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(key, _)| key)
        .collect();
    assert_eq!(marked, ostler_host_agent::reload::fixed().collect());
}
