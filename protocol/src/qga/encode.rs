//! Values out, as stock agents write them.
//!
//! One line each, ASCII only (anything above `~` is `\uXXXX`, upper case), `", "` and `": "` between the
//! parts. Clients have been found to depend on each of these, so requests and events of ours follow
//! the same rule.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::{CharEscape, Formatter, Serializer};

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

/// A line in parts: a short one is one part, and a long string in it is a part of its own.
pub type Parts = Vec<Vec<u8>>;

/// The reply to a command that succeeded, encoded before it is known whom it answers.
///
/// A reply may be tens of megabytes of one string. That is not copied into the line: the line is cut
/// where it belongs, and it is moved there.
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
    /// The reply that returns `value`. `bulk` gives the texts of it that may be long, in the order in
    /// which they are written; nothing in them needs an escape, as is so with base64.
    pub fn new<T: Serialize>(
        mut value: T,
        lead: Lead,
        bulk: impl Fn(&mut T) -> Vec<&mut Vec<u8>>,
    ) -> Result<Self, serde_json::Error> {
        let mut taken = Vec::new();
        let mut long = Vec::new();
        for (index, text) in bulk(&mut value).into_iter().enumerate() {
            if text.len() >= LONG {
                taken.push(index);
                long.push(std::mem::replace(text, MARK.to_vec()));
            }
        }
        let bytes = written(&value, lead)?;
        if long.is_empty() {
            return Ok(Self { parts: vec![bytes] });
        }
        let parts = match fill(bytes, long) {
            Ok(parts) => parts,
            Err(long) => {
                // some text is the mark by chance
                let mut texts = bulk(&mut value);
                for (index, text) in taken.into_iter().zip(long) {
                    *texts[index] = text;
                }
                vec![written(&value, lead)?]
            }
        };
        Ok(Self { parts })
    }

    /// The line, with the id of the request if it had one.
    pub fn line(self, id: Option<&Value>) -> Parts {
        let mut parts = self.parts;
        let mut end = Vec::new();
        let bytes = parts.last_mut().unwrap_or(&mut end);
        if let Some(id) = id {
            bytes.extend_from_slice(b", \"id\": ");
            // a `Value` always has a JSON form, and a `Vec` takes any amount
            let _ = append(bytes, id);
        }
        bytes.extend_from_slice(b"}\n");
        parts
    }
}

fn append<T: Serialize + ?Sized>(bytes: &mut Vec<u8>, value: &T) -> Result<(), serde_json::Error> {
    value.serialize(&mut Serializer::with_formatter(bytes, Ascii))
}

/// From here on a text is a part of its own.
const LONG: usize = 64 << 10;
/// What stands for such a text while the rest is written, and how it is written.
const MARK: &[u8] = b"\x01";
const MARK_WRITTEN: &[u8] = b"\"\\u0001\"";

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

/// Puts texts in the places of their marks, or gives them back if there are not as many.
fn fill(mut bytes: Vec<u8>, long: Vec<Vec<u8>>) -> Result<Parts, Vec<Vec<u8>>> {
    let windows = bytes.windows(MARK_WRITTEN.len()).enumerate();
    let places: Vec<_> =
        windows.filter(|(_, window)| *window == MARK_WRITTEN).map(|(place, _)| place).collect();
    if places.len() != long.len() {
        return Err(long);
    }
    // from the end, so that the places stay where they are; the quotes stay
    let mut parts = Vec::with_capacity(2 * places.len() + 1);
    for (place, text) in places.into_iter().zip(long).rev() {
        parts.push(bytes.split_off(place + MARK_WRITTEN.len() - 1));
        parts.push(text);
        bytes.truncate(place + 1);
    }
    parts.push(bytes);
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
        assert_eq!(reply.line(None), [b"\xff{\"return\": 5}\n"]);
    }

    #[test]
    fn a_reply_carries_any_id() {
        for id in [json!(null), json!("x"), json!([1, {"a": true}]), json!(u64::MAX)] {
            let reply = Reply::new(json!({}), Lead::Plain, |_| Vec::new()).unwrap();
            let back: Value = serde_json::from_slice(&reply.line(Some(&id)).concat()).unwrap();
            assert_eq!(back, json!({"return": {}, "id": id}));
        }
    }

    #[derive(Serialize)]
    struct File {
        count: usize,
        data: Text,
        eof: bool,
        more: Text,
    }

    struct Text(Vec<u8>);

    impl Serialize for Text {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_str(std::str::from_utf8(&self.0).unwrap())
        }
    }

    fn file(data: String, more: String) -> Parts {
        let [data, more] = [data, more].map(|text| Text(text.into_bytes()));
        let file = File { count: 1, data, eof: true, more };
        Reply::new(file, Lead::Plain, |file| vec![&mut file.data.0, &mut file.more.0])
            .unwrap()
            .line(Some(&json!(2)))
    }

    #[test]
    fn a_long_string_is_moved_and_not_copied() {
        let (data, more) = ("QUJD".repeat(LONG), "x".repeat(LONG));
        let places = [data.as_ptr(), more.as_ptr()];
        let parts = file(data, more);
        let heads = [&parts[0], &parts[2], &parts[4]].map(|part| String::from_utf8_lossy(part));
        assert_eq!(
            heads,
            [
                "{\"return\": {\"count\": 1, \"data\": \"",
                "\", \"eof\": true, \"more\": \"",
                "\"}, \"id\": 2}\n"
            ]
        );
        assert_eq!([parts[1].as_ptr(), parts[3].as_ptr()], places);
    }

    #[test]
    fn a_reply_is_the_same_in_one_part_or_several() {
        let long = "=".repeat(LONG);
        for (data, more) in [
            (long.clone(), String::new()),
            (String::new(), long.clone()),
            (long.clone(), "x".repeat(LONG - 1)),
            (long.clone(), "\u{1}".to_owned()),
            ("\u{1}".to_owned(), long.clone()),
            ("\u{1}".to_owned(), "\u{1}".to_owned()),
        ] {
            let expected = json!({"return": {
                "count": 1, "data": data, "eof": true, "more": more
            }, "id": 2});
            let back: Value = serde_json::from_slice(&file(data, more).concat()).unwrap();
            assert!(back == expected);
        }
    }

    #[test]
    fn a_double_is_written_with_the_digits_of_stock_agents() {
        for (value, expected) in [
            (0.1, "0.10000000000000001"),
            (1000.0, "1000"),
            (-0.0, "-0"),
            (2.2, "2.2000000000000002"),
            (-9.223_372_036_854_776e18, "-9.2233720368547758e+18"),
            (1.5e300, "1.5000000000000001e+300"),
            (1e16, "10000000000000000"),
            (1e17, "1e+17"),
            (0.000_01, "1.0000000000000001e-05"),
            (0.000_1, "0.0001"),
            (5e-324, "4.9406564584124654e-324"),
            (123_456_789.0, "123456789"),
            (1.5, "1.5"),
        ] {
            assert_eq!(text(&json!(value)), format!("{expected}\n"));
        }
    }
}
