//! Disks in a temporary folder, with a real qemu-img for a second opinion where one is installed.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use ostler_protocol::rpc::image::Format;
use ostler_protocol::rpc::values::Bytes;

use super::*;

mod operations;
mod sequences;

struct Bench {
    state: tempfile::TempDir,
    disks: Directory,
}

async fn bench() -> Bench {
    let state = tempfile::tempdir().unwrap();
    let disks = Directory::open(state.path()).await.unwrap();
    Bench { state, disks }
}

impl Bench {
    fn raw_root(&self, size: Bytes) -> RootDisk {
        let path = self.state.path().join("base.raw");
        if !path.exists() {
            fs::write(&path, vec![0x5a; 1 << 20]).unwrap();
        }
        let base = Base { path, format: Format::Raw, virtual_size: Bytes::mib(1) };
        RootDisk { instance: InstanceId::random(), base, size }
    }
}

/// What `qemu-img` says, or `None`, with the reason, where it is not installed.
fn qemu_img(arguments: &[&str]) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "a second opinion on what was written")]
    match std::process::Command::new("qemu-img").args(arguments).output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).into_owned();
            let complaint = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "qemu-img {arguments:?}: {said}{complaint}");
            Some(said)
        }
        Err(error) => {
            println!("skipped: qemu-img cannot be run ({error})");
            None
        }
    }
}

#[tokio::test]
async fn a_root_disk_is_made_once() {
    let bench = bench().await;
    let root = bench.raw_root(Bytes::gib(1));
    let disks = &bench.disks;
    assert_eq!(disks.create_root(&root).await.unwrap(), Ensured::Created);
    let before = fs::metadata(disks.files(root.instance).root).unwrap().ino();
    assert_eq!(disks.create_root(&root).await.unwrap(), Ensured::AlreadyThere);
    assert_eq!(fs::metadata(disks.files(root.instance).root).unwrap().ino(), before);
    assert_eq!(disks.list().await.unwrap(), [root.instance]);
    let names = fs::read_dir(disks.files(root.instance).folder).unwrap().count();
    assert_eq!(names, 1, "nothing but the disk stays");
}

#[tokio::test]
async fn qemu_finds_no_fault_in_overlays_of_any_size() {
    let bench = bench().await;
    let sizes = [Bytes::mib(1), Bytes::gib(20), Bytes(Bytes::gib(20).0 + 512), Bytes(5 << 40)];
    for size in sizes {
        let root = bench.raw_root(size);
        bench.disks.create_root(&root).await.unwrap();
        let disk = bench.disks.files(root.instance).root;
        let disk = disk.to_str().unwrap();
        let Some(checked) = qemu_img(&["check", "-f", "qcow2", disk]) else { return };
        assert!(checked.contains("No errors were found"), "{checked}");
        let said = qemu_img(&["info", "-f", "qcow2", "--output", "json", disk]).unwrap();
        let info: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!(info["virtual-size"], size.0);
        assert_eq!(info["backing-filename-format"], "raw");
        assert_eq!(info["backing-filename"], root.base.path.to_str().unwrap());
    }
}

#[tokio::test]
async fn an_overlay_reads_as_its_base_and_takes_writes() {
    let bench = bench().await;
    let root = bench.raw_root(Bytes::mib(64));
    bench.disks.create_root(&root).await.unwrap();
    let disk = bench.disks.files(root.instance).root;
    let disk = disk.to_str().unwrap();
    let copy = bench.state.path().join("copy");
    let convert = ["convert", "-f", "qcow2", "-O", "raw", disk, copy.to_str().unwrap()];
    if qemu_img(&convert).is_none() {
        return;
    }
    let copied = fs::read(&copy).unwrap();
    assert_eq!(copied.len(), 64 << 20);
    assert!(copied[..1 << 20].iter().all(|byte| *byte == 0x5a));
    assert!(copied[1 << 20..].iter().all(|byte| *byte == 0));
    // Growing rewrites header and L1 table: the file is one QEMU can work with.
    qemu_img(&["resize", "-f", "qcow2", disk, "2G"]).unwrap();
    let checked = qemu_img(&["check", "-f", "qcow2", disk]).unwrap();
    assert!(checked.contains("No errors were found"), "{checked}");
}

#[tokio::test]
async fn another_disk_is_never_replaced() {
    let bench = bench().await;
    let root = bench.raw_root(Bytes::gib(1));
    bench.disks.create_root(&root).await.unwrap();
    let larger = RootDisk { size: Bytes::gib(2), ..root.clone() };
    let refused = bench.disks.create_root(&larger).await.unwrap_err();
    assert!(matches!(refused, DiskError::Different { .. }), "{refused}");
    let disk = bench.disks.files(root.instance).root;
    fs::write(&disk, "written by somebody").unwrap();
    assert!(bench.disks.create_root(&root).await.is_err());
    assert_eq!(fs::read(&disk).unwrap(), b"written by somebody");
}

