//! What is done with a file, on a thread that may hang.
//!
//! Data is turned from and to base64 in pieces: a transfer has its text in memory and little more.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::IntoRawFd;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::{Mode as Permissions, fchmod};
use nix::sys::statfs::fstatfs;
use ostler_protocol::qga::base64::{Base64Data, Base64Decoder};
use ostler_protocol::qga::commands::file::FileRead;

use crate::prompt;

/// A whole number of groups of base64.
const PIECE: usize = 192 << 10;
/// What a new file may be used for, whatever the umask; its folder decides who gets there.
const NEW: Permissions = Permissions::from_bits_truncate(0o666);

/// How a file is opened, as `fopen(3)` has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mode(OFlag);

impl Mode {
    pub(super) fn from_word(word: &str) -> Option<Self> {
        let plain = match word {
            "r+b" | "rb+" => "r+",
            "w+b" | "wb+" => "w+",
            "a+b" | "ab+" => "a+",
            "rb" => "r",
            "wb" => "w",
            "ab" => "a",
            other => other,
        };
        Some(Self(match plain {
            "r" => OFlag::O_RDONLY,
            "w" => OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC,
            "a" => OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND,
            "r+" => OFlag::O_RDWR,
            "w+" => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_TRUNC,
            "a+" => OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND,
            _ => return None,
        }))
    }

    pub(super) fn writes(self) -> bool {
        self.0.intersects(OFlag::O_WRONLY | OFlag::O_RDWR)
    }

    /// Opens a file, one that is there before one that is made: only what is made here gets its mode.
    pub(super) fn open(self, path: &Path) -> io::Result<File> {
        // a pipe with nobody at its other end is not waited for, a terminal is not taken
        let flags = self.0 | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let existing = open(path, flags - OFlag::O_CREAT, Permissions::empty());
        match existing {
            Err(nix::Error::ENOENT) if flags.contains(OFlag::O_CREAT) => {
                let file = open(path, flags | OFlag::O_EXCL, Permissions::empty())?;
                if let Err(errno) = fchmod(&file, NEW) {
                    let _ = std::fs::remove_file(path);
                    return Err(errno.into());
                }
                Ok(file.into())
            }
            existing => Ok(existing.map(File::from)?),
        }
    }
}

/// Whether a file is one whose end is known without asking a server or a program.
pub(super) fn is_local(file: &File) -> bool {
    file.metadata().is_ok_and(|about| about.is_file())
        && fstatfs(file).is_ok_and(|system| prompt::is_local(system.filesystem_type()))
}

/// What of a read could be done without waiting for a disk.
#[derive(Debug)]
pub(super) enum Cached {
    /// All of it.
    Whole(FileRead),
    /// The beginning, or nothing.
    Begun(Vec<u8>),
}

/// Reads what the kernel has in memory. A file system that cannot tell whether it has begins nothing.
pub(super) fn read_cached(file: &File, most: usize) -> Cached {
    let mut data = vec![0; most];
    let (mut count, mut eof) = (0, false);
    while count < most {
        match prompt::read_cached(file, &mut data[count..]) {
            Ok(0) => {
                eof = true;
                break;
            }
            Ok(got) => count += got,
            Err(_) => {
                data.truncate(count);
                return Cached::Begun(data);
            }
        }
    }
    data.truncate(count);
    Cached::Whole(FileRead { count: told(count), buf_b64: Base64Data(data), eof })
}

