//! Mounted file systems, their usage and their disks.
//!
//! The table of mounts tells what there is; the kernel's device tree ([`disk`]) tells where it lies.
//! Neither touches a disk. Usage does: it is asked for on a thread that can be given up, and a file
//! system that does not answer is listed without it. One that cannot be described is left out, and
//! takes nothing else with it.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::filesystem::{FilesystemInfo, GuestGetFsinfo};
use tokio::sync::mpsc;

use super::{CommandError, disk};
use crate::dispatcher::Handle;
use crate::state::Agent;
use crate::worker::WorkerError;

const MOUNTS: &str = "/proc/self/mountinfo";
/// For looking through the device tree.
const SURVEY: Duration = Duration::from_secs(10);
/// For a file system to tell its usage.
const PROBE: Duration = Duration::from_secs(1);
/// So many that do not answer, then no more are asked.
const STUCK: usize = 3;

/// Why the file systems could not be told.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// The table of mounts.
    #[error("cannot read the table of mounts")]
    Mounts(#[source] std::io::Error),
    /// The thread that looks.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl Handle for GuestGetFsinfo {
    async fn handle(agent: Rc<Agent>, _: Nothing) -> Result<Vec<FilesystemInfo>, CommandError> {
        Ok(list(&agent).await?)
    }
}

/// The file systems that lie on disks, one entry each.
pub async fn list(agent: &Agent) -> Result<Vec<FilesystemInfo>, FilesystemError> {
    let survey = agent.workers.run("looking for file systems", SURVEY, || {
        let table = std::fs::read(MOUNTS).map_err(FilesystemError::Mounts)?;
        Ok::<_, FilesystemError>(survey(&String::from_utf8_lossy(&table)))
    });
    let mut filesystems = survey.await??;
    measure(agent, &mut filesystems).await;
    Ok(filesystems)
}

/// Mounts that are being asked; one that hung an earlier call is not asked again until it answers.
#[derive(Clone, Debug, Default)]
pub struct Probes {
    asked: Arc<Mutex<BTreeSet<String>>>,
}

impl Probes {
    fn with<T>(&self, act: impl FnOnce(&mut BTreeSet<String>) -> T) -> T {
        act(&mut self.asked.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    used: u64,
    total: u64,
    privileged: u64,
}

/// Adds the usage of those that answer. One thread asks all; when one does not answer, it is left to
/// itself and another goes on behind it.
async fn measure(agent: &Agent, filesystems: &mut [FilesystemInfo]) {
    let mut next = 0;
    let mut stuck = 0;
    while next < filesystems.len() && stuck < STUCK {
        let places: Vec<_> =
            filesystems[next..].iter().map(|info| info.mountpoint.clone()).collect();
        let (sender, mut answers) = mpsc::channel(places.len());
        let probes = agent.probes.clone();
        let begun = agent.workers.begin("asking a file system", move || {
            for place in places {
                let usage = if probes.with(|asked| asked.insert(place.clone())) {
                    let usage = usage(&place);
                    probes.with(|asked| asked.remove(&place));
                    usage
                } else {
                    None
                };
                if sender.blocking_send(usage).is_err() {
                    return;
                }
            }
        });
        if let Err(error) = begun {
            agent.log.info(format_args!("usage left out: {error}"));
            return;
        }
        loop {
            match tokio::time::timeout(PROBE, answers.recv()).await {
                Ok(Some(usage)) => {
                    fill_in(&mut filesystems[next], usage);
                    next += 1;
                }
                Ok(None) => break,
                Err(_) => {
                    let place = &filesystems[next].mountpoint;
                    agent.log.error(format_args!("the file system at {place} does not answer"));
                    next += 1;
                    stuck += 1;
                    break;
                }
            }
        }
    }
}

fn fill_in(info: &mut FilesystemInfo, usage: Option<Usage>) {
    info.used_bytes = usage.map(|usage| usage.used);
    info.total_bytes = usage.map(|usage| usage.total);
    info.total_bytes_privileged = usage.map(|usage| usage.privileged);
}

fn usage(place: &str) -> Option<Usage> {
    let found = statvfs(Path::new(place)).ok()?;
    let unit = found.fragment_size();
    let used = found.blocks().saturating_sub(found.blocks_free());
    Some(Usage {
        used: used.saturating_mul(unit),
        total: used.saturating_add(found.blocks_available()).saturating_mul(unit),
        privileged: found.blocks().saturating_mul(unit),
    })
}

/// Describes what the table of mounts has on disks.
fn survey(table: &str) -> Vec<FilesystemInfo> {
    select(table).into_iter().map(|mount| mount.describe()).collect()
}

/// A line of the table of mounts.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    major: u64,
    minor: u64,
    /// The folder of the file system that is mounted: not its root in a bind mount.
    root: String,
    place: String,
    kind: String,
    source: String,
}

impl Mount {
    fn parse(line: &str) -> Option<Self> {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(2);
        let (major, minor) = left.next()?.split_once(':')?;
        let root = unescape(left.next()?);
        let place = unescape(left.next()?);
        let mut right = right.split(' ');
        Some(Self {
            major: major.parse().ok()?,
            minor: minor.parse().ok()?,
            root,
            place,
            kind: right.next()?.to_owned(),
            source: unescape(right.next()?),
        })
    }

