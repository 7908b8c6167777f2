//! Volumes that are kept elsewhere: whether their server answers, and whether a device of the node
//! is still the one it was, and nobody's of the node. QEMU does the rest.
//!
//! What the node itself uses would be written to by two. sysfs and the lists of mounts and swaps say
//! who that is. The kernel's own word is whether the device can be opened exclusively: what mounts,
//! swaps on or stacks a device has it so, and QEMU does not. The agent's unit may not open devices,
//! where that word is not had.

use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::values::{Bytes, Secret};
use serde_json::json;
use tokio::fs;
use tokio::net::{TcpStream, UnixStream};

use super::VolumeError;
use crate::qemu_img::{self, Bounds, Job, Output, STDIN, late};

/// How long a server may take to answer. QEMU waits minutes for one that says nothing, and the
/// guest's disks with it: so it is asked here first.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long a Ceph may take to open an image: one that has just lost a part needs some seconds.
const CEPH_PATIENCE: Duration = Duration::from_secs(15);

/// Ceph's client has many threads, and each wants room.
const CEPH: Bounds = Bounds { memory: Bytes(4 << 30), ..Bounds::LOOK };

/// Where block devices are.
const DEVICES: &str = "/dev";

/// A block device of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    /// What its maker, or the device mapper, calls it; none if it says nothing.
    pub wwid: Option<String>,
    /// Its size.
    pub size: Bytes,
    /// Where it is, wherever links led.
    pub path: PathBuf,
}

/// See whether one of these hosts answers at its port.
///
/// # Errors
/// None does; what the last one said.
pub async fn reach(hosts: &[(String, u16)]) -> Result<(), VolumeError> {
    let mut last = None;
    for (host, port) in hosts {
        let server = format!("{host}:{port}");
        match within(TcpStream::connect((host.as_str(), *port))).await {
            Ok(_) => return Ok(()),
            Err(source) => last = Some(VolumeError::Unreachable { server, source }),
        }
    }
    last.map_or(Ok(()), Err)
}

/// See whether somebody answers at a socket.
///
/// # Errors
/// Nobody does.
pub async fn reach_socket(socket: &Path) -> Result<(), VolumeError> {
    within(UnixStream::connect(socket))
        .await
        .map(drop)
        .map_err(|source| VolumeError::Unreachable { server: socket.display().to_string(), source })
}

/// See whether an image in Ceph opens, for this user with this key if the cluster asks for one.
///
/// Monitors that answer do not tell: while the rest of the cluster says nothing, Ceph's client waits
/// for ever, and a guest whose QEMU opens the image stands still. qemu-img can be ended.
///
/// # Errors
/// It does not, or not in time.
pub async fn open_rbd(
    qemu_img: &Path,
    name: &str,
    monitors: &[(String, u16)],
    auth: Option<(&str, &Secret)>,
) -> Result<(), VolumeError> {
    let named = PathBuf::from(format!("rbd:{name}"));
    let io = |source| VolumeError::io("open", &named)(source);
    let (pool, image) = name.split_once('/').unwrap_or((name, ""));
    let server = |(host, port): &(String, u16)| json!({"host": host, "port": port.to_string()});
    let mut file = json!({"driver": "rbd", "pool": pool, "image": image,
        "server": monitors.iter().map(server).collect::<Vec<_>>()});
    let key = format!("secret,id=key,format=base64,file={STDIN}");
    let mut words = vec!["info", "--output", "json"];
    let mut stdin = None;
    if let Some((user, secret)) = auth {
        file["user"] = user.into();
        file["auth-client-required"] = json!(["cephx", "none"]);
        file["key-secret"] = "key".into();
        words.extend(["--object", &key]);
        let (read, mut write) = io::pipe().map_err(io)?;
        // It is shorter than a pipe is deep.
        write.write_all(secret.expose().as_bytes()).map_err(io)?;
        stdin = Some(File::from(OwnedFd::from(read)));
    }
    let url = format!("json:{}", json!({"driver": "raw", "file": file}));
    words.push(&url);
    let arguments = words.into_iter().map(OsStr::new).collect();
    let job = Job { program: qemu_img, arguments, bounds: CEPH, stdin };
    match qemu_img::run(job, Output::Answer, late(CEPH_PATIENCE)).await {
        Ok(ran) if ran.status.success() => Ok(()),
        Ok(ran) => {
            let said = ran.complaint().replace(&url, name);
            Err(VolumeError::Unopened { name: name.to_owned(), said })
        }
        Err(source) if source.kind() == io::ErrorKind::TimedOut => {
            let said = format!("its cluster does not answer within {CEPH_PATIENCE:?}");
            Err(VolumeError::Unopened { name: name.to_owned(), said })
        }
        Err(source) => Err(io(source)),
    }
}

