//! Which file systems are frozen, and in which order.
//!
//! Whatever is frozen must need nothing that is frozen already: freezing flushes, and a flush to a
//! frozen disk never ends. A file system on a loop device writes to the one that holds the file, so it
//! comes first. Else the order is that of mounting, backwards. Thawing goes the other way round.
//!
//! Each file system is frozen once, however often it is mounted: bind mounts and subvolumes are other
//! views of the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use crate::commands::mount::{Device, Mount, holding};

/// A file system that can be frozen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Filesystem {
    /// Its device.
    pub(crate) device: Device,
    /// Where it is mounted, with the number of each mount; the best to open first.
    pub(crate) places: Vec<(u64, PathBuf)>,
    /// Nothing can be written to it anyhow.
    pub(crate) read_only: bool,
}

impl Filesystem {
    /// What it is called when speaking of it.
    pub(crate) fn name(&self) -> String {
        self.places.first().map(|(_, place)| place.display().to_string()).unwrap_or_default()
    }

    /// Whether it is mounted at one of these places.
    pub(crate) fn is_at(&self, places: &[String]) -> bool {
        self.places
            .iter()
            .any(|(_, place)| places.iter().any(|wanted| place.as_os_str() == &**wanted))
    }
}

/// The file systems in the order in which they are frozen. `files_below` tells of a mount in which
/// files its devices lie.
pub(crate) fn order(
    mounts: &[Mount],
    files_below: impl Fn(&Mount) -> Vec<PathBuf>,
) -> Vec<Filesystem> {
    let mut found: Vec<(Filesystem, Vec<Device>)> = Vec::new();
    for mount in mounts.iter().filter(|mount| can_be_frozen(mount)) {
        if found.iter().any(|(known, _)| known.device == mount.device) {
            continue;
        }
        let (whole, parts): (Vec<_>, Vec<_>) = mounts
            .iter()
            .filter(|other| other.device == mount.device)
            .partition(|other| other.root.as_os_str() == "/");
        let places = whole.into_iter().chain(parts).map(|other| (other.id, other.place.clone()));
        let filesystem = Filesystem {
            device: mount.device,
            places: places.collect(),
            read_only: mount.is_read_only(),
        };
        let below = files_below(mount);
        found.push((filesystem, below.iter().filter_map(|file| holder(mounts, file)).collect()));
    }
    let mut order = Vec::with_capacity(found.len());
    let mut done = BTreeSet::new();
    for at in (0..found.len()).rev() {
        place_after_dependents(at, &found, &mut done, &mut order);
    }
    order
}

/// Adds a file system to the order, behind all that lie on it.
fn place_after_dependents(
    first: usize,
    found: &[(Filesystem, Vec<Device>)],
    done: &mut BTreeSet<usize>,
    order: &mut Vec<Filesystem>,
) {
    // (which, whether what lies on it has been placed)
    let mut left = vec![(first, false)];
    while let Some((at, ready)) = left.pop() {
        let (filesystem, _) = &found[at];
        if ready {
            order.push(filesystem.clone());
            continue;
        }
        // also ends a circle, which there cannot be
        if !done.insert(at) {
            continue;
        }
        left.push((at, true));
        let dependents =
            (0..found.len()).filter(|other| found[*other].1.contains(&filesystem.device));
        left.extend(dependents.map(|other| (other, false)));
    }
}

/// The file system that holds a file. One that only unites others holds it in its upper one.
fn holder(mounts: &[Mount], file: &Path) -> Option<Device> {
    let mut mount = holding(mounts, file)?;
    for _ in 0..mounts.len() {
        match mount.option("upperdir").filter(|_| mount.kind == "overlay") {
            Some(upper) => mount = holding(mounts, &upper)?,
            None => break,
        }
    }
    Some(mount.device)
}