#[tokio::test]
async fn impossible_disks_leave_nothing() {
    let bench = bench().await;
    let root = bench.raw_root(Bytes::gib(1));
    let kernel = Base { format: Format::Kernel, ..root.base.clone() };
    let gone = Base { path: "/does/not/exist".into(), ..root.base.clone() };
    let folder = Base { path: bench.state.path().to_owned(), ..root.base.clone() };
    let relative = Base { path: "base.raw".into(), ..root.base.clone() };
    for base in [kernel, gone, folder, relative] {
        let bad = RootDisk { base, ..root.clone() };
        assert!(bench.disks.create_root(&bad).await.is_err(), "{bad:?}");
    }
    let small = RootDisk { size: Bytes::kib(512), ..root.clone() };
    let refused = bench.disks.create_root(&small).await.unwrap_err();
    assert_eq!(
        refused.to_string(),
        "a root disk of 512 KiB is smaller than its image, which needs 1 MiB"
    );
    assert_eq!(bench.disks.list().await.unwrap(), []);
}

#[tokio::test]
async fn what_a_crash_left_does_not_matter() {
    let bench = bench().await;
    let root = bench.raw_root(Bytes::gib(1));
    let files = bench.disks.files(root.instance);
    fs::create_dir(&files.folder).unwrap();
    let victim = bench.state.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    std::os::unix::fs::symlink(&victim, files.folder.join(".disk.qcow2.new")).unwrap();
    assert_eq!(bench.disks.create_root(&root).await.unwrap(), Ensured::Created);
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    assert_eq!(bench.disks.create_root(&root).await.unwrap(), Ensured::AlreadyThere);
}

#[tokio::test]
async fn removing_is_complete_idempotent_and_stays_inside() {
    let bench = bench().await;
    let root = bench.raw_root(Bytes::gib(1));
    let files = bench.disks.files(root.instance);
    bench.disks.create_root(&root).await.unwrap();
    fs::write(&files.console_log, "Linux").unwrap();
    let outside = bench.state.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "").unwrap();
    std::os::unix::fs::symlink(&outside, files.folder.join("link")).unwrap();
    let removed = bench.disks.remove_instance(root.instance).await.unwrap();
    assert_eq!(removed, Removed::Removed);
    let removed = bench.disks.remove_instance(root.instance).await.unwrap();
    assert_eq!(removed, Removed::AlreadyGone);
    assert!(!files.folder.exists() && outside.join("precious").exists());
    // The instance's own name, made a link by somebody.
    std::os::unix::fs::symlink(&outside, &files.folder).unwrap();
    bench.disks.remove_instance(root.instance).await.ok();
    assert!(outside.join("precious").exists());
}

#[test]
fn a_full_disk_is_told_and_left_as_it_was() {
    on_a_small_disk("64k", async |state| {
        let disks = Directory::open(state).await.unwrap();
        let full = fill(state);
        let base = Base { path: full, format: Format::Raw, virtual_size: Bytes(512) };
        let root = RootDisk { instance: InstanceId::random(), base, size: Bytes::gib(1) };
        let error = disks.create_root(&root).await.unwrap_err();
        assert!(matches!(error, DiskError::NoSpace { .. }), "{error:?}");
        assert!(error.is_transient());
        assert_eq!(disks.list().await.unwrap(), []);
    });
}

/// Fill the file system.
fn fill(state: &Path) -> PathBuf {
    let full = state.join("full");
    let filled = fs::write(&full, vec![0; 64 << 20]).unwrap_err();
    assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
    full
}

/// Test on a file system of that size, which only the test's thread sees.
fn on_a_small_disk(size: &'static str, test: impl AsyncFnOnce(&Path) + Send + 'static) {
    let test = move || {
        if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
            println!("skipped: a mount namespace needs root ({errno})");
            return;
        }
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let state = tempfile::tempdir().unwrap();
        let options = format!("size={size}");
        let options = Some(options.as_str());
        mount(Some("none"), state.path(), Some("tmpfs"), MsFlags::empty(), options).unwrap();
        runtime.block_on(test(state.path()));
        nix::mount::umount(state.path()).unwrap();
    };
    if let Err(panic) = std::thread::spawn(test).join() {
        std::panic::resume_unwind(panic);
    }
}
