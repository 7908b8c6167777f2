//! Making a volume in a volume group: empty, as a thin clone, or as a copy; and zeroing it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::{FallocateFlags, fallocate};
use ostler_protocol::rpc::values::{Bytes, VolumeId};
use ostler_protocol::rpc::volume::Format;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::super::manifest::word;
use super::super::{Content, NewVolume, Opened, VolumeError};
use super::{Lvm, OURS, UNFINISHED, VOLUME};
use crate::disk::Ensured;
use crate::qemu_img::convert::{Copy, Onto, is_full};

/// Zeroed at once: between two, it can be called off.
const SLICE: u64 = 256 << 20;

/// A volume would begin with what others left.
const NOT_ZEROING: &str = "its thin pool does not zero what it hands out: lvchange --zero y";

impl Lvm {
    /// Make a volume; `from` is where what it is to hold is, if that is another volume.
    pub(in crate::volume) async fn create(
        &self,
        volume: &NewVolume,
        from: Option<Opened>,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<Ensured, VolumeError> {
        let id = volume.place.id;
        let parts = self.parts(id).await?;
        match &parts.disk {
            Some(disk) if disk.is_unfinished() => {
                self.is_free(id, [disk]).await?;
                self.group.remove(&[&disk.name]).await?;
            }
            Some(_) => return Ok(Ensured::AlreadyThere),
            None => {}
        }
        if matches!(volume.format, Some(Format::Qcow2 | Format::Luks)) {
            return Err(self.unfit("its volumes are raw"));
        }
        self.is_whole(volume.size).await?;
        let source = match (&volume.content, &from) {
            (Content::Empty, _) => None,
            (Content::Image(base), _) => {
                Some((base.path.as_path(), base.format.as_str(), base.virtual_size))
            }
            (Content::Volume { .. }, Some(from)) => {
                Some((from.path(), word(from.format), from.size))
            }
            (Content::Volume { place, .. }, None) => {
                return Err(VolumeError::Gone { id: place.id, path: self.devices.clone() });
            }
        };
        if let Some((_, _, needs)) = source.filter(|(_, _, needs)| *needs > volume.size) {
            return Err(VolumeError::TooSmall { size: volume.size, needs });
        }
        let name = id.to_string();
        let made = match self.origin(&volume.content).await? {
            Some(origin) => self.make_clone(volume, &origin).await,
            None => self.make(volume, source, progress, cancel).await,
        };
        if let Err(error) = made {
            // Nothing but what this call made is in it.
            if self.parts(id).await?.disk.is_some() {
                self.group.remove(&[&name]).await?;
            }
            return Err(error);
        }
        self.group.tag(&name, "--deltag", UNFINISHED).await?;
        info!(volume = %id, size = %volume.size, "volume made");
        Ok(Ensured::Created)
    }

    /// Have a volume hold what another disk holds.
    pub(in crate::volume) async fn fill(
        &self,
        id: VolumeId,
        from: &Opened,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        let (disk, _) = self.whole(id).await?;
        self.is_free(id, [&disk]).await?;
        let device = self.active(&disk).await?;
        let source = (from.path(), word(from.format), from.size);
        self.copy(id, source, &device, progress, cancel).await
    }

    /// Whether a size is one that LVM keeps as it is.
    pub(super) async fn is_whole(&self, size: Bytes) -> Result<(), VolumeError> {
        let (_, piece) = self.group.measure().await?;
        match size.0 % piece.0.max(1) {
            0 => Ok(()),
            _ => Err(VolumeError::NotWhole { size, piece }),
        }
    }

    /// What a new volume can be a thin clone of.
    async fn origin(&self, content: &Content) -> Result<Option<String>, VolumeError> {
        let Content::Volume { place, snapshot } = content else { return Ok(None) };
        if place.pool != self.name || self.thin_pool.is_none() {
            return Ok(None);
        }
        let (disk, parts) = self.whole(place.id).await?;
        let origin = match snapshot {
            None => Some(&disk),
            Some(name) => parts.snapshot(name),
        };
        Ok(origin.map(|origin| origin.name.clone()))
    }

    async fn make_clone(&self, volume: &NewVolume, origin: &str) -> Result<(), VolumeError> {
        let id = volume.place.id;
        let (name, own) = (id.to_string(), format!("{VOLUME}{id}"));
        let how = ["--permission", "rw", "--activate", "y"];
        self.group.clone_of(origin, &name, &how, &[OURS, &own, UNFINISHED]).await?;
        match self.parts(id).await?.disk {
            Some(disk) if disk.size < volume.size => self.group.extend(&name, volume.size).await,
            Some(_) | None => Ok(()),
        }
    }

    async fn make(
        &self,
        volume: &NewVolume,
        source: Option<(&Path, &str, Bytes)>,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        let id = volume.place.id;
        let (name, own) = (id.to_string(), format!("{VOLUME}{id}"));
        let tags = [OURS, &own, UNFINISHED];
        let size = format!("{}b", volume.size.0);
        let device = self.devices.join(&name);
        match &self.thin_pool {
            Some(pool) => {
                if !self.group.measure_pool(pool).await?.1 {
                    return Err(self.unfit(NOT_ZEROING));
                }
                let how = ["--activate", "y", "--thinpool", pool, "--virtualsize", &size];
                self.group.create(&name, &how, &tags, &self.group.name).await?;
            }
            None => {
                let how = ["--activate", "y", "--wipesignatures", "y", "--zero", "y"];
                let how = [how.as_slice(), &["--size", &size]].concat();
                self.group.create(&name, &how, &tags, &self.group.name).await?;
                self.zero(id, &device, (Bytes(0), volume.size), cancel).await?;
            }
        }
        match source {
            Some(source) => self.copy(id, source, &device, progress, cancel).await,
            None => Ok(()),
        }
    }

    /// Have a device read as zeros from one byte to another.
    pub(super) async fn zero(
        &self,
        id: VolumeId,
        device: &Path,
        (mut from, to): (Bytes, Bytes),
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        while from < to {
            if cancel.is_cancelled() {
                return Err(VolumeError::Cancelled { id });
            }
            let (path, length) = (device.to_owned(), SLICE.min(to.0 - from.0));
            let call = move || {
                let file = writable(&path)?;
                let zeros = FallocateFlags::FALLOC_FL_ZERO_RANGE;
                fallocate(&file, zeros, from.0 as i64, length as i64)
                    .map_err(|error| VolumeError::io("zero", &path)(error.into()))?;
                file.sync_all().map_err(VolumeError::io("zero", &path))
            };
            self.run(device.to_owned(), call).await?;
            from = Bytes(from.0 + length);
        }
        Ok(())
    }

    /// Copy what another disk holds onto a device.
    async fn copy(
        &self,
        id: VolumeId,
        (path, format, size): (&Path, &str, Bytes),
        device: &Path,
        progress: &watch::Sender<(Bytes, Bytes)>,
        cancel: &CancellationToken,
    ) -> Result<(), VolumeError> {
        let to = device.to_owned();
        let file = self.run(device.to_owned(), move || writable(&to)).await?;
        progress.send_replace((Bytes(0), size));
        let copy = Copy {
            program: &self.qemu_img,
            from: (path, format),
            to: (&file, "raw"),
            onto: Onto::Disk,
            folder: Path::new("/"),
            size,
            keep_free: Bytes(0),
        };
        let io = VolumeError::io("copy", device);
        let ran = match copy.make(&self.threads, progress, cancel).await {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                return Err(VolumeError::Cancelled { id });
            }
            ran => ran.map_err(io)?,
        };
        if !ran.status.success() {
            let (said, path) = (ran.complaint(), device.to_owned());
            return Err(match is_full(&said) {
                true => VolumeError::NoSpace { path, needed: None, free: None },
                false => VolumeError::QemuImg { step: "copy", path, said },
            });
        }
        self.run(device.to_owned(), {
            let device = device.to_owned();
            move || file.sync_all().map_err(VolumeError::io("write", &device))
        })
        .await
    }
}

fn writable(device: &Path) -> Result<File, VolumeError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(nix::libc::O_CLOEXEC);
    options.open(device).map_err(VolumeError::io("open", device))
}
