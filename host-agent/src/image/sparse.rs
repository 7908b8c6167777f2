//! Files with holes: data is read, a hole is only counted, and hashed as the zeros it stands for.
//!
//! An image is named by the SHA-256 of its bytes, holes included, so that the name is what
//! `sha256sum` says and what a server publishes. There is no shorter way to that digest than
//! through the zeros; but they need not be read, looked at or written. What is left is the speed of
//! the processor's SHA instructions.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use sha2::Digest;

/// Bytes read at once.
const CHUNK: u64 = 1 << 20;

/// Bytes of a hole told at once: hashed in some hundredths of a second.
const HOLE: u64 = 64 << 20;

/// Small enough for the processor's cache.
pub(super) static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// What comes next in a file.
pub(super) enum Piece<'a> {
    Data(&'a [u8]),
    /// So many zeros that take no room.
    Hole(u64),
}

/// Reads a file from its beginning, as long as it was to be.
pub(super) struct Reader<'a> {
    file: &'a File,
    at: u64,
    /// The end of the data it stands in; of what is behind, nothing is known yet.
    data_end: u64,
    length: u64,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(file: &'a File, length: u64) -> Self {
        Self { file, at: 0, data_end: 0, length, buffer: vec![0; CHUNK as usize] }
    }

    /// The next piece; none at the end, of the length or of a file that has become shorter.
    pub(super) fn next(&mut self) -> io::Result<Option<Piece<'_>>> {
        if self.at >= self.length {
            return Ok(None);
        }
        if self.at >= self.data_end {
            let data = self.seek(Whence::SeekData)?;
            if data > self.at {
                let count = (data - self.at).min(HOLE);
                self.at += count;
                return Ok(Some(Piece::Hole(count)));
            }
            self.data_end = self.seek(Whence::SeekHole)?;
        }
        let wanted = (self.data_end - self.at).min(CHUNK) as usize;
        let count = self.file.read_at(&mut self.buffer[..wanted], self.at)?;
        self.at += count as u64;
        Ok((count > 0).then(|| Piece::Data(&self.buffer[..count])))
    }

    /// Where data, or a hole, begins from here on.
    fn seek(&self, whence: Whence) -> io::Result<u64> {
        let from = self.at.try_into().map_err(io::Error::other)?;
        match lseek(self.file, from, whence) {
            Ok(found) => Ok(u64::try_from(found).unwrap_or(self.length).min(self.length)),
            // Nothing but a hole follows, or the file has become shorter.
            Err(Errno::ENXIO) => Ok(self.length),
            // The file system does not tell: all is data.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => match whence {
                Whence::SeekData => Ok(self.at),
                Whence::SeekSet | Whence::SeekCur | Whence::SeekEnd | Whence::SeekHole => {
                    Ok(self.length)
                }
            },
            Err(error) => Err(error.into()),
        }
    }
}

/// So many zeros into a digest.
pub(super) fn hash_zeros(hash: &mut impl Digest, mut count: u64) {
    while count > 0 {
        let piece = &ZEROS[..count.min(ZEROS.len() as u64) as usize];
        hash.update(piece);
        count -= piece.len() as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use sha2::Sha256;

    use super::*;

    #[test]
    fn holes_are_told_and_hashed_and_the_rest_is_read() {
        let file = tempfile::tempfile().unwrap();
        let data = (2 << 20) + 4096;
        file.write_all_at(&[7; 5000], data).unwrap();
        let length = data + 200_000;
        file.set_len(length).unwrap();
        let mut reader = Reader::new(&file, length);
        let (mut read, mut holes, mut hash) = (0, 0, Sha256::new());
        while let Some(piece) = reader.next().unwrap() {
            match piece {
                Piece::Data(bytes) => {
                    read += bytes.len() as u64;
                    hash.update(bytes);
                }
                Piece::Hole(count) => {
                    holes += count;
                    hash_zeros(&mut hash, count);
                }
            }
        }
        assert_eq!(read + holes, length);
        if file.metadata().unwrap().blocks() < 1000 {
            assert!(read < 1 << 19, "{read} bytes of a file that is nearly all hole were read");
        }
        let mut wanted = Sha256::new();
        wanted.update(vec![0; data as usize]);
        wanted.update([7; 5000]);
        wanted.update(vec![0; 195_000]);
        assert_eq!(hash.finalize(), wanted.finalize());
    }

    #[test]
    fn a_file_that_became_shorter_ends_early() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[7; 1000], 0).unwrap();
        let mut reader = Reader::new(&file, 2000);
        let mut seen = 0;
        while let Some(Piece::Data(bytes)) = reader.next().unwrap() {
            seen += bytes.len();
        }
        assert_eq!(seen, 1000);
    }
}
