//! The pool in a volume group, where a program in the place of `lvm` keeps files in the place of
//! logical volumes and notes what it is asked. What a thick one is made of held something before.

use super::*;
use crate::disk::Removed;

const LVM: &str = include_str!("lvm.sh");

struct Trial {
    folder: TempDir,
    pools: Pools,
}

impl Trial {
    fn open(thin_pool: Option<&str>) -> Self {
        // Not in memory, where a file cannot be zeroed as a device can.
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        for part in ["lvs", "data", "dev"] {
            fs::create_dir(folder.path().join(part)).unwrap();
        }
        let (program, devices) = (folder.path().join("lvm"), folder.path().join("dev"));
        stand_in(&program, LVM);
        let pool = Lvm::open(name("fast"), "vg".to_owned(), thin_pool.map(str::to_owned));
        let pool = Pool::Lvm(pool.with(&program, &[], &devices));
        Self { pools: Pools(vec![pool]), folder }
    }

    async fn make(&self, size: Bytes, content: Content) -> Result<Place, VolumeError> {
        let place = Place { id: VolumeId::random(), pool: name("fast") };
        let volume =
            NewVolume { place: place.clone(), size, format: None, content, passphrase: None };
        let (progress, _seen) = watch::channel((Bytes(0), Bytes(0)));
        let cancel = CancellationToken::new();
        assert_eq!(self.pools.create(&volume, &progress, &cancel).await?, Ensured::Created);
        let again = self.pools.create(&volume, &progress, &cancel).await?;
        assert_eq!(again, Ensured::AlreadyThere);
        Ok(place)
    }

    async fn io(&self, place: &Place, command: &str) {
        let opened = self.pools.open(place).await.unwrap();
        assert!(matches!(opened.at, At::Device(_)) && opened.direct);
        qemu_io(opened.path(), opened.format, command);
    }

    /// Have every run of a command fail, as if the node had gone down before it.
    fn cut_off(&self, command: &str) {
        fs::write(self.folder.path().join("fail"), command).unwrap();
    }

    fn asked(&self) -> String {
        fs::read_to_string(self.folder.path().join("asked")).unwrap()
    }

