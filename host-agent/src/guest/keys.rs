//! The SSH keys of accounts in guests.
//!
//! A key goes into a file that decides who may log in, so each must be one line, and be a key: type
//! and data must agree. What a guest lists is cleaned and bounded like everything it says.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ostler_protocol::qga::commands::ssh::{
    GuestSshAddAuthorizedKeys, GuestSshGetAuthorizedKeys, GuestSshRemoveAuthorizedKeys, SshAccount,
    SshAddArguments, SshRemoveArguments,
};
use ostler_protocol::rpc::guest::work::{Keys, KeysAction, SshKeys};

use super::Guests;
use super::error::Error;
use super::report::clean_to;
use crate::hypervisor::Hypervisor;

/// Keys of one request.
const KEYS: usize = 256;
/// Bytes of one key: a certificate, which is the longest, fits.
const KEY_BYTES: usize = 16 << 10;
/// Keys that are listed.
const LISTED: usize = 1024;
/// Bytes that are listed.
const LISTED_BYTES: usize = 512 << 10;
/// What OpenSSH takes; certificates have these with a suffix.
const TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ssh-rsa",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

impl<H: Hypervisor> Guests<H> {
    /// Lists or changes the keys of an account.
    ///
    /// # Errors
    /// [`Error::Invalid`] says which of the keys is none, and why; nothing was changed then.
    pub async fn ssh_keys(&self, request: &SshKeys) -> Result<Keys, Error> {
        let SshKeys { id, user, action, keys } = request;
        if user.is_empty() || user.len() > 256 || user.chars().any(char::is_control) {
            return Err(Error::Invalid { what: "user must be the name of an account".to_owned() });
        }
        check(*action, keys)?;
        let entry = self.known(*id)?;
        let inquiry = self.inquiry(&entry)?;
        let (username, keys) = (user.clone(), keys.clone());
        match action {
            KeysAction::List => {
                let account = SshAccount { username };
                let told = inquiry.list::<GuestSshGetAuthorizedKeys>(&account, &[]).await?;
                let (keys, truncated) = bounded(&told.value.keys);
                return Ok(Keys { keys: Some(keys), truncated: truncated || told.truncated });
            }
            KeysAction::Add | KeysAction::Replace => {
                let reset = Some(*action == KeysAction::Replace);
                let arguments = SshAddArguments { username, keys, reset };
                inquiry.ask::<GuestSshAddAuthorizedKeys>(&arguments, &[]).await?;
            }
            KeysAction::Remove => {
                let arguments = SshRemoveArguments { username, keys };
                inquiry.ask::<GuestSshRemoveAuthorizedKeys>(&arguments, &[]).await?;
            }
        }
        Ok(Keys { keys: None, truncated: false })
    }
}

/// What is left of a list, and whether something was cut.
fn bounded(keys: &[String]) -> (Vec<String>, bool) {
    let (mut kept, mut bytes) = (Vec::new(), 0);
    for key in keys {
        let clean = clean_to(key, KEY_BYTES);
        bytes += clean.len();
        if kept.len() == LISTED || bytes > LISTED_BYTES {
            return (kept, true);
        }
        kept.push(clean);
    }
    (kept, false)
}

fn check(action: KeysAction, keys: &[String]) -> Result<(), Error> {
    let invalid = |what: String| Err(Error::Invalid { what });
    match action {
        KeysAction::List if !keys.is_empty() => {
            return invalid("keys must be left out to list them".to_owned());
        }
        KeysAction::List => return Ok(()),
        KeysAction::Add | KeysAction::Remove if keys.is_empty() => {
            return invalid("keys must hold at least one key".to_owned());
        }
        KeysAction::Add | KeysAction::Remove | KeysAction::Replace => {}
    }
    if keys.len() > KEYS {
        return invalid(format!("keys must be at most {KEYS}"));
    }
    for (at, key) in keys.iter().enumerate() {
        // whatever line there is may be removed
        let problem = if action == KeysAction::Remove { line(key) } else { problem(key) };
        if let Some(problem) = problem {
            return invalid(format!("keys[{at}] is not a public key: {problem}"));
        }
    }
    Ok(())
}

