//! The words of the command line, taken apart as `getopt_long` does.
//!
//! `-xVALUE`, `-x VALUE`, `-xyz`, `--name=VALUE`, `--name VALUE`, `--nam VALUE`; `--` ends the options.
//! By hand: a parser crate would be a fifth of the program.

use std::ffi::OsString;

use super::OptionsError;
use super::key::{Key, ROWS, Takes};

/// What an option is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// It sets something.
    Key(Key),
    /// It names the configuration file.
    Config,
    /// Tell the configuration.
    Dump,
    /// Tell the version.
    Version,
    /// Tell the options.
    Help,
    /// Of Windows; stock agents take it everywhere and do nothing.
    Service,
}

/// The options that set nothing. The last has no long form on Linux.
const OTHERS: &[(Name, char, Option<&str>, Takes)] = &[
    (Name::Config, 'c', Some("config"), Takes::Value),
    (Name::Dump, 'D', Some("dump-conf"), Takes::Nothing),
    (Name::Version, 'V', Some("version"), Takes::Nothing),
    (Name::Help, 'h', Some("help"), Takes::Nothing),
    (Name::Service, 's', None, Takes::Value),
];

/// A part of the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Argument {
    /// An option, and its value if it was given one.
    Option(Name, Option<String>),
    /// A word that belongs to no option.
    Stray(String),
}

fn by_letter(wanted: char) -> Option<(Name, Takes)> {
    let keys = ROWS.iter().filter(|row| row.letter == Some(wanted));
    let others = OTHERS.iter().filter(|(_, letter, ..)| *letter == wanted);
    keys.map(|row| (Name::Key(row.key), row.takes))
        .chain(others.map(|(name, .., takes)| (*name, *takes)))
        .next()
}

/// By its whole name, or by a beginning that no other option has.
fn by_word(word: &str) -> Option<(Name, Takes)> {
    let keys = ROWS.iter().map(|row| (row.long, (Name::Key(row.key), row.takes)));
    let others =
        OTHERS.iter().filter_map(|(name, _, long, takes)| Some(((*long)?, (*name, *takes))));
    let mut found = None;
    for (long, option) in keys.chain(others).filter(|(long, _)| long.starts_with(word)) {
        if long == word {
            return Some(option);
        }
        if found.is_some_and(|found| found != option) {
            return None;
        }
        found = Some(option);
    }
    found
}

/// Takes the words apart.
pub(super) fn split(
    words: impl Iterator<Item = OsString>,
) -> impl Iterator<Item = Result<Argument, OptionsError>> {
    let mut words = words.map(|word| {
        word.into_string().map_err(|word| OptionsError::NotText(word.to_string_lossy().into()))
    });
    // what is left of a cluster of single letters
    let mut letters = String::new();
    let mut ended = false;
    std::iter::from_fn(move || {
        let mut value = |option: &str| match words.next() {
            Some(value) => value,
            None => Err(OptionsError::NoValue(option.to_owned())),
        };
        loop {
            if !letters.is_empty() {
                return Some(letter(&mut letters, value));
            }
            let word = match value("") {
                Ok(word) => word,
                Err(OptionsError::NoValue(_)) => return None,
                Err(error) => return Some(Err(error)),
            };
            if ended {
                return Some(Ok(Argument::Stray(word)));
            }
            match (word.strip_prefix("--"), word.strip_prefix('-')) {
                (Some(""), _) => ended = true,
                (Some(long), _) => return Some(long_option(long, value)),
                (None, Some(cluster)) if !cluster.is_empty() => letters = cluster.to_owned(),
                _ => return Some(Ok(Argument::Stray(word))),
            }
        }
    })
}

type Parsed = Result<Argument, OptionsError>;

fn long_option(long: &str, next: impl FnOnce(&str) -> Result<String, OptionsError>) -> Parsed {
    let (word, value) = match long.split_once('=') {
        Some((word, value)) => (word, Some(value.to_owned())),
        None => (long, None),
    };
    let unknown = || OptionsError::Unknown(format!("--{word}"));
    let (name, takes) = by_word(word).ok_or_else(unknown)?;
    let value = match (takes, value) {
        (Takes::Nothing, Some(_)) => return Err(OptionsError::Value(format!("--{long}"))),
        (Takes::Value | Takes::More, None) => Some(next(&format!("--{word}"))?),
        (_, value) => value,
    };
    Ok(Argument::Option(name, value))
}

