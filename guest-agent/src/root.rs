//! Where the trees that the kernel and the distribution describe the system in begin: at `/`, or at a
//! folder that stands for it in tests.
//!
//! A root may be one that never waits: what it cannot tell at once it refuses, and it says afterwards
//! that it has. [`Agent::look`](crate::commands::Agent::look) asks such a one first.

use std::cell::Cell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use nix::libc::O_NONBLOCK;

use crate::prompt::Trees;

/// No file that is read whole is longer; what lies beyond is not seen.
const LONGEST: u64 = 16 << 20;

/// The root folder.
#[derive(Clone, Debug)]
pub struct Root {
    folder: PathBuf,
    /// What it may read, if it is one that never waits.
    prompt: Option<Trees>,
    refused: Cell<bool>,
}

impl Root {
    /// This system's.
    pub fn system() -> Self {
        Self { folder: PathBuf::from("/"), prompt: None, refused: Cell::new(false) }
    }

    /// This system's, of which nothing is waited for.
    pub fn prompt(trees: &Trees) -> Self {
        Self { prompt: Some(trees.clone()), ..Self::system() }
    }

    /// Whether something was not told because it would have been waited for.
    pub fn has_refused(&self) -> bool {
        self.refused.get()
    }

    fn refuse<T>(&self) -> io::Result<T> {
        self.refused.set(true);
        Err(io::ErrorKind::WouldBlock.into())
    }

    /// One that stands for it.
    #[cfg(test)]
    pub(crate) fn at(folder: &Path) -> Self {
        Self { folder: fs::canonicalize(folder).unwrap(), ..Self::system() }
    }

    /// Where a path of the system is.
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.folder.join(absolute.trim_start_matches('/'))
    }

    /// What a path is called in the system: without this root.
    pub fn name(&self, path: &Path) -> String {
        let inside = path.strip_prefix(&self.folder).unwrap_or(path);
        format!("/{}", inside.to_string_lossy())
    }

    /// A file's bytes.
    pub fn bytes(&self, absolute: &str) -> io::Result<Vec<u8>> {
        match &self.prompt {
            None => bytes(&self.path(absolute)),
            Some(trees) => trees.read(absolute).unwrap_or_else(|| self.refuse()),
        }
    }

    /// Where a folder is that is to be listed; in the kernel's own, what its files say.
    pub fn folder(&self, absolute: &str) -> io::Result<PathBuf> {
        match &self.prompt {
            Some(trees) if !trees.has_folder(absolute) => self.refuse(),
            Some(_) | None => Ok(self.path(absolute)),
        }
    }

    /// A file's text; what is no text in it is replaced.
    pub fn text(&self, absolute: &str) -> io::Result<String> {
        Ok(lossy(self.bytes(absolute)?))
    }
}

/// The bytes of a regular file: whoever may write to a folder can put a pipe there that never ends.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path)?;
    let about = file.metadata()?;
    if !about.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    read(&file, about.len())
}

fn read(file: &File, expected: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(usize::try_from(expected.min(LONGEST)).unwrap_or(0));
    file.take(LONGEST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn lossy(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

/// A small file's text, without the newline at its end. `None` if there is none, or it is empty.
///
/// The kernel gives such a file in one piece; there are many, so no more than that is asked.
pub(crate) fn value(path: &Path) -> Option<String> {
    let mut file = OpenOptions::new().read(true).custom_flags(O_NONBLOCK).open(path).ok()?;
    let mut page = [0; 4096];
    let length = file.read(&mut page).ok()?;
    let text = String::from_utf8_lossy(page.get(..length)?).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Where a link of the kernel's tree leads, or the path itself if it is none. The tree's links lead to
/// places without links, so that one look is enough.
pub(crate) fn follow(path: &Path) -> Option<PathBuf> {
    let target = match fs::read_link(path) {
        Ok(target) => target,
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Some(path.to_owned()),
        Err(_) => return None,
    };
    let mut place = path.parent()?.to_owned();
    for part in target.components() {
        match part {
            Component::ParentDir => {
                place.pop();
            }
            Component::Normal(name) => place.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    Some(place)
}

/// The names in a folder that are `prefix` and a number, by their numbers.
pub(crate) fn numbered(folder: &Path, prefix: &str) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| number(entry.file_name().to_str()?, prefix))
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number in a name that is `prefix` and a number.
pub(crate) fn number(name: &str, prefix: &str) -> Option<u64> {
    let digits = name.strip_prefix(prefix)?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

/// A tree for tests: paths with their contents, and links (`-> target`).
#[cfg(test)]
pub(crate) fn tree(entries: &[(&str, &str)]) -> (tempfile::TempDir, Root) {
    let folder = tempfile::tempdir().unwrap();
    let root = Root::at(folder.path());
    for (path, content) in entries {
        let path = root.path(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(target) => std::os::unix::fs::symlink(target, path).unwrap(),
            None if path.to_string_lossy().ends_with('/') => fs::create_dir_all(path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    }
    (folder, root)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("pipe");
        nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(Root::at(folder.path()).text("/pipe").is_err());
    }

    #[test]
    fn only_a_prefix_and_digits_are_a_number() {
        assert_eq!(number("cpu12", "cpu"), Some(12));
        for name in ["cpu", "cpu+1", "cpu1x", "cpuidle", "xcpu1", "cpu99999999999999999999"] {
            assert_eq!(number(name, "cpu"), None, "{name}");
        }
    }
}
