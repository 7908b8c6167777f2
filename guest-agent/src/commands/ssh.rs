//! Who may log in by key.
//!
//! The file is a user's, in a folder of the user's, and the agent is root: whatever it opens by path there
//! may be a link to something that is not the user's to change. So beyond the home, whose path is the
//! system's, each step is opened by itself, from the folder before, and a link is refused. The file is
//! replaced as a whole; lines that are not asked about stay as they are.

mod home;

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use ostler_protocol::qga::commands::Done;
use ostler_protocol::qga::commands::ssh::{
    GuestSshAddAuthorizedKeys, GuestSshGetAuthorizedKeys, GuestSshRemoveAuthorizedKeys, SshAccount,
    SshAddArguments, SshKeys, SshRemoveArguments,
};

use super::account::{self, Account, AccountError};
use super::program::{self, WhenLate};
use super::{Agent, CommandError, Handle};
use crate::worker::WorkerError;
use home::{Home, HomeError, Made};

/// A home may be on a share that is dead.
const DEADLINE: Duration = Duration::from_secs(30);
/// There if the kernel enforces SELinux' rules, or could.
const SELINUX: &str = "/sys/fs/selinux/enforce";

/// Why keys could not be told or changed.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// It would be something else than a key, or more than one.
    #[error("invalid OpenSSH public key: '{0}'")]
    Key(String),
    /// Whose keys.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// Its home.
    #[error(transparent)]
    Home(#[from] HomeError),
    /// The thread.
    #[error(transparent)]
    Worker(#[from] WorkerError),
}

/// What is to become of the keys.
#[derive(Debug)]
enum Change {
    Add { keys: Vec<String>, reset: bool },
    Remove { keys: Vec<String> },
}

impl Handle for GuestSshGetAuthorizedKeys {
    async fn handle(agent: Rc<Agent>, arguments: SshAccount) -> Result<SshKeys, CommandError> {
        let home = Home::of(&find(&agent, &arguments.username).await?);
        let text = agent.workers.run("reading keys", DEADLINE, move || home.read()).await?;
        Ok(SshKeys { keys: keys(&text.map_err(SshError::Home)?) })
    }
}

impl Handle for GuestSshAddAuthorizedKeys {
    async fn handle(agent: Rc<Agent>, arguments: SshAddArguments) -> Result<Done, CommandError> {
        let SshAddArguments { username, keys, reset } = arguments;
        let reset = reset.unwrap_or_default();
        Ok(change(&agent, &username, Change::Add { keys, reset }).await?)
    }
}

impl Handle for GuestSshRemoveAuthorizedKeys {
    async fn handle(agent: Rc<Agent>, arguments: SshRemoveArguments) -> Result<Done, CommandError> {
        let SshRemoveArguments { username, keys } = arguments;
        Ok(change(&agent, &username, Change::Remove { keys }).await?)
    }
}

async fn find(agent: &Agent, name: &str) -> Result<Account, SshError> {
    let folder = std::path::Path::new(account::FOLDER);
    Ok(Account::find(&agent.workers, folder, name).await?)
}

async fn change(agent: &Agent, name: &str, change: Change) -> Result<Done, SshError> {
    let (Change::Add { keys, .. } | Change::Remove { keys }) = &change;
    if let Some(key) = keys.iter().find(|key| !is_line(key)) {
        return Err(SshError::Key(key.clone()));
    }
    let home = Home::of(&find(agent, name).await?);
    // changes come one after the other: each builds on what is there
    let _turn = agent.accounts.lock().await;
    let path = home.path();
    let make = match change {
        Change::Add { .. } => true,
        Change::Remove { .. } => false,
    };
    let edit = move || home.edit(make, |text| edited(text, &change));
    match agent.workers.run("changing keys", DEADLINE, edit).await?? {
        Made::Something => relabel(agent, path).await,
        Made::Nothing => {}
    }
    Ok(Done {})
}

/// Whether a key is a line, and one that counts.
fn is_line(key: &str) -> bool {
    !key.trim_start().starts_with('#') && !key.contains(['\n', '\0'])
}

/// A folder that is new has the label of its place in the tree only if something gives it.
async fn relabel(agent: &Agent, path: PathBuf) {
    if !std::path::Path::new(SELINUX).exists() {
        return;
    }
    let (Some(restorecon), Some(path)) = (program::find("restorecon"), path.to_str()) else {
        return;
    };
    let done = program::run(&restorecon, &["-R", path], None, DEADLINE, WhenLate::Kill).await;
    if let Err(error) = done {
        agent.log.error(format_args!("{path} may have a wrong label: {error}"));
    }
}

/// The keys in a file, the last one first, as stock agents tell them.
fn keys(text: &[u8]) -> Vec<String> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let keys = lines.filter(|line| !line.is_empty() && line[0] != b'#');
    let mut keys: Vec<_> = keys.map(|key| String::from_utf8_lossy(key).into_owned()).collect();
    keys.reverse();
    keys
}

