//! Values out, as stock agents write them.
//!
//! One line each, ASCII only (anything above `~` is `\uXXXX`, upper case), `", "` and `": "` between the
//! parts. Clients have been found to depend on each of these, so requests and events of ours follow
//! the same rule.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::base64::Base64Text;
use super::envelope::{Fault, FaultLine};
use super::framing::DELIMITER;

/// A message as one line, its newline included.
///
/// Only a value that JSON has no form for (a map with keys that are no strings) is an error; the types
/// of this crate have none.
pub fn line<T: Serialize + ?Sized>(message: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(128);
    append(&mut bytes, message)?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// An error reply as one line.
///
/// ```
/// use ostler_protocol::qga::{Fault, encode};
/// let line = encode::fault(&Fault::generic("no"), Some(&7.into()));
/// assert_eq!(line, b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": 7}\n");
/// ```
pub fn fault(fault: &Fault, id: Option<&Value>) -> Vec<u8> {
    line(&FaultLine { error: fault, id }).unwrap_or_default()
}

/// The reply to a command that succeeded, encoded before it is known whom it answers.
///
/// A reply may be tens of megabytes, so it is written once, straight from its type.
#[derive(Debug)]
pub struct Reply {
    bytes: Vec<u8>,
}

/// Whether a reply is led by the byte 0xFF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lead {
    /// As most are not.
    Plain,
    /// As that of `guest-sync-delimited` is.
    Delimited,
}

impl Reply {
    /// The reply that returns `value`.
    pub fn new<T: Serialize + ?Sized>(value: &T, lead: Lead) -> Result<Self, serde_json::Error> {
        let mut bytes = Vec::with_capacity(64);
        match lead {
            Lead::Plain => {}
            Lead::Delimited => bytes.push(DELIMITER),
        }
        bytes.extend_from_slice(b"{\"return\": ");
        append(&mut bytes, value)?;
        Ok(Self { bytes })
    }

    /// The reply that returns the object that `value` is, with long texts as members besides. The first
    /// text is moved into the reply and not copied.
    pub fn with_texts<T: Serialize + ?Sized>(
        value: &T,
        texts: impl IntoIterator<Item = (&'static str, Base64Text)>,
    ) -> Result<Self, serde_json::Error> {
        let mut bytes = Vec::new();
        for (name, text) in texts {
            let head = format!("\"{name}\": \"");
            if bytes.is_empty() {
                bytes = text.into_bytes();
                bytes.splice(0..0, [b"{\"return\": {", head.as_bytes()].concat());
            } else {
                bytes.extend_from_slice(head.as_bytes());
                bytes.extend_from_slice(&text.into_bytes());
            }
            bytes.extend_from_slice(b"\", ");
        }
        if bytes.is_empty() {
            return Self::new(value, Lead::Plain);
        }
        let mut rest = Vec::with_capacity(64);
        append(&mut rest, value)?;
        match rest.strip_prefix(b"{") {
            Some(members) if members != b"}" => bytes.extend_from_slice(members),
            _ => {
                bytes.truncate(bytes.len() - 2);
                bytes.push(b'}');
            }
        }
        Ok(Self { bytes })
    }

    /// The line, with the id of the request if it had one.
    pub fn line(self, id: Option<&Value>) -> Vec<u8> {
        let mut bytes = self.bytes;
        if let Some(id) = id {
            bytes.extend_from_slice(b", \"id\": ");
            // a `Value` always has a JSON form, and a `Vec` takes any amount
            let _ = append(&mut bytes, id);
        }
        bytes.extend_from_slice(b"}\n");
        bytes
    }
}

fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(bytes, Ascii))
}

struct Ascii;

impl Formatter for Ascii {
    fn begin_array_value<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_key<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if first { Ok(()) } else { writer.write_all(b", ") }
    }

    fn begin_object_value<W: io::Write + ?Sized>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.bytes().position(|byte| byte > b'~') {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let mut characters = special.chars();
            if let Some(character) = characters.next() {
                for unit in character.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04X}")?;
                }
            }
            rest = characters.as_str();
        }
        writer.write_all(rest.as_bytes())
    }

    fn write_char_escape<W: io::Write + ?Sized>(
        &mut self,
        writer: &mut W,
        escape: CharEscape,
    ) -> io::Result<()> {
        match escape {
            CharEscape::Quote => writer.write_all(b"\\\""),
            CharEscape::ReverseSolidus => writer.write_all(b"\\\\"),
            CharEscape::Solidus => writer.write_all(b"/"),
            CharEscape::Backspace => writer.write_all(b"\\b"),
            CharEscape::FormFeed => writer.write_all(b"\\f"),
            CharEscape::LineFeed => writer.write_all(b"\\n"),
            CharEscape::CarriageReturn => writer.write_all(b"\\r"),
            CharEscape::Tab => writer.write_all(b"\\t"),
            CharEscape::AsciiControl(byte) => write!(writer, "\\u{byte:04X}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn text(value: &Value) -> String {
        String::from_utf8(line(value).unwrap()).unwrap()
    }

    #[test]
    fn a_line_is_ascii_with_upper_case_escapes() {
        let value = json!("\u{1f}\u{7f}\u{e9}\u{1F600}\"\\/\u{8}\u{c}\n\r\t~");
        let expected = r#""\u001F\u007F\u00E9\uD83D\uDE00\"\\/\b\f\n\r\t~""#;
        assert_eq!(text(&value), format!("{expected}\n"));
    }

    #[test]
    fn parts_are_set_apart_by_a_space() {
        let value = json!({"a": [1, 2, {}], "b": []});
        assert_eq!(text(&value), "{\"a\": [1, 2, {}], \"b\": []}\n");
    }

    #[test]
    fn a_delimited_reply_is_led_by_one_byte() {
        let reply = Reply::new(&5, Lead::Delimited).unwrap();
        assert_eq!(reply.line(None), b"\xff{\"return\": 5}\n");
    }

    #[test]
    fn long_texts_stand_among_the_other_members() {
        let texts = |count| {
            let text = Base64Text::from(&b"abc"[..]);
            [("a-a", text.clone()), ("b", text)].into_iter().take(count)
        };
        for (rest, count, expected) in [
            (json!({}), 0, "{\"return\": {}}\n"),
            (json!({"c": 1}), 0, "{\"return\": {\"c\": 1}}\n"),
            (json!({}), 1, "{\"return\": {\"a-a\": \"YWJj\"}}\n"),
            (json!({"c": 1}), 2, "{\"return\": {\"a-a\": \"YWJj\", \"b\": \"YWJj\", \"c\": 1}}\n"),
        ] {
            let line = Reply::with_texts(&rest, texts(count)).unwrap().line(None);
            assert_eq!(String::from_utf8(line).unwrap(), expected);
        }
    }

    #[test]
    fn a_reply_carries_any_id() {
        for id in [json!(null), json!("x"), json!([1, {"a": true}]), json!(u64::MAX)] {
            let line = Reply::new(&json!({}), Lead::Plain).unwrap().line(Some(&id));
            let back: Value = serde_json::from_slice(&line).unwrap();
            assert_eq!(back, json!({"return": {}, "id": id}));
        }
    }
}
