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
//! Setting a password unlocks an account that was locked, as it always has: it is what hosts set one for.
//! But the reply says so, and says what still keeps one from logging in.
//!
//! The password is in memory and in a pipe, nowhere else: in no argument, environment, file or log.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::base64::{self, Base64Error};
use ostler_protocol::qga::commands::user::{
    GuestSetUserPassword, PasswordSet, SetUserPasswordArguments,
};
use zeroize::{Zeroize, Zeroizing};

use super::account::{self, Account, AccountError, Origin};
use super::hash::{HashError, Method};
use super::program::{self, ProgramError, WhenLate};
use super::shadow::{self, Entry, ShadowError};
use super::{Agent, CommandError, Handle};
use crate::worker::{WorkerError, Workers};

const DEADLINE: Duration = Duration::from_secs(30);

/// Why a password was not set.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// It is not base64.
    #[error(transparent)]
    Base64(#[from] Base64Error),
    /// It would end a line, or itself.
    #[error("forbidden characters in raw password")]
    Password,
    /// It is none: anybody could log in.
    #[error("the password is empty")]
    NoPassword,
    /// The name would end a field or a line.
    #[error("forbidden characters in username")]
    Name,
    /// There is none.
    #[error("the username is empty")]
    NoName,
    /// No such account.
    #[error("user '{0}' does not exist")]
    NoUser(String),
    /// A directory service has the account, and its password.
    #[error("user '{0}' is not a local account: a directory service keeps its password")]
    Remote(String),
    /// It could not be found out whether there is such an account.
    #[error(transparent)]
    Account(AccountError),
    /// It could not be hashed.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// The program for it.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The files.
    #[error(transparent)]
    Files(#[from] ShadowError),
    /// The thread that reads and writes them.
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
    ) -> Result<PasswordSet, CommandError> {
        let password = base64::decode(&arguments.password).map(Zeroizing::new);
        arguments.password.zeroize();
        let secret = Secret::new(password.map_err(UserError::from)?, arguments.crypted)?;
        check_name(&arguments.username)?;
        // changes come one after the other: each looks at what it has changed
        let _turn = agent.accounts.lock().await;
        let workers = &agent.workers;
        let way = workers.run("looking for chpasswd", DEADLINE, way).await?;
        let folder = Path::new(account::FOLDER);
        Ok(set(workers, folder, way, &arguments.username, secret).await?)
    }
}

/// A password, or what `crypt(3)` made of one.
enum Secret {
    Plain(Zeroizing<Vec<u8>>),
    Hash(Zeroizing<Vec<u8>>),
}

impl Secret {
    fn new(bytes: Zeroizing<Vec<u8>>, crypted: bool) -> Result<Self, UserError> {
        if bytes.is_empty() {
            return Err(UserError::NoPassword);
        }
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
    fn hash(self, folder: &Path) -> Result<Zeroizing<Vec<u8>>, UserError> {
        match self {
            Self::Hash(hash) => Ok(hash),
            Self::Plain(password) => Ok(Method::of(folder).hash(&password)?),
        }
    }
}

fn check_name(name: &str) -> Result<(), UserError> {
    let forbidden = |character: char| character == ':' || character.is_ascii_control();
    if name.is_empty() {
        Err(UserError::NoName)
    } else if name.contains(forbidden) {
        Err(UserError::Name)
    } else {
        Ok(())
    }
}

/// How an entry is changed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum PasswordMethod {
    /// By a program that hashes as the guest is set up to.
    Program(PathBuf),
    /// By writing the files.
    Files,
}

fn way() -> PasswordMethod {
    let Some(path) = program::find("chpasswd") else { return PasswordMethod::Files };
    let busybox = std::fs::canonicalize(&path).is_ok_and(|target| {
        target.file_name().is_some_and(|name| name.to_string_lossy().starts_with("busybox"))
    });
    if busybox { PasswordMethod::Files } else { PasswordMethod::Program(path) }
}

async fn set(
    workers: &Workers,
    folder: &Path,
    way: PasswordMethod,
    name: &str,
    secret: Secret,
) -> Result<PasswordSet, UserError> {
    let Some(before) = entry(workers, folder, name).await? else {
        return Err(absent(workers, folder, name).await);
    };
    let wanted = match (way, secret) {
        (PasswordMethod::Program(path), Secret::Plain(password)) => {
            chpasswd(&path, &[], name, &password).await?;
            None
        }
        (PasswordMethod::Program(path), Secret::Hash(hash)) => {
            chpasswd(&path, &["-e"], name, &hash).await?;
            Some(hash)
        }
        (PasswordMethod::Files, secret) => {
            let place = folder.to_owned();
            let hash =
                workers.run("hashing a password", DEADLINE, move || secret.hash(&place)).await??;
            shadow::replace(workers, folder, name, &hash).await?;
            Some(hash)
        }
    };
    let after = entry(workers, folder, name).await?.ok_or(ShadowError::Gone)?;
    let set = match &wanted {
        Some(wanted) => after.password == *wanted,
        None => after.password != before.password,
    };
    if set { Ok(report(&before, &after)) } else { Err(UserError::Unchanged(name.to_owned())) }
}

