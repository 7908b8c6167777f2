//! A new password: asked for on the terminal or read from standard input, and hashed here, so that
//! the word itself never leaves the operator's machine.
//!
//! The hash is SHA-512 crypt with the standard 5000 rounds: the one crypt(5) method that glibc,
//! musl and busybox all accept. Words are wiped from memory when they are no longer needed.

use std::io::{IsTerminal, Read};

use ostler_protocol::rpc::instance::Word;
use ostler_protocol::rpc::values::Secret;
use sha_crypt::{PasswordHasher, ShaCrypt};
use zeroize::Zeroizing;

use crate::clean::clean;

/// The longest word taken. Longer ones are cut or refused by what reads them in guests.
const LONGEST: usize = 255;

/// Where the word comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// Asked for twice on the terminal.
    Terminal,
    /// One line of standard input.
    Stdin,
}

/// How it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// Hashed here.
    Crypted,
    /// As it is, for guests that need it.
    Plain,
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PasswordError {
    /// Nobody to ask.
    #[error("there is no terminal to ask for the password on")]
    NoTerminal,
    /// The terminal failed.
    #[error("cannot ask for the password on the terminal")]
    Terminal(#[source] std::io::Error),
    /// Ctrl-C or Ctrl-D at the prompt.
    #[error("no password was given")]
    Declined,
    /// Standard input failed.
    #[error("cannot read the password from standard input")]
    Stdin(#[source] std::io::Error),
    /// Two different words.
    #[error("the two passwords are not the same")]
    Different,
    /// Empty.
    #[error("the password is empty")]
    Empty,
    /// Too long.
    #[error("the password is longer than {LONGEST} bytes")]
    TooLong,
    /// A line break or NUL, or not UTF-8.
    #[error("the password contains a control character, or is not UTF-8 text")]
    NotText,
    /// The hash function refused.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// Get the word and bring it into the form that is sent.
pub(crate) fn obtain(source: Source, user: &str, form: Form) -> Result<Word, PasswordError> {
    let word = match source {
        Source::Terminal => ask(user)?,
        Source::Stdin => read_line(std::io::stdin().lock())?,
    };
    check(&word)?;
    match form {
        Form::Crypted => hash(&word).map(|hash| Word::Crypted(Secret::new(hash))),
        Form::Plain => Ok(Word::Plain(Secret::new(String::clone(&word)))),
    }
}

fn ask(user: &str) -> Result<Zeroizing<String>, PasswordError> {
    if !std::io::stdin().is_terminal() {
        return Err(PasswordError::NoTerminal);
    }
    let prompt = |text: String| {
        rpassword::prompt_password(text).map(Zeroizing::new).map_err(|error| {
            let ended = [std::io::ErrorKind::Interrupted, std::io::ErrorKind::UnexpectedEof];
            if ended.contains(&error.kind()) {
                PasswordError::Declined
            } else {
                PasswordError::Terminal(error)
            }
        })
    };
    let word = prompt(format!("New password for {}: ", clean(user)))?;
    check(&word)?;
    let again = prompt("Again: ".to_owned())?;
    if *word == *again { Ok(word) } else { Err(PasswordError::Different) }
}

fn read_line(input: impl Read) -> Result<Zeroizing<String>, PasswordError> {
    // A word of the greatest length, its line break, and one byte to see that there is more.
    let most = LONGEST + 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(most));
    input.take(most as u64).read_to_end(&mut bytes).map_err(PasswordError::Stdin)?;
    let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let text = std::str::from_utf8(line).map_err(|_| PasswordError::NotText)?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn check(word: &str) -> Result<(), PasswordError> {
    match word {
        "" => Err(PasswordError::Empty),
        word if word.len() > LONGEST => Err(PasswordError::TooLong),
        word if word.chars().any(char::is_control) => Err(PasswordError::NotText),
        _ => Ok(()),
    }
}

fn hash(word: &str) -> Result<String, PasswordError> {
    // Twelve bytes are the 16 characters of salt that crypt(5) looks at. The bytes of a random
    // UUID that hold its version and variant (6 and 8) are left out.
    let uuid = uuid::Uuid::new_v4();
    let random = uuid.as_bytes();
    let mut salt = [0u8; 12];
    salt[..6].copy_from_slice(&random[..6]);
    salt[6..].copy_from_slice(&random[9..15]);
    let hash = ShaCrypt::SHA512
        .hash_password_with_salt(word.as_bytes(), &salt)
        .map_err(|error| PasswordError::Hash(error.to_string()))?;
    // 5000 rounds are what a hash without the field means, and every reader knows that form.
    Ok(hash.to_string().replacen("$rounds=5000$", "$", 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha_crypt::PasswordVerifier;

    #[test]
    fn a_hash_verifies_and_no_two_are_alike() {
        let (one, two) = (hash("hunter2").unwrap(), hash("hunter2").unwrap());
        assert_ne!(one, two);
        for hash in [one, two] {
            let fields: Vec<&str> = hash.split('$').collect();
            let [empty, method, salt, digest] = fields.as_slice() else { panic!("{hash}") };
            assert_eq!((*empty, *method, salt.len(), digest.len()), ("", "6", 16, 86));
            assert!(ShaCrypt::SHA512.verify_password(b"hunter2", hash.as_str()).is_ok());
            assert!(ShaCrypt::SHA512.verify_password(b"hunter3", hash.as_str()).is_err());
        }
    }

    #[test]
    fn one_line_break_at_the_end_is_not_part_of_the_word() {
        for input in ["hunter2", "hunter2\n", "hunter2\r\n"] {
            assert_eq!(*read_line(input.as_bytes()).unwrap(), "hunter2");
        }
    }

    #[test]
    fn words_a_guest_could_misread_are_refused() {
        let long = "x".repeat(LONGEST + 1);
        for input in ["", "\n", "two\nlines", "nul\0", "esc\x1b", &long, &long.repeat(9)] {
            let word = read_line(input.as_bytes()).unwrap();
            assert!(check(&word).is_err(), "{input:?} was taken");
        }
        assert!(read_line(&b"\xff"[..]).is_err());
        assert!(check(&"x".repeat(LONGEST)).is_ok());
    }
}
