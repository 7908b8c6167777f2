//! What operations do to disks: setting aside, copying, growing, exporting.

use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::process::Stdio;

use super::*;

fn progress() -> watch::Sender<(Bytes, Bytes)> {
    watch::Sender::new((Bytes(0), Bytes(0)))
}

impl Bench {
    /// An instance with a root disk.
    async fn booted(&self, size: Bytes) -> RootDisk {
        let root = self.raw_root(size);
        self.disks.create_root(&root).await.unwrap();
        root
    }

    /// An instance with something in place of a root disk.
    fn with_root(&self, bytes: &[u8]) -> (InstanceId, Files) {
        let instance = InstanceId::random();
        let files = self.disks.files(instance);
        fs::create_dir(&files.folder).unwrap();
        fs::write(&files.root, bytes).unwrap();
        (instance, files)
    }

    async fn copy_aside(&self, instance: InstanceId) -> Result<Ensured, DiskError> {
        self.disks.copy_aside(instance, &progress(), &CancellationToken::new()).await
    }

    async fn export(&self, instance: InstanceId) -> Result<Ensured, DiskError> {
        let to = self.disks.snapshot_file(instance);
        self.disks.export(instance, &to, &progress(), &CancellationToken::new()).await
    }
}

/// What is in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Write to a disk as a guest would.
fn guest_writes(disk: &Path, command: &str) -> bool {
    #[expect(clippy::disallowed_methods, reason = "QEMU's own way to write to a disk")]
    let run = std::process::Command::new("qemu-io")
        .args(["-f", "qcow2", "-c", command])
        .arg(disk)
        .output();
    match run {
        Ok(output) => {
            assert!(output.status.success(), "{output:?}");
            true
        }
        Err(error) => {
            println!("skipped: qemu-io cannot be run ({error})");
            false
        }
    }
}

fn same_content(a: &Path, b: &Path) {
    let (a, b) = (a.to_str().unwrap(), b.to_str().unwrap());
    qemu_img(&["compare", "-f", "qcow2", "-F", "qcow2", a, b]).unwrap();
    let checked = qemu_img(&["check", "-f", "qcow2", b]).unwrap();
    assert!(checked.contains("No errors were found"), "{checked}");
}

#[tokio::test]
async fn a_rescue_disk_is_made_and_removed_beside_the_root_disk() {
    let bench = bench().await;
    let root = bench.booted(Bytes::gib(1)).await;
    let rescue = RootDisk { size: Bytes::gib(2), ..root.clone() };
    let files = bench.disks.files(root.instance);
    assert_eq!(bench.disks.create_rescue(&rescue).await.unwrap(), Ensured::Created);
    assert_eq!(bench.disks.create_rescue(&rescue).await.unwrap(), Ensured::AlreadyThere);
    let refused = bench.disks.create_rescue(&root).await.unwrap_err().to_string();
    assert!(refused.contains("another disk.rescue.qcow2"), "{refused}");
    assert_eq!(names(&files.folder), ["disk.qcow2", "disk.rescue.qcow2"]);
    fs::write(files.folder.join(".disk.rescue.qcow2.new"), "left by a crash").unwrap();
    assert_eq!(bench.disks.remove_rescue(root.instance).await.unwrap(), Removed::Removed);
    assert_eq!(bench.disks.remove_rescue(root.instance).await.unwrap(), Removed::AlreadyGone);
    assert_eq!(names(&files.folder), ["disk.qcow2"]);
    let nobody = InstanceId::random();
    assert_eq!(bench.disks.remove_rescue(nobody).await.unwrap(), Removed::AlreadyGone);
}

#[tokio::test]
async fn a_copy_is_exact_sparse_and_tells_of_its_progress() {
    let bench = bench().await;
    let (instance, files) = bench.with_root(b"");
    let root = fs::File::options().write(true).open(&files.root).unwrap();
    // Holes at the beginning, between and at the end.
    root.set_len((1 << 30) + 5).unwrap();
    root.write_all_at(&[7; 100_000], 64 << 20).unwrap();
    root.write_all_at(&vec![9; 20 << 20], 512 << 20).unwrap();
    drop(root);
    let told = progress();
    let copied = bench.disks.copy_aside(instance, &told, &CancellationToken::new()).await;
    assert_eq!(copied.unwrap(), Ensured::Created);
    let end = Bytes((1 << 30) + 5);
    assert_eq!(*told.borrow(), (end, end));
    let (from, to) = (fs::metadata(&files.root).unwrap(), fs::metadata(&files.aside).unwrap());
    assert_eq!(from.len(), to.len());
    assert_ne!(from.ino(), to.ino(), "a second name is no copy");
    assert!(to.blocks() <= from.blocks() + 64, "{} for {}", to.blocks(), from.blocks());
    assert_eq!(to.permissions().mode() & 0o777, 0o600);
    #[expect(clippy::disallowed_methods, reason = "reads a gigabyte faster than a debug build")]
    let same = std::process::Command::new("cmp").args([&files.root, &files.aside]).status();
    assert!(same.unwrap().success());
    assert_eq!(names(&files.folder), ["disk.aside.qcow2", "disk.qcow2"]);
}