    /// Whether it lies on disks. Some that do have no device number of their own.
    fn lies_on_disks(&self) -> bool {
        self.major != 0 || matches!(self.kind.as_str(), "btrfs" | "zfs")
    }

    fn describe(self) -> FilesystemInfo {
        let (major, minor) = if self.major == 0 {
            // its source is the device, or one of them
            std::fs::metadata(&self.source)
                .map(|device| (nix::libc::major(device.rdev()), nix::libc::minor(device.rdev())))
                .map_or((0, 0), |(major, minor)| (major.into(), minor.into()))
        } else {
            (self.major, self.minor)
        };
        let device = disk::device(major, minor);
        let name = match &device {
            Some(path) => path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            None => self.source.trim_start_matches("/dev/").to_owned(),
        };
        FilesystemInfo {
            name,
            mountpoint: self.place,
            kind: self.kind,
            used_bytes: None,
            total_bytes: None,
            total_bytes_privileged: None,
            disk: device.map(|path| disk::below(&path)).unwrap_or_default(),
        }
    }
}

/// The mounts that lie on disks, each file system once: where its root is mounted if it is, else where
/// it was mounted first.
fn select(table: &str) -> Vec<Mount> {
    let mut mounts: Vec<Mount> = Vec::new();
    for mount in table.lines().filter_map(Mount::parse).filter(Mount::lies_on_disks) {
        let same = |known: &&mut Mount| (known.major, known.minor) == (mount.major, mount.minor);
        match mounts.iter_mut().find(same) {
            None => mounts.push(mount),
            Some(known) if known.root != "/" && mount.root == "/" => *known = mount,
            Some(_) => {}
        }
    }
    mounts
}

/// A field of the table of mounts, where what would break a line is written in octal.
fn unescape(field: &str) -> String {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, octal.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw - proc proc rw
24 22 254:1 /var/lib/x /srv/bind rw - ext4 /dev/vda1 rw
25 22 254:2 /sub /first rw - xfs /dev/vda2 rw
26 22 254:2 / /data\\040disk rw shared:2 master:1 - xfs /dev/vda2 rw
27 22 0:40 /@home /home rw - btrfs /dev/vdb rw,subvol=/@home
28 22 0:41 / /tank rw - zfs tank/data rw
29 22 0:50 / /run rw - tmpfs tmpfs rw
nonsense
";

    #[test]
    fn each_file_system_on_disks_is_listed_once_at_its_root() {
        let places: Vec<_> = select(TABLE)
            .into_iter()
            .map(|mount| (mount.place, mount.kind, mount.source))
            .collect();
        let expected = [
            ("/", "ext4", "/dev/vda1"),
            ("/data disk", "xfs", "/dev/vda2"),
            ("/home", "btrfs", "/dev/vdb"),
            ("/tank", "zfs", "tank/data"),
        ];
        assert_eq!(
            places,
            expected.map(|(place, kind, source)| (place.into(), kind.into(), source.into()))
        );
    }

    #[test]
    fn octal_is_undone_and_nothing_else() {
        assert_eq!(unescape("a\\040b\\134c\\011"), "a b\\c\t");
        assert_eq!(unescape("a\\"), "a\\");
        assert_eq!(unescape("\\9\\7"), "\\9\\7");
        assert_eq!(unescape("\\303\\251"), "é");
    }

    #[tokio::test]
    async fn usage_is_filled_in() {
        let agent = Agent::new(&crate::options::Settings::for_tests());
        let entry = |place: &str| FilesystemInfo {
            name: String::new(),
            mountpoint: place.to_owned(),
            kind: String::new(),
            used_bytes: None,
            total_bytes: None,
            total_bytes_privileged: None,
            disk: Vec::new(),
        };
        let mut filesystems = [entry("/"), entry("/is/not/there"), entry("/")];
        measure(&agent, &mut filesystems).await;
        assert!(filesystems[0].total_bytes_privileged >= filesystems[0].total_bytes);
        assert!(filesystems[0].total_bytes > filesystems[0].used_bytes);
        assert_eq!(filesystems[1].used_bytes, None);
        assert!(filesystems[2].used_bytes.is_some());
        // as if an earlier call hung there
        agent.probes.with(|asked| asked.insert("/".to_owned()));
        let mut filesystems = [entry("/")];
        measure(&agent, &mut filesystems).await;
        assert_eq!(filesystems[0].used_bytes, None, "one that hangs is not asked again");
    }
}
