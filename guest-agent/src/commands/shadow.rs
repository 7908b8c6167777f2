//! The files that hold accounts.
//!
//! An entry's password stands in `shadow` if the account has a line there, or if `passwd` says so by an
//! `x`; else in `passwd` itself. A file is replaced as a whole: written beside, made to look like the old
//! one, made durable, renamed. Meanwhile the lock is held that every other program takes for it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use zeroize::Zeroizing;

use super::label;
use crate::file_lock;
use crate::worker::{WorkerError, Workers};

/// As long as `lckpwdf(3)` waits for others.
const LOCK: Duration = Duration::from_secs(15);
const LOCK_STEP: Duration = Duration::from_millis(50);
const WRITE: Duration = Duration::from_secs(30);
/// The fields of an entry, from 0.
const PASSWORD: usize = 1;
const EXPIRES: usize = 7;
/// In `passwd`: the password is in `shadow`.
const SHADOWED: &[u8] = b"x";

/// Why the files could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ShadowError {
    /// One could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One could not be replaced.
    #[error("cannot replace {}", .path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The lock could not be had.
    #[error("cannot lock {}", .path.display())]
    Lock {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The account was removed meanwhile.
    #[error("the account has been removed")]
    Gone,
    /// The thread that writes.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// How words begin after `$` that a crypt(3) makes: those of glibc, musl and libxcrypt.
const METHODS: [&str; 13] =
    ["1$", "2a$", "2b$", "2x$", "2y$", "3$", "5$", "6$", "7$", "gy$", "md5", "sha1$", "y$"];

/// What the files say of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its password field.
    pub(super) password: Zeroizing<Vec<u8>>,
    /// Its day has come.
    pub(super) expired: bool,
}

impl Entry {
    /// Whether there is no password one could log in with.
    pub(super) fn is_locked(&self) -> bool {
        !self.password.is_empty() && !is_hash(&self.password)
    }
}

/// Whether some crypt(3) makes such words of passwords. Any other is one that no password fits.
fn is_hash(word: &[u8]) -> bool {
    let in_alphabet = |word: &[u8]| {
        word.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'/'))
    };
    match word {
        [b'$', rest @ ..] => METHODS
            .iter()
            .any(|method| rest.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.len() > 1)),
        // the one with 24 bits of salt
        [b'_', rest @ ..] => rest.len() == 19 && in_alphabet(rest),
        // the oldest
        word => word.len() == 13 && in_alphabet(word),
    }
}

/// The entry of an account; nothing if there is no such account.
pub(super) fn entry(folder: &Path, name: &str) -> Result<Option<Entry>, ShadowError> {
    let passwd = read(&folder.join("passwd"))?;
    let Some(open) = field(&passwd, name, PASSWORD) else { return Ok(None) };
    let shadow = Zeroizing::new(read_if_any(&folder.join("shadow"))?.unwrap_or_default());
    let password = field(&shadow, name, PASSWORD).unwrap_or(open);
    let expires = field(&shadow, name, EXPIRES)
        .and_then(|day| std::str::from_utf8(day).ok()?.parse::<u64>().ok());
    Ok(Some(Entry {
        password: Zeroizing::new(password.to_vec()),
        expired: expires.is_some_and(|day| day <= today()),
    }))
}

/// Days since 1970.
fn today() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400
}

/// Puts `hash` into the password field of an account.
pub(super) async fn replace(
    workers: &Workers,
    folder: &Path,
    name: &str,
    hash: &[u8],
) -> Result<(), ShadowError> {
    let lock = lock(&folder.join(".pwd.lock")).await?;
    let (folder, name) = (folder.to_owned(), name.to_owned());
    let hash = Zeroizing::new(hash.to_vec());
    let today = today();
    workers
        .run("writing the accounts", WRITE, move || {
            let outcome = rewrite(&folder, &name, &hash, today);
            drop(lock);
            outcome
        })
        .await?
}

fn rewrite(folder: &Path, name: &str, hash: &[u8], today: u64) -> Result<(), ShadowError> {
    let passwd = folder.join("passwd");
    let shadow = folder.join("shadow");
    let accounts = read(&passwd)?;
    let field = field(&accounts, name, PASSWORD).ok_or(ShadowError::Gone)?;
    let shadows = read_if_any(&shadow)?;
    let in_shadow =
        shadows.as_deref().is_some_and(|text| self::field(text, name, PASSWORD).is_some());
    if in_shadow || field == SHADOWED {
        let text = with_shadow(&shadows.unwrap_or_default(), name, hash, today);
        store(&shadow, &text)
    } else {
        store(&passwd, &with_field(&accounts, name, hash))
    }
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|byte| *byte == b'\n')
}