    fn logical(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path().join("lvs")).unwrap().flatten();
        let mut names: Vec<_> = entries.map(|e| e.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

const SIZE: Bytes = Bytes::mib(8);

#[tokio::test]
async fn a_thick_volume_reads_as_zeros_also_where_it_grew() {
    let trial = Trial::open(None);
    let place = trial.make(SIZE, Content::Empty).await.unwrap();
    trial.io(&place, "read -P 0 0 8M").await;
    assert_eq!(trial.pools.extend(&place, Bytes::mib(16)).await.unwrap(), Ensured::Created);
    assert_eq!(trial.pools.extend(&place, Bytes::mib(16)).await.unwrap(), Ensured::AlreadyThere);
    trial.pools.widen(&place, Bytes::mib(20)).await.unwrap();
    trial.io(&place, "read -P 0 0 20M").await;
    assert_eq!(trial.pools.open(&place).await.unwrap().size, Bytes::mib(20));
    assert_eq!(trial.pools.delete(&place).await.unwrap(), Removed::Removed);
    assert_eq!(trial.pools.delete(&place).await.unwrap(), Removed::AlreadyGone);
    assert!(!trial.pools.exists(&place).await.unwrap() && trial.logical().is_empty());
}

#[tokio::test]
async fn a_device_of_a_pool_is_known_by_whatever_name() {
    let trial = Trial::open(None);
    let place = trial.make(SIZE, Content::Empty).await.unwrap();
    let opened = trial.pools.open(&place).await.unwrap();
    let device = fs::canonicalize(opened.path()).unwrap();
    assert_eq!(trial.pools.pool_of(&device).await.unwrap(), Some(name("fast")));
    // Somebody else's in the same group.
    let note = trial.folder.path().join("lvs").join(place.id.to_string());
    fs::write(&note, format!("{}\n\n", SIZE.0)).unwrap();
    assert_eq!(trial.pools.pool_of(&device).await.unwrap(), None);
}

#[tokio::test]
async fn an_extension_that_was_cut_off_is_zeroed_before_the_volume_is_opened_again() {
    let trial = Trial::open(None);
    let place = trial.make(SIZE, Content::Empty).await.unwrap();
    // Its device is away when it is to be zeroed.
    let device = trial.folder.path().join("dev").join(place.id.to_string());
    let away = trial.folder.path().join("data").join(format!("{}.away", place.id));
    fs::remove_file(&device).unwrap();
    fs::write(&away, "").unwrap();
    trial.pools.extend(&place, Bytes::mib(16)).await.unwrap_err();
    let told = trial.pools.open(&place).await.unwrap_err();
    assert!(matches!(told, VolumeError::HalfGrown { .. }), "{told}");
    fs::remove_file(away).unwrap();
    trial.pools.extend(&place, Bytes::mib(16)).await.unwrap();
    trial.io(&place, "read -P 0 0 16M").await;
}

#[tokio::test]
async fn what_could_not_be_made_leaves_nothing_and_half_of_one_is_made_anew() {
    let trial = Trial::open(None);
    trial.cut_off("lvchange");
    let told = trial.make(SIZE, Content::Empty).await.unwrap_err();
    assert!(told.to_string().contains("lvchange: cut off"), "{told}");
    let left = trial.logical();
    assert_eq!(left.len(), 1, "it is there, and unfinished: {left:?}");
    let place = Place { id: left[0].parse().unwrap(), pool: name("fast") };
    let told = trial.pools.open(&place).await.unwrap_err();
    assert!(matches!(told, VolumeError::Gone { .. }), "{told}");
    trial.cut_off("");
    let volume = NewVolume {
        place: place.clone(),
        size: SIZE,
        format: None,
        content: Content::Empty,
        passphrase: None,
    };
    let (progress, _seen) = watch::channel((Bytes(0), Bytes(0)));
    trial.pools.create(&volume, &progress, &CancellationToken::new()).await.unwrap();
    trial.io(&place, "read -P 0 0 8M").await;
    // One that is called off while it is copied.
    let (from, cancel) = (trial.pools.open(&place).await.unwrap(), CancellationToken::new());
    cancel.cancel();
    assert_eq!(from.size, SIZE);
    let place = Place { id: VolumeId::random(), ..place };
    let volume = NewVolume { place, ..volume };
    let told = trial.pools.create(&volume, &progress, &cancel).await.unwrap_err();
    assert!(matches!(told, VolumeError::Cancelled { .. }), "{told}");
    assert_eq!(trial.logical().len(), 1);
}

#[tokio::test]
async fn a_thick_volume_is_copied_and_has_no_snapshots() {
    let trial = Trial::open(None);
    let place = trial.make(SIZE, Content::Empty).await.unwrap();
    trial.io(&place, "write -P 7 1M 64k").await;
    let of = Content::Volume { place: place.clone(), snapshot: None };
    let copy = trial.make(Bytes::mib(12), of).await.unwrap();
    trial.io(&copy, "read -P 7 1M 64k").await;
    trial.io(&copy, "read -P 0 8M 4M").await;
    for told in [
        trial.pools.snapshot(&place, &name("a")).await.unwrap_err(),
        trial.pools.revert(&place, &name("a")).await.unwrap_err(),
    ] {
        assert_eq!(told.to_string(), "pool fast cannot do that: snapshots need a thin pool");
    }
}

#[tokio::test]
async fn a_thin_volume_has_snapshots_and_clones() {
    let trial = Trial::open(Some("thin"));
    let place = trial.make(SIZE, Content::Empty).await.unwrap();
    trial.io(&place, "write -P 1 1M 64k").await;
    let a = name("a");
    assert_eq!(trial.pools.snapshot(&place, &a).await.unwrap(), Ensured::Created);
    assert_eq!(trial.pools.snapshot(&place, &a).await.unwrap(), Ensured::AlreadyThere);
    trial.io(&place, "write -P 2 1M 64k").await;
    trial.pools.extend(&place, Bytes::mib(12)).await.unwrap();
    let of = |snapshot| Content::Volume { place: place.clone(), snapshot };
    let then = trial.make(SIZE, of(Some(a.clone()))).await.unwrap();
    let now = trial.make(Bytes::mib(16), of(None)).await.unwrap();
    trial.io(&then, "read -P 1 1M 64k").await;
    trial.io(&now, "read -P 2 1M 64k").await;
    assert_eq!(trial.pools.open(&now).await.unwrap().size, Bytes::mib(16));
    trial.pools.revert(&place, &a).await.unwrap();
    trial.io(&place, "read -P 1 1M 64k").await;
    assert_eq!(trial.pools.open(&place).await.unwrap().size, Bytes::mib(12), "its size stays");
    assert_eq!(trial.pools.delete_snapshot(&place, &a).await.unwrap(), Removed::Removed);
    assert_eq!(trial.pools.delete_snapshot(&place, &a).await.unwrap(), Removed::AlreadyGone);
    trial.pools.delete(&place).await.unwrap();
    trial.io(&then, "read -P 1 1M 64k").await;
}

#[tokio::test]
async fn a_revert_that_was_cut_off_anywhere_is_done_again() {
    for command in ["lvcreate", "lvextend", "lvremove", "lvrename"] {
        let trial = Trial::open(Some("thin"));
        let place = trial.make(SIZE, Content::Empty).await.unwrap();
        let a = name("a");
        trial.io(&place, "write -P 1 1M 64k").await;
        trial.pools.snapshot(&place, &a).await.unwrap();
        trial.io(&place, "write -P 2 1M 64k").await;
        trial.pools.extend(&place, Bytes::mib(12)).await.unwrap();
        trial.cut_off(command);
        trial.pools.revert(&place, &a).await.unwrap_err();
        trial.cut_off("");
        trial.pools.revert(&place, &a).await.unwrap();
        trial.io(&place, "read -P 1 1M 64k").await;
        let id = place.id;
        assert_eq!(trial.logical(), [id.to_string(), format!("{id}.1")], "after {command}");
    }
}

#[tokio::test]
async fn what_is_open_or_not_ours_is_never_removed() {
    let trial = Trial::open(None);
    let place = trial.make(SIZE, Content::Empty).await.unwrap();
    // The kernel counts it open, and no process is seen.
    fs::write(trial.folder.path().join("held"), "").unwrap();
    let told = trial.pools.delete(&place).await.unwrap_err();
    assert!(matches!(told, VolumeError::Held { .. }), "{told}");
    assert!(trial.pools.extend(&place, Bytes::mib(12)).await.is_err());
    fs::remove_file(trial.folder.path().join("held")).unwrap();
    let opened = trial.pools.open(&place).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test needs another process")]
    let mut holder = std::process::Command::new("tail")
        .args(["-f", "/dev/null"])
        .stdin(fs::File::open(opened.path()).unwrap())
        .spawn()
        .unwrap();
    let told = trial.pools.delete(&place).await;
    assert!(matches!(&told, Err(VolumeError::Open { .. })), "{told:?}");
    holder.kill().unwrap();
    holder.wait().unwrap();
    // Somebody else's, under a name of ours.
    let other = Place { id: VolumeId::random(), pool: name("fast") };
    fs::write(trial.folder.path().join("lvs").join(other.id.to_string()), "8388608\n\n").unwrap();
    assert!(trial.pools.exists(&other).await.unwrap());
    assert_eq!(trial.pools.delete(&other).await.unwrap(), Removed::AlreadyGone);
    assert!(trial.pools.open(&other).await.is_err());
    trial.pools.delete(&place).await.unwrap();
    assert_eq!(trial.logical(), [other.id.to_string()]);
}

#[tokio::test]
async fn a_size_that_lvm_would_round_is_refused_and_room_is_told() {
    for (thin, free) in [(None, Bytes::mib(512)), (Some("thin"), Bytes::mib(768))] {
        let trial = Trial::open(thin);
        let told = trial.make(Bytes::mib(9), Content::Empty).await.unwrap_err();
        assert!(matches!(told, VolumeError::NotWhole { .. }), "{told}");
        let room = trial.pools.room(&name("fast")).await.unwrap();
        assert_eq!((room.total, room.free), (Bytes::gib(1), free));
        let asked = trial.asked();
        let only = "devices{scan_lvs=0 global_filter=[\"a|^/dev/sdz$|\",\"r|.*|\"]}";
        assert!(asked.lines().filter(|line| !line.starts_with("pvs")).all(|l| l.contains(only)));
    }
}

/// A volume group on a file of its own.
struct RealGroup {
    folder: TempDir,
    device: String,
    name: String,
}

/// Run a program of the node's; what it said.
fn node(program: &str, words: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "what an operator would do")]
    let ran = std::process::Command::new(program).args(words).output().unwrap();
    assert!(ran.status.success(), "{program} {words:?}: {ran:?}");
    String::from_utf8(ran.stdout).unwrap().trim().to_owned()
}

