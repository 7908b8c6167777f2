//! Values out, as stock agents write them.
//!
//! One line each, ASCII only (anything above `~` is `\uXXXX`, upper case), `", "` and `": "` between the
//! parts. Clients have been found to depend on each of these, so requests and events of ours follow
//! the same rule.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::base64::{Base64Data, encode_piece, encoded_len};
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
/// assert_eq!(line, b"{\"id\": 7, \"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}}\n");
/// ```
pub fn fault(fault: &Fault, id: Option<&Value>) -> Vec<u8> {
    line(&FaultLine { error: fault, id }).unwrap_or_default()
}

/// A line in parts: a short one is one part, and long data in it is a part of its own.
pub type Parts = Vec<Part>;

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// As it is sent.
    Text(Vec<u8>),
    /// To be sent as base64.
    Data(Vec<u8>),
}

impl Part {
    /// How many bytes of the line it is.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Data(data) => encoded_len(data.len()),
        }
    }

    /// Adds it to a line.
    pub fn write(&self, line: &mut Vec<u8>) {
        match self {
            Self::Text(text) => line.extend_from_slice(text),
            Self::Data(data) => encode_piece(data, line),
        }
    }

    /// Whether it is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A line in one piece.
pub fn joined(parts: Parts) -> Vec<u8> {
    let mut line = Vec::with_capacity(parts.iter().map(Part::len).sum());
    for part in parts {
        part.write(&mut line);
    }
    line
}

/// The reply to a command that succeeded, encoded before it is known whom it answers.
///
/// A reply may be tens of megabytes of one file. They are not copied into the line: the line is cut
/// where they belong, and they are moved there.
#[derive(Debug)]
pub struct Reply {
    parts: Parts,
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
    /// The reply that returns `value`. `bulk` gives the data of it that may be long, in the order in
    /// which it is written.
    pub fn new<T: Serialize>(
        mut value: T,
        lead: Lead,
        bulk: impl Fn(&mut T) -> Vec<&mut Base64Data>,
    ) -> Result<Self, serde_json::Error> {
        let mut taken = Vec::new();
        let mut long = Vec::new();
        for (index, data) in bulk(&mut value).into_iter().enumerate() {
            if data.0.len() >= LONG {
                taken.push(index);
                long.push(std::mem::replace(&mut data.0, MARK.to_vec()));
            }
        }
        let bytes = written(&value, lead)?;
        if long.is_empty() {
            return Ok(Self { parts: vec![Part::Text(bytes)] });
        }
        let parts = match fill(bytes, long) {
            Ok(parts) => parts,
            Err(long) => {
                // something else is written as the mark is, by chance
                let mut places = bulk(&mut value);
                for (index, data) in taken.into_iter().zip(long) {
                    places[index].0 = data;
                }
                vec![Part::Text(written(&value, lead)?)]
            }
        };
        Ok(Self { parts })
    }

    /// The line, with the id of the request if it had one.
    pub fn line(self, id: Option<&Value>) -> Parts {
        let mut parts = self.parts;
        // the last part of a reply is a text
        let mut bytes = match parts.pop() {
            Some(Part::Text(text)) => text,
            Some(Part::Data(_)) | None => Vec::new(),
        };
        if let Some(id) = id {
            bytes.extend_from_slice(b", \"id\": ");
            // a `Value` always has a JSON form, and a `Vec` takes any amount
            let _ = append(&mut bytes, id);
        }
        bytes.extend_from_slice(b"}\n");
        parts.push(Part::Text(bytes));
        parts
    }
}

fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(bytes, Ascii))
}

/// From here on data is a part of its own: to write base64 as other text is, looking for what has to be
/// escaped in it, takes longer than all else.
const LONG: usize = 1 << 10;
/// What stands for such data while the rest is written, and how it is written.
const MARK: &[u8] = b"here";
const MARK_WRITTEN: &[u8] = b"\"aGVyZQ==\"";

/// A reply without its end.
fn written<T: Serialize>(value: &T, lead: Lead) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = Vec::with_capacity(64);
    match lead {
        Lead::Plain => {}
        Lead::Delimited => bytes.push(DELIMITER),
    }
    bytes.extend_from_slice(b"{\"return\": ");
    append(&mut bytes, value)?;
    Ok(bytes)
}

