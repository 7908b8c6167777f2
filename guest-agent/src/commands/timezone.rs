//! The time zone: its abbreviation and its distance from Greenwich, now.
//!
//! The C library keeps what it read of `/etc/localtime` at its first use; a zone that is changed later
//! is to be told too. So the file is read here, each time it is asked for: its list of changes, and the
//! rule for what comes after them ([`rule`]), which is all that newer files have.

mod rule;

use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::timezone::{GuestGetTimezone, Timezone};

use super::{Agent, CommandError, Handle};
use crate::root::Root;

/// The system's zone.
const SYSTEM: &str = "/etc/localtime";
/// The zones there are.
const ZONES: &str = "/usr/share/zoneinfo";
/// Names another zone, or gives a rule.
const VARIABLE: &str = "TZ";
/// For reading them.
const LOOK: Duration = Duration::from_secs(10);

impl Handle for GuestGetTimezone {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Timezone, CommandError> {
        let variable = std::env::var(VARIABLE).ok();
        let look = move |root: &Root| zone(root, variable.as_deref(), now());
        Ok(agent.look("reading the time zone", LOOK, look).await?)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The zone that holds at a time. A system without one, or with one that cannot be read, has UTC, as
/// its programs do.
fn zone(root: &Root, variable: Option<&str>, time: i64) -> Timezone {
    let read = |path: &str| at(&root.bytes(path).ok()?, time);
    let found = match variable.map(|name| name.strip_prefix(':').unwrap_or(name)) {
        None => read(SYSTEM),
        Some("") => None,
        Some(name) if Path::new(name).is_absolute() => read(name),
        Some(name) if name.split('/').any(|part| part == "..") => None,
        Some(name) => read(&format!("{ZONES}/{name}")).or_else(|| rule::at(name, time)),
    };
    let (zone, offset) = found.unwrap_or_else(|| ("UTC".to_owned(), 0));
    Timezone { zone: Some(zone), offset }
}

/// What a zone file says of a time: `None` if it is none.
fn at(file: &[u8], time: i64) -> Option<(String, i64)> {
    let first = Block::parse(file, 4)?;
    if first.version < b'2' {
        return first.at(time);
    }
    // the same again, with wide times, and the rule after it
    let second = Block::parse(file.get(first.end..)?, 8)?;
    let footer = file.get(first.end + second.end..)?;
    let rule = footer.strip_prefix(b"\n").and_then(|rest| rest.split(|byte| *byte == b'\n').next());
    let rule = rule.and_then(|text| std::str::from_utf8(text).ok()).filter(|text| !text.is_empty());
    match rule {
        Some(text) if second.last().is_none_or(|last| time >= last) => {
            rule::at(text, time).or_else(|| second.at(time))
        }
        _ => second.at(time),
    }
}

/// One of the two blocks of a zone file.
struct Block<'a> {
    version: u8,
    /// Bytes of a time.
    width: usize,
    times: &'a [u8],
    /// For each time, which kind begins.
    kinds: &'a [u8],
    /// Of each kind its offset (4), whether it is summer's (1), where its name begins (1).
    descriptions: &'a [u8],
    names: &'a [u8],
    /// Where the next begins.
    end: usize,
}

impl<'a> Block<'a> {
    fn parse(file: &'a [u8], width: usize) -> Option<Self> {
        let header = file.get(..44)?;
        if !header.starts_with(b"TZif") {
            return None;
        }
        let count = |at: usize| {
            let bytes = header.get(20 + 4 * at..24 + 4 * at)?;
            usize::try_from(u32::from_be_bytes(bytes.try_into().ok()?)).ok()
        };
        let [utc, standard, leap, times, kinds, names] =
            [count(0)?, count(1)?, count(2)?, count(3)?, count(4)?, count(5)?];
        let mut end = header.len();
        let mut take = |count: usize, size: usize| {
            let begin = end;
            end = begin.checked_add(count.checked_mul(size)?)?;
            file.get(begin..end)
        };
        let block = Self {
            version: *header.get(4)?,
            width,
            times: take(times, width)?,
            kinds: take(times, 1)?,
            descriptions: take(kinds, 6)?,
            names: take(names, 1)?,
            end: 0,
        };
        take(leap, width + 4)?;
        take(standard, 1)?;
        take(utc, 1)?;
        Some(Self { end, ..block })
    }

    fn time(&self, bytes: &[u8]) -> Option<i64> {
        match self.width {
            4 => Some(i32::from_be_bytes(bytes.try_into().ok()?).into()),
            _ => Some(i64::from_be_bytes(bytes.try_into().ok()?)),
        }
    }

    fn last(&self) -> Option<i64> {
        self.time(self.times.chunks_exact(self.width).next_back()?)
    }

