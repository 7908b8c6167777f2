//! Disks made from an image, and what their first bytes say.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

use super::{Base, DiskError, Ensured, FOLDER_MODE, RootDisk};
use crate::durable::{self, Unfinished, sync_folder_of};
use crate::qcow2::{self, Header, HeaderError, Overlay};

/// What a disk is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Sync,
}

/// Open the disk of that name, if there is one. Nothing but a regular file is one: through a link
/// we would copy, or give to a guest, any file of the node.
pub(super) fn open(path: &Path, access: Access) -> Result<Option<File>, DiskError> {
    // Without O_NONBLOCK, opening a FIFO would wait for its other end.
    let flags = nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK | nix::libc::O_NOCTTY;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags);
    match access {
        Access::Read => {}
        // What another process wrote is synced by any descriptor, but some network file systems
        // want one that could have written.
        Access::Sync => drop(options.write(true)),
    }
    let file = match options.open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(nix::libc::ELOOP) => {
            return Err(DiskError::NotAFile { path: path.to_owned() });
        }
        Err(error) => return Err(DiskError::io("open", path)(error)),
    };
    match file.metadata().map_err(DiskError::io("examine", path))?.is_file() {
        true => Ok(Some(file)),
        false => Err(DiskError::NotAFile { path: path.to_owned() }),
    }
}

/// What the disk's header says.
pub(super) fn header(file: &File, path: &Path) -> Result<Result<Header, HeaderError>, DiskError> {
    let mut file = file;
    let mut beginning = Vec::with_capacity(4096);
    file.seek(SeekFrom::Start(0)).map_err(DiskError::io("read", path))?;
    // What we wrote is well within the first 4 KiB, and stays there when QEMU grows the disk.
    file.take(4096).read_to_end(&mut beginning).map_err(DiskError::io("read", path))?;
    Ok(Header::parse(&beginning))
}

/// The bytes of the disk, if it can be.
pub(super) fn plan(root: &RootDisk) -> Result<Overlay, DiskError> {
    let Base { path, format, virtual_size } = &root.base;
    if !format.is_disk() {
        return Err(DiskError::NotADisk { format: *format });
    }
    if root.size < *virtual_size {
        return Err(DiskError::TooSmall { size: root.size, base: *virtual_size });
    }
    // A relative path would be looked for from the overlay's folder.
    let text = path.to_str().filter(|_| path.is_absolute());
    let text = text.ok_or_else(|| DiskError::BasePath { path: path.clone() })?;
    qcow2::overlay(root.size, text, format.layout())
        .map_err(|source| DiskError::Impossible { instance: root.instance, source })
}

/// Make the disk at `path`.
pub(super) fn create(
    root: &RootDisk,
    path: &Path,
    overlay: &Overlay,
) -> Result<Ensured, DiskError> {
    if let Some(file) = open(path, Access::Read)? {
        header(&file, path)?
            .map_err(|error| error.to_string())
            .and_then(|it| compare(root, &it))
            .map_err(|why| {
            let disk = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            DiskError::Different { instance: root.instance, disk, why }
        })?;
        // Its name may be as new as a crash.
        sync_folder_of(path).map_err(DiskError::io("sync the folder of", path))?;
        return Ok(Ensured::AlreadyThere);
    }
    check_base(&root.base)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let new_folder = durable::folder(folder, FOLDER_MODE).map_err(DiskError::io("make", folder))?;
    let made = write(overlay, path, folder);
    if made.is_err() && new_folder {
        // Only if empty: nothing but what this call made goes.
        fs::remove_dir(folder).ok();
    }
    made.map(|()| Ensured::Created).map_err(DiskError::io("write", path))
}

fn write(overlay: &Overlay, path: &Path, folder: &Path) -> io::Result<()> {
    let unfinished = Unfinished::begin(path)?;
    unfinished.file.set_len(overlay.length)?;
    for (at, piece) in &overlay.pieces {
        unfinished.file.write_all_at(piece, *at)?;
    }
    unfinished.finish()?;
    // The folder's own entry, which may be new too.
    sync_folder_of(folder)
}

fn check_base(base: &Base) -> Result<(), DiskError> {
    let unusable = |source| DiskError::Base { path: base.path.clone(), source };
    if fs::metadata(&base.path).map_err(unusable)?.is_file() {
        Ok(())
    } else {
        Err(unusable(io::Error::other("it is not a regular file")))
    }
}

/// Whether the disk is as it should be; otherwise, in what it differs.
fn compare(root: &RootDisk, header: &Header) -> Result<(), String> {
    if header.virtual_size != root.size {
        return Err(format!("its size is {}, not {}", header.virtual_size, root.size));
    }
    let Some(backing) = &header.backing else {
        return Err("it has no base image".to_owned());
    };
    if Path::new(&backing.name) != root.base.path {
        let wanted = root.base.path.display();
        return Err(format!("its base image is {}, not {wanted}", backing.name));
    }
    if backing.format.as_deref() != Some(root.base.format.layout()) {
        let wanted = root.base.format.layout();
        return Err(format!("its base is read as {:?}, not {wanted}", backing.format));
    }
    Ok(())
}
