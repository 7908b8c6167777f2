//! The configuration files, in the stock agent's form: an ini file with the group `[general]`.
//!
//! The form is GLib's (`\s`, `\n`, `\t`, `\r` and `\\` in values, `#` before a comment). No ini crate
//! reads those escapes and refuses what GLib refuses, and this is less than using one.

use std::io;
use std::path::{Path, PathBuf};

use super::key::{Key, ROWS, RawOptions, Takes};

const GROUP: &str = "general";

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot use the configuration file {}", .path.display())]
pub struct ConfigError {
    path: PathBuf,
    source: Fault,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Fault {
    #[error("{0}")]
    Unreadable(io::ErrorKind),
    #[error("it is not UTF-8")]
    Encoding,
    #[error("line {0} is neither a comment, a group nor a key with a value")]
    Line(usize),
    #[error("line {0} belongs to no group")]
    NoGroup(usize),
    #[error("line {0} has an escape there is none of")]
    Escape(usize),
    #[error("line {0} has to be true or false")]
    Boolean(usize),
}

/// What a file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    /// What it sets.
    pub(crate) given: RawOptions,
    /// Keys it sets that mean nothing here.
    pub(crate) unknown: Vec<String>,
}

/// Reads a file; `None` if it is not there.
pub(crate) fn read(path: &Path) -> Result<Option<Contents>, ConfigError> {
    let failed = |source| ConfigError { path: path.to_owned(), source };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(Fault::Unreadable(error.kind()))),
    };
    let text = String::from_utf8(bytes).map_err(|_| failed(Fault::Encoding))?;
    parse(&text).map(Some).map_err(failed)
}

/// Reads a file that has to be there.
pub(crate) fn read_named(path: &Path) -> Result<Contents, ConfigError> {
    let source = Fault::Unreadable(io::ErrorKind::NotFound);
    read(path)?.ok_or_else(|| ConfigError { path: path.to_owned(), source })
}

fn parse(text: &str) -> Result<Contents, Fault> {
    let mut contents = Contents::default();
    let mut group = None;
    for (line, number) in text.lines().zip(1..) {
        let line = line.trim_start();
        if line.trim_end().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            group = Some(name.trim_end().strip_suffix(']').ok_or(Fault::Line(number))?);
            continue;
        }
        let (name, value) = line.split_once('=').ok_or(Fault::Line(number))?;
        let name = name.trim_end();
        if name.is_empty() {
            return Err(Fault::Line(number));
        }
        if group.ok_or(Fault::NoGroup(number))? != GROUP {
            continue;
        }
        let Some(row) = ROWS.iter().find(|row| row.name == name) else {
            contents.unknown.push(name.to_owned());
            continue;
        };
        let value = unescaped(value.trim_start()).ok_or(Fault::Escape(number))?;
        match row.takes {
            Takes::Nothing => {
                let value = boolean(&value).ok_or(Fault::Boolean(number))?;
                contents.given.set(row.key, value.to_string());
            }
            Takes::Value | Takes::Perhaps | Takes::More => contents.given.set(row.key, value),
        }
    }
    Ok(contents)
}

/// The truth values of GLib.
pub(crate) fn boolean(value: &str) -> Option<bool> {
    match value.trim_end() {
        "true" | "1" => Some(true),
        "false" | "0" => Some(false),
        _ => None,
    }
}

fn unescaped(value: &str) -> Option<String> {
    let mut text = String::with_capacity(value.len());
    let mut characters = value.chars();
    while let Some(character) = characters.next() {
        text.push(match character {
            '\\' => match characters.next()? {
                's' => ' ',
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                '\\' => '\\',
                _ => return None,
            },
            plain => plain,
        });
    }
    Some(text)
}

/// The text of a file that sets `values`.
pub(crate) fn write(values: impl IntoIterator<Item = (Key, String)>) -> String {
    let mut text = format!("[{GROUP}]\n");
    for (key, value) in values {
        text.push_str(key.row().name);
        text.push('=');
        let spaces = value.len() - value.trim_start_matches(' ').len();
        text.push_str(&"\\s".repeat(spaces));
        for character in value[spaces..].chars() {
            match character {
                '\n' => text.push_str("\\n"),
                '\t' => text.push_str("\\t"),
                '\r' => text.push_str("\\r"),
                '\\' => text.push_str("\\\\"),
                plain => text.push(plain),
            }
        }
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::chain;

    fn value(text: &str, key: Key) -> Option<String> {
        parse(text).unwrap().given.take(key)
    }

    #[test]
    fn comments_spaces_and_other_groups_are_left_out() {
        let text = "# a comment\n\n  [other]\npath=/other\n[general]\n  path = /s \n#path=/x\n";
        assert_eq!(value(text, Key::Path).unwrap(), "/s ", "as GLib: only what leads is cut off");
        assert_eq!(value("[general]\r\npath=/s\r\n", Key::Path).unwrap(), "/s");
        assert_eq!(value("", Key::Path), None);
    }

    #[test]
    fn the_last_line_of_a_key_counts() {
        assert_eq!(value("[general]\npath=/a\n[x]\n[general]\npath=/b", Key::Path).unwrap(), "/b");
    }

    #[test]
    fn every_truth_value_of_the_stock_agent_is_understood() {
        for (text, truth) in [("true", "true"), ("1 ", "true"), ("false", "false"), ("0", "false")]
        {
            assert_eq!(value(&format!("[general]\ndaemon={text}"), Key::Daemon).unwrap(), truth);
        }
    }

    #[test]
    fn what_the_stock_agent_refuses_is_refused_with_the_line() {
        for (text, fault) in [
            ("path=/s", Fault::NoGroup(1)),
            ("[general]\njunk", Fault::Line(2)),
            ("[general\n", Fault::Line(1)),
            ("[general]\n=x", Fault::Line(2)),
            ("[general]\n\npath=\\q", Fault::Escape(3)),
            ("[general]\npath=x\\", Fault::Escape(2)),
            ("[general]\nverbose=yes", Fault::Boolean(2)),
        ] {
            assert_eq!(parse(text), Err(fault), "{text:?}");
        }
    }

    #[test]
    fn an_unknown_key_is_told_and_does_no_harm() {
        let contents = parse("[general]\nspeed=\\q\npath=/s\n[mine]\nx=1").unwrap();
        assert_eq!(contents.unknown, ["speed"]);
    }

    #[test]
    fn what_is_written_reads_back() {
        for path in ["", "/s", "  /two spaces ", "a\\b\n\tc\r", "[general]", "#", "a=b"] {
            let text = write([(Key::Path, path.to_owned())]);
            assert_eq!(value(&text, Key::Path).unwrap(), path, "{text}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_none_and_one_that_cannot_be_read_is_an_error() {
        assert_eq!(read(Path::new("/no/such/file")), Ok(None));
        let text = chain(&read_named(Path::new("/no/such/file")).unwrap_err());
        assert_eq!(text, "cannot use the configuration file /no/such/file: entity not found");
        assert!(read(Path::new("/")).is_err());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("conf");
        std::fs::write(&path, b"[general]\npath=\xFF").unwrap();
        assert!(chain(&read(&path).unwrap_err()).ends_with("it is not UTF-8"));
    }
}