#[tokio::test]
async fn a_copy_that_is_there_is_kept_whatever_became_of_the_disk() {
    let bench = bench().await;
    let (instance, files) = bench.with_root(b"before");
    assert_eq!(bench.copy_aside(instance).await.unwrap(), Ensured::Created);
    fs::write(&files.root, "after").unwrap();
    assert_eq!(bench.copy_aside(instance).await.unwrap(), Ensured::AlreadyThere);
    assert_eq!(fs::read(&files.aside).unwrap(), b"before");
    assert_eq!(bench.disks.put_back(instance).await.unwrap(), Moved::Moved);
    assert_eq!(bench.disks.put_back(instance).await.unwrap(), Moved::AlreadySo);
    assert_eq!(fs::read(&files.root).unwrap(), b"before");
}

#[tokio::test]
async fn a_cancelled_copy_leaves_nothing() {
    let bench = bench().await;
    let root = bench.booted(Bytes::gib(1)).await;
    let files = bench.disks.files(root.instance);
    let cancel = CancellationToken::new();
    cancel.cancel();
    let copied = bench.disks.copy_aside(root.instance, &progress(), &cancel).await;
    assert!(matches!(copied, Err(DiskError::Cancelled { .. })), "{copied:?}");
    let to = bench.disks.snapshot_file(root.instance);
    let exported = bench.disks.export(root.instance, &to, &progress(), &cancel).await;
    assert!(matches!(exported, Err(DiskError::Cancelled { .. })), "{exported:?}");
    assert_eq!(names(&files.folder), ["disk.qcow2"]);
}

#[tokio::test]
async fn cancelling_ends_a_copy_and_qemu_img_midway() {
    let bench = bench().await;
    let (instance, files) = bench.with_root(&vec![1; 64 << 20]);
    let (told, cancel) = (progress(), CancellationToken::new());
    let mut seen = told.subscribe();
    let midway = async {
        seen.wait_for(|(_, total)| total.0 > 0).await.unwrap();
        cancel.cancel();
    };
    let (copied, ()) = tokio::join!(bench.disks.copy_aside(instance, &told, &cancel), midway);
    assert!(matches!(copied, Err(DiskError::Cancelled { .. })), "{copied:?}");
    assert_eq!(names(&files.folder), ["disk.qcow2"]);

    let root = bench.booted(Bytes::gib(1)).await;
    let files = bench.disks.files(root.instance);
    let program = bench.state.path().join("qemu-img");
    let script = "#!/bin/sh\nprintf '    (50.00/100%%)\\r'\nexec sleep 1000\n";
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let mut disks = bench.disks.clone();
    disks.qemu_img = program;
    let (told, cancel) = (progress(), CancellationToken::new());
    let mut seen = told.subscribe();
    let midway = async {
        seen.wait_for(|told| *told == (Bytes::mib(512), Bytes::gib(1))).await.unwrap();
        assert_eq!(names(&files.folder), [".snapshot.qcow2.new", "disk.qcow2"]);
        cancel.cancel();
    };
    let to = disks.snapshot_file(root.instance);
    let (exported, ()) = tokio::join!(disks.export(root.instance, &to, &told, &cancel), midway);
    assert!(matches!(exported, Err(DiskError::Cancelled { .. })), "{exported:?}");
    assert_eq!(names(&files.folder), ["disk.qcow2"]);
}

#[tokio::test]
async fn links_in_place_of_disks_are_refused_and_not_followed() {
    let bench = bench().await;
    let secret = bench.state.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    let (instance, files) = bench.with_root(b"");
    fs::remove_file(&files.root).unwrap();
    symlink(&secret, &files.root).unwrap();
    let disks = &bench.disks;
    let refused = |error: DiskError| {
        assert!(matches!(error, DiskError::NotAFile { .. }), "{error:?}");
    };
    refused(bench.copy_aside(instance).await.unwrap_err());
    refused(disks.set_aside(instance).await.unwrap_err());
    refused(disks.grow_root(instance, Bytes::gib(9)).await.unwrap_err());
    refused(bench.export(instance).await.unwrap_err());
    fs::remove_file(&files.root).unwrap();
    fs::write(&files.root, "disk").unwrap();
    symlink(&secret, &files.aside).unwrap();
    refused(bench.copy_aside(instance).await.unwrap_err());
    refused(disks.put_back(instance).await.unwrap_err());
    refused(disks.set_aside(instance).await.unwrap_err());
    disks.drop_aside(instance).await.unwrap();
    // What a copy is written to is never somebody else's either.
    symlink(&secret, files.folder.join(".disk.aside.qcow2.new")).unwrap();
    assert_eq!(bench.copy_aside(instance).await.unwrap(), Ensured::Created);
    assert_eq!(fs::read(&secret).unwrap(), b"secret");
    assert_eq!(names(&files.folder), ["disk.aside.qcow2", "disk.qcow2"]);
}

