//! Bytes in, JSON values out.
//!
//! The stream is a sequence of JSON values, not of lines: values may be glued together, cut anywhere
//! and separated by any white space or none. The [`Parser`] keeps what it has of the current value and
//! nothing else, so its memory is bounded by its [`Limits`], and each byte is looked at once.
//!
//! ```text
//!             token error                 brackets balance: one error
//!  Building ----------------> Spoiled ---------------------------------+
//!     |  \                       |                                     v
//!     |   \  lexical error, limit| lexical error, limit             Building
//!     |    +-------------------->+------> Skipping ------------------->^
//!     |                           (error at once)   newline, balance   |
//!     +------------------------------ 0xFF, 0xFE ----------------------+
//! ```
//!
//! A value that is well-formed in its tokens but wrong in its grammar is read to its end and gives one
//! error. A value whose text is broken or too large gives its error at once, and what is left of it is
//! skipped to the next newline or to the bracket that closes it: requests are lines in practice, so
//! the next request is heard. A reader that was cut in the middle of a value stays there until the
//! sender sends 0xFF, which is never part of UTF-8 and resets the parser wherever it is.

mod builder;
mod lexer;
mod skip;

use serde_json::Value;

use builder::{Builder, Token};
use lexer::{Bracket, Lexeme, Lexer};
use skip::Skip;

/// The byte that resets a parser, and that precedes the reply to `guest-sync-delimited`.
pub const DELIMITER: u8 = 0xFF;

/// The other byte that resets a parser: like 0xFF it is never part of UTF-8.
const RESET: u8 = 0xFE;

/// How much one value may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of token text: everything but the white space between tokens.
    pub bytes: usize,
    /// Open brackets and braces.
    pub depth: usize,
    /// Tokens: brackets, commas, colons, strings, numbers and keywords.
    pub tokens: usize,
}

impl Limits {
    /// What a guest agent accepts from its host; clients rely on these being no smaller.
    pub const fn agent() -> Self {
        Self { bytes: 64 << 20, depth: 1024, tokens: 2 << 20 }
    }

    /// What a host accepts from a guest it does not trust.
    pub const fn host() -> Self {
        Self { bytes: 16 << 20, depth: 64, tokens: 256 << 10 }
    }
}

/// What the stream held.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// A complete value, of any type.
    Value(Value),
    /// The byte 0xFF: everything the sender sent before it is to be forgotten.
    Delimiter,
}

/// How many characters of an offending token are shown.
const SHOWN: usize = 64;

/// Why a stretch of the stream is not a value. The text is what a guest agent answers with, in the
/// words of stock agents where the same is known here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// Text that starts no token, or is no number.
    #[error("JSON parse error, stray '{0}'")]
    Stray(String),
    /// A word other than `true`, `false` and `null`.
    #[error("JSON parse error, invalid keyword '{0}'")]
    Keyword(String),
    /// A control character inside a string.
    #[error("JSON parse error, control character 0x{0:02X} in a string")]
    Control(u8),
    /// A backslash followed by something that is no escape.
    #[error("JSON parse error, invalid escape sequence in string")]
    Escape,
    /// Half of a surrogate pair.
    #[error("JSON parse error, \\u{0:04X} is not a valid Unicode character")]
    Surrogate(u16),
    /// Bytes that are not UTF-8.
    #[error("JSON parse error, invalid UTF-8 sequence in string")]
    Encoding,
    /// A token at a place where another kind is due.
    #[error("JSON parse error, {0}")]
    Grammar(&'static str),
    /// A key that an object has already.
    #[error("JSON parse error, duplicate key")]
    DuplicateKey,
    /// More text than [`Limits::bytes`].
    #[error("JSON token size limit exceeded")]
    Bytes,
    /// More tokens than [`Limits::tokens`].
    #[error("JSON token count limit exceeded")]
    Tokens,
    /// Deeper than [`Limits::depth`].
    #[error("JSON nesting depth limit exceeded")]
    Depth,
}

impl FramingError {
    /// The beginning of `text`, as it is shown.
    fn stray(text: &[u8]) -> Self {
        let shown = &text[..text.len().min(SHOWN)];
        Self::Stray(String::from_utf8_lossy(shown).into_owned())
    }
}

/// What becomes of the tokens that come in.
#[derive(Debug)]
enum Mode {
    /// They make a value.
    Building,
    /// Their value is wrong; they are read to its end, then the error is told.
    Spoiled(FramingError),
    /// The error was told; what is left of the value is passed over.
    Skipping(Skip),
}

/// Reads frames out of a stream that comes in pieces.
#[derive(Debug)]
pub struct Parser {
    limits: Limits,
    mode: Mode,
    lexer: Lexer,
    builder: Builder,
    open: Open,
    tokens: usize,
}

