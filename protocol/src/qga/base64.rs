//! Base64, in pieces and as leniently as stock agents read it.
//!
//! What comes and goes in base64 may be tens of megabytes, so neither direction holds the data and its
//! text at once. Reading is as stock agents do it: a character outside the alphabet is refused, a line
//! feed is passed over, and padding may stand anywhere. Only a text that ends without its padding is read
//! otherwise: they drop its last bytes, here they count.

use base64::Engine;
use base64::display::Base64Display;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text is not base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Base64 data contains invalid characters")]
pub struct Base64Error;

/// Data that is written as base64. A long reply is encoded on its way out, piece by piece.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Base64Data(pub Vec<u8>);

impl Serialize for Base64Data {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&Base64Display::new(&self.0, &STANDARD))
    }
}

impl<'de> Deserialize<'de> for Base64Data {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom(Base64Error))
    }
}

/// How long data is as base64.
pub const fn encoded_len(data: usize) -> usize {
    data.div_ceil(3) * 4
}

/// Adds a piece of data to `text` as base64; all but the last of several pieces must be whole groups of
/// three bytes.
pub fn encode_piece(data: &[u8], text: &mut Vec<u8>) {
    let start = text.len();
    text.resize(start + encoded_len(data.len()), 0);
    // the room is exactly what it takes
    let _ = STANDARD.encode_slice(data, &mut text[start..]);
}

/// Six bits, or why there are none.
const fn rank(byte: u8) -> u8 {
    match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => PADDING_OR_WORSE,
    }
}

const PADDING_OR_WORSE: u8 = 64;

const RANKS: [u8; 256] = {
    let mut ranks = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        ranks[byte] = rank(byte as u8);
        byte += 1;
    }
    ranks
};

/// How much data a text stands for; an error if it has a character that has no place in any.
pub fn decoded_len(text: &str) -> Result<usize, Base64Error> {
    let text = text.as_bytes();
    let irregular = |byte: &u8| RANKS[usize::from(*byte)] == PADDING_OR_WORSE;
    let Some(first) = text.iter().position(irregular) else {
        return Ok(text.len() / 4 * 3 + (text.len() % 4).saturating_sub(1));
    };
    let valid = |byte: &u8| !irregular(byte) || matches!(byte, b'=' | b'\n');
    if !text[first..].iter().all(valid) {
        return Err(Base64Error);
    }
    // what is before the first group of them is regular
    let regular = first / 4 * 4;
    let mut decoder = Base64Decoder::default();
    let mut length = regular / 4 * 3;
    for byte in &text[regular..] {
        decoder.accept(*byte, &mut |_| length += 1);
    }
    Ok(length + decoder.left())
}

/// Base64 on its way to data. What has no place in base64 counts as padding: [`decoded_len`] tells.
#[derive(Debug, Default)]
pub struct Base64Decoder {
    /// Six bits from each character of the group so far.
    bits: u32,
    /// How many there are.
    count: u8,
    /// Of them, how many came before the first padding.
    plain: u8,
    /// Whether the last two characters are padding, the last one in the lower bit.
    padding: u8,
}

impl Base64Decoder {
    /// Adds the data that more of the text stands for.
    pub fn push(&mut self, mut text: &[u8], data: &mut Vec<u8>) {
        if self.count == 0 {
            let (groups, rest) = text.split_at(text.len() / 4 * 4);
            let start = data.len();
            data.resize(start + groups.len() / 4 * 3, 0);
            if STANDARD_NO_PAD.decode_slice(groups, &mut data[start..]).is_ok() {
                text = rest;
            } else {
                data.truncate(start);
            }
        }
        for byte in text {
            self.accept(*byte, &mut |byte| data.push(byte));
        }
    }

