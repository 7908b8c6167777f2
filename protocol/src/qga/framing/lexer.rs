//! Bytes to lexemes, a piece at a time.
//!
//! The only state is the lexeme being read. Strings are taken in runs, eight bytes at a time while
//! they are plain, because a file transfer is one string of tens of megabytes.

use super::FramingError;

/// The pair a bracket belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bracket {
    /// `{` and `}`.
    Curly,
    /// `[` and `]`.
    Square,
}

/// A token as its text has it.
#[derive(Debug)]
pub(super) enum Lexeme {
    Open(Bracket),
    Close(Bracket),
    Comma,
    Colon,
    /// A string, its escapes resolved; empty when the caller asked not to keep it.
    Text(String),
    Number(String),
    Keyword(String),
}

/// Reads lexemes, and counts the bytes of those of one value.
#[derive(Debug)]
pub(super) struct Lexer {
    state: State,
    spent: usize,
}

#[derive(Debug)]
enum State {
    Between,
    Text(Text),
    Number(Vec<u8>),
    Keyword(Vec<u8>),
}

#[derive(Debug)]
struct Text {
    quote: u8,
    bytes: Vec<u8>,
    escape: Escape,
    /// The first half of a surrogate pair, whose second half must be the very next thing.
    high: Option<u16>,
}

#[derive(Debug, Clone, Copy)]
enum Escape {
    None,
    Backslash,
    Unicode { digits: u8, value: u16 },
}

impl Lexer {
    pub(super) fn new() -> Self {
        Self { state: State::Between, spent: 0 }
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.state, State::Between)
    }

    /// The quote that would end the string being read.
    pub(super) fn open_quote(&self) -> Option<u8> {
        match &self.state {
            State::Text(text) => Some(text.quote),
            State::Between | State::Number(_) | State::Keyword(_) => None,
        }
    }

    /// Reads on in `input` (not empty, not starting with a reset byte) to at most the end of a lexeme.
    ///
    /// An offending byte is consumed, so that the caller always makes progress.
    pub(super) fn advance(
        &mut self,
        input: &mut &[u8],
        keep: bool,
        limit: usize,
    ) -> Result<Option<Lexeme>, FramingError> {
        let before = input.len();
        let white = matches!(self.state, State::Between) && input.first().is_some_and(is_space);
        let outcome = match &mut self.state {
            State::Between => self.start(input),
            State::Text(text) => match text.advance(input, keep) {
                Ok(false) => Ok(None),
                Ok(true) => {
                    let bytes = std::mem::take(&mut text.bytes);
                    self.state = State::Between;
                    String::from_utf8(bytes)
                        .map(|text| Some(Lexeme::Text(text)))
                        .map_err(|_| FramingError::Encoding)
                }
                Err(error) => Err(error),
            },
            State::Number(bytes) => {
                take_run(input, bytes, |b| {
                    matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E')
                });
                match input.first() {
                    // a reset drops it, ended or not
                    None | Some(0xFE | 0xFF) => Ok(None),
                    Some(_) => {
                        let text = ascii(std::mem::take(bytes));
                        self.state = State::Between;
                        if is_number(text.as_bytes()) {
                            Ok(Some(Lexeme::Number(text)))
                        } else {
                            Err(FramingError::stray(text.as_bytes()))
                        }
                    }
                }
            }
            State::Keyword(bytes) => {
                take_run(input, bytes, |b| b.is_ascii_lowercase());
                match input.first() {
                    // a reset drops it, ended or not
                    None | Some(0xFE | 0xFF) => Ok(None),
                    Some(_) => {
                        let text = ascii(std::mem::take(bytes));
                        self.state = State::Between;
                        Ok(Some(Lexeme::Keyword(text)))
                    }
                }
            }
        };
        if !white {
            self.spent += before - input.len();
            if self.spent > limit {
                return Err(FramingError::Bytes);
            }
        }
        outcome
    }

    fn start(&mut self, input: &mut &[u8]) -> Result<Option<Lexeme>, FramingError> {
        let Some((&byte, rest)) = input.split_first() else { return Ok(None) };
        if is_space(&byte) {
            let run = input.iter().take_while(|byte| is_space(byte)).count();
            *input = &input[run..];
            return Ok(None);
        }
        match byte {
            b'-' | b'0'..=b'9' => {
                self.state = State::Number(Vec::new());
                return Ok(None);
            }
            b'a'..=b'z' => {
                self.state = State::Keyword(Vec::new());
                return Ok(None);
            }
            _ => *input = rest,
        }
        match byte {
            b'{' => Ok(Some(Lexeme::Open(Bracket::Curly))),
            b'}' => Ok(Some(Lexeme::Close(Bracket::Curly))),
            b'[' => Ok(Some(Lexeme::Open(Bracket::Square))),
            b']' => Ok(Some(Lexeme::Close(Bracket::Square))),
            b',' => Ok(Some(Lexeme::Comma)),
            b':' => Ok(Some(Lexeme::Colon)),
            b'"' | b'\'' => {
                self.state = State::Text(Text {
                    quote: byte,
                    bytes: Vec::new(),
                    escape: Escape::None,
                    high: None,
                });
                Ok(None)
            }
            _ => Err(FramingError::stray(&[byte])),
        }
    }
}

