//! The pools of this node, by their names.

use ostler_protocol::rpc::values::{Bytes, Name};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Content, Directory, NewVolume, Opened, Place, PoolFacts, VolumeError, Volumes};
use crate::disk::{Ensured, Removed};
use crate::host::Space;

/// The pools, in the order of the configuration.
#[derive(Debug, Clone)]
pub struct Pools(pub Vec<Directory>);

impl Pools {
    fn of(&self, pool: &Name) -> Result<&Directory, VolumeError> {
        let found = self.0.iter().find(|found| found.name == *pool);
        found.ok_or_else(|| VolumeError::NoPool { pool: pool.clone() })
    }
}

impl Volumes for Pools {
    fn pools(&self) -> Vec<PoolFacts> {
        let facts = |pool: &Directory| PoolFacts {
            name: pool.name.clone(),
            driver: "directory",
            is_shared: pool.is_shared,
        };
        self.0.iter().map(facts).collect()
    }

    async fn room(&self, pool: &Name) -> Result<Space, VolumeError> {
        self.of(pool)?.room().await
    }

    async fn allocated(&self) -> Result<Bytes, VolumeError> {
        let mut sum = 0;
        for pool in self.0.iter().filter(|pool| pool.is_shared) {
            sum += pool.allocated().await?.0;
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
                Some(self.of(&place.pool)?.open_snapshot(place.id, name).await?)
            }
        };
        self.of(&volume.place.pool)?.create(volume, from, progress, cancel).await
    }

    async fn delete(&self, place: &Place) -> Result<Removed, VolumeError> {
        self.of(&place.pool)?.delete(place.id).await
    }

    async fn exists(&self, place: &Place) -> Result<bool, VolumeError> {
        self.of(&place.pool)?.exists(place.id).await
    }

    async fn open(&self, place: &Place) -> Result<Opened, VolumeError> {
        self.of(&place.pool)?.open_volume(place.id).await
    }

    async fn close(&self, place: &Place) -> Result<(), VolumeError> {
        self.of(&place.pool)?.close(place.id).await
    }

    async fn extend(&self, place: &Place, size: Bytes) -> Result<Ensured, VolumeError> {
        self.of(&place.pool)?.extend(place.id, size).await
    }

    async fn note_size(&self, place: &Place, size: Bytes) -> Result<(), VolumeError> {
        self.of(&place.pool)?.note_size(place.id, size).await
    }

    async fn snapshot(&self, place: &Place, name: &Name) -> Result<Ensured, VolumeError> {
        self.of(&place.pool)?.snapshot(place.id, name).await
    }

    async fn undo_snapshot(&self, place: &Place, name: &Name) -> Result<(), VolumeError> {
        self.of(&place.pool)?.undo_snapshot(place.id, name).await
    }

    async fn delete_snapshot(&self, place: &Place, name: &Name) -> Result<Removed, VolumeError> {
        self.of(&place.pool)?.delete_snapshot(place.id, name).await
    }

    async fn revert(&self, place: &Place, name: &Name) -> Result<(), VolumeError> {
        self.of(&place.pool)?.revert(place.id, name).await
    }
}
