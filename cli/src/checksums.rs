//! Lists of checksums as publishers write them: SHA256SUMS, SHA512SUMS and their like.
//!
//! ```text
//!   <digest>  disk.qcow2            GNU sha256sum; a * before the name means nothing here
//!   SHA256 (disk.qcow2) = <digest>  BSD, and sha256sum --tag
//! ```
//!
//! What else there is, comments and signatures, is passed over. Which digest it is, a GNU line tells
//! by its length.

use ostler_protocol::rpc::values::{Sha256, Sha512};

/// What a list says of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) sha256: Option<Sha256>,
    pub(crate) sha512: Option<Sha512>,
}

/// Why a list does not tell a file's digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unlisted {
    /// No line names it.
    Missing,
    /// Its lines differ.
    Ambiguous,
}

/// The digests that a list has for the file of this name.
pub(crate) fn digests_of(list: &str, name: &str) -> Result<Listed, Unlisted> {
    let mut found = Listed::default();
    for (digest, _) in list.lines().filter_map(entry).filter(|(_, path)| is_named(path, name)) {
        // A digest of another kind (SHA-1, MD5) is neither.
        let agrees = match (digest.parse::<Sha256>(), digest.parse::<Sha512>()) {
            (Ok(sha256), _) => *found.sha256.get_or_insert_with(|| sha256.clone()) == sha256,
            (_, Ok(sha512)) => *found.sha512.get_or_insert_with(|| sha512.clone()) == sha512,
            (Err(_), Err(_)) => true,
        };
        if !agrees {
            return Err(Unlisted::Ambiguous);
        }
    }
    if found == Listed::default() { Err(Unlisted::Missing) } else { Ok(found) }
}

/// The digest and the path of a line.
fn entry(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_end();
    if let Some((start, digest)) = line.rsplit_once(") = ") {
        let (kind, path) = start.split_once(" (")?;
        return matches!(kind, "SHA256" | "SHA512").then_some((digest, path));
    }
    let (digest, path) = line.split_once([' ', '\t'])?;
    let path = path.trim_start();
    Some((digest, path.strip_prefix('*').unwrap_or(path)))
}

/// Lists name files by where they lie below the list's own folder.
fn is_named(path: &str, name: &str) -> bool {
    path.rsplit('/').next() == Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(digit: char, count: usize) -> String {
        String::from(digit).repeat(count)
    }

    fn sha256(digit: char) -> Listed {
        Listed { sha256: Some(hex(digit, 64).parse().unwrap()), sha512: None }
    }

    #[test]
    fn each_way_to_write_a_line_is_read() {
        let (a, b) = (hex('a', 64), hex('b', 64));
        for line in [
            format!("{a}  disk.raw"),
            format!("{a} *disk.raw"),
            format!("{a}  ./amd64/disk.raw\r"),
            format!("SHA256 (disk.raw) = {a}"),
            format!("{}  disk.raw", a.to_uppercase()),
        ] {
            let list = format!("# comment\n\n{b}  disk.raw.xz\n{line}\n{b}  my-disk.raw\n");
            assert_eq!(digests_of(&list, "disk.raw"), Ok(sha256('a')), "{line}");
        }
        let spaced = format!("{a}  my disk (1).raw\nSHA256 (my disk (2).raw) = {b}\n");
        assert_eq!(digests_of(&spaced, "my disk (1).raw"), Ok(sha256('a')));
        assert_eq!(digests_of(&spaced, "my disk (2).raw"), Ok(sha256('b')));
    }

    #[test]
    fn sha_512_is_told_by_its_length_and_both_may_be_there() {
        let long = hex('c', 128);
        let sha512 = Some(long.parse().unwrap());
        let only = Listed { sha256: None, sha512 };
        assert_eq!(digests_of(&format!("{long}  disk"), "disk"), Ok(only.clone()));
        let both = format!("SHA512 (disk) = {long}\nSHA256 (disk) = {}\n", hex('a', 64));
        assert_eq!(digests_of(&both, "disk"), Ok(Listed { sha512: only.sha512, ..sha256('a') }));
    }

    #[test]
    fn a_file_that_is_not_listed_or_in_two_ways_has_no_digest() {
        let (a, b) = (hex('a', 64), hex('b', 64));
        let md5 =
            format!("MD5 (disk) = {}\n{}  disk\n{a}\n{a}  other\n", hex('d', 32), hex('d', 40));
        assert_eq!(digests_of(&md5, "disk"), Err(Unlisted::Missing));
        assert_eq!(digests_of("", "disk"), Err(Unlisted::Missing));
        let two = format!("{a}  old/disk\n{b}  new/disk\n");
        assert_eq!(digests_of(&two, "disk"), Err(Unlisted::Ambiguous));
        let same = format!("{a}  old/disk\n{a}  new/disk\n");
        assert_eq!(digests_of(&same, "disk"), Ok(sha256('a')));
    }
}
