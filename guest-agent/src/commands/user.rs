//! Setting a password.
//!
//! ```text
//!  refuse what is not safe --> note the entry --> chpasswd, or the files --> has the entry changed?
//! ```
//!
//! The guest's `chpasswd` does it if there is one that hashes as the guest is set up to. That of a busybox
//! hashes with an algorithm of its own choice, often one that looks at eight characters, and not every
//! busybox has it; so there, as where there is none, the files are changed here. However it is done,
//! what counts is the entry: if it is what it was, the password is not set and the caller is told so.
//!
//! The password is in memory and in a pipe, nowhere else: in no argument, environment, file or log.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use ostler_protocol::qga::commands::Done;
use ostler_protocol::qga::commands::user::{GuestSetUserPassword, SetUserPasswordArguments};
use sha_crypt::{PasswordHasher, ShaCrypt};
use zeroize::{Zeroize, Zeroizing};

use super::CommandError;
use super::program::{self, ProgramError, WhenLate};
use super::shadow::{self, ShadowError};
use crate::dispatcher::Handle;
use crate::state::Agent;
use crate::worker::{WorkerError, Workers};

const DEADLINE: Duration = Duration::from_secs(30);
/// Clients have been seen to leave out the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Why a password was not set.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// It is not base64.
    #[error("the password is not valid base64")]
    Base64,
    /// It would end a line, or itself.
    #[error("forbidden characters in password")]
    Password,
    /// The name would end a field or a line.
    #[error("forbidden characters in username")]
    Name,
    /// No such account here.
    #[error("user '{0}' is not a local account")]
    NoUser(String),
    /// It could not be hashed.
    #[error("the password could not be hashed")]
    Hash,
    /// The program for it.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The files.
    #[error(transparent)]
    Files(#[from] ShadowError),
    /// The thread that writes them.
    #[error(transparent)]
    Worker(#[from] WorkerError),
    /// All went well, and the entry is what it was.
    #[error("the password of user '{0}' has not changed")]
    Unchanged(String),
}

impl Handle for GuestSetUserPassword {
    async fn handle(
        agent: Rc<Agent>,
        mut arguments: SetUserPasswordArguments,
    ) -> Result<Done, CommandError> {
        let password = decode(&arguments.password);
        arguments.password.zeroize();
        let secret = Secret::new(password?, arguments.crypted)?;
        check_name(&arguments.username)?;
        // changes come one after the other: each looks at what it has changed
        let _turn = agent.accounts.lock().await;
        set(&agent.workers, Path::new("/etc"), way(), &arguments.username, secret).await?;
        Ok(Done {})
    }
}

/// A password, or what `crypt(3)` made of one.
enum Secret {
    Plain(Zeroizing<Vec<u8>>),
    Hash(Zeroizing<Vec<u8>>),
}

impl Secret {
    fn new(bytes: Zeroizing<Vec<u8>>, crypted: bool) -> Result<Self, UserError> {
        // NUL ends it for every program that reads it
        if bytes.iter().any(|byte| matches!(byte, b'\n' | 0)) {
            return Err(UserError::Password);
        }
        if !crypted {
            return Ok(Self::Plain(bytes));
        }
        // a colon would begin the next field of the entry
        if bytes.iter().any(|byte| !byte.is_ascii_graphic() || *byte == b':') {
            return Err(UserError::Password);
        }
        Ok(Self::Hash(bytes))
    }

    /// What is to stand in the entry.
    fn hash(self) -> Result<Zeroizing<Vec<u8>>, UserError> {
        match self {
            Self::Hash(hash) => Ok(hash),
            Self::Plain(password) => {
                let hash =
                    ShaCrypt::default().hash_password(&password).map_err(|_| UserError::Hash)?;
                Ok(Zeroizing::new(hash.as_str().as_bytes().to_vec()))
            }
        }
    }
}

fn decode(text: &str) -> Result<Zeroizing<Vec<u8>>, UserError> {
    BASE64.decode(text).map(Zeroizing::new).map_err(|_| UserError::Base64)
}

fn check_name(name: &str) -> Result<(), UserError> {
    let forbidden = |character: char| character == ':' || character.is_ascii_control();
    if name.is_empty() || name.contains(forbidden) { Err(UserError::Name) } else { Ok(()) }
}

/// How an entry is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    /// By a program that hashes as the guest is set up to.
    Program(PathBuf),
    /// By writing the files.
    Files,
}

fn way() -> Way {
    let Some(path) = program::find("chpasswd") else { return Way::Files };
    let busybox = std::fs::canonicalize(&path).is_ok_and(|target| {
        target.file_name().is_some_and(|name| name.to_string_lossy().starts_with("busybox"))
    });
    if busybox { Way::Files } else { Way::Program(path) }
}