#[tokio::test]
async fn growing_keeps_what_the_guest_wrote_and_never_shrinks() {
    let bench = bench().await;
    let root = bench.booted(Bytes::mib(64)).await;
    let (disks, instance) = (&bench.disks, root.instance);
    let disk = disks.files(instance).root;
    if !guest_writes(&disk, "write -P 0x33 10M 1M") {
        return;
    }
    assert_eq!(disks.grow_root(instance, Bytes(6 << 40)).await.unwrap(), Ensured::Created);
    assert_eq!(disks.grow_root(instance, Bytes(6 << 40)).await.unwrap(), Ensured::AlreadyThere);
    assert_eq!(disks.grow_root(instance, Bytes::mib(1)).await.unwrap(), Ensured::AlreadyThere);
    let grown = RootDisk { size: Bytes(6 << 40), ..root.clone() };
    assert_eq!(disks.create_root(&grown).await.unwrap(), Ensured::AlreadyThere);
    assert!(guest_writes(&disk, "read -P 0x33 10M 1M"));
    assert!(guest_writes(&disk, "read -P 0x5a 0 1M"));
    assert!(guest_writes(&disk, "read -P 0 5T 1M"));
    let checked = qemu_img(&["check", "-f", "qcow2", disk.to_str().unwrap()]).unwrap();
    assert!(checked.contains("No errors were found"), "{checked}");
    let impossible = disks.grow_root(instance, Bytes(u64::MAX)).await.unwrap_err();
    assert!(matches!(impossible, DiskError::Impossible { .. }), "{impossible:?}");
    let nobody = disks.grow_root(InstanceId::random(), Bytes::gib(1)).await.unwrap_err();
    assert!(matches!(nobody, DiskError::NoRoot { .. }), "{nobody:?}");
}

#[tokio::test]
async fn an_export_stands_alone_and_is_made_anew_when_the_disk_was_written_to() {
    let bench = bench().await;
    let root = bench.booted(Bytes::mib(64)).await;
    let (disks, instance) = (&bench.disks, root.instance);
    let (disk, copy) = (disks.files(instance).root, disks.snapshot_file(instance));
    if !guest_writes(&disk, "write -P 0x33 10M 1M") {
        return;
    }
    fs::write(copy.with_file_name(".snapshot.qcow2.new"), "left by a crash").unwrap();
    let told = progress();
    let exported = disks.export(instance, &copy, &told, &CancellationToken::new()).await;
    assert_eq!(exported.unwrap(), Ensured::Created);
    assert_eq!(*told.borrow(), (Bytes::mib(64), Bytes::mib(64)));
    assert_eq!(names(&disks.files(instance).folder), ["disk.qcow2", "snapshot.qcow2"]);
    same_content(&disk, &copy);
    let info = qemu_img(&["info", "-f", "qcow2", copy.to_str().unwrap()]).unwrap();
    assert!(!info.contains("backing"), "{info}");
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(bench.export(instance).await.unwrap(), Ensured::AlreadyThere);
    assert!(guest_writes(&disk, "write -P 0x44 20M 1M"));
    assert_eq!(bench.export(instance).await.unwrap(), Ensured::Created);
    same_content(&disk, &copy);
    assert_eq!(disks.remove_snapshot_file(instance).await.unwrap(), Removed::Removed);
    assert_eq!(disks.remove_snapshot_file(instance).await.unwrap(), Removed::AlreadyGone);
}

