//! Processors: which there are, what they did, how much waits for them.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use nix::unistd::{SysconfVar, sysconf};
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::cpu::{
    CpuStatistics, GuestGetCpustats, GuestGetLoad, GuestGetVcpus, GuestSetVcpus,
    LinuxCpuStatistics, LoadAverage, LogicalProcessor, SetVcpusArguments,
};

use super::{Agent, CommandError, Handle};
use crate::root::{self, Root};

const PROCESSORS: &str = "/sys/devices/system/cpu";
const IN_USE: &str = "/sys/devices/system/cpu/online";
const STATISTICS: &str = "/proc/stat";
const LOAD: &str = "/proc/loadavg";
/// For looking; a processor that is being changed is waited for by the kernel.
const LOOK: Duration = Duration::from_secs(10);
/// For changing: the kernel takes tenths of a second for each.
const CHANGE: Duration = Duration::from_secs(120);

/// Why processors could not be told of or changed.
#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    /// The kernel's list of them.
    #[error("cannot list the processors in {PROCESSORS}")]
    List(#[source] io::Error),
    /// One there is none of, or that cannot be looked at.
    #[error("cannot look at logical processor #{0}")]
    Look(i64, #[source] io::Error),
    /// One that is always in use. Tools know the text.
    #[error("logical processor #{0} can't be offlined")]
    Fixed(i64),
    /// The kernel refused.
    #[error("cannot change logical processor #{0}")]
    Change(i64, #[source] io::Error),
    /// The kernel's counters.
    #[error("cannot read {0}")]
    Counters(&'static str, #[source] io::Error),
    /// A load that is none.
    #[error("{LOAD} has no load")]
    Load,
}

impl Handle for GuestGetVcpus {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<LogicalProcessor>, CommandError> {
        Ok(agent.look("listing the processors", LOOK, processors).await??)
    }
}

impl Handle for GuestSetVcpus {
    async fn handle(agent: Rc<Agent>, arguments: SetVcpusArguments) -> Result<i64, CommandError> {
        let change = move || set_processors(&Root::system(), &arguments.vcpus);
        Ok(agent.workers.run("changing the processors", CHANGE, change).await??)
    }
}

impl Handle for GuestGetCpustats {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<CpuStatistics>, CommandError> {
        let read = |root: &Root| root.text(STATISTICS);
        let text = agent.look("reading the processors' counters", LOOK, read).await?;
        Ok(statistics(&text.map_err(|source| CpuError::Counters(STATISTICS, source))?, hertz()))
    }
}

impl Handle for GuestGetLoad {
    async fn handle(_: Rc<Agent>, _: Nothing) -> Result<LoadAverage, CommandError> {
        let text = Root::system().text(LOAD);
        let text = text.map_err(|source| CpuError::Counters(LOAD, source))?;
        Ok(load(&text).ok_or(CpuError::Load)?)
    }
}

/// The processors, by number.
///
/// Each has a file that says whether it is in use, but that is not told while it is being changed,
/// which takes a while. The kernel's list of those in use is told at any time.
fn processors(root: &Root) -> Result<Vec<LogicalProcessor>, CpuError> {
    let folder = root.folder(PROCESSORS).map_err(CpuError::List)?;
    let numbers = root::numbered(&folder, "cpu").map_err(CpuError::List)?;
    let in_use = root.text(IN_USE).map_err(|source| CpuError::Counters(IN_USE, source))?;
    let ranges = ranges(&in_use);
    let processors = numbers.into_iter().filter_map(|number| {
        let can_offline = folder.join(format!("cpu{number}/online")).exists();
        Some(LogicalProcessor {
            logical_id: i64::try_from(number).ok()?,
            online: !can_offline || ranges.iter().any(|range| range.contains(&number)),
            can_offline: Some(can_offline),
        })
    });
    Ok(processors.collect())
}

/// The ranges of a list such as `0-3,8`.
fn ranges(list: &str) -> Vec<RangeInclusive<u64>> {
    let range = |word: &str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.trim().split(',').filter_map(range).collect()
}

/// Whether a processor is in use; `None` if that cannot be changed.
fn online(processor: &Path) -> io::Result<Option<bool>> {
    fs::metadata(processor)?;
    match fs::read(processor.join("online")) {
        Ok(text) => match text.first() {
            Some(first) => Ok(Some(*first != b'0')),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Changes one after the other until one cannot be. That is an error only if it is the first: the
/// caller learns how many went well, and asks again from there to learn why.
fn set_processors(root: &Root, wanted: &[LogicalProcessor]) -> Result<i64, CpuError> {
    let mut done = 0;
    for processor in wanted {
        match set_processor(root, processor) {
            Ok(()) => done += 1,
            Err(error) if done == 0 => return Err(error),
            Err(_) => break,
        }
    }
    Ok(done)
}

fn set_processor(root: &Root, wanted: &LogicalProcessor) -> Result<(), CpuError> {
    let id = wanted.logical_id;
    let processor = root.path(PROCESSORS).join(format!("cpu{id}"));
    match online(&processor).map_err(|source| CpuError::Look(id, source))? {
        Some(now) if now == wanted.online => Ok(()),
        Some(_) => fs::write(processor.join("online"), if wanted.online { "1" } else { "0" })
            .map_err(|source| CpuError::Change(id, source)),
        None if wanted.online => Ok(()),
        None => Err(CpuError::Fixed(id)),
    }
}

/// How many of the kernel's ticks are a second.
fn hertz() -> u64 {
    let told = sysconf(SysconfVar::CLK_TCK).ok().flatten();
    told.and_then(|hertz| u64::try_from(hertz).ok()).filter(|hertz| *hertz > 0).unwrap_or(100)
}

/// The counters of each processor. The first line is of all together, and not told.
fn statistics(text: &str, hertz: u64) -> Vec<CpuStatistics> {
    let processor = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let cpu = i64::try_from(root::number(words.next()?, "cpu")?).ok()?;
        let mut times = words.map_while(|word| word.parse().ok()).map(|ticks: u64| {
            u64::try_from(u128::from(ticks) * 1000 / u128::from(hertz)).unwrap_or(u64::MAX)
        });
        Some(CpuStatistics::Linux(LinuxCpuStatistics {
            cpu,
            user: times.next()?,
            nice: times.next()?,
            system: times.next()?,
            idle: times.next()?,
            iowait: times.next(),
            irq: times.next(),
            softirq: times.next(),
            steal: times.next(),
            guest: times.next(),
            guestnice: times.next(),
        }))
    };
    text.lines().filter_map(processor).collect()
}

fn load(text: &str) -> Option<LoadAverage> {
    let mut numbers = text
        .split_ascii_whitespace()
        .map_while(|word| word.parse().ok().filter(|load: &f64| load.is_finite()));
    Some(LoadAverage { load1m: numbers.next()?, load5m: numbers.next()?, load15m: numbers.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;
    use proptest::prelude::*;

    const FOUR: &[(&str, &str)] = &[
        ("/sys/devices/system/cpu/online", "0-1,10\n"),
        ("/sys/devices/system/cpu/cpuidle/current_driver", "none\n"),
        ("/sys/devices/system/cpu/cpu0/topology/core_id", "0\n"),
        ("/sys/devices/system/cpu/cpu1/online", "1\n"),
        ("/sys/devices/system/cpu/cpu2/online", "0\n"),
        ("/sys/devices/system/cpu/cpu10/online", "1\n"),
    ];

    fn processor(logical_id: i64, online: bool) -> LogicalProcessor {
        LogicalProcessor { logical_id, online, can_offline: None }
    }

    #[test]
    fn processors_are_told_by_number() {
        let (_folder, root) = tree(FOUR);
        let told: Vec<_> = processors(&root)
            .unwrap()
            .into_iter()
            .map(|told| (told.logical_id, told.online, told.can_offline.unwrap()))
            .collect();
        assert_eq!(told, [(0, true, false), (1, true, true), (2, false, true), (10, true, true)]);
    }

    #[test]
    fn a_list_is_numbers_and_ranges_and_may_be_empty() {
        assert_eq!(ranges("0-1,10\n"), [0..=1, 10..=10]);
        assert_eq!(ranges("\n"), []);
    }

    #[test]
    fn what_went_well_before_a_failure_is_counted() {
        let (_folder, root) = tree(FOUR);
        let state = |number: u8| {
            fs::read_to_string(root.path(&format!("{PROCESSORS}/cpu{number}/online"))).unwrap()
        };
        let wanted = [processor(0, true), processor(1, false), processor(2, true)];
        assert_eq!(set_processors(&root, &wanted).unwrap(), 3);
        assert_eq!((state(1).as_str(), state(2).as_str()), ("0", "1"));
        let wanted = [processor(1, true), processor(99, true), processor(2, false)];
        assert_eq!(set_processors(&root, &wanted).unwrap(), 1);
        assert_eq!((state(1).as_str(), state(2).as_str()), ("1", "1"), "nothing after a failure");
        assert_eq!(set_processors(&root, &[]).unwrap(), 0);
    }

    #[test]
    fn a_failure_of_the_first_is_an_error_that_says_which() {
        let (_folder, root) = tree(FOUR);
        let error = |wanted| set_processors(&root, &[wanted]).unwrap_err().to_string();
        assert_eq!(error(processor(0, false)), "logical processor #0 can't be offlined");
        assert_eq!(error(processor(99, true)), "cannot look at logical processor #99");
        assert_eq!(error(processor(-1, true)), "cannot look at logical processor #-1");
    }

    #[test]
    fn times_are_milliseconds_and_old_kernels_tell_less() {
        let text = "cpu  9 9 9 9 9 9 9 9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\ncpu7 1 2 3 4\n\
            cpu8 1 2 3\nintr 1 2 3 4 5\n";
        let [CpuStatistics::Linux(full), CpuStatistics::Linux(old)] = statistics(text, 100)[..]
        else {
            panic!("two processors")
        };
        assert_eq!((full.cpu, full.user, full.idle), (0, 10, 40));
        assert_eq!((full.steal, full.guest, full.guestnice), (Some(80), Some(90), Some(100)));
        assert_eq!((old.cpu, old.idle, old.iowait), (7, 40, None));
    }

    #[test]
    fn the_load_is_three_numbers() {
        let load15m = load("0.10 2.00 33.05 1/123 4567\n").unwrap().load15m;
        assert!((load15m - 33.05).abs() < f64::EPSILON);
        assert_eq!(load("0.10 2.00"), None);
        assert_eq!(load("nan inf 1"), None);
    }

    proptest! {
        #[test]
        fn no_text_breaks_the_readers(text in "(cpu[0-9]{0,22}( [0-9a-z-]{0,22}){0,12}\n|.{0,9}){0,9}") {
            let _ = (statistics(&text, 100), load(&text), ranges(&text));
        }
    }
}