/// Whether a file system is written to disks of this machine, and by the kernel. Network shares and
/// memory have no device number; some that span devices have none either. One that a program of the
/// guest's serves cannot be frozen, and to open it would wait for that program.
fn can_be_frozen(mount: &Mount) -> bool {
    match mount.kind.as_str() {
        "btrfs" | "bcachefs" => true,
        "fuseblk" => false,
        _ => mount.device.0 != 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::mount;
    use proptest::prelude::*;

    /// The order, as the first places of each; `loops` says in which file a device lies.
    fn order_of(table: &str, loops: &[(&str, &str)]) -> Vec<String> {
        let mounts = mount::parse(table.as_bytes());
        let below = |mount: &Mount| {
            let source = mount.source.to_str();
            let files = loops.iter().filter(|(device, _)| source == Some(*device));
            files.map(|(_, file)| PathBuf::from(file)).collect()
        };
        order(&mounts, below).iter().map(Filesystem::name).collect()
    }

    #[test]
    fn what_was_mounted_last_is_frozen_first() {
        let table = "\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
30 22 254:2 / /srv rw - xfs /dev/vda2 rw
31 30 254:3 / /srv/deep rw - ext4 /dev/vda3 rw
";
        assert_eq!(order_of(table, &[]), ["/srv/deep", "/srv", "/"]);
    }

    #[test]
    fn only_what_lies_on_disks_and_in_the_kernel_is_frozen() {
        let table = "\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
23 22 0:21 / /proc rw - proc proc rw
24 22 0:5 / /dev rw - devtmpfs dev rw
25 22 0:22 / /run rw - tmpfs tmpfs rw
26 22 0:30 / /net rw - nfs4 host:/x rw
27 22 0:31 / /share rw - cifs //host/x rw
28 22 0:32 / /host rw - virtiofs tag rw
29 22 8:1 / /win rw - fuseblk /dev/sda1 rw
30 22 0:33 / /merged rw - overlay none rw,upperdir=/up
31 22 0:40 /@home /home rw - btrfs /dev/vdb rw
";
        assert_eq!(order_of(table, &[]), ["/home", "/"]);
    }

    #[test]
    fn a_file_system_is_frozen_once_however_often_it_is_mounted() {
        let table = "\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
24 22 254:1 /var/lib/x /srv/bind rw - ext4 /dev/vda1 rw
30 22 0:40 /@ /b rw - btrfs /dev/vdb rw,subvol=/@
31 22 0:40 /@home /home rw - btrfs /dev/vdb rw,subvol=/@home
32 22 0:40 / /b/top rw - btrfs /dev/vdb rw,subvol=/
33 22 254:1 / /again rw - ext4 /dev/vda1 rw
";
        assert_eq!(order_of(table, &[]), ["/b/top", "/"]);
        let mounts = mount::parse(table.as_bytes());
        let order = order(&mounts, |_| Vec::new());
        let places = |at: usize| -> Vec<_> {
            order[at].places.iter().map(|(_, place)| place.to_str().unwrap()).collect()
        };
        assert_eq!(places(0), ["/b/top", "/b", "/home"]);
        assert_eq!(places(1), ["/", "/again", "/srv/bind"]);
        assert!(order[0].is_at(&["/home".to_owned()]), "any of its places names it");
        assert!(!order[0].is_at(&["/again".to_owned()]));
    }

    #[test]
    fn a_loop_device_is_frozen_before_what_holds_its_file() {
        // mounted before the file system that holds its file, as far as the table tells
        let table = "\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
23 22 7:0 / /image rw - ext4 /dev/loop0 rw
24 22 254:2 / /srv rw - xfs /dev/vda2 rw
25 22 7:1 / /inner rw - ext4 /dev/loop1 rw
";
        let loops = [("/dev/loop0", "/srv/image"), ("/dev/loop1", "/image/deep/inner.img")];
        assert_eq!(order_of(table, &loops), ["/inner", "/image", "/srv", "/"]);
        assert_eq!(order_of(table, &[]), ["/inner", "/srv", "/image", "/"]);
    }

    #[test]
    fn a_file_below_an_overlay_lies_in_its_upper_file_system() {
        let table = "\
22 1 254:1 / / rw - ext4 /dev/vda1 rw
23 22 7:0 / /image rw - ext4 /dev/loop0 rw
24 22 254:2 / /layers rw - xfs /dev/vda2 rw
25 22 0:50 / /merged rw - overlay none rw,lowerdir=/,upperdir=/layers/up,workdir=/layers/w
";
        let loops = [("/dev/loop0", "/merged/image")];
        assert_eq!(order_of(table, &loops), ["/image", "/layers", "/"]);
    }

    #[test]
    fn a_file_in_memory_or_out_of_sight_changes_nothing() {
        let table = "\
23 22 7:0 / /image rw - ext4 /dev/loop0 rw
24 22 7:1 / /other rw - ext4 /dev/loop1 rw
25 22 0:22 / /run rw - tmpfs tmpfs rw
";
        let loops = [("/dev/loop0", "/run/image"), ("/dev/loop1", "/elsewhere")];
        assert_eq!(order_of(table, &loops), ["/other", "/image"]);
    }

    #[test]
    fn a_circle_ends() {
        let table = "\
23 22 7:0 / /a rw - ext4 /dev/loop0 rw
24 22 7:1 / /b rw - ext4 /dev/loop1 rw
";
        let loops = [("/dev/loop0", "/b/x"), ("/dev/loop1", "/a/x")];
        assert_eq!(order_of(table, &loops).len(), 2);
    }

    #[test]
    fn it_is_read_only_if_the_file_system_is() {
        let table = "\
22 1 254:1 / / ro - ext4 /dev/vda1 rw
23 22 254:2 / /cd ro - ext4 /dev/vda2 ro
";
        let order = order(&mount::parse(table.as_bytes()), |_| Vec::new());
        assert!(order[0].read_only && !order[1].read_only);
    }

    proptest! {
        /// Device i lies in a file of one of the file systems before it in a shuffled list.
        #[test]
        fn nothing_is_frozen_before_what_lies_on_it(
            parents in proptest::collection::vec(any::<prop::sample::Index>(), 1..30),
            shuffled in Just(()).prop_perturb(|(), mut random| random.random::<u64>()),
        ) {
            let parents: Vec<usize> =
                parents.iter().enumerate().map(|(at, parent)| parent.index(at + 1)).collect();
            let mut lines: Vec<usize> = (0..parents.len()).collect();
            let mut seed = shuffled;
            for at in (1..lines.len()).rev() {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                lines.swap(at, (seed >> 33) as usize % (at + 1));
            }
            let table: String = lines
                .iter()
                .map(|at| format!("{at} 0 7:{at} / /m{at} rw - ext4 /dev/loop{at} rw\n"))
                .collect();
            let mounts = mount::parse(table.as_bytes());
            let below = |mount: &Mount| {
                let at = usize::try_from(mount.device.1).unwrap();
                let parent = parents[at];
                if parent == at { Vec::new() } else { vec![format!("/m{parent}/file").into()] }
            };
            let order: Vec<usize> = order(&mounts, below)
                .iter()
                .map(|filesystem| usize::try_from(filesystem.device.1).unwrap())
                .collect();
            prop_assert_eq!(order.len(), parents.len());
            let rank = |wanted: usize| order.iter().position(|at| *at == wanted).unwrap();
            for (at, parent) in parents.iter().enumerate() {
                prop_assert!(at == *parent || rank(at) < rank(*parent));
            }
        }
    }
}
