//! A pool that is an LVM volume group, or a thin pool in one:
//!
//! ```text
//!   <volume id>       what QEMU opens      tags: ostler, ostler.volume=<volume id>
//!   <volume id>.1     a snapshot           and ostler.snapshot=<name>
//!   <volume id>.new   what a revert puts in the volume's place
//! ```
//!
//! What a volume is, is in the tags of its logical volumes, which LVM writes together with them.
//! Those without are somebody else's and never touched. All are raw.
//!
//! A new thick volume holds what was on the disk before, so it is zeroed before anybody gets it, and
//! so is what it grows by; a tag says that this is not done yet. A thin pool hands out zeros, and one
//! that does not is refused.

mod group;
mod make;

use std::path::{Path, PathBuf};
use std::time::Duration;

use ostler_protocol::rpc::values::{Bytes, Name, VolumeId};
use ostler_protocol::rpc::volume::Format;
use tokio_util::sync::CancellationToken;
use tracing::info;

use self::group::{Group, Logical};
use super::{At, Opened, VolumeError, holders};
use crate::disk::{Ensured, Removed};
use crate::host::Space;
use crate::threads::Threads;

/// As many calls on devices at once.
const THREADS: usize = 8;

/// How long a call waits for others of the pool.
const PATIENCE: Duration = Duration::from_secs(30);

const OURS: &str = "ostler";
const UNFINISHED: &str = "ostler.unfinished";
const VOLUME: &str = "ostler.volume=";
const SNAPSHOT: &str = "ostler.snapshot=";
/// What is behind this many bytes is not zeroed yet.
const GROWS_FROM: &str = "ostler.grows_from=";

/// A pool in a volume group.
#[derive(Debug, Clone)]
pub struct Lvm {
    pub(super) name: Name,
    group: Group,
    thin_pool: Option<String>,
    threads: Threads,
    qemu_img: PathBuf,
    /// Where the group's devices are.
    devices: PathBuf,
}

/// The logical volumes of a volume.
#[derive(Debug, Default)]
struct Parts {
    disk: Option<Logical>,
    new: Option<Logical>,
    /// Each with its name.
    snapshots: Vec<(String, Logical)>,
    /// One that has a name of ours, and is not.
    foreign: Option<String>,
}

impl Logical {
    fn tagged(&self, prefix: &str) -> Option<&str> {
        self.tags.iter().find_map(|tag| tag.strip_prefix(prefix))
    }

    fn is_unfinished(&self) -> bool {
        self.tags.contains(UNFINISHED)
    }
}

impl Parts {
    fn of(id: VolumeId, all: Vec<Logical>) -> Self {
        let mut parts = Self::default();
        let own = id.to_string();
        for one in all {
            let ours = one.tags.contains(OURS) && one.tagged(VOLUME) == Some(own.as_str());
            let snapshot = one.tagged(SNAPSHOT).map(str::to_owned);
            match snapshot {
                Some(name) if ours => parts.snapshots.push((name, one)),
                None if ours && one.name == own => parts.disk = Some(one),
                None if ours && one.name == format!("{own}.new") => parts.new = Some(one),
                Some(_) | None if one.name.starts_with(&own) => parts.foreign = Some(one.name),
                Some(_) | None => {}
            }
        }
        parts
    }

    fn all(&self) -> impl Iterator<Item = &Logical> {
        let snapshots = self.snapshots.iter().map(|(_, one)| one);
        self.disk.iter().chain(&self.new).chain(snapshots)
    }

    fn snapshot(&self, name: &Name) -> Option<&Logical> {
        self.snapshots.iter().find(|(there, _)| there == name.as_str()).map(|(_, one)| one)
    }
}

impl Lvm {
    /// The pool in this volume group, or in this thin pool of it. Nothing is looked at yet.
    pub fn open(name: Name, volume_group: String, thin_pool: Option<String>) -> Self {
        let devices = Path::new("/dev").join(&volume_group);
        Self {
            name,
            group: Group::new(volume_group, PathBuf::from("lvm"), Vec::new()),
            thin_pool,
            threads: Threads::new("volume", THREADS),
            qemu_img: PathBuf::from("qemu-img"),
            devices,
        }
    }

    /// With another program, more words for it, and another folder of devices.
    #[cfg(test)]
    pub(super) fn with(mut self, lvm: &Path, more: &[&str], devices: &Path) -> Self {
        let more = more.iter().map(ToString::to_string).collect();
        self.group = Group::new(self.group.name, lvm.to_owned(), more);
        self.devices = devices.to_owned();
        self
    }

    fn device(&self, one: &Logical) -> PathBuf {
        self.devices.join(&one.name)
    }

    async fn parts(&self, id: VolumeId) -> Result<Parts, VolumeError> {
        Ok(Parts::of(id, self.group.list().await?))
    }