#[tokio::test]
async fn a_disk_in_use_is_not_exported_nor_grown() {
    let bench = bench().await;
    let root = bench.booted(Bytes::mib(64)).await;
    let disk = bench.disks.files(root.instance).root;
    let hold = || {
        #[expect(clippy::disallowed_methods, reason = "holds the disk as a running QEMU does")]
        let mut holds = tokio::process::Command::new("qemu-io");
        holds.args(["-f", "qcow2", "-c", "sleep 600000"]).arg(&disk).kill_on_drop(true).spawn()
    };
    let Ok(mut held) = hold() else {
        println!("skipped: qemu-io cannot be run");
        return;
    };
    let mut locked = false;
    while !locked {
        #[expect(clippy::disallowed_methods, reason = "to see whether the disk is held yet")]
        let mut look = tokio::process::Command::new("qemu-img");
        let look = look.args(["info", "-f", "qcow2"]).arg(&disk).output().await.unwrap();
        locked = !look.status.success();
        if held.try_wait().unwrap().is_some() {
            // It met the look's own lock.
            (held, locked) = (hold().unwrap(), false);
        }
    }
    let exported = bench.export(root.instance).await.unwrap_err();
    assert!(exported.to_string().contains("lock"), "{exported}");
    let grown = bench.disks.grow_root(root.instance, Bytes::gib(1)).await.unwrap_err();
    assert!(grown.to_string().contains("lock"), "{grown}");
    held.kill().await.unwrap();
    assert_eq!(names(disk.parent().unwrap()), ["disk.qcow2"]);
    assert_eq!(bench.export(root.instance).await.unwrap(), Ensured::Created);
}

#[test]
fn on_a_full_disk_copies_fail_and_leave_all_as_it_was() {
    on_a_small_disk("8m", async |state| {
        let disks = Directory::open(state).await.unwrap();
        let outside = tempfile::tempdir().unwrap();
        let path = outside.path().join("base.raw");
        fs::write(&path, vec![0x5a; 16 << 20]).unwrap();
        let base = Base { path, format: Format::Raw, virtual_size: Bytes::mib(16) };
        let instance = InstanceId::random();
        let root = RootDisk { instance, base, size: Bytes::mib(16) };
        disks.create_root(&root).await.unwrap();
        let files = disks.files(instance);
        if !guest_writes(&files.root, "write -P 0x33 0 5M") {
            return;
        }
        let (told, cancel) = (progress(), CancellationToken::new());
        let no_space = |error: DiskError| {
            assert!(matches!(error, DiskError::NoSpace { .. }), "{error:?}");
            assert_eq!(names(&files.folder), ["disk.qcow2"]);
        };
        no_space(disks.copy_aside(instance, &told, &cancel).await.unwrap_err());
        let to = disks.snapshot_file(instance);
        no_space(disks.export(instance, &to, &told, &cancel).await.unwrap_err());
        let full = fill(state);
        no_space(disks.grow_root(instance, Bytes::gib(900)).await.unwrap_err());
        assert_eq!(disks.create_root(&root).await.unwrap(), Ensured::AlreadyThere);
        assert!(guest_writes(&files.root, "read -P 0x33 0 5M"));
        fs::remove_file(full).unwrap();
        disks.grow_root(instance, Bytes::gib(900)).await.unwrap();
    });
}

#[tokio::test]
async fn a_copy_leaves_room_for_the_guests() {
    let bench = bench().await;
    let root = bench.booted(Bytes::mib(64)).await;
    let disks = bench.disks.clone();
    disks.keep_free(Bytes(1 << 60));
    let (told, cancel) = (progress(), CancellationToken::new());
    let copied = disks.copy_aside(root.instance, &told, &cancel).await;
    assert!(matches!(copied, Err(DiskError::NoSpace { .. })), "{copied:?}");
    assert_eq!(names(&disks.files(root.instance).folder), ["disk.qcow2"]);
}

const COPYING: &str = "OSTLER_TEST_COPY_ASIDE";

/// Not a test by itself: what [`a_copy_that_was_killed_is_made_by_the_next_try`] kills.
#[tokio::test]
async fn copies_when_told_to() {
    let Ok(told) = std::env::var(COPYING) else { return };
    let (state, instance) = told.split_once(' ').unwrap();
    let disks = Directory::open(Path::new(state)).await.unwrap();
    let instance = instance.parse().unwrap();
    disks.copy_aside(instance, &progress(), &CancellationToken::new()).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_was_killed_is_made_by_the_next_try() {
    let bench = bench().await;
    let (instance, files) = bench.with_root(&vec![0x77; 128 << 20]);
    #[expect(clippy::disallowed_methods, reason = "an agent to be killed")]
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "disk::tests::operations::copies_when_told_to"])
        .env(COPYING, format!("{} {instance}", bench.state.path().display()))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let unfinished = files.folder.join(".disk.aside.qcow2.new");
    while !fs::metadata(&unfinished).is_ok_and(|meta| meta.blocks() > 0)
        && child.try_wait().unwrap().is_none()
    {
        tokio::task::yield_now().await;
    }
    child.kill().await.unwrap();
    let had_finished = files.aside.exists();
    assert!(had_finished || unfinished.exists(), "killed before it began");
    let wanted = if had_finished { Ensured::AlreadyThere } else { Ensured::Created };
    assert_eq!(bench.copy_aside(instance).await.unwrap(), wanted);
    assert!(fs::read(&files.root).unwrap() == fs::read(&files.aside).unwrap());
}