    /// What began last before a time; before all, the first that is not summer's.
    fn at(&self, time: i64) -> Option<(String, i64)> {
        let times = self.times.chunks_exact(self.width).filter_map(|bytes| self.time(bytes));
        let begun = times.take_while(|begin| *begin <= time).count();
        let kind = match begun.checked_sub(1) {
            Some(at) => usize::from(*self.kinds.get(at)?),
            None => {
                let standard = |kind: &[u8]| kind.get(4) == Some(&0);
                self.descriptions.chunks_exact(6).position(standard).unwrap_or(0)
            }
        };
        let description = self.descriptions.chunks_exact(6).nth(kind)?;
        let offset = i32::from_be_bytes(description.get(..4)?.try_into().ok()?);
        let name = self.names.get(usize::from(*description.get(5)?)..)?;
        let name = name.split(|byte| *byte == 0).next()?;
        Some((String::from_utf8_lossy(name).into_owned(), offset.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A file of the second version: the narrow block is empty.
    fn file(times: &[(i64, u8)], kinds: &[(i32, u8, u8)], names: &str, rule: &str) -> Vec<u8> {
        let header = |times: usize, kinds: usize, names: usize| {
            let mut header = b"TZif2".to_vec();
            header.extend([0; 15]);
            for count in [0, 0, 0, times, kinds, names] {
                header.extend(u32::try_from(count).unwrap().to_be_bytes());
            }
            header
        };
        let mut file = header(0, 1, 1);
        file.extend([0; 7]);
        file.extend(header(times.len(), kinds.len(), names.len()));
        file.extend(times.iter().flat_map(|(time, _)| time.to_be_bytes()));
        file.extend(times.iter().map(|(_, kind)| kind));
        for (offset, summer, name) in kinds {
            file.extend(offset.to_be_bytes());
            file.extend([summer, name]);
        }
        file.extend(names.as_bytes());
        file.extend(format!("\n{rule}\n").as_bytes());
        file
    }

    fn berlin() -> Vec<u8> {
        file(
            &[(-2_422_054_408, 1), (1_700_000_000, 2), (1_710_000_000, 1)],
            &[(3208, 0, 0), (3600, 0, 4), (7200, 1, 8)],
            "LMT\0CET\0CEST\0",
            "CET-1CEST,M3.5.0,M10.5.0/3",
        )
    }

    fn told(found: Option<(&str, i64)>) -> Option<(String, i64)> {
        found.map(|(name, offset)| (name.to_owned(), offset))
    }

    #[test]
    fn the_list_holds_until_its_end_and_the_rule_afterwards() {
        let file = berlin();
        assert_eq!(at(&file, -3_000_000_000), told(Some(("LMT", 3208))));
        assert_eq!(at(&file, 0), told(Some(("CET", 3600))));
        assert_eq!(at(&file, 1_700_000_000), told(Some(("CEST", 7200))));
        assert_eq!(at(&file, 1_711_846_799), told(Some(("CET", 3600))));
        assert_eq!(at(&file, 1_711_846_800), told(Some(("CEST", 7200))));
    }

    #[test]
    fn a_file_without_a_rule_ends_with_its_last_change() {
        let file = file(&[(0, 0)], &[(-18000, 0, 0)], "EST\0", "");
        assert_eq!(at(&file, i64::MAX), told(Some(("EST", -18000))));
    }

    #[test]
    fn an_old_file_has_one_block() {
        let mut file = b"TZif".to_vec();
        file.extend([0; 16]);
        for count in [0_u32, 0, 0, 1, 1, 4] {
            file.extend(count.to_be_bytes());
        }
        file.extend(5_i32.to_be_bytes());
        file.push(0);
        file.extend(3600_i32.to_be_bytes());
        file.extend([0, 0]);
        file.extend(b"CET\0");
        assert_eq!(at(&file, 9), told(Some(("CET", 3600))));
    }

    #[test]
    fn the_variable_is_before_the_system() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        let utc = Timezone { zone: Some("UTC".into()), offset: 0 };
        assert_eq!(zone(&root, None, 0), utc, "a system without a zone");
        std::fs::create_dir_all(root.path("/usr/share/zoneinfo/Europe")).unwrap();
        std::fs::create_dir_all(root.path("/etc")).unwrap();
        std::fs::write(root.path("/usr/share/zoneinfo/Europe/Berlin"), berlin()).unwrap();
        std::fs::write(root.path(SYSTEM), file(&[], &[(60, 0, 0)], "X\0", "")).unwrap();
        let tell = |variable| {
            let told = zone(&root, variable, 1);
            (told.zone.unwrap(), told.offset)
        };
        assert_eq!(tell(None), ("X".to_owned(), 60));
        let expected = ("CET".to_owned(), 3600);
        for variable in
            [":Europe/Berlin", "Europe/Berlin", "/usr/share/zoneinfo/Europe/Berlin", "CET-1"]
        {
            assert_eq!(tell(Some(variable)), expected, "{variable}");
        }
        for variable in ["", "nowhere", "../../../etc/localtime", "/is/not/there"] {
            assert_eq!(tell(Some(variable)), ("UTC".to_owned(), 0), "{variable}");
        }
    }

    proptest! {
        #[test]
        fn no_file_breaks_the_reader(
            change in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..9),
            length in any::<prop::sample::Index>(),
            time in any::<i64>(),
        ) {
            let mut file = berlin();
            for (place, byte) in change {
                *place.get_mut(&mut file) = byte;
            }
            at(&file, time);
            at(&file[..length.index(file.len())], time);
        }
    }
}
