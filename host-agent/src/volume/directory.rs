//! Disks as files below one directory.
//!
//! A disk is written under another name, synced, then linked to its own: it is there whole or not
//! at all, and linking, unlike renaming, never replaces a disk that a guest has written to. What a
//! crash leaves under the other name is written over by the next try and goes with the folder.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::InstanceId;
use tracing::info;

use super::{Base, Ensured, Files, Presence, Removed, RootDisk, VolumeError, Volumes};
use crate::qcow2::{self, Header, Overlay};
use crate::threads::Threads;

/// As many file system calls at once; removing a large disk may take seconds.
const THREADS: usize = 8;

/// Others may pass through to a file they know and have a right to (QEMU to its disk), but not
/// look around.
const FOLDER_MODE: u32 = 0o711;

/// libvirt gives the disk to QEMU's user when the domain starts, and takes it back.
const DISK_MODE: u32 = 0o600;

/// The instances' folders below a state directory.
#[derive(Debug, Clone)]
pub struct Directory {
    instances: PathBuf,
    threads: Threads,
}

impl Directory {
    /// The folders in `<state>/instances`, which is made if missing.
    pub async fn open(state: &Path) -> Result<Self, VolumeError> {
        let instances = state.join("instances");
        let this = Self { instances: instances.clone(), threads: Threads::new("volume", THREADS) };
        let make = move || {
            DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(&instances)?;
            // To see now, rather than at the first boot, that it can be used.
            fs::read_dir(&instances).map(drop)
        };
        this.run("open", this.instances.clone(), make).await?;
        Ok(this)
    }

    async fn run<T: Send + 'static>(
        &self,
        step: &'static str,
        path: PathBuf,
        call: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> Result<T, VolumeError> {
        self.threads.run(call).await.flatten().map_err(VolumeError::io(step, &path))
    }

    async fn spawn<T: Send + 'static>(
        &self,
        path: &Path,
        call: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        self.threads.run(call).await.map_err(VolumeError::io("start a thread for", path))?
    }
}

impl Volumes for Directory {
    async fn create_root(&self, root: &RootDisk) -> Result<Ensured, VolumeError> {
        let files = self.files(root.instance);
        let overlay = plan(root)?;
        let root = root.clone();
        self.spawn(&files.root.clone(), move || create(&root, &files, &overlay)).await
    }

    async fn root_exists(&self, root: &RootDisk) -> Result<Presence, VolumeError> {
        let path = self.files(root.instance).root;
        let root = root.clone();
        self.spawn(&path.clone(), move || look(&root, &path)).await
    }

    async fn remove_instance(&self, instance: InstanceId) -> Result<Removed, VolumeError> {
        let folder = self.files(instance).folder;
        let path = folder.clone();
        let parent = self.instances.clone();
        // An id is made of hexadecimal digits and hyphens, so the path cannot lead elsewhere, and
        // the standard library removes trees by descriptor: a link put in the way of it is
        // removed, not followed.
        let remove = move || match fs::remove_dir_all(&folder) {
            Ok(()) => File::open(parent)?.sync_all().map(|()| Removed::Removed),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Removed::AlreadyGone),
            Err(error) => Err(error),
        };
        let removed = self.run("remove", path, remove).await?;
        info!(%instance, ?removed, "instance folder removed");
        Ok(removed)
    }

    async fn list(&self) -> Result<Vec<InstanceId>, VolumeError> {
        let path = self.instances.clone();
        let list = move || {
            let mut ids = Vec::new();
            for entry in fs::read_dir(path)? {
                let name = entry?.file_name();
                let id = name.to_str().and_then(|name| name.parse::<InstanceId>().ok());
                ids.extend(id);
            }
            Ok(ids)
        };
        self.run("list", self.instances.clone(), list).await
    }

    fn files(&self, instance: InstanceId) -> Files {
        let folder = self.instances.join(instance.to_string());
        let root = folder.join("disk.qcow2");
        let console_log = folder.join("console.log");
        Files { folder, root, console_log }
    }
}

/// The bytes of the disk, if it can be.
fn plan(root: &RootDisk) -> Result<Overlay, VolumeError> {
    let Base { path, format, virtual_size } = &root.base;
    if !format.is_disk() {
        return Err(VolumeError::NotADisk { format: *format });
    }
    if root.size < *virtual_size {
        return Err(VolumeError::TooSmall { size: root.size, base: *virtual_size });
    }
    // A relative path would be looked for from the overlay's folder.
    let text = path.to_str().filter(|_| path.is_absolute());
    let text = text.ok_or_else(|| VolumeError::BasePath { path: path.clone() })?;
    qcow2::overlay(root.size, text, format.as_str())
        .map_err(|source| VolumeError::Impossible { instance: root.instance, source })
}

