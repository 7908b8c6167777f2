//! The table of mounts, `/proc/self/mountinfo`, line by line.
//!
//! Paths are kept as the bytes they are: a mount point need not be text.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// Where the kernel shows it.
pub const TABLE: &str = "/proc/self/mountinfo";

/// The number of a file system's device: major and minor.
pub type Device = (u64, u64);

/// A line of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of this mount.
    pub id: u64,
    /// The file system: the same for each of its mounts.
    pub device: Device,
    /// The folder of the file system that is mounted: not its root in a bind mount.
    pub root: PathBuf,
    /// Where.
    pub place: PathBuf,
    /// The type of the file system.
    pub kind: String,
    /// What it is made from: a device's path, or a mere word.
    pub source: PathBuf,
    /// Options of the file system, as opposed to those of this mount.
    pub options: Vec<u8>,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|byte| *byte == b' ');
        let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse::<u64>().ok();
        let id = number(fields.next()?)?;
        fields.next()?;
        let device = std::str::from_utf8(fields.next()?).ok()?;
        let (major, minor) = device.split_once(':')?;
        let root = unescape(fields.next()?);
        let place = unescape(fields.next()?);
        // options of the mount and any number of tags end with a dash
        fields.find(|field| *field == b"-")?;
        Some(Self {
            id,
            device: (major.parse().ok()?, minor.parse().ok()?),
            root,
            place,
            kind: String::from_utf8_lossy(fields.next()?).into_owned(),
            source: unescape(fields.next()?),
            options: fields.next().unwrap_or_default().to_vec(),
        })
    }

    /// The value of an option of the file system.
    pub fn option(&self, name: &str) -> Option<PathBuf> {
        let mut options = self.options.split(|byte| *byte == b',');
        let value =
            options.find_map(|option| option.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        Some(unescape(value))
    }

    /// Whether the file system itself, not just this mount, is read-only.
    pub fn is_read_only(&self) -> bool {
        self.options.split(|byte| *byte == b',').any(|option| option == b"ro")
    }
}

/// Reads the table; a line that is none is passed over.
pub fn parse(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(Mount::parse).collect()
}

/// The mount that a path leads into: the innermost, and the last of those at one place.
pub fn holding<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    mounts
        .iter()
        .filter(|mount| path.starts_with(&mount.place))
        .max_by_key(|mount| mount.place.components().count())
}

/// A field of the table, where what would break a line is written in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match (byte, octal.and_then(|digits| u8::from_str_radix(digits, 8).ok())) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_tags_and_bytes_it_has() {
        let table = b"\
26 22 254:2 /a\\040b /data\\012\xff rw shared:2 master:1 - xfs /dev/vda2 ro,noquota
27 22 0:40 / /merged rw - overlay none rw,lowerdir=/l,upperdir=/up\\054per,workdir=/w
nonsense
28 22 0:x / / rw - a b c
29 22 0:1 / / rw a b c
";
        let mounts = parse(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!((mounts[0].id, mounts[0].device), (26, (254, 2)));
        assert_eq!(mounts[0].root, Path::new("/a b"));
        assert_eq!(mounts[0].place.as_os_str().as_encoded_bytes(), b"/data\n\xff");
        assert!(mounts[0].is_read_only() && !mounts[1].is_read_only());
        assert_eq!(mounts[1].option("upperdir"), Some("/up,per".into()));
        assert_eq!(mounts[1].option("upper"), None);
    }

    #[test]
    fn a_path_leads_into_the_innermost_and_topmost_mount() {
        let table = b"\
1 0 8:1 / / rw - ext4 /dev/a rw
2 1 8:2 / /srv rw - ext4 /dev/b rw
3 2 8:3 / /srv/x rw - ext4 /dev/c rw
4 2 8:4 / /srv/x rw - ext4 /dev/d rw
";
        let mounts = parse(table);
        let id = |path: &str| holding(&mounts, Path::new(path)).unwrap().id;
        assert_eq!(id("/srvx"), 1);
        assert_eq!(id("/srv/y"), 2);
        assert_eq!(id("/srv/x/y"), 4, "the later mount hides the earlier");
    }

    #[test]
    fn octal_is_undone_and_nothing_else() {
        let unescape =
            |field| unescape(str::as_bytes(field)).into_os_string().into_string().unwrap();
        assert_eq!(unescape("a\\040b\\134c\\011"), "a b\\c\t");
        assert_eq!(unescape("a\\"), "a\\");
        assert_eq!(unescape("\\9\\7"), "\\9\\7");
        assert_eq!(unescape("\\303\\251"), "é");
    }
}