impl Text {
    /// Reads on; true at the closing quote.
    fn advance(&mut self, input: &mut &[u8], keep: bool) -> Result<bool, FramingError> {
        let Some((&byte, rest)) = input.split_first() else { return Ok(false) };
        match self.escape {
            Escape::None => {}
            Escape::Backslash => {
                *input = rest;
                return self.escaped(byte, keep).map(|()| false);
            }
            Escape::Unicode { digits, value } => {
                *input = rest;
                let digit = char::from(byte).to_digit(16).ok_or(FramingError::Escape)?;
                // `to_digit(16)` is below 16, and four digits fit
                let value = (value << 4) | digit as u16;
                if digits == 3 {
                    self.escape = Escape::None;
                    return self.unit(value, keep).map(|()| false);
                }
                self.escape = Escape::Unicode { digits: digits + 1, value };
                return Ok(false);
            }
        }
        if byte == b'\\' {
            *input = rest;
            self.escape = Escape::Backslash;
            return Ok(false);
        }
        if let Some(high) = self.high {
            *input = rest;
            return Err(FramingError::Surrogate(high));
        }
        if byte == self.quote {
            *input = rest;
            return Ok(true);
        }
        if byte < 0x20 {
            *input = rest;
            return Err(FramingError::Control(byte));
        }
        let run = if byte < 0x80 {
            plain_run(input, self.quote)
        } else {
            input.iter().take_while(|byte| (0x80..0xFE).contains(*byte)).count()
        };
        if keep {
            self.bytes.extend_from_slice(&input[..run]);
        }
        *input = &input[run..];
        Ok(false)
    }

    fn escaped(&mut self, byte: u8, keep: bool) -> Result<(), FramingError> {
        if byte == b'u' {
            self.escape = Escape::Unicode { digits: 0, value: 0 };
            return Ok(());
        }
        self.escape = Escape::None;
        if let Some(high) = self.high {
            return Err(FramingError::Surrogate(high));
        }
        let plain = match byte {
            b'"' | b'\'' | b'\\' | b'/' => byte,
            b'b' => 0x08,
            b'f' => 0x0C,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            _ => return Err(FramingError::Escape),
        };
        if keep {
            self.bytes.push(plain);
        }
        Ok(())
    }

    /// Takes a UTF-16 unit written as `\uXXXX`.
    fn unit(&mut self, unit: u16, keep: bool) -> Result<(), FramingError> {
        let units = match self.high.take() {
            None if (0xD800..0xDC00).contains(&unit) => {
                self.high = Some(unit);
                return Ok(());
            }
            None => [Some(unit), None],
            Some(high) => [Some(high), Some(unit)],
        };
        for character in char::decode_utf16(units.into_iter().flatten()) {
            let character =
                character.map_err(|error| FramingError::Surrogate(error.unpaired_surrogate()))?;
            if keep {
                self.bytes.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
            }
        }
        Ok(())
    }
}

fn is_space(byte: &u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

fn take_run(input: &mut &[u8], bytes: &mut Vec<u8>, belongs: impl Fn(u8) -> bool) {
    let run = input.iter().take_while(|byte| belongs(**byte)).count();
    bytes.extend_from_slice(&input[..run]);
    *input = &input[run..];
}

/// The text of bytes that were picked from ASCII.
fn ascii(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_default()
}

/// Whether JSON's grammar has this number.
fn is_number(text: &[u8]) -> bool {
    fn digits(text: &[u8]) -> (usize, &[u8]) {
        let run = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
        (run, &text[run..])
    }
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = digits(text);
    if whole == 0 || (whole > 1 && text[0] == b'0') {
        return false;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        let (count, after) = digits(fraction);
        if count == 0 {
            return false;
        }
        rest = after;
    }
    if let Some(exponent) = rest.strip_prefix(b"e").or_else(|| rest.strip_prefix(b"E")) {
        let exponent =
            exponent.strip_prefix(b"+").or_else(|| exponent.strip_prefix(b"-")).unwrap_or(exponent);
        let (count, after) = digits(exponent);
        if count == 0 {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

/// How many bytes from the start are ASCII text that needs no look: no quote, backslash or control
/// character.
///
/// Eight bytes a step. Each test marks the high bit of the bytes it finds; a borrow can only mark a
/// byte above one that is marked rightly, so the lowest mark is exact.
fn plain_run(bytes: &[u8], quote: u8) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let quotes = zero(word ^ (ONES * u64::from(quote)));
        let escapes = zero(word ^ (ONES * u64::from(b'\\')));
        let hit = (control | quotes | escapes | word) & HIGH;
        if hit != 0 {
            return at + (hit.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    let tail = bytes[at..]
        .iter()
        .take_while(|&&byte| (0x20..0x80).contains(&byte) && byte != quote && byte != b'\\')
        .count();
    at + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_run_ends_at_the_first_special_byte_wherever_it_is() {
        for special in [b'"', b'\\', 0, 0x1F, 0x80, 0xFF] {
            for at in 0..40 {
                let mut bytes = vec![b'~'; 40];
                bytes[at] = special;
                assert_eq!(plain_run(&bytes, b'"'), at, "{special:#x} at {at}");
            }
        }
        assert_eq!(plain_run(b"' !#[]\x7f\x20", b'"'), 8);
        assert_eq!(plain_run(b"\" !'", b'\''), 3);
    }

    #[test]
    fn numbers_are_as_json_has_them() {
        for good in ["0", "-0", "10", "1.5", "-1.25e+10", "1E3", "0.0"] {
            assert!(is_number(good.as_bytes()), "{good}");
        }
        for bad in ["", "-", "01", "-01", "1.", ".5", "1e", "1e+", "+1", "1.2.3", "1-2"] {
            assert!(!is_number(bad.as_bytes()), "{bad}");
        }
    }
}
