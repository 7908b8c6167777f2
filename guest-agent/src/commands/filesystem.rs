//! Mounted file systems, their usage and their disks.
//!
//! The table of mounts tells what there is; the kernel's device tree ([`Device`]) tells where it lies.
//! Neither touches a disk. Usage does: each file system is asked once, by threads that can be given up
//! ([`Probes`](crate::probe::Probes)), and one that does not answer is listed without it. One that
//! cannot be described is left out, and takes nothing else with it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use nix::libc;
use nix::sys::statvfs::statvfs;
use ostler_protocol::qga::commands::Nothing;
use ostler_protocol::qga::commands::filesystem::{DiskAddress, FilesystemInfo, GuestGetFsinfo};

use super::disk::address::{Addresses, Device};
use super::mount::{self, Mount};
use super::{Agent, CommandError, Handle};
use crate::probe::Survey;
use crate::root::Root;
use crate::worker::WorkerError;

/// For looking through the device tree.
const SURVEY: Duration = Duration::from_secs(10);
/// Bytes of an ordinary table of mounts; there is room for more.
const TABLE: usize = 32 << 10;
/// What each btrfs lies on.
const BTRFS: &str = "/sys/fs/btrfs";

/// Why the file systems could not be told.
#[derive(Debug, thiserror::Error)]
pub enum FilesystemError {
    /// The table of mounts.
    #[error("cannot read the table of mounts")]
    Mounts(#[source] io::Error),
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
    let addresses = agent.addresses.clone();
    let find = move || {
        let root = Root::system();
        let table = mounts(&root).map_err(FilesystemError::Mounts)?;
        let (filesystems, places): (Vec<_>, Vec<_>) =
            survey(&root, &addresses, &table).into_iter().unzip();
        Ok::<_, FilesystemError>((filesystems, places))
    };
    let ask = |place: &PathBuf| usage(place);
    let what = "looking for file systems";
    let Survey { found: mut filesystems, answers, hung } =
        agent.probes.survey(&agent.workers, what, SURVEY, find, ask).await?;
    for key in hung {
        agent.log.error(format_args!("{key} does not answer"));
    }
    for (info, usage) in filesystems.iter_mut().zip(answers) {
        fill_in(info, usage);
    }
    Ok(filesystems)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Usage {
    used: u64,
    total: u64,
    privileged: u64,
}

fn fill_in(info: &mut FilesystemInfo, usage: Option<Usage>) {
    info.used_bytes = usage.map(|usage| usage.used);
    info.total_bytes = usage.map(|usage| usage.total);
    info.total_bytes_privileged = usage.map(|usage| usage.privileged);
}

fn usage(place: &Path) -> Option<Usage> {
    let found = statvfs(place).ok()?;
    let unit = found.fragment_size();
    let used = found.blocks().saturating_sub(found.blocks_free());
    Some(Usage {
        used: used.saturating_mul(unit),
        total: used.saturating_add(found.blocks_available()).saturating_mul(unit),
        privileged: found.blocks().saturating_mul(unit),
    })
}

/// The table of mounts.
fn mounts(root: &Root) -> io::Result<Vec<u8>> {
    let mut table = Vec::with_capacity(TABLE);
    fs::File::open(root.path(mount::TABLE))?.read_to_end(&mut table)?;
    Ok(table)
}

/// Describes what the table of mounts has on disks: each with what is to be asked for its usage.
fn survey(
    root: &Root,
    addresses: &Addresses,
    table: &[u8],
) -> Vec<(FilesystemInfo, (String, PathBuf))> {
    let describe = |mount: Mount| {
        let info = mount.describe(root, addresses);
        let (major, minor) = mount.device;
        let key = format!("the file system {major}:{minor} at {}", info.mountpoint);
        (info, (key, mount.place))
    };
    select(table).into_iter().map(describe).collect()
}

impl Mount {
    /// Whether its file system lies on disks. Some that do have no device number of their own.
    fn is_on_disks(&self) -> bool {
        self.device.0 != 0 || matches!(self.kind.as_str(), "btrfs" | "zfs")
    }

    /// Looks up its device, and the disks below it.
    fn describe(&self, root: &Root, addresses: &Addresses) -> FilesystemInfo {
        let device = match self.device {
            (0, _) => self.source_device(root),
            (major, minor) => Device::numbered(root, major, minor),
        };
        let name = match &device {
            Some(device) => device.name(),
            None => {
                let source = self.source.to_string_lossy();
                source.strip_prefix("/dev/").unwrap_or(&source).to_owned()
            }
        };
        let disk = match device {
            Some(device) if self.kind == "btrfs" => spread(root, addresses, &device),
            Some(device) => device.disks(addresses),
            None => Vec::new(),
        };
        FilesystemInfo {
            name,
            mountpoint: self.place.to_string_lossy().into_owned(),
            kind: self.kind.clone(),
            used_bytes: None,
            total_bytes: None,
            total_bytes_privileged: None,
            disk,
        }
    }

    /// The device that is its source, or one of several.
    fn source_device<'a>(&self, root: &'a Root) -> Option<Device<'a>> {
        // a pool's name is no path
        if !self.source.is_absolute() {
            return None;
        }
        let number = fs::metadata(root.path(self.source.to_str()?)).ok()?.rdev();
        Device::numbered(root, libc::major(number).into(), libc::minor(number).into())
    }
}

