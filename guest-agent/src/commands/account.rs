//! Accounts of the guest: whose home is where.
//!
//! `/etc/passwd` is read here: a static program has no other way of its own. An account that is not
//! there may come from a directory service, which the guest's `getent` and `id` ask.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::program::{self, ProgramError};
use crate::worker::{WorkerError, Workers};

/// A directory service may be far away.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where accounts are listed.
pub const FOLDER: &str = "/etc";

/// An account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// Its name.
    pub name: String,
    /// Its number.
    pub uid: u32,
    /// Its first group.
    pub gid: u32,
    /// Its home.
    pub home: PathBuf,
    /// Where it is from.
    pub origin: Origin,
}

/// Where an account is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The guest's own files.
    Local,
    /// A directory service.
    Remote,
}

/// Why an account was not found.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// There is none of this name.
    #[error("failed to lookup user '{0}': there is no such account")]
    Unknown(String),
    /// The list could not be read.
    #[error("cannot read {}", .path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A program that was asked.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

impl Account {
    /// Finds one by its name.
    pub async fn find(workers: &Workers, folder: &Path, name: &str) -> Result<Self, AccountError> {
        let unknown = || AccountError::Unknown(name.to_owned());
        if name.is_empty() || name.contains([':', '\n', '\0']) {
            return Err(unknown());
        }
        let text = read(workers, folder.join("passwd")).await?;
        if let Some(account) = Self::of_list(&text, name, Origin::Local) {
            return Ok(account);
        }
        let Some(getent) = program::find("getent") else { return Err(unknown()) };
        match program::output(&getent, &["passwd", "--", name], DEADLINE).await {
            Ok(text) => Self::of_list(&text, name, Origin::Remote).ok_or_else(unknown),
            // it found none
            Err(ProgramError::Failed { .. }) => Err(unknown()),
            Err(error) => Err(error.into()),
        }
    }

    fn of_list(text: &str, name: &str, origin: Origin) -> Option<Self> {
        text.lines().find_map(|line| {
            let mut fields = line.split(':');
            if fields.next()? != name {
                return None;
            }
            let (_password, uid, gid) = (fields.next()?, fields.next()?, fields.next()?);
            let (_description, home) = (fields.next()?, fields.next()?);
            Some(Self {
                name: name.to_owned(),
                uid: uid.parse().ok()?,
                gid: gid.parse().ok()?,
                home: home.into(),
                origin,
            })
        })
    }

    /// All groups it is in, the first one first.
    pub async fn groups(&self, workers: &Workers, folder: &Path) -> Result<Vec<u32>, AccountError> {
        let mut groups = vec![self.gid];
        match self.origin {
            Origin::Local => {
                let text = match read(workers, folder.join("group")).await {
                    Ok(text) => text,
                    Err(AccountError::Read { source, .. })
                        if source.kind() == io::ErrorKind::NotFound =>
                    {
                        String::new()
                    }
                    Err(error) => return Err(error),
                };
                groups.extend(memberships(&text, &self.name));
            }
            Origin::Remote => {
                if let Some(id) = program::find("id") {
                    let text = program::output(&id, &["-G", "--", &self.name], DEADLINE).await?;
                    groups.extend(text.split_whitespace().filter_map(|id| id.parse::<u32>().ok()));
                }
            }
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups)
    }
}

fn memberships(text: &str, name: &str) -> impl Iterator<Item = u32> {
    text.lines().filter_map(move |line| {
        let mut fields = line.split(':').skip(2);
        let (gid, members) = (fields.next()?, fields.next()?);
        members.split(',').any(|member| member == name).then(|| gid.parse().ok())?
    })
}

async fn read(workers: &Workers, path: PathBuf) -> Result<String, AccountError> {
    let read = workers.run("reading the accounts", DEADLINE, move || match std::fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(source) => Err(AccountError::Read { path, source }),
    });
    read.await?
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn guest() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        fs::write(
            folder.path().join("passwd"),
            "root:x:0:0:root:/root:/bin/sh\nbad\nu:x:7:8::/home/u:/bin/sh\nbroken:x:y:8::/:/\n",
        )
        .unwrap();
        folder
    }

    #[tokio::test]
    async fn a_local_account_is_found_with_its_groups() {
        let guest = guest();
        let workers = Workers::new();
        let account = Account::find(&workers, guest.path(), "u").await.unwrap();
        assert_eq!((account.uid, account.gid, account.origin), (7, 8, Origin::Local));
        assert_eq!(account.home, Path::new("/home/u"));
        assert_eq!(account.groups(&workers, guest.path()).await.unwrap(), [8]);
        fs::write(
            guest.path().join("group"),
            "wheel:x:10:root,u\nu:x:8:u\nuu:x:11:uu\nbad:x\nmore:x:3:u\n",
        )
        .unwrap();
        assert_eq!(account.groups(&workers, guest.path()).await.unwrap(), [3, 8, 10]);
    }

    #[tokio::test]
    async fn who_is_nowhere_is_said_so() {
        let guest = guest();
        for name in ["", "nobody-has-this", "broken", "--help", "u:x", "bad\n"] {
            let error = Account::find(&Workers::new(), guest.path(), name).await.unwrap_err();
            assert!(matches!(error, AccountError::Unknown(_)), "{name}: {error}");
            assert!(error.to_string().starts_with("failed to lookup user '"), "{error}");
        }
    }

    #[tokio::test]
    async fn who_is_not_in_the_files_may_be_known_to_the_guest() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("passwd"), "").unwrap();
        if program::find("getent").is_none() {
            eprintln!("skipped: there is no getent");
            return;
        }
        let workers = Workers::new();
        let root = Account::find(&workers, folder.path(), "root").await.unwrap();
        assert_eq!((root.uid, root.origin), (0, Origin::Remote));
        assert!(root.groups(&workers, folder.path()).await.unwrap().contains(&0));
    }
}