/// What keeps a text from being one line with a public key.
pub(crate) fn problem(key: &str) -> Option<&'static str> {
    line(key).or_else(|| not_a_key(key))
}

/// What keeps a text from being one line of the file.
fn line(key: &str) -> Option<&'static str> {
    if key.trim().is_empty() || key.trim_start().starts_with('#') {
        Some("it is empty or a comment")
    } else if key.len() > KEY_BYTES {
        Some("it is too long")
    } else if key.chars().any(|c| c.is_control() && c != '\t') {
        Some("it has a line break or another control character: give one key a line")
    } else {
        None
    }
}

/// What keeps a line from being a key: `[OPTIONS] TYPE BASE64 [COMMENT]`.
fn not_a_key(key: &str) -> Option<&'static str> {
    if key.contains("PRIVATE KEY") {
        return Some("it looks like a private key");
    }
    let words = words(key);
    let base = |word: &str| word.strip_suffix("-cert-v01@openssh.com").unwrap_or(word).to_owned();
    let known = |word: &&str| {
        TYPES.contains(word)
            || TYPES.iter().any(|known| known.trim_end_matches("@openssh.com") == base(word))
    };
    let Some(at) = words.iter().take(2).position(known) else {
        return Some("it has no type that is known, such as ssh-ed25519 or ssh-rsa");
    };
    let Some(data) = words.get(at + 1) else { return Some("there is nothing behind its type") };
    let bytes = STANDARD.decode(data).or_else(|_| STANDARD_NO_PAD.decode(data));
    let Ok(bytes) = bytes else { return Some("what is behind its type is not base64") };
    let kind = words[at].as_bytes();
    let named = bytes
        .split_first_chunk::<4>()
        .and_then(|(length, rest)| rest.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?));
    if named != Some(kind) || bytes.len() <= 4 + kind.len() {
        return Some("its data is not of its type, or cut off");
    }
    None
}

/// The first words; blanks in double quotes, which options may have, part none.
fn words(key: &str) -> Vec<&str> {
    let mut quoted = false;
    key.trim()
        .split(|c: char| {
            quoted ^= c == '"';
            !quoted && (c == ' ' || c == '\t')
        })
        .filter(|word| !word.is_empty())
        .take(3)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ1FRhGlGE9uGKYhQ7YTeWl0b8yy4xJWvQJb8n0GxQJZ me@host";

    fn problem(key: &str) -> Option<String> {
        match check(KeysAction::Add, &[key.to_owned()]) {
            Ok(()) => None,
            Err(error) => Some(error.to_string()),
        }
    }

    #[test]
    fn keys_are_keys() {
        assert_eq!(problem(KEY), None);
        assert_eq!(problem(&format!("restrict,command=\"a b\" {KEY}")), None);
        for (bad, why) in [
            ("", "empty"),
            ("# x", "comment"),
            ("hello", "no type"),
            ("ssh-ed25519", "nothing behind"),
            ("ssh-ed25519 !!!", "not base64"),
            (&format!("{KEY}\n{KEY}"), "one key a line"),
            (&KEY.replace("ssh-ed25519", "ssh-rsa"), "not of its type"),
            ("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "cut off"),
            (&format!("{KEY} {}", "x".repeat(KEY_BYTES)), "too long"),
        ] {
            let told = problem(bad).unwrap_or_default();
            assert!(told.contains(why), "{bad:?}: {told:?} lacks {why:?}");
        }
    }

    #[test]
    fn any_line_may_be_removed_and_none_is_needed_to_replace() {
        assert_eq!(check(KeysAction::Remove, &["ssh-dss AAAA".to_owned()]), Ok(()));
        assert_eq!(check(KeysAction::Replace, &[]), Ok(()));
        assert!(check(KeysAction::Add, &[]).is_err());
        assert!(check(KeysAction::List, &[KEY.to_owned()]).is_err());
    }

    #[test]
    fn a_list_without_end_is_cut() {
        let (kept, cut) = bounded(&vec!["k".repeat(8 << 10); 2000]);
        assert!(cut && kept.len() <= 64, "{}", kept.len());
        assert_eq!(bounded(&["a\x1bb".to_owned()]), (vec!["ab".to_owned()], false));
    }
}
