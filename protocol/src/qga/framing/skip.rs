//! Passing over what is left of a value that was refused.
//!
//! The error has been told; what matters now is where the next value begins. A newline says so, for
//! requests are lines in practice; the bracket that closes the value says so; and outside of any value
//! the next bracket, comma or colon does.

/// Passes over what is left of a broken value: its brackets and strings are followed, its text is not
/// judged.
#[derive(Debug)]
pub(super) struct Skip {
    braces: usize,
    brackets: usize,
    quote: Option<u8>,
    escaped: bool,
}

impl Skip {
    pub(super) fn new(braces: usize, brackets: usize, quote: Option<u8>) -> Self {
        Self { braces, brackets, quote, escaped: false }
    }

    /// Reads on in `input` to the end of the skip (true), a reset byte, or the end of `input`.
    pub(super) fn advance(&mut self, input: &mut &[u8]) -> bool {
        while let Some((&byte, rest)) = input.split_first() {
            if byte >= 0xFE {
                return false;
            }
            let top = self.braces == 0 && self.brackets == 0;
            if let Some(quote) = self.quote {
                *input = rest;
                if byte == b'\n' {
                    return true;
                }
                if self.escaped {
                    self.escaped = false;
                } else if byte == b'\\' {
                    self.escaped = true;
                } else if byte == quote {
                    self.quote = None;
                    if top {
                        return true;
                    }
                }
                continue;
            }
            if top && matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':') {
                return true;
            }
            *input = rest;
            match byte {
                b'\n' => return true,
                0..=0x1F if top => return true,
                b'"' | b'\'' if !top => self.quote = Some(byte),
                b'{' => self.braces += 1,
                b'[' => self.brackets += 1,
                b'}' => self.braces = self.braces.saturating_sub(1),
                b']' => self.brackets = self.brackets.saturating_sub(1),
                _ => {}
            }
            if !top && self.braces == 0 && self.brackets == 0 {
                return true;
            }
        }
        false
    }
}