/// Takes one option off a cluster of letters.
fn letter(letters: &mut String, next: impl FnOnce(&str) -> Result<String, OptionsError>) -> Parsed {
    let letter = letters.remove(0);
    let option = format!("-{letter}");
    let (name, takes) = by_letter(letter).ok_or_else(|| OptionsError::Unknown(option.clone()))?;
    let value = match takes {
        Takes::Nothing => None,
        Takes::Value | Takes::More if letters.is_empty() => Some(next(&option)?),
        Takes::Value | Takes::More | Takes::Perhaps => {
            Some(std::mem::take(letters)).filter(|value| !value.is_empty())
        }
    };
    Ok(Argument::Option(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStringExt;

    fn all(words: &[&str]) -> Result<Vec<Argument>, OptionsError> {
        split(words.iter().map(Into::into)).collect()
    }

    fn key(key: Key, value: &str) -> Argument {
        Argument::Option(Name::Key(key), Some(value.to_owned()))
    }

    #[test]
    fn a_value_may_be_in_the_same_word_or_the_next() {
        let path = [key(Key::Path, "/s")];
        for words in [
            &["-p", "/s"][..],
            &["-p/s"],
            &["--path", "/s"],
            &["--path=/s"],
            &["--pa", "/s"],
            &["--pat=/s"],
        ] {
            assert_eq!(all(words).unwrap(), path, "{words:?}");
        }
        // a value may look like an option, or be nothing
        assert_eq!(all(&["-p", "-v"]).unwrap(), [key(Key::Path, "-v")]);
        assert_eq!(all(&["--path="]).unwrap(), [key(Key::Path, "")]);
        assert_eq!(all(&["-p", ""]).unwrap(), [key(Key::Path, "")]);
    }

    #[test]
    fn letters_may_share_a_word() {
        let flag = |key| Argument::Option(Name::Key(key), None);
        assert_eq!(
            all(&["-dvrp/s"]).unwrap(),
            [flag(Key::Daemon), flag(Key::Verbose), flag(Key::Retry), key(Key::Path, "/s")]
        );
    }

    #[test]
    fn a_hook_is_in_the_same_word_or_the_usual_one() {
        let usual = Argument::Option(Name::Key(Key::Hook), None);
        let stray = Argument::Stray("/hook".into());
        assert_eq!(all(&["-F", "/hook"]).unwrap(), [usual.clone(), stray.clone()]);
        assert_eq!(all(&["--fsfreeze-hook", "/hook"]).unwrap(), [usual, stray]);
        assert_eq!(all(&["-F/hook"]).unwrap(), [key(Key::Hook, "/hook")]);
        assert_eq!(all(&["--fsfreeze-hook=/hook"]).unwrap(), [key(Key::Hook, "/hook")]);
    }

    #[test]
    fn a_beginning_that_two_options_have_is_neither() {
        assert_eq!(all(&["--ver", "x"]), Err(OptionsError::Unknown("--ver".into())));
        assert_eq!(all(&["--b", "x"]), Err(OptionsError::Unknown("--b".into())));
        // two names of one thing are no two things
        assert_eq!(all(&["--bl=x"]).unwrap(), [key(Key::Block, "x")]);
    }

    #[test]
    fn what_follows_two_dashes_is_no_option() {
        let strays = ["-v", "--", "x"].map(|word| Argument::Stray(word.into()));
        assert_eq!(all(&["--", "-v", "--", "x"]).unwrap(), strays);
        assert_eq!(all(&["-"]).unwrap(), [Argument::Stray("-".into())]);
    }

    #[test]
    fn a_word_that_is_no_text_is_refused_and_not_changed() {
        let word = OsString::from_vec(b"/tmp/\xE9".to_vec());
        let mut arguments = split(["-p".into(), word].into_iter());
        assert!(matches!(arguments.next(), Some(Err(OptionsError::NotText(_)))));
    }
}
