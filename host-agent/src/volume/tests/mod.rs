//! Pools, each kind by itself. What they share: a pool in a temporary folder, and what a guest would do.

mod directory;
mod lvm;
mod nfs;

use std::fs;
use std::path::Path;

use ostler_protocol::rpc::values::{Bytes, Name, VolumeId};
use ostler_protocol::rpc::volume::Format;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::disk::Ensured;

struct Trial {
    folder: TempDir,
    pools: Pools,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

impl Trial {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("volumes");
        let pool = Directory::open(name("default"), &path, Format::Qcow2, true, Bytes(0));
        let pool = Pool::Directory(pool.await.unwrap());
        Self { pools: Pools(vec![pool]), folder }
    }

    fn new_volume(&self, content: Content, format: Format) -> NewVolume {
        let place = Place { id: VolumeId::random(), pool: name("default") };
        NewVolume { place, size: Bytes::mib(8), format: Some(format), content, passphrase: None }
    }

    async fn make(&self, volume: &NewVolume) -> Result<Ensured, VolumeError> {
        let (progress, _seen) = watch::channel((Bytes(0), Bytes(0)));
        self.pools.create(volume, &progress, &CancellationToken::new()).await
    }

    async fn made(&self, content: Content, format: Format) -> Place {
        let volume = self.new_volume(content, format);
        assert_eq!(self.make(&volume).await.unwrap(), Ensured::Created);
        assert_eq!(self.make(&volume).await.unwrap(), Ensured::AlreadyThere);
        volume.place
    }

    fn files(&self, place: &Place) -> Vec<String> {
        let folder = self.folder.path().join("volumes").join(place.id.to_string());
        let entries = fs::read_dir(folder).unwrap().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// A program in the place of one of the node's.
fn stand_in(path: &Path, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    fs::write(path, format!("#!/bin/bash\nset -eu\n{script}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn qemu_io(path: &Path, format: Format, command: &str) -> String {
    #[expect(clippy::disallowed_methods, reason = "what a guest would do")]
    let ran = std::process::Command::new("qemu-io")
        .args(["-f", manifest::word(format), "-c", command])
        .arg(path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success() && !said.contains("failed"), "{command}: {said} {ran:?}");
    said
}

async fn write(pool: &Trial, place: &Place, pattern: u8) {
    let opened = pool.pools.open(place).await.unwrap();
    qemu_io(opened.path(), opened.format, &format!("write -P {pattern} 1M 64k"));
}

async fn holds(pool: &Trial, place: &Place, pattern: u8) {
    let opened = pool.pools.open(place).await.unwrap();
    qemu_io(opened.path(), opened.format, &format!("read -P {pattern} 1M 64k"));
}