/// The disks of all devices that a btrfs lies on, of which one is known.
fn spread(root: &Root, addresses: &Addresses, device: &Device<'_>) -> Vec<DiskAddress> {
    let systems = fs::read_dir(root.path(BTRFS)).into_iter().flatten().flatten();
    let mut devices = systems.map(|system| system.path().join("devices"));
    let Some(devices) = devices.find(|devices| devices.join(device.name()).exists()) else {
        return device.disks(addresses);
    };
    let mut links: Vec<_> =
        fs::read_dir(devices).into_iter().flatten().flatten().map(|link| link.path()).collect();
    links.sort();
    links
        .iter()
        .filter_map(|link| Device::find(root, link))
        .flat_map(|part| part.disks(addresses))
        .collect()
}

/// The mounts that lie on disks, each file system once: where its root is mounted if it is, else where
/// it was mounted first. A place over which another was mounted later is taken only if there is no
/// other.
fn select(table: &[u8]) -> Vec<Mount> {
    let mut mounts = mount::parse(table);
    mounts.retain(Mount::is_on_disks);
    let last: HashMap<&Path, usize> =
        mounts.iter().enumerate().map(|(at, mount)| (mount.place.as_path(), at)).collect();
    let rank = |at: usize, mount: &Mount| {
        (last.get(mount.place.as_path()) == Some(&at), mount.root == Path::new("/"))
    };
    let mut best: HashMap<(u64, u64), usize> = HashMap::new();
    let mut order = Vec::new();
    for (at, mount) in mounts.iter().enumerate() {
        match best.entry(mount.device) {
            Entry::Vacant(entry) => {
                order.push(mount.device);
                entry.insert(at);
            }
            Entry::Occupied(mut entry) => {
                let known = *entry.get();
                if mounts.get(known).is_none_or(|other| rank(at, mount) > rank(known, other)) {
                    entry.insert(at);
                }
            }
        }
    }
    order.iter().filter_map(|device| mounts.get(*best.get(device)?).cloned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::root::tree;
    use proptest::prelude::*;

    const MANY: &str = "\
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

    fn places(table: &str) -> Vec<(PathBuf, String, PathBuf)> {
        let selected = select(table.as_bytes()).into_iter();
        selected.map(|mount| (mount.place, mount.kind, mount.source)).collect()
    }

    #[test]
    fn each_file_system_on_disks_is_listed_once_at_its_root() {
        let expected = [
            ("/", "ext4", "/dev/vda1"),
            ("/data disk", "xfs", "/dev/vda2"),
            ("/home", "btrfs", "/dev/vdb"),
            ("/tank", "zfs", "tank/data"),
        ];
        assert_eq!(
            places(MANY),
            expected.map(|(place, kind, source)| (place.into(), kind.into(), source.into()))
        );
    }

    #[test]
    fn a_place_that_is_covered_is_not_asked_if_there_is_another() {
        let table = "\
1 1 8:1 / /mnt rw - ext4 /dev/sda1 rw
2 1 8:2 / /mnt rw - xfs /dev/sda2 rw
3 1 8:1 /x /bind rw - ext4 /dev/sda1 rw
4 1 8:3 / /only rw - ext4 /dev/sda3 rw
5 1 8:4 / /only rw - ext4 /dev/sda4 rw
";
        let places: Vec<_> =
            places(table).into_iter().map(|(place, ..)| place.display().to_string()).collect();
        assert_eq!(places, ["/bind", "/mnt", "/only", "/only"]);
    }

    #[test]
    fn thousands_of_mounts_of_one_file_system_are_one() {
        let mut table = String::new();
        for at in 0..5000 {
            table += &format!("{at} 1 254:1 /x{at} /y{at} rw shared:{at} - ext4 /dev/vda1 rw\n");
            table += &format!("{at} 1 0:{at} / /z{at} rw - nfs4 server:/{at} rw\n");
        }
        table += "9 1 254:1 / / rw - ext4 /dev/vda1 rw\n";
        assert_eq!(places(&table), [("/".into(), "ext4".into(), "/dev/vda1".into())]);
    }

    #[test]
    fn a_place_need_not_be_text() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::at(folder.path());
        fs::create_dir_all(root.path("/proc/self")).unwrap();
        let table = b"1 1 8:1 / /caf\xE9\\040\xFF rw - ext4 /dev/sda1 rw\n";
        fs::write(root.path(mount::TABLE), table).unwrap();
        let [mount] = &select(&mounts(&root).unwrap())[..] else { panic!("one mount") };
        assert_eq!(mount.place.as_os_str().as_encoded_bytes(), b"/caf\xE9 \xFF");
    }

    #[test]
    fn a_file_system_is_described_by_its_device_and_disks() {
        let vda = "/sys/devices/pci0000:00/0000:00:02.0/virtio0/block/vda";
        let vdb = "/sys/devices/pci0000:00/0000:00:03.0/virtio1/block/vdb";
        let (_folder, root) = tree(&[
            (&format!("{vda}/dev"), "254:0\n"),
            (&format!("{vda}/uevent"), "DEVNAME=vda\n"),
            (&format!("{vda}/vda1/partition"), "1\n"),
            (&format!("{vda}/vda1/uevent"), "DEVNAME=vda1\n"),
            (&format!("{vdb}/uevent"), "DEVNAME=vdb\n"),
            ("/sys/dev/block/254:1", &format!("-> ../../..{vda}/vda1")),
            ("/sys/dev/block/254:16", &format!("-> ../../..{vdb}")),
            ("/sys/fs/btrfs/features/x", ""),
            ("/sys/fs/btrfs/1234/devices/vda1", &format!("-> ../../../../..{vda}/vda1")),
            ("/sys/fs/btrfs/1234/devices/vdb", &format!("-> ../../../../..{vdb}")),
        ]);
        let told = |line: &str| {
            let told = mount::parse(line.as_bytes())[0].describe(&root, &Addresses::default());
            let disks: Vec<_> = told.disk.into_iter().map(|disk| disk.dev.unwrap()).collect();
            (told.name, told.mountpoint, disks)
        };
        let on = |name: &str, place: &str, disks: &[&str]| {
            let disks: Vec<String> = disks.iter().map(|disk| (*disk).to_owned()).collect();
            (name.to_owned(), place.to_owned(), disks)
        };
        assert_eq!(told("1 1 254:1 / /a rw - ext4 /dev/root rw"), on("vda1", "/a", &["/dev/vda1"]));
        assert_eq!(
            told("1 1 9:9 / /gone rw - ext4 /dev/sdz rw"),
            on("sdz", "/gone", &[]),
            "a device that is not in the tree"
        );
        assert_eq!(told("1 1 0:9 / /t rw - zfs tank/x rw"), on("tank/x", "/t", &[]));
        let disk = Device::numbered(&root, 254, 16).unwrap();
        let parts: Vec<_> = spread(&root, &Addresses::default(), &disk)
            .into_iter()
            .map(|disk| disk.dev.unwrap())
            .collect();
        assert_eq!(parts, ["/dev/vda1", "/dev/vdb"], "a btrfs on two devices");
    }

    #[tokio::test]
    async fn usage_is_told_of_what_is_there() {
        let told = usage(Path::new("/")).unwrap();
        assert!(told.privileged >= told.total && told.total > told.used);
        assert_eq!(usage(Path::new("/is/not/there")), None);
    }

    proptest! {
        #[test]
        fn no_table_breaks_the_reader(
            table in "(([0-9:]{0,22}|/|[a-z]{0,4}|-|btrfs|\\\\[0-9]{0,4}) ?|\n|.){0,99}",
        ) {
            for mount in select(table.as_bytes()) {
                prop_assert!(mount.device.0 != 0 || matches!(mount.kind.as_str(), "btrfs" | "zfs"));
            }
        }
    }
}