/// Reads until there is so much, or the end; `data` is what the read has begun with. What was read
/// before a failure is told; the failure shows at the next read.
pub(super) fn read(file: &mut File, mut data: Vec<u8>, most: usize) -> io::Result<FileRead> {
    let size = file.metadata().map_or(0, |about| about.len());
    data.reserve_exact(most.min(usize::try_from(size).unwrap_or(most)).saturating_sub(data.len()));
    let mut eof = false;
    while data.len() < most {
        let count = data.len();
        data.resize(most.min(count + PIECE), 0);
        let got = file.read(&mut data[count..]);
        data.truncate(count + got.as_ref().unwrap_or(&0));
        match got {
            Ok(0) => {
                eof = true;
                break;
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if count > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(FileRead { count: told(data.len()), buf_b64: Base64Data(data), eof })
}

/// Writes so much of what a text stands for, and says how much was. What was written before a failure
/// is told; the failure shows at the next write.
pub(super) fn write(file: &mut File, text: &str, most: usize) -> io::Result<i64> {
    let mut decoder = Base64Decoder::default();
    let mut data = Vec::with_capacity(text.len().min(PIECE) + 3);
    let mut pieces = text.as_bytes().chunks(PIECE);
    let (mut count, mut ended) = (0, false);
    while count < most && !ended {
        data.clear();
        if let Some(piece) = pieces.next() {
            decoder.push(piece, &mut data);
        } else {
            std::mem::take(&mut decoder).finish(&mut data);
            ended = true;
        }
        let mut rest = &data[..data.len().min(most - count)];
        while !rest.is_empty() {
            match file.write(rest) {
                Ok(0) if count > 0 => return Ok(told(count)),
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(put) => {
                    count += put;
                    rest = &rest[put..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) if count > 0 => return Ok(told(count)),
                Err(error) => return Err(error),
            }
        }
    }
    Ok(told(count))
}

fn told(count: usize) -> i64 {
    count.try_into().unwrap_or(i64::MAX)
}

/// Closes a file, and tells if it could not keep what was written.
pub(super) fn close(file: File) -> io::Result<()> {
    Ok(nix::unistd::close(file.into_raw_fd())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn modes_are_those_of_fopen_and_no_others() {
        for word in "r rb r+ r+b rb+ w wb w+ w+b wb+ a ab a+ a+b ab+".split(' ') {
            let mode = Mode::from_word(word).unwrap();
            assert_eq!(mode.writes(), !matches!(word, "r" | "rb"), "{word}");
        }
        for word in ["", "x", "rw", "rt", "r+t", "br", "r++", "R", "rbb"] {
            assert_eq!(Mode::from_word(word), None, "{word}");
        }
    }

    #[test]
    fn a_new_file_is_for_all_and_an_old_one_keeps_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let mode = Mode::from_word("w").unwrap();
        drop(mode.open(&path).unwrap());
        let permissions = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(permissions(), 0o666);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        drop(mode.open(&path).unwrap());
        assert_eq!(permissions(), 0o600);
    }

    #[test]
    fn a_new_file_is_not_made_through_a_link_that_leads_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("target");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&target, &link).unwrap();
        Mode::from_word("w").unwrap().open(&link).unwrap_err();
        assert!(!target.exists());
    }

    #[test]
    fn the_end_is_told_only_when_it_was_hit() {
        let mut file = tempfile::tempfile().unwrap();
        let data = vec![7; PIECE * 2 + 5];
        file.write_all(&data).unwrap();
        io::Seek::rewind(&mut file).unwrap();
        let whole = read(&mut file, Vec::new(), data.len()).unwrap();
        assert_eq!((whole.count, whole.eof), (told(data.len()), false));
        let none = read(&mut file, Vec::new(), 1).unwrap();
        assert_eq!((none.count, none.eof), (0, true));
        assert!(!read(&mut file, Vec::new(), 0).unwrap().eof);
        io::Seek::rewind(&mut file).unwrap();
        let more = read(&mut file, Vec::new(), data.len() + 1).unwrap();
        assert_eq!((more.buf_b64, more.eof), (whole.buf_b64, true));
    }

    #[test]
    fn what_is_in_memory_is_read_as_what_is_not() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 5000]).unwrap();
        for most in [0, 1, 5000, 5001] {
            io::Seek::rewind(&mut file).unwrap();
            let slow = read(&mut file, Vec::new(), most).unwrap();
            io::Seek::rewind(&mut file).unwrap();
            let fast = match read_cached(&file, most) {
                Cached::Whole(read) => read,
                Cached::Begun(begun) => read(&mut file, begun, most).unwrap(),
            };
            assert_eq!(fast, slow, "{most}");
        }
        // a read that could not go on is gone on with
        io::Seek::rewind(&mut file).unwrap();
        let whole = read(&mut file, b"begun".to_vec(), 5006).unwrap();
        assert_eq!((whole.count, whole.eof), (5005, true));
        // what cannot tell begins nothing
        let told = File::open("/proc/self/status").unwrap();
        assert!(matches!(read_cached(&told, 10), Cached::Begun(begun) if begun.is_empty()));
    }

    #[test]
    fn so_much_is_written_as_is_asked_for() {
        for most in [0, 1, 4, PIECE, PIECE + 1, PIECE * 2 - 1] {
            let data: Vec<u8> = (0..=u8::MAX).cycle().take(PIECE * 2).collect();
            let text = serde_json::to_value(Base64Data(data.clone())).unwrap();
            let mut file = tempfile::tempfile().unwrap();
            assert_eq!(write(&mut file, text.as_str().unwrap(), most).unwrap(), told(most));
            io::Seek::rewind(&mut file).unwrap();
            let mut back = Vec::new();
            file.read_to_end(&mut back).unwrap();
            assert!(back == data[..most], "{most}");
        }
    }

    #[test]
    fn what_a_pipe_had_room_for_is_told_before_its_failure() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pipe");
        nix::unistd::mkfifo(&path, NEW).unwrap();
        let mut reader = Mode::from_word("r").unwrap().open(&path).unwrap();
        let mut writer = Mode::from_word("w").unwrap().open(&path).unwrap();
        let text = "QUJD".repeat(100_000);
        let put = write(&mut writer, &text, 300_000).unwrap();
        assert!(put > 0 && put < 300_000, "{put}");
        assert_eq!(write(&mut writer, &text, 3).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let got = read(&mut reader, Vec::new(), 300_000).unwrap();
        assert_eq!((got.count, got.eof), (put, false));
        assert_eq!(read(&mut reader, Vec::new(), 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
