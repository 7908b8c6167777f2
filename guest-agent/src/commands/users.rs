//! Who is logged in: the records of utmp, or on systems that keep none, logind's sessions.

use std::fs;
use std::rc::Rc;
use std::time::Duration;

use nix::libc::USER_PROCESS;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::users::{GuestGetUsers, LoggedInUser};

use super::{Agent, CommandError, Handle};
use crate::root::Root;

/// Where the records are, and where they were before there was `/run`.
const RECORDS: &str = "/run/utmp";
const OLD_RECORDS: &str = "/var/run/utmp";
const SESSIONS: &str = "/run/systemd/sessions";
/// For reading them.
const LOOK: Duration = Duration::from_secs(10);

/// Where a record has what. The programs of the guest write it with glibc, whatever this one is linked
/// with: the layout is glibc's.
const KIND: usize = 0;
const USER: usize = 44;
const USER_END: usize = 76;
/// Of the two numbers of a time. Most 64-bit systems keep 32 bits, as their 32-bit programs do; those
/// that never had such programs keep 64, and so does the number of the session before.
const TIME_WIDTH: usize =
    if cfg!(any(target_arch = "aarch64", target_arch = "riscv64", target_arch = "loongarch64")) {
        8
    } else {
        4
    };
const TIME: usize = 336 + TIME_WIDTH;
/// After the time come an address, 16 bytes, and 20 that are not used.
const LENGTH: usize = (TIME + 2 * TIME_WIDTH + 36).next_multiple_of(TIME_WIDTH);

impl Handle for GuestGetUsers {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<LoggedInUser>, CommandError> {
        Ok(agent.look("looking for users", LOOK, users).await?)
    }
}

/// The users, each once, with the earliest of their logins.
fn users(root: &Root) -> Vec<LoggedInUser> {
    // a system that keeps records has one of its boot
    let records = |path| root.bytes(path).ok().filter(|bytes| bytes.len() >= LENGTH);
    let logins = records(RECORDS)
        .map(|bytes| recorded(&bytes))
        .or_else(|| sessions(root))
        .or_else(|| records(OLD_RECORDS).map(|bytes| recorded(&bytes)))
        .unwrap_or_default();
    let mut users: Vec<LoggedInUser> = Vec::new();
    for (user, login_time) in logins {
        match users.iter_mut().find(|known| known.user == user) {
            Some(known) => known.login_time = known.login_time.min(login_time),
            None => users.push(LoggedInUser { user, login_time, domain: None }),
        }
    }
    users
}

fn recorded(bytes: &[u8]) -> Vec<(String, f64)> {
    bytes.chunks_exact(LENGTH).filter_map(login).collect()
}

fn login(record: &[u8]) -> Option<(String, f64)> {
    let kind = i16::from_ne_bytes(record.get(KIND..KIND + 2)?.try_into().ok()?);
    if kind != USER_PROCESS {
        return None;
    }
    let name = record.get(USER..USER_END)?.split(|byte| *byte == 0).next()?;
    let number = |at: usize| {
        let bytes = record.get(at..at + TIME_WIDTH)?;
        match TIME_WIDTH {
            // unsigned, it lasts until 2106
            4 => Some(u32::from_ne_bytes(bytes.try_into().ok()?).into()),
            _ => Some(i64::from_ne_bytes(bytes.try_into().ok()?)),
        }
    };
    let (seconds, microseconds) = (number(TIME)?, number(TIME + TIME_WIDTH)?);
    Some((String::from_utf8_lossy(name).into_owned(), in_seconds(seconds, microseconds)))
}

/// The precision of a microsecond is kept for some centuries.
fn in_seconds(seconds: i64, microseconds: i64) -> f64 {
    seconds as f64 + microseconds as f64 / 1e6
}

/// Logind's sessions of users; not those that are being closed, nor logind's own and login screens.
/// `None` on a system without logind.
fn sessions(root: &Root) -> Option<Vec<(String, f64)>> {
    let mut names: Vec<String> = root
        .folder(SESSIONS)
        .and_then(fs::read_dir)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        // beside each is a pipe that ends with it
        .filter(|name| !name.contains('.'))
        .collect();
    names.sort();
    let sessions =
        names.iter().filter_map(|name| session(&root.text(&format!("{SESSIONS}/{name}")).ok()?));
    Some(sessions.collect())
}