fn create(root: &RootDisk, files: &Files, overlay: &Overlay) -> Result<Ensured, VolumeError> {
    match look(root, &files.root)? {
        Presence::Present => return Ok(Ensured::AlreadyThere),
        Presence::Different { why } => {
            return Err(VolumeError::Different { instance: root.instance, why });
        }
        Presence::Absent => {}
    }
    check_base(&root.base)?;
    let new_folder = match DirBuilder::new().mode(FOLDER_MODE).create(&files.folder) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        Err(error) => return Err(VolumeError::io("make", &files.folder)(error)),
    };
    let unfinished = files.folder.join(".disk.qcow2.new");
    let made = write(overlay, &unfinished, files);
    // Linked or failed, this name has served; were it to stay, the next try writes over it.
    fs::remove_file(&unfinished).ok();
    if made.is_err() && new_folder {
        // Only if empty: nothing but what this call made goes.
        fs::remove_dir(&files.folder).ok();
    }
    made.map(|()| Ensured::Created).map_err(VolumeError::io("write", &files.root))
}

fn write(overlay: &Overlay, unfinished: &Path, files: &Files) -> io::Result<()> {
    // The name of a half-made disk is never written through: it might be a link.
    match fs::remove_file(unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(DISK_MODE).open(unfinished)?;
    file.set_len(overlay.length)?;
    for (at, piece) in &overlay.pieces {
        file.write_all_at(piece, *at)?;
    }
    file.sync_all()?;
    fs::hard_link(unfinished, &files.root)?;
    File::open(&files.folder)?.sync_all()?;
    // The folder's own entry, which may be new too.
    files.folder.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

fn check_base(base: &Base) -> Result<(), VolumeError> {
    let unusable = |source| VolumeError::Base { path: base.path.clone(), source };
    if fs::metadata(&base.path).map_err(unusable)?.is_file() {
        Ok(())
    } else {
        Err(unusable(io::Error::other("it is not a regular file")))
    }
}

fn look(root: &RootDisk, path: &Path) -> Result<Presence, VolumeError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Presence::Absent),
        Err(error) => return Err(VolumeError::io("open", path)(error)),
    };
    let mut beginning = Vec::with_capacity(4096);
    // What we wrote is well within the first 4 KiB.
    file.take(4096).read_to_end(&mut beginning).map_err(VolumeError::io("read", path))?;
    Ok(match Header::parse(&beginning) {
        Ok(header) => compare(root, &header),
        Err(error) => Presence::Different { why: error.to_string() },
    })
}