/// Puts data in the places of their marks, or gives them back if there are not as many.
fn fill(mut bytes: Vec<u8>, long: Vec<Vec<u8>>) -> Result<Parts, Vec<Vec<u8>>> {
    let windows = bytes.windows(MARK_WRITTEN.len()).enumerate();
    let places: Vec<_> =
        windows.filter(|(_, window)| *window == MARK_WRITTEN).map(|(place, _)| place).collect();
    if places.len() != long.len() {
        return Err(long);
    }
    // from the end, so that the places stay where they are; the quotes stay
    let mut parts = Vec::with_capacity(2 * places.len() + 1);
    for (place, data) in places.into_iter().zip(long).rev() {
        parts.push(Part::Text(bytes.split_off(place + MARK_WRITTEN.len() - 1)));
        parts.push(Part::Data(data));
        bytes.truncate(place + 1);
    }
    parts.push(Part::Text(bytes));
    parts.reverse();
    Ok(parts)
}

/// A number as C's `%.17g` has it, as stock agents write doubles: 17 digits, no trailing zeros.
fn write_double<W: io::Write + ?Sized>(writer: &mut W, value: f64) -> io::Result<()> {
    const DIGITS: i32 = 17;
    let text = format!("{value:.16e}");
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if !(-4..DIGITS).contains(&exponent) {
        let mantissa = mantissa.trim_end_matches('0').trim_end_matches('.');
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(writer, "{mantissa}e{sign}{:02}", exponent.abs());
    }
    // at most 20, for the exponent is at least -4
    let decimals = usize::try_from(DIGITS - 1 - exponent).unwrap_or_default();
    let text = format!("{value:.decimals$}");
    let text = if decimals > 0 { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    writer.write_all(text.as_bytes())
}

struct Ascii;

impl Formatter for Ascii {
    fn write_f64<W: io::Write + ?Sized>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        write_double(writer, value)
    }

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
        let reply = Reply::new(5, Lead::Delimited, |_| Vec::new()).unwrap();
        assert_eq!(joined(reply.line(None)), b"\xff{\"return\": 5}\n");
    }

    #[test]
    fn a_reply_carries_any_id() {
        for id in [json!(null), json!("x"), json!([1, {"a": true}]), json!(u64::MAX)] {
            let reply = Reply::new(json!({}), Lead::Plain, |_| Vec::new()).unwrap();
            let back: Value = serde_json::from_slice(&joined(reply.line(Some(&id)))).unwrap();
            assert_eq!(back, json!({"return": {}, "id": id}));
        }
    }

    #[derive(Serialize)]
    struct File {
        count: usize,
        data: Base64Data,
        eof: bool,
        more: Base64Data,
    }

    fn file(data: &[u8], more: &[u8]) -> Parts {
        let [data, more] = [data, more].map(|data| Base64Data(data.to_vec()));
        let file = File { count: 1, data, eof: true, more };
        Reply::new(file, Lead::Plain, |file| vec![&mut file.data, &mut file.more])
            .unwrap()
            .line(Some(&json!(2)))
    }

    #[test]
    fn long_data_is_a_part_of_its_own() {
        let (data, more) = (vec![1; LONG], vec![2; LONG + 1]);
        let text = |text: &str| Part::Text(text.as_bytes().to_vec());
        assert!(
            file(&data, &more)
                == [
                    text("{\"return\": {\"count\": 1, \"data\": \""),
                    Part::Data(data),
                    text("\", \"eof\": true, \"more\": \""),
                    Part::Data(more),
                    text("\"}, \"id\": 2}\n"),
                ]
        );
    }

    #[test]
    fn a_reply_is_the_same_in_one_part_or_several() {
        let long = vec![b'='; LONG];
        for (data, more) in [
            (&long[..], &[][..]),
            (&[], &long),
            (&long, &long[1..]),
            (&long, MARK),
            (MARK, &long),
            (MARK, MARK),
        ] {
            let expected = json!({"return": {
                "count": 1, "data": Base64Data(data.to_vec()), "eof": true,
                "more": Base64Data(more.to_vec())
            }, "id": 2});
            let parts = file(data, more);
            let length: usize = parts.iter().map(Part::len).sum();
            let line = joined(parts);
            assert_eq!(line.len(), length);
            let back: Value = serde_json::from_slice(&line).unwrap();
            assert!(back == expected);
        }
    }
}
