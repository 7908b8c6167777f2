//! The files of a volume: its layers, and the manifest beside them. Calls that block.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use ostler_protocol::rpc::values::{Bytes, VolumeId};
use ostler_protocol::rpc::volume::Format;

use crate::disk::Base;
use crate::durable::{self, Unfinished};
use crate::qcow2::{self, Overlay};
use crate::qemu_img::Ran;
use crate::qemu_img::convert::is_full;
use crate::volume::manifest::{Manifest, file_name};
use crate::volume::{NewVolume, VolumeError, holders};

/// What is noted beside a volume.
pub(super) const MANIFEST: &str = "volume.json";

/// A manifest is shorter.
const MANIFEST_MAX: u64 = 1 << 20;

/// Where the header of LUKS says at which sector of 512 bytes the data begin: `payload-offset` of
/// the LUKS1 on-disk format.
const LUKS_PAYLOAD_AT: u64 = 104;

/// The size of the disk that a layer is. What a header says of it is QEMU's: a guest cannot write
/// there.
pub(super) fn size_of(path: &Path, format: Format) -> Result<Bytes, VolumeError> {
    let failed = || VolumeError::io("read", path);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = options.open(path).map_err(failed())?;
    let length = file.metadata().map_err(failed())?.len();
    match format {
        Format::Raw => return Ok(Bytes(length)),
        Format::Luks => {
            let mut sectors = [0; 4];
            file.read_exact_at(&mut sectors, LUKS_PAYLOAD_AT).map_err(failed())?;
            let header = u64::from(u32::from_be_bytes(sectors)) * 512;
            return Ok(Bytes(length.saturating_sub(header)));
        }
        Format::Qcow2 => {}
    }
    let mut header = Vec::new();
    file.take(qcow2::HEADER_READ as u64).read_to_end(&mut header).map_err(failed())?;
    match qcow2::Header::parse(&header) {
        Ok(header) => Ok(header.virtual_size),
        Err(error) => Err(VolumeError::Manifest { path: path.to_owned(), why: error.to_string() }),
    }
}

/// Whether the file system can read past the page cache, as some in memory cannot.
pub(super) fn is_direct(path: &Path) -> bool {
    let flags = nix::libc::O_DIRECT | nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags).open(path).is_ok()
}

/// The bytes of a disk without data of its own; none if it is as good as nothing but its length.
pub(super) fn blank(
    volume: &NewVolume,
    on: Option<&Base>,
    format: Format,
) -> Result<Option<Overlay>, VolumeError> {
    let id = volume.place.id;
    let impossible = |source| VolumeError::Impossible { id, source };
    let made = match (on, format) {
        (None, Format::Raw | Format::Luks) => return Ok(None),
        (None, Format::Qcow2) => qcow2::empty(volume.size),
        (Some(base), _) => {
            let path = base.path.to_str().ok_or_else(|| VolumeError::Manifest {
                path: base.path.clone(),
                why: "its path is not UTF-8".to_owned(),
            })?;
            qcow2::overlay(volume.size, path, base.format.as_str())
        }
    };
    made.map(Some).map_err(impossible)
}

/// Write a layer, unless it is there.
pub(super) fn write(path: &Path, bytes: Option<&Overlay>, size: Bytes) -> Result<(), VolumeError> {
    let failed = || VolumeError::io("write", path);
    match fs::symlink_metadata(path) {
        // It has its name only when it is whole.
        Ok(meta) if meta.is_file() => return Ok(()),
        Ok(_) => {
            let source = io::Error::other("something else is in its place");
            return Err(failed()(source));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed()(error)),
    }
    let unfinished = Unfinished::begin(path).map_err(failed())?;
    match bytes {
        None => unfinished.file.set_len(size.0).map_err(failed())?,
        Some(overlay) => {
            unfinished.file.set_len(overlay.length).map_err(failed())?;
            for (at, piece) in &overlay.pieces {
                unfinished.file.write_all_at(piece, *at).map_err(failed())?;
            }
        }
    }
    unfinished.finish().map_err(failed())
}

/// Read what is noted beside a volume, if anything is.
pub(super) fn read(folder: &Path, id: VolumeId) -> Result<Option<Manifest>, VolumeError> {
    let path = folder.join(MANIFEST);
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK);
    let file = match options.open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(VolumeError::io("open", &path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MANIFEST_MAX).read_to_end(&mut bytes).map_err(VolumeError::io("read", &path))?;
    let manifest = Manifest::parse(&bytes, id);
    manifest.map(Some).map_err(|why| VolumeError::Manifest { path, why })
}

/// Write down what a volume is, in the place of what was noted before.
pub(super) fn note(folder: &Path, manifest: &Manifest) -> Result<(), VolumeError> {
    let path = folder.join(MANIFEST);
    let failed = || VolumeError::io("write", &path);
    let bytes = serde_json::to_vec_pretty(manifest).map_err(io::Error::from).map_err(failed())?;
    let unfinished = Unfinished::begin(&path).map_err(failed())?;
    unfinished.file.write_all_at(&bytes, 0).map_err(failed())?;
    unfinished.replace().map_err(failed())?;
    // The folder's own entry, which may be new too.
    durable::sync_folder_of(folder).map_err(failed())
}

/// Remove layers that nothing needs any more. What cannot be removed only takes room.
pub(super) fn drop_layers(folder: &Path, layers: &[(u32, Format)]) {
    for (number, format) in layers {
        let path = folder.join(file_name(*number, *format));
        if let Err(error) = durable::remove(&path) {
            tracing::warn!(path = %path.display(), %error, "cannot remove a layer nothing needs");
        }
    }
}

pub(super) fn remove_tree(folder: &Path) -> Result<(), VolumeError> {
    let failed = || VolumeError::io("remove", folder);
    match fs::remove_dir_all(folder) {
        Ok(()) => durable::sync_folder_of(folder).map_err(failed()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed()(error)),
    }
}

pub(super) fn nobody_has(
    id: VolumeId,
    files: &[PathBuf],
    folder: &Path,
) -> Result<(), VolumeError> {
    match holders::of(files).map_err(VolumeError::io("see who has open", folder))? {
        None => Ok(()),
        Some(holder) => Err(VolumeError::Open { id, by: holder.to_string() }),
    }
}

pub(super) fn allocated(folder: &Path) -> io::Result<Bytes> {
    let mut blocks = 0;
    for volume in fs::read_dir(folder)?.flatten() {
        // What goes meanwhile takes nothing.
        let Ok(files) = fs::read_dir(volume.path()) else { continue };
        let sizes = files.flatten().filter_map(|file| file.metadata().ok()).map(|m| m.blocks());
        blocks += sizes.sum::<u64>();
    }
    Ok(Bytes(blocks * 512))
}

pub(super) fn succeeded(
    step: &'static str,
    path: &Path,
    ran: io::Result<Ran>,
) -> Result<(), VolumeError> {
    let ran = match ran {
        Ok(ran) if ran.status.success() => return Ok(()),
        Ok(ran) => ran,
        Err(error) => return Err(VolumeError::io(step, path)(error)),
    };
    let (said, path) = (ran.complaint(), path.to_owned());
    match is_full(&said) {
        true => Err(VolumeError::NoSpace { path, needed: None, free: None }),
        false => Err(VolumeError::QemuImg { step, path, said }),
    }
}
