//! What the tests on domains share: domains that are removed whatever the outcome, disks with
//! something on them, a place QEMU's user can read.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ostler_host_agent::hypervisor::spec::{
    Discard, Disk, DiskAccess, DiskBus, DiskCache, DiskFormat, DiskSource, DiskTarget, Sharing,
};
use ostler_host_agent::hypervisor::{Job, Jobs};
use tempfile::TempDir;

use super::*;

/// Runs a test on a domain that is started and, in the end, removed.
pub(super) async fn on_running<T>(spec: DomainSpec, test: impl FnOnce(Libvirt, DomainSpec) -> T)
where
    T: Future<Output = ()> + Send + 'static,
{
    let Some(driver) = system().await else { return };
    driver.define(&spec).await.unwrap();
    let started = driver.start(spec.id()).await;
    let outcome = match started {
        Ok(_) => tokio::spawn(test(driver.clone(), spec.clone())).await,
        Err(_) => Ok(()),
    };
    driver.destroy(spec.id()).await.unwrap();
    driver.undefine(spec.id()).await.unwrap();
    assert_eq!(started, Ok(Change::Made));
    outcome.unwrap();
}

/// A folder QEMU's user may enter.
pub(super) fn place() -> TempDir {
    let place = TempDir::new_in("/var/tmp").unwrap();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    place
}

/// Runs a program of libvirt or QEMU and returns what it says.
pub(super) fn run(program: &str, arguments: &[&str]) -> String {
    #[expect(clippy::disallowed_methods, reason = "a second opinion, or somebody else's hand")]
    let output = std::process::Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}{output:?}");
    said
}

/// A disk of 1 GiB on a base of which so many hold random bytes, with bytes of its own above it.
pub(super) fn overlay(place: &Path, random_mib: usize) -> Disk {
    let (base, root) = (place.join("base.raw"), place.join("root.qcow2"));
    let mut bytes = Vec::with_capacity(random_mib << 20);
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    while bytes.len() < random_mib << 20 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    std::fs::write(&base, &bytes).unwrap();
    let (base, path) = (base.to_str().unwrap(), root.to_str().unwrap());
    run("qemu-img", &["create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", path, "1G"]);
    run("qemu-io", &["-f", "qcow2", "-c", "write -P 0x5a 1M 2M", path]);
    Disk {
        bus: DiskBus::Virtio,
        alias: String::new(),
        sharing: Sharing::Exclusive,
        limits: Default::default(),
        source: DiskSource::File(root),
        format: DiskFormat::Qcow2,
        target: DiskTarget(0),
        serial: "root".to_owned(),
        access: DiskAccess::ReadWrite,
        cache: DiskCache::Writeback,
        discard: Discard::Unmap,
        io: None,
        boot_order: None,
        key: None,
    }
}

/// Waits until the driver says of the job what is wanted.
pub(super) async fn job_is(driver: &Libvirt, id: InstanceId, wanted: impl Fn(&Job) -> bool) -> Job {
    let seen = async {
        loop {
            let job = driver.job(id).await.unwrap();
            if wanted(&job) {
                return job;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, seen).await.expect("the job came to it")
}

/// Where libvirt keeps a domain's saved memory.
pub(super) fn save_file(spec: &DomainSpec) -> PathBuf {
    PathBuf::from(format!("/var/lib/libvirt/qemu/save/{}.save", spec.domain_name()))
}

/// The folder of a baked guest: a kernel, its initial RAM disk and a root disk.
pub(super) fn guest() -> Option<PathBuf> {
    let guest = std::env::var_os("OSTLER_TEST_GUEST").map(PathBuf::from);
    let guest = guest.filter(|guest| guest.join("vmlinuz").exists());
    if guest.is_none() {
        println!("skipped: set OSTLER_TEST_GUEST to a baked guest, such as target/bake");
    }
    guest
}

/// Waits until a guest's console has said something.
pub(super) async fn says(log: &Path, word: &str) {
    let said = async {
        while !String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).contains(word) {
            tokio::task::yield_now().await;
        }
    };
    if tokio::time::timeout(PATIENCE, said).await.is_err() {
        let console = std::fs::read(log).unwrap_or_default();
        panic!("no {word:?} in:\n{}", String::from_utf8_lossy(&console));
    }
}