fn is_of(line: &[u8], name: &str) -> bool {
    line.strip_prefix(name.as_bytes()).is_some_and(|rest| rest.first() == Some(&b':'))
}

/// A field of the account's line.
fn field<'a>(text: &'a [u8], name: &str, at: usize) -> Option<&'a [u8]> {
    let line = lines(text).find(|line| is_of(line, name))?;
    line.trim_ascii_end().split(|byte| *byte == b':').nth(at)
}

/// The text with another password in the account's line.
fn with_field(text: &[u8], name: &str, hash: &[u8]) -> Vec<u8> {
    let mut changed = Vec::with_capacity(text.len() + hash.len());
    for line in lines(text) {
        if !is_of(line, name) {
            changed.extend_from_slice(line);
            continue;
        }
        for (at, field) in line.split(|byte| *byte == b':').enumerate() {
            if at > 0 {
                changed.push(b':');
            }
            changed.extend_from_slice(if at == 1 { hash } else { field });
        }
    }
    changed
}

/// The text with another password and the day of its change in the account's line, added if need be.
fn with_shadow(text: &[u8], name: &str, hash: &[u8], today: u64) -> Vec<u8> {
    let today = today.to_string();
    let mut changed = Vec::with_capacity(text.len() + hash.len());
    let mut found = false;
    for line in lines(text) {
        if found || !is_of(line, name) {
            changed.extend_from_slice(line);
            continue;
        }
        found = true;
        for (at, field) in line.split(|byte| *byte == b':').enumerate() {
            if at > 0 {
                changed.push(b':');
            }
            changed.extend_from_slice(match at {
                1 => hash,
                2 => today.as_bytes(),
                _ => field,
            });
        }
        if !changed.ends_with(b"\n") {
            changed.push(b'\n');
        }
    }
    if !found {
        if !changed.is_empty() && !changed.ends_with(b"\n") {
            changed.push(b'\n');
        }
        let parts =
            [name.as_bytes(), b":", hash, b":", today.as_bytes(), b":0:99999:7:::\n"].concat();
        changed.extend_from_slice(&parts);
    }
    changed
}

fn read(path: &Path) -> Result<Vec<u8>, ShadowError> {
    fs::read(path).map_err(|source| ShadowError::Read { path: path.to_owned(), source })
}