fn session(text: &str) -> Option<(String, f64)> {
    let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key));
    let is_users = value("CLASS=").is_none_or(|class| class.starts_with("user"));
    if !is_users || value("STATE=") == Some("closing") {
        return None;
    }
    let began: i64 = value("REALTIME=")?.parse().ok()?;
    Some((value("USER=")?.to_owned(), in_seconds(began / 1_000_000, began % 1_000_000)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::libc::{BOOT_TIME, DEAD_PROCESS};
    use proptest::prelude::*;

    fn record(kind: i16, user: &str, seconds: i32, microseconds: i32) -> Vec<u8> {
        let mut record = vec![0; LENGTH];
        record[KIND..KIND + 2].copy_from_slice(&kind.to_ne_bytes());
        record[USER..USER + user.len()].copy_from_slice(user.as_bytes());
        let mut put = |at: usize, number: i32| match TIME_WIDTH {
            4 => record[at..at + 4].copy_from_slice(&number.to_ne_bytes()),
            _ => record[at..at + 8].copy_from_slice(&i64::from(number).to_ne_bytes()),
        };
        put(TIME, seconds);
        put(TIME + TIME_WIDTH, microseconds);
        record
    }

    fn system(records: Option<&[u8]>, sessions: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        fs::create_dir_all(root.path(SESSIONS)).unwrap();
        if let Some(records) = records {
            fs::write(root.path(RECORDS), records).unwrap();
        }
        for (name, text) in sessions {
            fs::write(root.path(SESSIONS).join(name), text).unwrap();
        }
        (folder, root)
    }

    fn told(root: &Root) -> Vec<(String, f64)> {
        users(root).into_iter().map(|user| (user.user, user.login_time)).collect()
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn a_record_is_laid_out_as_on_disk() {
        assert_eq!((LENGTH, KIND, USER, USER_END, TIME, TIME_WIDTH), (384, 0, 44, 76, 340, 4));
    }

    #[test]
    fn each_user_is_told_once_with_the_earliest_login() {
        let long = "a".repeat(32);
        let records = [
            record(BOOT_TIME, "reboot", 1, 0),
            record(USER_PROCESS, "root", 200, 500_000),
            record(USER_PROCESS, &long, 300, 0),
            record(DEAD_PROCESS, "gone", 50, 0),
            record(USER_PROCESS, "root", 100, 250_000),
            vec![7; 11],
        ];
        let (_folder, root) = system(Some(&records.concat()), &[("1", "USER=x\nREALTIME=1\n")]);
        assert_eq!(told(&root), [("root".to_owned(), 100.25), (long, 300.0)]);
    }

    #[test]
    fn without_records_sessions_are_told() {
        let sessions = [
            ("1", "UID=0\nUSER=root\nSTATE=active\nCLASS=user\nREALTIME=1700000000500000\n"),
            ("c1", "UID=0\nUSER=gdm\nSTATE=active\nCLASS=greeter\nREALTIME=1\n"),
            ("2", "UID=0\nUSER=left\nSTATE=closing\nCLASS=user\nREALTIME=1\n"),
            ("3", "UID=0\nUSER=root\nSTATE=online\nCLASS=user\nREALTIME=1600000000000000\n"),
            ("3.ref", "USER=pipe\nREALTIME=1\n"),
            ("4", "UID=0\nUSER=root\nSTATE=online\nCLASS=manager\nREALTIME=1\n"),
            ("5", "USER=odd\nREALTIME=soon\n"),
        ];
        let expected = [("root".to_owned(), 1_600_000_000.0)];
        let (_folder, root) = system(None, &sessions);
        assert_eq!(told(&root), expected);
        let (_folder, root) = system(Some(b""), &sessions);
        assert_eq!(told(&root), expected, "an empty file is none");
        let (_folder, root) = system(None, &[]);
        assert_eq!(told(&root), []);
    }

    proptest! {
        #[test]
        fn no_records_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            for (_, time) in recorded(&bytes) {
                prop_assert!(time.is_finite());
            }
        }

        #[test]
        fn no_session_breaks_the_reader(text in "((USER|STATE|CLASS|REALTIME)=.{0,30}\n|.{0,9}){0,6}") {
            session(&text);
        }
    }
}