    fn accept(&mut self, byte: u8, put: &mut impl FnMut(u8)) {
        if byte == b'\n' {
            return;
        }
        let rank = RANKS[usize::from(byte)];
        let padding = u8::from(rank == PADDING_OR_WORSE);
        self.padding = (self.padding << 1 | padding) & 0b11;
        self.bits = self.bits << 6 | u32::from(rank % PADDING_OR_WORSE);
        if padding == 0 && self.plain == self.count {
            self.plain += 1;
        }
        self.count += 1;
        if self.count == 4 {
            let [_, first, second, third] = self.bits.to_be_bytes();
            put(first);
            if self.padding & 0b10 == 0 {
                put(second);
            }
            if self.padding & 0b01 == 0 {
                put(third);
            }
            (self.bits, self.count, self.plain) = (0, 0, 0);
        }
    }

    /// Adds what an end without padding stands for.
    pub fn finish(self, data: &mut Vec<u8>) {
        if self.left() > 0 {
            let bits = self.bits << (6 * (4 - self.count));
            data.extend_from_slice(&bits.to_be_bytes()[1..=self.left()]);
        }
    }

    /// How much that is.
    fn left(&self) -> usize {
        usize::from(self.plain).saturating_sub(1)
    }
}

/// The data of a text, whole.
pub fn decode(text: &str) -> Result<Vec<u8>, Base64Error> {
    // never grown: what it holds may be secret, and growing leaves copies
    let mut data = Vec::with_capacity(decoded_len(text)?.max(text.len() / 4 * 3) + 3);
    let mut decoder = Base64Decoder::default();
    decoder.push(text.as_bytes(), &mut data);
    decoder.finish(&mut data);
    Ok(data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_is_read_as_stock_agents_read_it() {
        for (text, data) in [
            ("QUJD", Some(&b"ABC"[..])),
            ("QUJD\n", Some(b"ABC")),
            ("QU\nJD", Some(b"ABC")),
            ("QU JD", None),
            ("Q*JD", None),
            ("QUI=\r\n", None),
            ("QUJ\u{e9}", None),
            ("QU\\JD", None),
            ("Q", Some(b"")),
            ("QQ==QQ==", Some(b"AA")),
            ("=QQQ", Some(b"\x01\x04\x10")),
            ("", Some(b"")),
            ("=", Some(b"")),
            ("QUJDR", Some(b"ABC")),
            ("QUJD=", Some(b"ABC")),
            ("QU=JD", Some(b"A\t")),
            // these three lose their last bytes there
            ("QUI", Some(b"AB")),
            ("QQ", Some(b"A")),
            ("QQ=", Some(b"A")),
        ] {
            assert_eq!(decode(text).ok().as_deref(), data, "{text:?}");
            assert_eq!(decoded_len(text).ok(), data.map(<[u8]>::len), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn data_comes_back_whatever_the_pieces(
            data in proptest::collection::vec(any::<u8>(), 0..20_000),
            step in 1..9000_usize,
        ) {
            let mut text = Vec::new();
            for piece in data.chunks(step * 3) {
                encode_piece(piece, &mut text);
            }
            let text = String::from_utf8(text).unwrap();
            prop_assert_eq!(&text, &STANDARD.encode(&data));
            prop_assert_eq!(decoded_len(&text), Ok(data.len()));
            prop_assert_eq!(encoded_len(data.len()), text.len());
            let whole = serde_json::to_value(Base64Data(data.clone())).unwrap();
            prop_assert_eq!(&whole, &text);
            prop_assert_eq!(serde_json::from_value::<Base64Data>(whole).unwrap().0, data.clone());
            let mut decoder = Base64Decoder::default();
            let mut back = Vec::new();
            for piece in text.as_bytes().chunks(step) {
                decoder.push(piece, &mut back);
            }
            decoder.finish(&mut back);
            prop_assert_eq!(back, data);
        }

        #[test]
        fn the_length_is_known_beforehand(text in "[A-Za-z0-9+/=\n]{0,40}") {
            prop_assert_eq!(decoded_len(&text).ok(), decode(&text).ok().map(|data| data.len()));
        }
    }
}
