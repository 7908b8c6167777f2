//! A FAT file system in memory.

use std::collections::BTreeSet;
use std::io::{self, Cursor, Write};

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};

use super::layout::File;

/// The largest cluster that `fatfs` takes for a volume of this size.
const CLUSTER: usize = 4096;
/// Boot sector, both tables and the root folder, with room to spare.
const OVERHEAD: usize = 64 << 10;
/// What its size is a multiple of.
const STEP: usize = 64 << 10;

/// A file system with this label and these files, just large enough.
pub(super) fn of(label: &str, files: &[File]) -> io::Result<Vec<u8>> {
    let folders: BTreeSet<&str> = files
        .iter()
        .flat_map(|(path, _)| path.match_indices('/').map(|(end, _)| &path[..end]))
        .collect();
    let clusters =
        files.iter().map(|(_, bytes)| bytes.len().div_ceil(CLUSTER)).sum::<usize>() + folders.len();
    let size = (clusters * CLUSTER + OVERHEAD).next_multiple_of(STEP);
    let mut volume = Cursor::new(vec![0; size]);

    let mut padded = [b' '; 11];
    padded.iter_mut().zip(label.bytes()).for_each(|(to, from)| *to = from);
    format_volume(&mut volume, FormatVolumeOptions::new().volume_label(padded))?;
    {
        let system = FileSystem::new(&mut volume, FsOptions::new())?;
        let root = system.root_dir();
        // a set in order: each folder follows the one it is in
        for folder in folders {
            root.create_dir(folder)?;
        }
        for (path, bytes) in files {
            let mut file = root.create_file(path)?;
            file.write_all(bytes)?;
            file.flush()?;
        }
        drop(root);
        system.unmount()?;
    }
    Ok(volume.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_there_is_fits() {
        // across the sizes at which FAT12 ends and clusters grow
        for kib in (0..8192).step_by(61) {
            let files =
                [("a/b/large".to_owned(), vec![7; kib << 10]), ("small".to_owned(), vec![1])];
            let volume = of("label", &files).unwrap_or_else(|error| panic!("{kib} KiB: {error}"));
            assert!(volume.len() < (kib << 10) + (192 << 10), "{kib} KiB: {}", volume.len());
        }
    }
}