fn report(before: &Entry, after: &Entry) -> PasswordSet {
    let only_if = |so: bool| so.then_some(true);
    PasswordSet {
        unlocked: only_if(before.is_locked() && !after.is_locked()),
        locked: only_if(after.is_locked()),
        expired: only_if(after.expired),
    }
}

async fn entry(workers: &Workers, folder: &Path, name: &str) -> Result<Option<Entry>, UserError> {
    let (folder, name) = (folder.to_owned(), name.to_owned());
    let read = move || shadow::entry(&folder, &name);
    Ok(workers.run("reading the accounts", DEADLINE, read).await??)
}

/// Why an account is not in the files.
async fn absent(workers: &Workers, folder: &Path, name: &str) -> UserError {
    match Account::find(workers, folder, name).await {
        Ok(Account { origin: Origin::Remote, .. }) => UserError::Remote(name.to_owned()),
        Ok(Account { origin: Origin::Local, .. }) | Err(AccountError::Unknown(_)) => {
            UserError::NoUser(name.to_owned())
        }
        Err(error) => UserError::Account(error),
    }
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
    async fn a_plain_password_is_hashed_into_the_files_as_the_guest_does() {
        for (method, start) in [("", "$6$"), ("ENCRYPT_METHOD YESCRYPT\n", "$y$")] {
            let guest = guest("root:!:19000:0:99999:7:::\n");
            fs::write(guest.path().join("login.defs"), method).unwrap();
            let report =
                set(&Workers::new(), guest.path(), PasswordMethod::Files, "root", plain("x"))
                    .await
                    .unwrap();
            assert_eq!(report, PasswordSet { unlocked: Some(true), ..PasswordSet::default() });
            let entry = shadow::entry(guest.path(), "root").unwrap().unwrap();
            assert!(entry.password.starts_with(start.as_bytes()));
        }
    }

    #[tokio::test]
    async fn what_keeps_one_from_logging_in_is_told() {
        let guest = guest("root:$6$o$o:1:0:99999:7::5:\n");
        let set = async |hash: &str| {
            let secret = Secret::new(Zeroizing::new(hash.as_bytes().to_vec()), true).ok().unwrap();
            set(&Workers::new(), guest.path(), PasswordMethod::Files, "root", secret).await.unwrap()
        };
        let expired = PasswordSet { expired: Some(true), ..PasswordSet::default() };
        assert_eq!(set("$6$a$b").await, expired);
        assert_eq!(set("!$6$a$b").await, PasswordSet { locked: Some(true), ..expired });
        assert_eq!(set("hunter2").await, PasswordSet { locked: Some(true), ..expired });
        assert_eq!(set("$6$a$b").await, PasswordSet { unlocked: Some(true), ..expired });
    }

    #[tokio::test]
    async fn a_program_that_changes_nothing_has_failed() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let way = PasswordMethod::Program(program(guest.path(), "cat >/dev/null"));
        let error = set(&Workers::new(), guest.path(), way, "root", plain("x")).await.unwrap_err();
        assert!(matches!(error, UserError::Unchanged(_)), "{error}");
    }

    #[tokio::test]
    async fn a_program_gets_the_line_and_its_change_counts() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let file = guest.path().join("shadow");
        let script =
            format!("read line; echo \"root:$(echo $line | cut -d: -f2-):2\" >{}", file.display());
        let way = PasswordMethod::Program(program(guest.path(), &script));
        set(&Workers::new(), guest.path(), way, "root", plain("new")).await.unwrap();
        assert_eq!(fs::read_to_string(file).unwrap(), "root:new:2\n");
    }

    #[tokio::test]
    async fn a_failing_program_does_not_tell_the_password() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let way = PasswordMethod::Program(program(
            guest.path(),
            "read line; echo \"bad line: $line\"; exit 1",
        ));
        let error =
            set(&Workers::new(), guest.path(), way, "root", plain("hunter2")).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("bad line: root:") && !text.contains("hunter2"), "{text}");
    }

    #[tokio::test]
    async fn an_unknown_user_is_refused() {
        let guest = guest("root:old:1:0:99999:7:::\n");
        let error = set(&Workers::new(), guest.path(), PasswordMethod::Files, "roo", plain("x"))
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "user 'roo' does not exist");
    }

    #[tokio::test]
    async fn an_account_the_files_do_not_have_is_said_to_be_elsewhere() {
        if program::find("getent").is_none() {
            eprintln!("skipped: there is no getent");
            return;
        }
        let guest = guest("root:old:1:0:99999:7:::\n");
        // the machine knows it, this guest's files do not
        let error = set(&Workers::new(), guest.path(), PasswordMethod::Files, "daemon", plain("x"))
            .await
            .unwrap_err();
        assert!(matches!(error, UserError::Remote(_)), "{error}");
    }

    #[test]
    fn what_would_break_a_line_is_refused() {
        for bytes in [&b"a\nb"[..], b"a\0", b""] {
            assert!(Secret::new(Zeroizing::new(bytes.to_vec()), false).is_err());
        }
        for bytes in [&b"$6$a:b"[..], b"a b", "ä".as_bytes(), b""] {
            assert!(Secret::new(Zeroizing::new(bytes.to_vec()), true).is_err());
        }
        for name in ["", "a:b", "a\nb", "a\0"] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
        check_name("jörg.o'x").unwrap();
    }
}