fn read_if_any(path: &Path) -> Result<Option<Vec<u8>>, ShadowError> {
    match read(path) {
        Ok(text) => Ok(Some(text)),
        Err(ShadowError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Replaces a file durably, keeping its mode, owner and label; a new one only root can read.
fn store(path: &Path, text: &[u8]) -> Result<(), ShadowError> {
    let failed = |source| ShadowError::Write { path: path.to_owned(), source };
    // what a link points to is the file, wherever that is
    let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".ostler");
    let beside = path.with_file_name(name);
    let folder = path.parent().unwrap_or(Path::new("/"));
    let write = || {
        match fs::remove_file(&beside) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        file.write_all(text)?;
        if let Ok(old) = File::open(&path) {
            let about = old.metadata()?;
            fchown(&file, Some(about.uid()), Some(about.gid()))?;
            file.set_permissions(fs::Permissions::from_mode(about.mode() & 0o7777))?;
            label::copy(&old, &file)?;
        }
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| {
        // it holds hashes
        let _ = fs::remove_file(&beside);
        failed(source)
    })
}

/// Takes the lock of the account files. It is held as long as the file is open.
async fn lock(path: &Path) -> Result<File, ShadowError> {
    let failed = |source| ShadowError::Lock { path: path.to_owned(), source };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    let deadline = tokio::time::Instant::now() + LOCK;
    loop {
        if file_lock::try_lock(&file).map_err(|errno| failed(errno.into()))? {
            return Ok(file);
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(failed(nix::Error::EAGAIN.into()));
        }
        tokio::time::sleep(LOCK_STEP).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHADOW: &[u8] = b"root:old:19000:0:99999:7:::\nrootling:keep:1::::::\n";

    #[test]
    fn only_the_accounts_own_line_changes() {
        assert_eq!(
            with_shadow(SHADOW, "root", b"$6$new", 20000),
            b"root:$6$new:20000:0:99999:7:::\nrootling:keep:1::::::\n"
        );
        assert_eq!(field(SHADOW, "root", PASSWORD), Some(&b"old"[..]));
        assert_eq!(field(SHADOW, "roo", PASSWORD), None);
        assert_eq!(field(b"a:b", "a", PASSWORD), Some(&b"b"[..]));
    }

    #[test]
    fn a_missing_line_is_added() {
        assert_eq!(with_shadow(b"a:b:1", "u", b"h", 2), b"a:b:1\nu:h:2:0:99999:7:::\n");
        assert_eq!(with_shadow(b"", "u", b"h", 2), b"u:h:2:0:99999:7:::\n");
    }

    #[test]
    fn a_word_that_no_crypt_makes_is_no_password() {
        for hash in [
            "$1$salt$x",
            "$5$salt$x",
            "$6$rounds=5000$salt$x",
            "$2b$05$x",
            "$y$j9T$salt$x",
            "$gy$j9T$salt$x",
            "$7$CU..../....salt$x",
            "$sha1$1$salt$x",
            "$md5,rounds=1$salt$x",
            "$3$$x",
            "abJnggxhB/yWI",
            "_J9..rasmBYk8r9AiWNc",
        ] {
            assert!(is_hash(hash.as_bytes()), "{hash}");
        }
        for word in [
            "",
            "!",
            "*",
            "x",
            "!$6$a$b",
            "hunter2",
            "$",
            "$6",
            "$6$",
            "$8$salt$x",
            "$z",
            "_J9..",
            "a:cdefghijklm",
        ] {
            assert!(!is_hash(word.as_bytes()), "{word}");
        }
    }

    #[test]
    fn an_account_is_locked_or_expired_as_its_entry_says() {
        let folder = tempfile::tempdir().unwrap();
        let tomorrow = today() + 1;
        for (shadow, locked, expired) in [
            ("u:!x:1::::::\n".to_owned(), true, false),
            ("u:*:1:::::5:\n".to_owned(), true, true),
            (format!("u:$6$a$b:1:::::{}:\n", today()), false, true),
            (format!("u:$6$a$b:1:::::{tomorrow}:\n"), false, false),
            ("u:$6$a$b\n".to_owned(), false, false),
            ("u:\n".to_owned(), false, false),
            // what is in the other file alone
            (String::new(), true, false),
        ] {
            fs::write(folder.path().join("passwd"), "u:x:1:1::/:/bin/sh\n").unwrap();
            fs::write(folder.path().join("shadow"), &shadow).unwrap();
            let entry = entry(folder.path(), "u").unwrap().unwrap();
            assert_eq!((entry.is_locked(), entry.expired), (locked, expired), "{shadow}");
        }
    }

    #[tokio::test]
    async fn a_file_is_replaced_with_its_mode() {
        let folder = tempfile::tempdir().unwrap();
        let shadow = folder.path().join("shadow");
        fs::write(folder.path().join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(&shadow, SHADOW).unwrap();
        fs::set_permissions(&shadow, fs::Permissions::from_mode(0o640)).unwrap();
        replace(&Workers::new(), folder.path(), "root", b"new").await.unwrap();
        assert_eq!(entry(folder.path(), "root").unwrap().unwrap().password.as_slice(), b"new");
        assert_eq!(fs::metadata(&shadow).unwrap().mode() & 0o7777, 0o640);
        let mut left: Vec<_> = fs::read_dir(folder.path())
            .unwrap()
            .map(|file| file.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, [".pwd.lock", "passwd", "shadow"]);
    }

    #[tokio::test]
    async fn without_a_shadow_the_password_is_in_passwd() {
        let folder = tempfile::tempdir().unwrap();
        let passwd = folder.path().join("passwd");
        fs::write(&passwd, "root::0:0:root:/root:/bin/sh\nu:x:1:1::/:/bin/sh\n").unwrap();
        replace(&Workers::new(), folder.path(), "root", b"h").await.unwrap();
        assert_eq!(
            fs::read_to_string(&passwd).unwrap(),
            "root:h:0:0:root:/root:/bin/sh\nu:x:1:1::/:/bin/sh\n"
        );
        replace(&Workers::new(), folder.path(), "u", b"h").await.unwrap();
        let shadow = folder.path().join("shadow");
        assert!(fs::read_to_string(&shadow).unwrap().starts_with("u:h:"));
        assert_eq!(fs::metadata(&shadow).unwrap().mode() & 0o7777, 0o600);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lock_that_another_holds_is_waited_for_and_then_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".pwd.lock");
        let held = lock(&path).await.unwrap();
        let error = lock(&path).await.unwrap_err();
        assert!(matches!(error, ShadowError::Lock { .. }));
        drop(held);
        lock(&path).await.unwrap();
    }
}