async fn within<T>(answer: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let late = |_| Err(io::Error::new(io::ErrorKind::TimedOut, "it does not answer"));
    tokio::time::timeout(PATIENCE, answer).await.unwrap_or_else(late)
}

/// What is at this path, which has to be a block device below `/dev`, wherever links lead, and not
/// used by the node itself.
///
/// # Errors
/// It is something else, cannot be seen, or is used.
pub async fn device(path: &Path) -> Result<Device, VolumeError> {
    let io = |step| VolumeError::io(step, path);
    let real = fs::canonicalize(path).await.map_err(io("find"))?;
    let meta = fs::metadata(&real).await.map_err(io("examine"))?;
    if !real.starts_with(DEVICES) || !meta.file_type().is_block_device() {
        return Err(VolumeError::NotADevice { path: path.to_owned() });
    }
    let about = Path::new("/sys/dev/block").join(number(meta.rdev()));
    let sectors = fs::read_to_string(about.join("size")).await.map_err(io("see the size of"))?;
    let sectors = sectors.trim().parse::<u64>().map_err(io::Error::other);
    let size = Bytes(sectors.map_err(io("see the size of"))?.saturating_mul(512));
    let mut wwid = None;
    for file in ["wwid", "device/wwid", "dm/uuid", "serial", "device/serial"] {
        if let Ok(text) = fs::read_to_string(about.join(file)).await
            && !text.trim().is_empty()
        {
            wwid = Some(text.trim().to_owned());
            break;
        }
    }
    if let Some(by) = user_of(&about, &real).await.map_err(io("see who uses"))? {
        return Err(VolumeError::Used { path: path.to_owned(), by });
    }
    Ok(Device { wwid, size, path: real })
}

/// What of the node uses a device, of which sysfs tells here, or a partition of it.
async fn user_of(about: &Path, device: &Path) -> io::Result<Option<String>> {
    let mut parts = vec![about.to_owned()];
    for part in names(about).await? {
        if fs::metadata(about.join(&part).join("partition")).await.is_ok() {
            parts.push(about.join(part));
        }
    }
    let mut numbers = Vec::with_capacity(parts.len());
    for part in &parts {
        if let Some(holder) = names(&part.join("holders")).await?.into_iter().next() {
            return Ok(Some(format!("{holder}, which is made of it")));
        }
        numbers.push(fs::read_to_string(part.join("dev")).await?.trim().to_owned());
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").await?;
    if let Some(place) = mounted(&mounts, &numbers) {
        return Ok(Some(format!("the file system at {place}")));
    }
    for swap in fs::read_to_string("/proc/swaps").await?.lines().skip(1) {
        let path = swap.split_whitespace().next().unwrap_or_default();
        if let Ok(meta) = fs::metadata(path).await
            && meta.file_type().is_block_device()
            && numbers.contains(&number(meta.rdev()))
        {
            return Ok(Some("the node's swap".to_owned()));
        }
    }
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_EXCL | nix::libc::O_NONBLOCK);
    match options.open(device) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Ok(Some("somebody, says the kernel".to_owned()))
        }
        // It is closed again at once; and who may not open it has no such word.
        Ok(_) | Err(_) => Ok(None),
    }
}

/// Where one of these devices is mounted, by the kernel's list.
fn mounted<'a>(mounts: &'a str, numbers: &[String]) -> Option<&'a str> {
    let of = |line: &'a str| {
        let mut words = line.split(' ');
        let is = words.nth(2).is_some_and(|number| numbers.iter().any(|own| own == number));
        words.nth(1).filter(|_| is)
    };
    mounts.lines().find_map(of)
}

