//! Files of the guest, opened by path and used by handle.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Command, Done};
use crate::qga::base64::Base64Data;

/// Opens a file.
#[derive(Debug)]
pub enum GuestFileOpen {}

impl Command for GuestFileOpen {
    const NAME: &'static str = "guest-file-open";
    type Arguments = FileOpenArguments;
    type Reply = i64;
}

/// Arguments of [`GuestFileOpen`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOpenArguments {
    /// Which file.
    pub path: String,
    /// As for `fopen(3)`, `r` if absent. The schema has a string here, so a bad one is the command's
    /// own error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
}

/// Arguments of the commands that take a handle alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileHandle {
    /// What `guest-file-open` returned.
    pub handle: i64,
}

/// Closes a file.
#[derive(Debug)]
pub enum GuestFileClose {}

impl Command for GuestFileClose {
    const NAME: &'static str = "guest-file-close";
    type Arguments = FileHandle;
    type Reply = Done;
}

/// Reads from a file.
#[derive(Debug)]
pub enum GuestFileRead {}

impl Command for GuestFileRead {
    const NAME: &'static str = "guest-file-read";
    type Arguments = FileReadArguments;
    type Reply = FileRead;

    fn bulk(reply: &mut FileRead) -> Vec<&mut Base64Data> {
        vec![&mut reply.buf_b64]
    }
}

/// Arguments of [`GuestFileRead`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileReadArguments {
    /// What `guest-file-open` returned.
    pub handle: i64,
    /// How much to read at most; 4096 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// What was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FileRead {
    /// How much.
    pub count: i64,
    /// The data.
    pub buf_b64: Base64Data,
    /// Whether the end was hit.
    pub eof: bool,
}

/// Writes to a file.
#[derive(Debug)]
pub enum GuestFileWrite {}

impl Command for GuestFileWrite {
    const NAME: &'static str = "guest-file-write";
    type Arguments = FileWriteArguments;
    type Reply = FileWritten;
}

/// Arguments of [`GuestFileWrite`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileWriteArguments {
    /// What `guest-file-open` returned.
    pub handle: i64,
    /// The data, in base64. Agents are lenient in reading it: see [`crate::qga::base64`].
    pub buf_b64: String,
    /// How much of it to write; all if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub count: Option<i64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileWritten {
    /// How much.
    pub count: i64,
    /// Always false.
    pub eof: bool,
}

/// Moves the place where a file is read and written.
#[derive(Debug)]
pub enum GuestFileSeek {}

impl Command for GuestFileSeek {
    const NAME: &'static str = "guest-file-seek";
    type Arguments = FileSeekArguments;
    type Reply = FileSought;
}

/// Arguments of [`GuestFileSeek`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSeekArguments {
    /// What `guest-file-open` returned.
    pub handle: i64,
    /// How far.
    pub offset: i64,
    /// From where.
    pub whence: FileWhence,
}

/// Where an offset counts from: a word, or a number that older clients send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileWhence {
    /// The beginning: `set`, 0.
    Set,
    /// The current place: `cur`, 1.
    Cur,
    /// The end: `end`, 2.
    End,
    /// A number that means nothing, which is the command's own error.
    Code(i64),
}

impl FileWhence {
    const WORDS: [(&'static str, Self); 3] =
        [("set", Self::Set), ("cur", Self::Cur), ("end", Self::End)];
}

impl Serialize for FileWhence {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match (self, Self::WORDS.iter().find(|(_, whence)| whence == self)) {
            (_, Some((word, _))) => serializer.serialize_str(word),
            (Self::Code(code), None) => serializer.serialize_i64(*code),
            (Self::Set | Self::Cur | Self::End, None) => {
                Err(serde::ser::Error::custom("a place without a word"))
            }
        }
    }
}

impl<'de> Deserialize<'de> for FileWhence {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WhenceVisitor)
    }
}

struct WhenceVisitor;

impl WhenceVisitor {
    fn wrong<E: de::Error>(expected: &str) -> E {
        E::custom(format_args!("Invalid parameter type for 'whence', expected: {expected}"))
    }
}

impl<'de> Visitor<'de> for WhenceVisitor {
    type Value = FileWhence;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("set, cur, end or a number")
    }

    fn visit_str<E: de::Error>(self, word: &str) -> Result<FileWhence, E> {
        let known = FileWhence::WORDS.into_iter().find(|(known, _)| *known == word);
        known.map(|(_, whence)| whence).ok_or_else(|| {
            E::custom(format_args!("Parameter 'whence' does not accept value '{word}'"))
        })
    }

    fn visit_i64<E: de::Error>(self, code: i64) -> Result<FileWhence, E> {
        Ok(match code {
            0 => FileWhence::Set,
            1 => FileWhence::Cur,
            2 => FileWhence::End,
            _ => FileWhence::Code(code),
        })
    }

    fn visit_u64<E: de::Error>(self, code: u64) -> Result<FileWhence, E> {
        i64::try_from(code)
            .map_err(|_| Self::wrong("integer"))
            .and_then(|code| self.visit_i64(code))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<FileWhence, E> {
        Err(Self::wrong("integer"))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<FileWhence, E> {
        Err(Self::wrong("GuestFileWhence"))
    }

    fn visit_unit<E: de::Error>(self) -> Result<FileWhence, E> {
        Err(Self::wrong("GuestFileWhence"))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, _: A) -> Result<FileWhence, A::Error> {
        Err(Self::wrong("GuestFileWhence"))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, _: A) -> Result<FileWhence, A::Error> {
        Err(Self::wrong("GuestFileWhence"))
    }
}

/// Where a file is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSought {
    /// From its beginning.
    pub position: i64,
    /// Always false.
    pub eof: bool,
}

/// Makes what was written visible to others.
#[derive(Debug)]
pub enum GuestFileFlush {}

impl Command for GuestFileFlush {
    const NAME: &'static str = "guest-file-flush";
    type Arguments = FileHandle;
    type Reply = Done;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qga::arguments;
    use serde_json::{Value, json};

    fn whence(value: Value) -> Result<FileWhence, String> {
        let Value::Object(members) = json!({"handle": 1, "offset": 0, "whence": value}) else {
            panic!("arguments are an object")
        };
        let seek = arguments::read::<FileSeekArguments>(members);
        seek.map(|seek| seek.whence).map_err(|error| error.to_string())
    }

    #[test]
    fn a_place_is_a_word_or_a_number() {
        for (given, place) in [
            (json!("set"), FileWhence::Set),
            (json!(0), FileWhence::Set),
            (json!("cur"), FileWhence::Cur),
            (json!(1), FileWhence::Cur),
            (json!("end"), FileWhence::End),
            (json!(2), FileWhence::End),
            (json!(-1), FileWhence::Code(-1)),
        ] {
            assert_eq!(whence(given), Ok(place));
        }
        for word in ["bad", "SET", ""] {
            let text = format!("Parameter 'whence' does not accept value '{word}'");
            assert_eq!(whence(json!(word)), Err(text));
        }
        for (given, expected) in [
            (json!(1.0), "integer"),
            (json!(u64::MAX), "integer"),
            (json!(true), "GuestFileWhence"),
            (json!(null), "GuestFileWhence"),
            (json!([]), "GuestFileWhence"),
            (json!({}), "GuestFileWhence"),
        ] {
            let text = format!("Invalid parameter type for 'whence', expected: {expected}");
            assert_eq!(whence(given), Err(text));
        }
    }
}
