//! The end of what a console printed, from the file QEMU writes it to.
//!
//! virtlogd writes it where libvirt has that, and rotates it: `console.log.0` is the piece before
//! `console.log`, `console.log.1` the one before that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use ostler_protocol::rpc::console::{Data, Log};

use super::Error;

/// More pieces than virtlogd keeps (three, unless told).
const PIECES: usize = 64;

/// The last `most` bytes; blocks on the disk. A log that is not there is empty.
///
/// # Errors
/// [`Error::Log`].
pub fn tail(path: &Path, most: u64) -> Result<Log, Error> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| Error::Log { path, source }
    };
    // All are opened first, the newest first, so that a rotation meanwhile takes nothing away: a
    // piece that was renamed in between is found again, and passed over.
    let mut pieces: Vec<(File, u64)> = Vec::new();
    let mut seen = Vec::new();
    for number in 0..PIECES {
        let path = match number {
            0 => path.to_owned(),
            n => numbered(path, n - 1),
        };
        let (file, length, node) = match open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => match number {
                // just being rotated
                0 => continue,
                _ => break,
            },
            opened => opened.map_err(failed(&path))?,
        };
        if !seen.contains(&node) {
            seen.push(node);
            pieces.push((file, length));
        }
    }
    let size = pieces.iter().map(|(_, length)| length).sum::<u64>();
    let mut skip = size.saturating_sub(most);
    let mut data = Vec::with_capacity(usize::try_from(size - skip).unwrap_or(0));
    for (mut file, length) in pieces.into_iter().rev() {
        let passed = skip.min(length);
        skip -= passed;
        file.seek(SeekFrom::Start(passed))
            .and_then(|_| file.take(length - passed).read_to_end(&mut data))
            .map_err(failed(path))?;
    }
    Ok(Log { data: Data::new(data), size })
}

fn numbered(path: &Path, number: usize) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

/// Opens a piece: a file, not what a link or a pipe in its place leads to.
fn open(path: &Path) -> io::Result<(File, u64, (u64, u64))> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::Error::other("it is not a file"));
    }
    Ok((file, about.len(), (about.dev(), about.ino())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_across_pieces() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        assert_eq!(tail(&path, 10).unwrap(), Log { data: Data::default(), size: 0 });
        std::fs::write(&path, "newest").unwrap();
        std::fs::write(numbered(&path, 0), "middle ").unwrap();
        std::fs::write(numbered(&path, 1), "oldest ").unwrap();
        // a gap ends it: what lies behind it is of another time
        std::fs::write(numbered(&path, 3), "stray ").unwrap();
        for (most, text) in [
            (0, ""),
            (3, "est"),
            (6, "newest"),
            (8, "e newest"),
            (20, "oldest middle newest"),
            (u64::MAX, "oldest middle newest"),
        ] {
            let log = tail(&path, most).unwrap();
            assert_eq!((log.data.bytes(), log.size), (text.as_bytes(), 20), "{most}");
        }
        // while it is being rotated there is no newest piece
        std::fs::remove_file(&path).unwrap();
        assert_eq!(tail(&path, 7).unwrap().data.bytes(), b"middle ");
    }

    #[test]
    fn a_link_in_its_place_is_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("console.log");
        std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
        assert!(tail(&path, 10).is_err());
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(tail(&path, 10).is_err());
    }
}
