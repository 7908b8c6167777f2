//! Hashing a password as the guest would.
//!
//! `login.defs` says how; where it does not, or names a method that is broken or that this agent does not
//! have, sha512 is taken: every libc knows it. The parameters are those of the guest's own programs.

use std::fs;
use std::path::Path;

use sha_crypt::{PasswordHasher, ShaCrypt};
use yescrypt::Yescrypt;
use zeroize::Zeroizing;

/// A way to hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Sha512,
    Yescrypt,
}

/// The password could not be hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the password could not be hashed")]
pub struct HashError;

impl Method {
    /// The one of a guest whose configuration is in `folder`.
    pub(super) fn of(folder: &Path) -> Self {
        let text = fs::read(folder.join("login.defs")).unwrap_or_default();
        Self::of_text(&String::from_utf8_lossy(&text))
    }

    fn of_text(text: &str) -> Self {
        let named = text.lines().rev().find_map(|line| {
            let mut words = line.split_whitespace();
            (words.next()? == "ENCRYPT_METHOD").then(|| words.next())?
        });
        match named {
            Some(name) if name.eq_ignore_ascii_case("YESCRYPT") => Self::Yescrypt,
            _ => Self::Sha512,
        }
    }

    pub(super) fn hash(self, password: &[u8]) -> Result<Zeroizing<Vec<u8>>, HashError> {
        let hash = match self {
            Self::Sha512 => {
                ShaCrypt::default().hash_password(password).map(|hash| hash.to_string())
            }
            Self::Yescrypt => {
                Yescrypt::default().hash_password(password).map(|hash| hash.to_string())
            }
        };
        hash.map(|hash| Zeroizing::new(hash.into_bytes())).map_err(|_| HashError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha_crypt::PasswordVerifier;

    #[test]
    fn login_defs_names_the_method() {
        for (text, method) in [
            ("", Method::Sha512),
            ("#ENCRYPT_METHOD YESCRYPT\n", Method::Sha512),
            ("ENCRYPT_METHOD\tYESCRYPT\n", Method::Yescrypt),
            ("ENCRYPT_METHOD_X YESCRYPT\n  ENCRYPT_METHOD yescrypt", Method::Yescrypt),
            ("ENCRYPT_METHOD YESCRYPT\nENCRYPT_METHOD SHA512\n", Method::Sha512),
            ("ENCRYPT_METHOD DES\n", Method::Sha512),
            ("ENCRYPT_METHOD", Method::Sha512),
        ] {
            assert_eq!(Method::of_text(text), method, "{text:?}");
        }
    }

    #[test]
    fn a_hash_is_of_its_password_and_salted() {
        let sha512 = Method::Sha512.hash("pä ss:1".as_bytes()).unwrap();
        let text = std::str::from_utf8(&sha512).unwrap();
        assert!(text.starts_with("$6$"), "{text}");
        let hash = sha_crypt::PasswordHash::new(text).unwrap();
        ShaCrypt::default().verify_password("pä ss:1".as_bytes(), &hash).unwrap();

        let yescrypt = Method::Yescrypt.hash("pä ss:1".as_bytes()).unwrap();
        let text = std::str::from_utf8(&yescrypt).unwrap();
        assert!(text.starts_with("$y$j9T$"), "the parameters are the libc's: {text}");
        let hash = yescrypt::PasswordHash::new(text).unwrap();
        Yescrypt::default().verify_password("pä ss:1".as_bytes(), &hash).unwrap();
        assert_ne!(yescrypt, Method::Yescrypt.hash("pä ss:1".as_bytes()).unwrap());
    }

    #[test]
    fn what_a_libc_made_of_a_password_is_what_it_is_here() {
        // made by libxcrypt of the password "secret"
        let made = "$y$j9T$F5Jx5fExrKuPp53xLKQ..1$GmcwIgvdUC9qLWcKCi6gklUa1dM3ziD43YxYNURLKy0";
        let hash = yescrypt::PasswordHash::new(made).unwrap();
        Yescrypt::default().verify_password(b"secret", &hash).unwrap();
        Yescrypt::default().verify_password(b"Secret", &hash).unwrap_err();
    }
}