/// The brackets that are open.
#[derive(Clone, Copy, Debug, Default)]
struct Open {
    braces: usize,
    brackets: usize,
}

impl Open {
    fn none(self) -> bool {
        self.braces == 0 && self.brackets == 0
    }

    fn of(&mut self, bracket: Bracket) -> &mut usize {
        match bracket {
            Bracket::Curly => &mut self.braces,
            Bracket::Square => &mut self.brackets,
        }
    }
}

impl Parser {
    /// A parser at the start of a stream.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            mode: Mode::Building,
            lexer: Lexer::new(),
            builder: Builder::default(),
            open: Open::default(),
            tokens: 0,
        }
    }

    /// Forgets what it has of the current value, as the bytes 0xFF and 0xFE make it do.
    pub fn reset(&mut self) {
        *self = Self::new(self.limits);
    }

    /// Whether the stream could end here without cutting a value.
    pub fn is_idle(&self) -> bool {
        self.open.none() && self.lexer.is_idle() && matches!(self.mode, Mode::Building)
    }

    /// The next frame in `input`, which is advanced past what was read; nothing, with all of `input`
    /// read, when it holds no end of a frame.
    ///
    /// Pulling leaves the pace to the caller: what it does not take now stays in its own buffer.
    pub fn next_frame(&mut self, input: &mut &[u8]) -> Option<Result<Frame, FramingError>> {
        while let Some(&byte) = input.first() {
            if byte == DELIMITER || byte == RESET {
                *input = &input[1..];
                self.reset();
                if byte == DELIMITER {
                    return Some(Ok(Frame::Delimiter));
                }
                continue;
            }
            if let Mode::Skipping(skip) = &mut self.mode {
                if skip.advance(input) {
                    self.reset();
                }
                continue;
            }
            let keep = matches!(self.mode, Mode::Building);
            let outcome = match self.lexer.advance(input, keep, self.limits.bytes) {
                Ok(None) => continue,
                Ok(Some(lexeme)) => self.accept(lexeme),
                Err(error) => Some(Err(self.skip(error))),
            };
            if let Some(outcome) = outcome {
                return Some(outcome.map(Frame::Value));
            }
        }
        None
    }

    /// All frames of `input`, as they are pulled. What is left when it is dropped is lost.
    pub fn frames<'a>(
        &'a mut self,
        mut input: &'a [u8],
    ) -> impl Iterator<Item = Result<Frame, FramingError>> + 'a {
        std::iter::from_fn(move || self.next_frame(&mut input))
    }

    fn accept(&mut self, lexeme: Lexeme) -> Option<Result<Value, FramingError>> {
        self.tokens += 1;
        if self.tokens > self.limits.tokens {
            return Some(Err(self.skip(FramingError::Tokens)));
        }
        match lexeme {
            Lexeme::Open(bracket) => {
                *self.open.of(bracket) += 1;
                if self.open.braces + self.open.brackets > self.limits.depth {
                    return Some(Err(self.skip(FramingError::Depth)));
                }
            }
            Lexeme::Close(bracket) => {
                let count = self.open.of(bracket);
                if *count == 0 {
                    let error = match std::mem::replace(&mut self.mode, Mode::Building) {
                        Mode::Building => self.builder.accept(Token::Close(bracket)).err(),
                        Mode::Spoiled(error) => Some(error),
                        Mode::Skipping(_) => None,
                    };
                    self.reset();
                    return error.map(Err);
                }
                *count -= 1;
            }
            Lexeme::Comma
            | Lexeme::Colon
            | Lexeme::Text(_)
            | Lexeme::Number(_)
            | Lexeme::Keyword(_) => {}
        }
        if matches!(self.mode, Mode::Building)
            && let Err(error) = Token::try_from(lexeme).and_then(|token| self.builder.accept(token))
        {
            self.builder = Builder::default();
            self.mode = Mode::Spoiled(error);
        }
        if !self.open.none() {
            return None;
        }
        let value = self.builder.take();
        let mode = std::mem::replace(&mut self.mode, Mode::Building);
        self.reset();
        match mode {
            Mode::Building => value.map(Ok),
            Mode::Spoiled(error) => Some(Err(error)),
            Mode::Skipping(_) => None,
        }
    }

    /// Drops the value and passes over what is left of it.
    fn skip(&mut self, error: FramingError) -> FramingError {
        let skip = Skip::new(self.open.braces, self.open.brackets, self.lexer.open_quote());
        self.reset();
        self.mode = Mode::Skipping(skip);
        error
    }
}

#[cfg(test)]
mod tests;