fn compare(root: &RootDisk, header: &Header) -> Presence {
    let different = |why| Presence::Different { why };
    if header.virtual_size != root.size {
        return different(format!("its size is {}, not {}", header.virtual_size, root.size));
    }
    let Some(backing) = &header.backing else {
        return different("it has no base image".to_owned());
    };
    if Path::new(&backing.name) != root.base.path {
        let wanted = root.base.path.display();
        return different(format!("its base image is {}, not {wanted}", backing.name));
    }
    if backing.format.as_deref() != Some(root.base.format.as_str()) {
        let wanted = root.base.format.as_str();
        return different(format!("its base is read as {:?}, not {wanted}", backing.format));
    }
    Presence::Present
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use ostler_protocol::rpc::image::Format;
    use ostler_protocol::rpc::values::Bytes;

    use super::*;

    struct Bench {
        state: tempfile::TempDir,
        volumes: Directory,
    }

    async fn bench() -> Bench {
        let state = tempfile::tempdir().unwrap();
        let volumes = Directory::open(state.path()).await.unwrap();
        Bench { state, volumes }
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
        let volumes = &bench.volumes;
        assert_eq!(volumes.root_exists(&root).await.unwrap(), Presence::Absent);
        assert_eq!(volumes.create_root(&root).await.unwrap(), Ensured::Created);
        let before = fs::metadata(volumes.files(root.instance).root).unwrap().ino();
        assert_eq!(volumes.create_root(&root).await.unwrap(), Ensured::AlreadyThere);
        assert_eq!(fs::metadata(volumes.files(root.instance).root).unwrap().ino(), before);
        assert_eq!(volumes.root_exists(&root).await.unwrap(), Presence::Present);
        assert_eq!(volumes.list().await.unwrap(), [root.instance]);
        let names = fs::read_dir(volumes.files(root.instance).folder).unwrap().count();
        assert_eq!(names, 1, "nothing but the disk stays");
    }

    #[tokio::test]
    async fn qemu_finds_no_fault_in_overlays_of_any_size() {
        let bench = bench().await;
        let sizes = [Bytes::mib(1), Bytes::gib(20), Bytes(Bytes::gib(20).0 + 512), Bytes(5 << 40)];
        for size in sizes {
            let root = bench.raw_root(size);
            bench.volumes.create_root(&root).await.unwrap();
            let disk = bench.volumes.files(root.instance).root;
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
        bench.volumes.create_root(&root).await.unwrap();
        let disk = bench.volumes.files(root.instance).root;
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
        bench.volumes.create_root(&root).await.unwrap();
        let larger = RootDisk { size: Bytes::gib(2), ..root.clone() };
        let refused = bench.volumes.create_root(&larger).await.unwrap_err();
        assert!(matches!(refused, VolumeError::Different { .. }), "{refused}");
        let disk = bench.volumes.files(root.instance).root;
        fs::write(&disk, "written by somebody").unwrap();
        assert!(bench.volumes.create_root(&root).await.is_err());
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
            assert!(bench.volumes.create_root(&bad).await.is_err(), "{bad:?}");
        }
        let small = RootDisk { size: Bytes::kib(512), ..root.clone() };
        let refused = bench.volumes.create_root(&small).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "a root disk of 512 KiB is smaller than its image, which needs 1 MiB"
        );
        assert_eq!(bench.volumes.list().await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_a_crash_left_does_not_matter() {
        let bench = bench().await;
        let root = bench.raw_root(Bytes::gib(1));
        let files = bench.volumes.files(root.instance);
        fs::create_dir(&files.folder).unwrap();
        let victim = bench.state.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        std::os::unix::fs::symlink(&victim, files.folder.join(".disk.qcow2.new")).unwrap();
        assert_eq!(bench.volumes.create_root(&root).await.unwrap(), Ensured::Created);
        assert_eq!(fs::read(&victim).unwrap(), b"precious");
        assert_eq!(bench.volumes.root_exists(&root).await.unwrap(), Presence::Present);
    }

    #[tokio::test]
    async fn removing_is_complete_idempotent_and_stays_inside() {
        let bench = bench().await;
        let root = bench.raw_root(Bytes::gib(1));
        let files = bench.volumes.files(root.instance);
        bench.volumes.create_root(&root).await.unwrap();
        fs::write(&files.console_log, "Linux").unwrap();
        let outside = bench.state.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("precious"), "").unwrap();
        std::os::unix::fs::symlink(&outside, files.folder.join("link")).unwrap();
        let removed = bench.volumes.remove_instance(root.instance).await.unwrap();
        assert_eq!(removed, Removed::Removed);
        let removed = bench.volumes.remove_instance(root.instance).await.unwrap();
        assert_eq!(removed, Removed::AlreadyGone);
        assert!(!files.folder.exists() && outside.join("precious").exists());
        // The instance's own name, made a link by somebody.
        std::os::unix::fs::symlink(&outside, &files.folder).unwrap();
        bench.volumes.remove_instance(root.instance).await.ok();
        assert!(outside.join("precious").exists());
    }

    #[test]
    fn a_full_disk_is_told_and_left_as_it_was() {
        let test = || {
            if let Err(errno) = unshare(CloneFlags::CLONE_NEWNS) {
                println!("skipped: a mount namespace needs root ({errno})");
                return;
            }
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let state = tempfile::tempdir().unwrap();
                let size = Some("size=64k");
                mount(Some("none"), state.path(), Some("tmpfs"), MsFlags::empty(), size).unwrap();
                let volumes = Directory::open(state.path()).await.unwrap();
                let full = state.path().join("full");
                let filled = fs::write(&full, vec![0; 128 << 10]).unwrap_err();
                assert_eq!(filled.kind(), io::ErrorKind::StorageFull);
                let base = Base { path: full, format: Format::Raw, virtual_size: Bytes(512) };
                let root = RootDisk { instance: InstanceId::random(), base, size: Bytes::gib(1) };
                let error = volumes.create_root(&root).await.unwrap_err();
                assert!(matches!(error, VolumeError::NoSpace { .. }), "{error:?}");
                assert!(error.is_transient());
                assert_eq!(volumes.list().await.unwrap(), []);
                nix::mount::umount(state.path()).unwrap();
            });
        };
        if let Err(panic) = std::thread::spawn(test).join() {
            std::panic::resume_unwind(panic);
        }
    }
}