    /// A volume that is whole.
    async fn whole(&self, id: VolumeId) -> Result<(Logical, Parts), VolumeError> {
        let mut parts = self.parts(id).await?;
        if parts.disk.is_none() && parts.new.is_some() {
            // A revert was cut off between the two: what is new was whole.
            self.group.rename(&format!("{id}.new"), &id.to_string()).await?;
            parts = self.parts(id).await?;
        }
        match parts.disk.clone().filter(|disk| !disk.is_unfinished()) {
            Some(disk) => Ok((disk, parts)),
            None => Err(VolumeError::Gone { id, path: self.devices.join(id.to_string()) }),
        }
    }

    fn thin(&self) -> Result<&str, VolumeError> {
        self.thin_pool.as_deref().ok_or_else(|| self.unfit("snapshots need a thin pool"))
    }

    fn unfit(&self, why: &'static str) -> VolumeError {
        VolumeError::Unfit { pool: self.name.clone(), why }
    }

    async fn run<T: Send + 'static>(
        &self,
        path: PathBuf,
        call: impl FnOnce() -> Result<T, VolumeError> + Send + 'static,
    ) -> Result<T, VolumeError> {
        let ran = self.threads.run_soon(PATIENCE, call).await;
        ran.map_err(VolumeError::io("use", &path))?
    }

    pub(super) async fn room(&self) -> Result<Space, VolumeError> {
        Ok(match &self.thin_pool {
            Some(pool) => self.group.measure_pool(pool).await?.0,
            None => self.group.measure().await?.0,
        })
    }

    /// Whether a device is a volume or a snapshot of ours, or one that the group is made of.
    pub(super) async fn has(&self, device: &Path) -> Result<bool, VolumeError> {
        let ours = self.group.list().await?.into_iter().filter(|one| one.tags.contains(OURS));
        let mut paths: Vec<PathBuf> = ours.map(|one| self.device(&one)).collect();
        paths.extend(self.group.made_of().await?.into_iter().map(PathBuf::from));
        let device = device.to_owned();
        self.run(self.devices.clone(), move || {
            let real = |path: &PathBuf| std::fs::canonicalize(path).ok();
            Ok(paths.iter().filter_map(real).any(|path| path == device))
        })
        .await
    }

    pub(super) async fn exists(&self, id: VolumeId) -> Result<bool, VolumeError> {
        let parts = self.parts(id).await?;
        Ok(parts.foreign.is_some() || parts.all().next().is_some())
    }

    /// A logical volume with a device.
    async fn active(&self, one: &Logical) -> Result<PathBuf, VolumeError> {
        if !one.active {
            self.group.activate(&one.name).await?;
        }
        Ok(self.device(one))
    }

    pub(super) async fn open_volume(&self, id: VolumeId) -> Result<Opened, VolumeError> {
        let (disk, _) = self.whole(id).await?;
        if disk.tagged(GROWS_FROM).is_some() {
            return Err(VolumeError::HalfGrown { id });
        }
        self.opened(&disk).await
    }

    pub(super) async fn open_snapshot(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<Opened, VolumeError> {
        let parts = self.parts(id).await?;
        let no = || VolumeError::NoSnapshot { id, name: name.clone() };
        self.opened(parts.snapshot(name).ok_or_else(no)?).await
    }

    async fn opened(&self, one: &Logical) -> Result<Opened, VolumeError> {
        let at = At::Device(self.active(one).await?);
        Ok(Opened { at, format: Format::Raw, size: one.size, direct: true })
    }

    pub(super) async fn close(&self, id: VolumeId) -> Result<(), VolumeError> {
        let (disk, _) = self.whole(id).await?;
        self.is_free(id, [&disk]).await
    }

    /// Whether nobody on this node has any of these open: by the kernel's count, and by the
    /// processes that it shows.
    async fn is_free(
        &self,
        id: VolumeId,
        parts: impl IntoIterator<Item = &Logical>,
    ) -> Result<(), VolumeError> {
        let active: Vec<&Logical> = parts.into_iter().filter(|one| one.active).collect();
        // What is called by the volume's name is a link to the device.
        let real = |path: PathBuf| std::fs::canonicalize(&path).unwrap_or(path);
        let files: Vec<PathBuf> = active.iter().map(|one| real(self.device(one))).collect();
        let is_open = active.iter().any(|one| one.open);
        let devices = self.devices.clone();
        self.run(devices.clone(), move || {
            let failed = || VolumeError::io("see who has open", &devices);
            match holders::of(&files).map_err(failed())? {
                Some(holder) => Err(VolumeError::Open { id, by: holder.to_string() }),
                None if is_open => Err(VolumeError::Held { id }),
                None => Ok(()),
            }
        })
        .await
    }

    pub(super) async fn delete(&self, id: VolumeId) -> Result<Removed, VolumeError> {
        let parts = self.parts(id).await?;
        let names: Vec<&str> = parts.all().map(|one| one.name.as_str()).collect();
        if names.is_empty() {
            return Ok(Removed::AlreadyGone);
        }
        self.is_free(id, parts.all()).await?;
        // The disk is the first: what a crash leaves is no volume.
        self.group.remove(&names).await?;
        info!(volume = %id, "volume removed");
        Ok(Removed::Removed)
    }

    pub(super) async fn extend(&self, id: VolumeId, size: Bytes) -> Result<Ensured, VolumeError> {
        let (disk, _) = self.whole(id).await?;
        self.is_free(id, [&disk]).await?;
        self.grow(id, &disk, size).await
    }

    /// The same, under a QEMU that has it open, and is told of it afterwards.
    pub(super) async fn widen(&self, id: VolumeId, size: Bytes) -> Result<(), VolumeError> {
        let (disk, _) = self.whole(id).await?;
        self.grow(id, &disk, size).await.map(drop)
    }

    async fn grow(
        &self,
        id: VolumeId,
        disk: &Logical,
        size: Bytes,
    ) -> Result<Ensured, VolumeError> {
        let cut_off = disk.tagged(GROWS_FROM).and_then(|bytes| bytes.parse().ok()).map(Bytes);
        if disk.size >= size && cut_off.is_none() {
            return Ok(Ensured::AlreadyThere);
        }
        self.is_whole(size).await?;
        let from = cut_off.unwrap_or(disk.size);
        let note = format!("{GROWS_FROM}{}", from.0);
        let thick = self.thin_pool.is_none();
        if thick && cut_off.is_none() {
            self.group.tag(&disk.name, "--addtag", &note).await?;
        }
        if disk.size < size {
            self.group.extend(&disk.name, size).await?;
        }
        if thick {
            let device = self.active(disk).await?;
            let to = disk.size.max(size);
            self.zero(id, &device, (from, to), &CancellationToken::new()).await?;
            self.group.tag(&disk.name, "--deltag", &note).await?;
        }
        info!(volume = %id, %size, "volume extended");
        Ok(Ensured::Created)
    }

    pub(super) async fn snapshot(&self, id: VolumeId, name: &Name) -> Result<Ensured, VolumeError> {
        self.thin()?;
        let (disk, parts) = self.whole(id).await?;
        if parts.snapshot(name).is_some() {
            return Ok(Ensured::AlreadyThere);
        }
        let is_free = |name: &String| parts.all().all(|one| one.name != *name);
        let numbers = (1..=u32::MAX).map(|n| format!("{id}.{n}"));
        let Some(free) = numbers.into_iter().find(is_free) else {
            return Ok(Ensured::AlreadyThere);
        };
        let (own, kept) = (format!("{VOLUME}{id}"), format!("{SNAPSHOT}{name}"));
        let how = ["--permission", "r", "--activate", "n"];
        self.group.clone_of(&disk.name, &free, &how, &[OURS, &own, &kept]).await?;
        info!(volume = %id, snapshot = %name, "volume snapshotted");
        Ok(Ensured::Created)
    }

    pub(super) async fn delete_snapshot(
        &self,
        id: VolumeId,
        name: &Name,
    ) -> Result<Removed, VolumeError> {
        let parts = self.parts(id).await?;
        let Some(snapshot) = parts.snapshot(name) else { return Ok(Removed::AlreadyGone) };
        self.is_free(id, [snapshot]).await?;
        self.group.remove(&[&snapshot.name]).await?;
        info!(volume = %id, snapshot = %name, "snapshot forgotten");
        Ok(Removed::Removed)
    }

    pub(super) async fn undo_snapshot(&self, id: VolumeId, name: &Name) -> Result<(), VolumeError> {
        self.delete_snapshot(id, name).await.map(drop)
    }

    pub(super) async fn revert(&self, id: VolumeId, name: &Name) -> Result<(), VolumeError> {
        self.thin()?;
        let (own, new) = (id.to_string(), format!("{id}.new"));
        let (disk, parts) = self.whole(id).await?;
        let no = || VolumeError::NoSnapshot { id, name: name.clone() };
        let snapshot = parts.snapshot(name).ok_or_else(no)?;
        self.is_free(id, [&disk]).await?;
        if parts.new.is_some() {
            self.group.remove(&[&new]).await?;
        }
        let tags = [OURS, &format!("{VOLUME}{id}")];
        let how = ["--permission", "rw", "--activate", "y"];
        self.group.clone_of(&snapshot.name, &new, &how, &tags).await?;
        if snapshot.size < disk.size {
            self.group.extend(&new, disk.size).await?;
        }
        self.group.remove(&[&own]).await?;
        self.group.rename(&new, &own).await?;
        info!(volume = %id, snapshot = %name, "volume reverted");
        Ok(())
    }
}
