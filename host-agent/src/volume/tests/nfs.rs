//! The pool on a server, where a program in the place of `mount` notes what it is to mount in a file
//! in the place of the kernel's list.

use super::*;

/// What the agent calls in the place of `mount`: a file named `down` is a server that is away.
const MOUNT: &str = r#"
folder=${0%/*}
echo "$*" >> "$folder/asked"
if [ -e "$folder/down" ]; then echo "mount.nfs: Connection refused" >&2; exit 32; fi
echo "90 22 0:52 / ${@: -1} rw - nfs4 ${*: -2:1} rw" >> "$folder/list"
"#;

struct Server {
    folder: TempDir,
    pools: Pools,
}

impl Server {
    async fn open() -> Self {
        let mut server = Self::with(MOUNT).await;
        if let Pool::Nfs(nfs) = &mut server.pools.0[0] {
            nfs.mounts = server.folder.path().join("list");
        }
        server
    }

    /// With the kernel's own list of mounts.
    async fn with(mount: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("mount");
        stand_in(&program, mount);
        fs::write(folder.path().join("list"), "").unwrap();
        let at = (name("shared"), folder.path().join("mounts/shared"));
        let source = ("server:/export".to_owned(), Some("vers=4.2"));
        let mounter = Mounter::Program(program);
        let nfs = Nfs::open(at, source, Format::Raw, Bytes(0), mounter).await.unwrap();
        let path = folder.path().join("local");
        let local = Directory::open(name("local"), &path, Format::Raw, true, Bytes(0));
        let local = Pool::Directory(local.await.unwrap());
        Self { pools: Pools(vec![Pool::Nfs(nfs), local]), folder }
    }

    async fn make(&self, pool: &str) -> Result<Place, VolumeError> {
        let place = Place { id: VolumeId::random(), pool: name(pool) };
        let (size, content) = (Bytes::mib(1), Content::Empty);
        let volume =
            NewVolume { place: place.clone(), size, format: None, content, passphrase: None };
        let (progress, _seen) = watch::channel((Bytes(0), Bytes(0)));
        self.pools.create(&volume, &progress, &CancellationToken::new()).await?;
        Ok(place)
    }

    fn asked(&self) -> Vec<String> {
        let asked = fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }
}

#[tokio::test]
async fn a_pool_on_a_server_is_mounted_when_it_is_first_asked_of() {
    let server = Server::open().await;
    assert_eq!(server.asked(), [""; 0], "nothing is mounted at the start");
    let place = server.make("shared").await.unwrap();
    let at = server.folder.path().join("mounts/shared");
    let wanted = format!(
        "-t nfs -o hard,nosuid,nodev,noexec,retry=0,vers=4.2 -- server:/export {}",
        at.display()
    );
    assert_eq!(server.asked(), [wanted]);
    let opened = server.pools.open(&place).await.unwrap();
    assert!(opened.path().starts_with(at) && server.asked().len() == 1);
}

#[tokio::test]
async fn a_server_that_is_away_stops_its_own_pool_only() {
    let server = Server::open().await;
    let down = server.folder.path().join("down");
    fs::write(&down, "").unwrap();
    for _ in 0..3 {
        let told = server.make("shared").await.unwrap_err();
        let told = told.to_string();
        assert!(told.contains("pool shared (server:/export) is not available"), "{told}");
        assert!(told.contains("mount.nfs: Connection refused"), "{told}");
    }
    assert_eq!(server.asked().len(), 1, "a failure is not tried again at once");
    server.make("local").await.unwrap();
    let Pool::Nfs(nfs) = &server.pools.0[0] else { panic!("it is the first") };
    nfs.forget_failure().await;
    fs::remove_file(down).unwrap();
    server.make("shared").await.unwrap();
}

#[tokio::test]
async fn the_folder_below_a_mount_that_is_gone_is_not_the_pool() {
    let server = Server::open().await;
    let place = server.make("shared").await.unwrap();
    let list = server.folder.path().join("list");
    fs::write(&list, "").unwrap();
    fs::write(server.folder.path().join("down"), "").unwrap();
    let told = server.pools.open(&place).await.unwrap_err();
    assert!(matches!(told, VolumeError::Unavailable { .. }), "{told}");
    let told = server.pools.exists(&place).await.unwrap_err();
    assert!(matches!(told, VolumeError::Unavailable { .. }), "{told}");
    // Somebody mounts another one there.
    let at = server.folder.path().join("mounts/shared");
    fs::write(&list, format!("90 22 0:52 / {} rw - nfs4 other:/b rw\n", at.display())).unwrap();
    let told = server.pools.open(&place).await.unwrap_err().to_string();
    assert!(told.contains("other:/b is mounted at"), "{told}");
}

/// Takes away what a test mounted.
struct Mounted(PathBuf);

impl Mounted {
    fn vanish(&self) -> bool {
        let lazily = nix::mount::MntFlags::MNT_DETACH;
        nix::mount::umount2(&self.0, lazily).is_ok()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        while self.vanish() {}
    }
}

#[tokio::test]
#[ignore = "needs root: it mounts a file system in memory, called as an export is"]
async fn a_real_mount_that_vanishes_is_seen_and_made_again() {
    let server = Server::with(r#"exec mount -t tmpfs -o size=8m "${@: -2:1}" "${@: -1}""#).await;
    let at = Mounted(server.folder.path().join("mounts/shared"));
    let place = server.make("shared").await.unwrap();
    let room = server.pools.room(&name("shared")).await.unwrap();
    assert_eq!(room.total, Bytes::mib(8), "it is that of what is mounted");
    assert!(at.vanish() && !at.vanish(), "it is mounted once");
    assert_eq!(fs::read_dir(&at.0).unwrap().count(), 0, "nothing was written below it");
    let told = server.pools.open(&place).await.unwrap_err();
    assert!(matches!(told, VolumeError::Gone { .. }), "a new and empty one is mounted: {told}");
    assert_eq!(server.pools.room(&name("shared")).await.unwrap().total, Bytes::mib(8));
}