async fn set(
    workers: &Workers,
    folder: &Path,
    way: Way,
    name: &str,
    secret: Secret,
) -> Result<(), UserError> {
    let entry = || shadow::entry(folder, name);
    let Some(before) = entry()? else { return Err(UserError::NoUser(name.to_owned())) };
    let wanted = match (way, secret) {
        (Way::Program(path), Secret::Plain(password)) => {
            chpasswd(&path, &[], name, &password).await?;
            None
        }
        (Way::Program(path), Secret::Hash(hash)) => {
            chpasswd(&path, &["-e"], name, &hash).await?;
            Some(hash)
        }
        (Way::Files, secret) => {
            let hash = hash(workers, secret).await?;
            shadow::replace(workers, folder, name, &hash).await?;
            Some(hash)
        }
    };
    let after = entry()?;
    let set = match &wanted {
        Some(wanted) => after.as_ref().is_some_and(|after| after.as_slice() == wanted.as_slice()),
        None => after.is_some_and(|after| after != before),
    };
    if set { Ok(()) } else { Err(UserError::Unchanged(name.to_owned())) }
}

async fn hash(workers: &Workers, secret: Secret) -> Result<Zeroizing<Vec<u8>>, UserError> {
    workers.run("hashing a password", DEADLINE, move || secret.hash()).await?
}

async fn chpasswd(
    path: &Path,
    options: &[&str],
    name: &str,
    password: &[u8],
) -> Result<(), UserError> {
    let line = Zeroizing::new([name.as_bytes(), b":", password, b"\n"].concat());
    program::run(path, options, Some(&line), DEADLINE, WhenLate::Kill).await.map_err(|error| {
        // some versions repeat the line they could not use
        UserError::from(error.without(password))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha_crypt::PasswordVerifier;
    use std::fs;

    fn plain(text: &str) -> Secret {
        Secret::new(Zeroizing::new(text.as_bytes().to_vec()), false).ok().unwrap()
    }

    fn guest(shadow: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("passwd"), "root:x:0:0::/root:/bin/sh\n").unwrap();
        fs::write(folder.path().join("shadow"), shadow).unwrap();
        folder
    }

    /// A stand-in for `chpasswd` that does as it is scripted.
    fn program(folder: &Path, script: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("chpasswd");
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[tokio::test]
    async fn a_plain_password_is_hashed_into_the_files() {
        let guest = guest("root:!:19000:0:99999:7:::\n");
        set(&Workers::new(), guest.path(), Way::Files, "root", plain("pä ss:1")).await.unwrap();
        let entry = shadow::entry(guest.path(), "root").unwrap().unwrap();
        let hash = String::from_utf8(entry).unwrap();
        assert!(hash.starts_with("$6$"), "{hash}");
        let hash = sha_crypt::PasswordHash::new(hash.as_str()).unwrap();
        ShaCrypt::default().verify_password("pä ss:1".as_bytes(), &hash).unwrap();
    }

    #[tokio::test]
    async fn a_program_that_changes_nothing_has_failed() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let way = Way::Program(program(guest.path(), "cat >/dev/null"));
        let error = set(&Workers::new(), guest.path(), way, "root", plain("x")).await.unwrap_err();
        assert!(matches!(error, UserError::Unchanged(_)), "{error}");
    }

    #[tokio::test]
    async fn a_program_gets_the_line_and_its_change_counts() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let file = guest.path().join("shadow");
        let script =
            format!("read line; echo \"root:$(echo $line | cut -d: -f2-):2\" >{}", file.display());
        let way = Way::Program(program(guest.path(), &script));
        set(&Workers::new(), guest.path(), way, "root", plain("new")).await.unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "root:new:2\n");
    }

    #[tokio::test]
    async fn a_failing_program_does_not_tell_the_password() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let way =
            Way::Program(program(guest.path(), "read line; echo \"bad line: $line\"; exit 1"));
        let error =
            set(&Workers::new(), guest.path(), way, "root", plain("hunter2")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("bad line: root:") && !text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn an_unknown_user_is_refused() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let error =
            set(&Workers::new(), guest.path(), Way::Files, "roo", plain("x")).await.unwrap_err();
        assert_eq!(error.to_string(), "user 'roo' is not a local account");
    }

    #[test]
    fn what_would_break_a_line_is_refused() {
        for bytes in [&b"a\nb"[..], b"a\0"] {
            assert!(Secret::new(Zeroizing::new(bytes.to_vec()), false).is_err());
        }
        for bytes in [&b"$6$a:b"[..], b"a b", "ä".as_bytes()] {
            assert!(Secret::new(Zeroizing::new(bytes.to_vec()), true).is_err());
        }
        for name in ["", "a:b", "a\nb", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("jörg.o'x").unwrap();
    }

    #[test]
    fn base64_is_checked_and_its_padding_is_not() {
        assert_eq!(decode("c2VjcmV0MQ==").unwrap().as_slice(), b"secret1");
        assert_eq!(decode("c2VjcmV0MQ").unwrap().as_slice(), b"secret1");
        assert!(matches!(decode("c2Vj*"), Err(UserError::Base64)));
    }
}
