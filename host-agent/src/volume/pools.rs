//! The pools of this node, by their names.

use std::path::Path;

use ostler_protocol::rpc::values::{Bytes, Name};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    Content, Directory, Lvm, NewVolume, Nfs, Opened, Place, PoolFacts, VolumeError, Volumes,
};
use crate::disk::{Ensured, Removed};
use crate::host::Space;

/// A pool of one of the kinds there are.
#[derive(Debug, Clone)]
pub enum Pool {
    /// A directory.
    Directory(Directory),
    /// A directory of an NFS server.
    Nfs(Nfs),
    /// An LVM volume group, or a thin pool in one.
    Lvm(Lvm),
}

impl Pool {
    fn facts(&self) -> PoolFacts {
        match self {
            Self::Directory(pool) => PoolFacts {
                name: pool.name.clone(),
                driver: "directory",
                is_shared: pool.is_shared,
            },
            Self::Nfs(pool) => {
                PoolFacts { name: pool.name().clone(), driver: "nfs", is_shared: false }
            }
            Self::Lvm(pool) => {
                PoolFacts { name: pool.name.clone(), driver: "lvm", is_shared: false }
            }
        }
    }
}

/// The pools, in the order of the configuration.
#[derive(Debug, Clone)]
pub struct Pools(pub Vec<Pool>);

impl Pools {
    async fn of(&self, pool: &Name) -> Result<Ready<'_>, VolumeError> {
        let found = self.0.iter().find(|found| found.facts().name == *pool);
        match found.ok_or_else(|| VolumeError::NoPool { pool: pool.clone() })? {
            Pool::Directory(pool) => pool.there().await.map(Ready::Directory),
            Pool::Nfs(pool) => pool.mounted().await.map(Ready::Directory),
            Pool::Lvm(pool) => Ok(Ready::Lvm(pool)),
        }
    }
}

/// A pool that can be used now.
enum Ready<'a> {
    Directory(&'a Directory),
    Lvm(&'a Lvm),
}

/// The same call on whichever kind it is.
macro_rules! on {
    ($pool:expr, $found:ident => $call:expr) => {
        match $pool {
            Ready::Directory($found) => $call.await,
            Ready::Lvm($found) => $call.await,
        }
    };
}

impl Volumes for Pools {
    fn pools(&self) -> Vec<PoolFacts> {
        self.0.iter().map(Pool::facts).collect()
    }

    async fn pool_of(&self, device: &Path) -> Result<Option<Name>, VolumeError> {
        for pool in &self.0 {
            match pool {
                Pool::Lvm(pool) if pool.has(device).await? => return Ok(Some(pool.name.clone())),
                // Files are no devices.
                Pool::Lvm(_) | Pool::Directory(_) | Pool::Nfs(_) => {}
            }
        }
        Ok(None)
    }

    async fn room(&self, pool: &Name) -> Result<Space, VolumeError> {
        on!(self.of(pool).await?, pool => pool.room())
    }

    async fn allocated(&self) -> Result<Bytes, VolumeError> {
        let mut sum = 0;
        for pool in &self.0 {
            match pool {
                Pool::Directory(pool) if pool.is_shared => sum += pool.allocated().await?.0,
                Pool::Directory(_) | Pool::Nfs(_) | Pool::Lvm(_) => {}
            }
        }
        Ok(Bytes(sum))
    }

    async fn create(
        &self,
        volume: &NewVolume,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<Ensured, VolumeError> {
        let from = match &volume.content {
            Content::Empty | Content::Image(_) => None,
            Content::Volume { place, snapshot: None } => Some(self.open(place).await?),
            Content::Volume { place, snapshot: Some(name) } => {
                Some(on!(self.of(&place.pool).await?, pool => pool.open_snapshot(place.id, name))?)
            }
        };
        on!(self.of(&volume.place.pool).await?, pool => pool.create(volume, from, progress, cancel))
    }

    async fn fill(
        &self,
        place: &Place,
        from: &Opened,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.fill(place.id, from, progress, cancel))
    }

    async fn delete(&self, place: &Place) -> Result<Removed, VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.delete(place.id))
    }

    async fn exists(&self, place: &Place) -> Result<bool, VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.exists(place.id))
    }

    async fn open(&self, place: &Place) -> Result<Opened, VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.open_volume(place.id))
    }

    async fn close(&self, place: &Place) -> Result<(), VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.close(place.id))
    }

    async fn extend(&self, place: &Place, size: Bytes) -> Result<Ensured, VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.extend(place.id, size))
    }

    async fn widen(&self, place: &Place, size: Bytes) -> Result<(), VolumeError> {
        match self.of(&place.pool).await? {
            // QEMU makes its file larger by itself.
            Ready::Directory(_) => Ok(()),
            Ready::Lvm(pool) => pool.widen(place.id, size).await,
        }
    }

    async fn note_size(&self, place: &Place, size: Bytes) -> Result<(), VolumeError> {
        match self.of(&place.pool).await? {
            Ready::Directory(pool) => pool.note_size(place.id, size).await,
            // LVM knows.
            Ready::Lvm(_) => Ok(()),
        }
    }

    async fn snapshot(&self, place: &Place, name: &Name) -> Result<Ensured, VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.snapshot(place.id, name))
    }

    async fn undo_snapshot(&self, place: &Place, name: &Name) -> Result<(), VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.undo_snapshot(place.id, name))
    }

    async fn delete_snapshot(&self, place: &Place, name: &Name) -> Result<Removed, VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.delete_snapshot(place.id, name))
    }

    async fn revert(&self, place: &Place, name: &Name) -> Result<(), VolumeError> {
        on!(self.of(&place.pool).await?, pool => pool.revert(place.id, name))
    }
}