/// The file with the change made.
fn edited(text: &[u8], change: &Change) -> Vec<u8> {
    let has = |text: &[u8], key: &str| {
        let mut lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        lines.any(|line| line == key.trim_ascii().as_bytes())
    };
    match change {
        Change::Add { keys, reset } => {
            let mut changed = if *reset { Vec::new() } else { text.to_vec() };
            for key in keys {
                if key.trim_ascii().is_empty() || has(&changed, key) {
                    continue;
                }
                if !changed.is_empty() && !changed.ends_with(b"\n") {
                    changed.push(b'\n');
                }
                changed.extend_from_slice(key.as_bytes());
                changed.push(b'\n');
            }
            changed
        }
        Change::Remove { keys } => text
            .split_inclusive(|byte| *byte == b'\n')
            .filter(|line| {
                let line = line.trim_ascii();
                line.is_empty() || !keys.iter().any(|key| key.trim_ascii().as_bytes() == line)
            })
            .flatten()
            .copied()
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &[u8] = b"# c1\n\nk1 a\n  k9\nfrom=\"x\" k2 b\n#k4\nk5";

    fn add(text: &[u8], keys: &[&str], reset: bool) -> String {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        String::from_utf8(edited(text, &Change::Add { keys, reset })).unwrap()
    }

    fn remove(text: &[u8], keys: &[&str]) -> String {
        let keys = keys.iter().map(|key| (*key).to_owned()).collect();
        String::from_utf8(edited(text, &Change::Remove { keys })).unwrap()
    }

    #[test]
    fn keys_are_told_the_last_one_first_without_comments() {
        assert_eq!(keys(FILE), ["k5", "from=\"x\" k2 b", "k9", "k1 a"]);
        assert!(keys(b"").is_empty());
    }

    #[test]
    fn what_is_there_stays_and_is_not_added_twice() {
        let kept = "# c1\n\nk1 a\n  k9\nfrom=\"x\" k2 b\n#k4\nk5\n";
        assert_eq!(add(FILE, &["k6", "k1 a", "k9", "k6", ""], false), format!("{kept}k6\n"));
        assert_eq!(add(FILE, &["k5"], false).as_bytes(), FILE);
        assert_eq!(add(FILE, &["a", "b", "a"], true), "a\nb\n");
        assert_eq!(add(FILE, &[], true), "");
    }

    #[test]
    fn a_key_that_was_told_can_be_removed() {
        let left = remove(FILE, &["k1 a", "k9", "k5", "absent", ""]);
        assert_eq!(left, "# c1\n\nfrom=\"x\" k2 b\n#k4\n");
        assert_eq!(remove(FILE, &["from=\"x\" k2"]).as_bytes(), FILE);
    }

    #[test]
    fn a_key_is_one_line_and_no_comment() {
        for key in ["#x", " #x", "a\nb", "a\0"] {
            assert!(!is_line(key), "{key:?}");
        }
        assert!(is_line("ssh-ed25519 AAAA # me"));
    }
}