impl RealGroup {
    fn make() -> Self {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let disk = folder.path().join("disk");
        fs::File::create(&disk).unwrap().set_len(256 << 20).unwrap();
        let device = node("losetup", &["--find", "--show", disk.to_str().unwrap()]);
        let name = format!("ostler-test-{}", std::process::id());
        let group = Self { folder, device, name };
        group.lvm(&["vgcreate", &group.name, &group.device]);
        group
    }

    fn lvm(&self, words: &[&str]) {
        let only = format!("devices{{global_filter=[\"a|^{}$|\",\"r|.*|\"]}}", self.device);
        let rest = ["--driverloaded", "n", "--config", &only, "--yes"];
        node("lvm", &[&words[..1], &rest, &words[1..]].concat());
    }
}

impl Drop for RealGroup {
    fn drop(&mut self) {
        self.lvm(&["vgremove", "--force", &self.name]);
        node("losetup", &["--detach", &self.device]);
    }
}

#[tokio::test]
#[ignore = "needs root, lvm2 and a free loop device"]
async fn the_real_lvm_makes_grows_lists_and_removes_a_thick_volume() {
    let group = RealGroup::make();
    // Without its driver in the kernel: all but the devices, for which there is a file here.
    let without = ["--driverloaded", "n"];
    let devices = group.folder.path();
    let pool = Lvm::open(name("fast"), group.name.clone(), None);
    let pools = Pools(vec![Pool::Lvm(pool.with(Path::new("lvm"), &without, devices))]);
    let room = pools.room(&name("fast")).await.unwrap();
    assert!(room.free > Bytes::mib(200) && room.free == room.total, "{room:?}");
    let place = Place { id: VolumeId::random(), pool: name("fast") };
    fs::write(devices.join(place.id.to_string()), vec![b'x'; 16 << 20]).unwrap();
    let content = Content::Empty;
    let volume =
        NewVolume { place: place.clone(), size: SIZE, format: None, content, passphrase: None };
    let (progress, _seen) = watch::channel((Bytes(0), Bytes(0)));
    let cancel = CancellationToken::new();
    assert_eq!(pools.create(&volume, &progress, &cancel).await.unwrap(), Ensured::Created);
    assert_eq!(pools.create(&volume, &progress, &cancel).await.unwrap(), Ensured::AlreadyThere);
    assert_eq!(pools.extend(&place, Bytes::mib(12)).await.unwrap(), Ensured::Created);
    let opened = pools.open(&place).await.unwrap();
    assert_eq!(opened.size, Bytes::mib(12));
    qemu_io(opened.path(), opened.format, "read -P 0 0 12M");
    assert_eq!(pools.delete(&place).await.unwrap(), Removed::Removed);
    assert!(!pools.exists(&place).await.unwrap());
    let size = Bytes::gib(900);
    let large = NewVolume { size, ..volume };
    let told = pools.create(&large, &progress, &cancel).await.unwrap_err();
    assert!(matches!(told, VolumeError::NoSpace { .. }), "{told}");
    let missing = Lvm::open(name("fast"), format!("{}-not", group.name), None);
    let missing = missing.with(Path::new("lvm"), &without, devices);
    let told = Pools(vec![Pool::Lvm(missing)]).room(&name("fast")).await.unwrap_err();
    assert!(told.to_string().contains("this node has no such group"), "{told}");
}