/// What a folder holds, if it is there.
async fn names(folder: &Path) -> io::Result<Vec<String>> {
    let mut entries = match fs::read_dir(folder).await {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

/// A device's number, as sysfs writes it.
fn number(device: u64) -> String {
    format!("{}:{}", nix::sys::stat::major(device), nix::sys::stat::minor(device))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[tokio::test]
    async fn a_server_that_is_not_there_is_told_of_by_its_name() {
        let there = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = there.local_addr().unwrap().port();
        let server = [("127.0.0.1".to_owned(), port)];
        reach(&server).await.unwrap();
        drop(there);
        let told = reach(&server).await.unwrap_err().to_string();
        assert!(told.contains(&format!("127.0.0.1:{port}")), "{told}");
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("nbd");
        assert!(reach_socket(&socket).await.is_err());
        let _there = tokio::net::UnixListener::bind(&socket).unwrap();
        reach_socket(&socket).await.unwrap();
    }

    /// In the place of qemu-img.
    fn program(folder: &Path, script: &str) -> PathBuf {
        let path = folder.join("qemu-img");
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_key_goes_to_qemu_img_by_its_standard_input_alone() {
        let folder = tempfile::tempdir().unwrap();
        let qemu_img = program(folder.path(), "echo \"$*\" >&2; cat >&2; exit 1");
        let key = Secret::new("a-key".to_owned());
        let monitors = [("10.0.0.1".to_owned(), 6789)];
        let told = open_rbd(&qemu_img, "pool/image", &monitors, Some(("user", &key))).await;
        let told = told.unwrap_err().to_string();
        assert!(told.ends_with("pool/image; a-key"), "{told}");
        assert_eq!(told.matches("a-key").count(), 1, "{told}");
        let told = open_rbd(&qemu_img, "pool/image", &monitors, None).await.unwrap_err();
        assert!(!told.to_string().contains("secret"), "{told}");
        let well = program(folder.path(), "exit 0");
        open_rbd(&well, "pool/image", &monitors, None).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_that_says_nothing_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let qemu_img = program(folder.path(), "exec sleep 600");
        let told = open_rbd(&qemu_img, "pool/image", &[], None).await.unwrap_err().to_string();
        assert!(told.contains("pool/image") && told.contains("does not answer"), "{told}");
    }

    #[tokio::test]
    async fn only_a_block_device_below_dev_is_one_wherever_links_lead() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("disk");
        std::fs::write(&file, [0; 512]).unwrap();
        for path in [file.as_path(), Path::new("/dev/null")] {
            let told = device(path).await.unwrap_err();
            assert!(matches!(told, VolumeError::NotADevice { .. }), "{told}");
        }
        assert!(device(Path::new("/dev/nonexistent")).await.is_err());
    }

    #[test]
    fn a_mounted_device_is_found_by_its_number() {
        let mounts = "22 1 259:2 / / rw,noatime shared:1 - ext4 /dev/root rw\n\
                      33 22 8:17 /sub /srv/a\\040b rw - ext4 /dev/sdb1 rw\n";
        assert_eq!(mounted(mounts, &["8:16".into(), "8:17".into()]), Some("/srv/a\\040b"));
        assert_eq!(mounted(mounts, &["8:1".into()]), None);
    }

    /// A loop device with a file system, and what undoes it.
    struct Loop {
        device: String,
        at: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            nix::mount::umount(&self.at).ok();
            run("losetup", &["--detach", &self.device]);
        }
    }

    #[expect(clippy::disallowed_methods, reason = "a test needs a device")]
    fn run(program: &str, words: &[&str]) -> String {
        let ran = std::process::Command::new(program).args(words).output().unwrap();
        assert!(ran.status.success(), "{program} {words:?}: {ran:?}");
        String::from_utf8(ran.stdout).unwrap().trim().to_owned()
    }

    #[tokio::test]
    async fn what_the_node_has_mounted_or_holds_is_refused_and_had_again_after() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: only root makes a loop device and mounts it");
        }
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let (file, at) = (folder.path().join("disk"), folder.path().join("at"));
        File::create(&file).unwrap().set_len(32 << 20).unwrap();
        std::fs::create_dir(&at).unwrap();
        run("mke2fs", &["-q", "-F", file.to_str().unwrap()]);
        let made = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        let there = Loop { device: made, at, _folder: folder };
        let path = Path::new(&there.device);
        assert_eq!(device(path).await.unwrap().path, path);

        let none: Option<&str> = None;
        let how = nix::mount::MsFlags::MS_RDONLY;
        nix::mount::mount(Some(path), &there.at, Some("ext4"), how, none).unwrap();
        let told = device(path).await.unwrap_err().to_string();
        assert!(told.contains(&format!("the file system at {}", there.at.display())), "{told}");
        nix::mount::umount(&there.at).unwrap();

        // What is in no list: the kernel says so.
        let mut exclusively = OpenOptions::new();
        let held = exclusively.read(true).custom_flags(nix::libc::O_EXCL).open(path).unwrap();
        let told = device(path).await.unwrap_err();
        assert!(matches!(told, VolumeError::Used { .. }), "{told}");
        drop(held);
        // As QEMU has it.
        let _shared = OpenOptions::new().read(true).write(true).open(path).unwrap();
        device(path).await.unwrap();
    }
}
