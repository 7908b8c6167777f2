//! What is to be sent.
//!
//! Answers wait here while the other side does not read. How many there may be is the session's to
//! limit: it begins no request while there is a backlog.

use std::collections::VecDeque;
use std::io;

use ostler_protocol::qga::base64::encode_piece;
use ostler_protocol::qga::encode::{Part, Parts};

/// What lines may share: as much as a port takes at a time.
const SHARED: usize = 32 << 10;
/// So much data is encoded at a time: whole groups of three bytes.
const PIECE: usize = 48 << 10;

/// Lines on their way out.
#[derive(Debug, Default)]
pub struct Output {
    parts: VecDeque<Part>,
    /// How much of the first part is dealt with: sent, or if it is data, encoded.
    done: usize,
    /// The piece of it that was encoded last, and how much of that is sent.
    piece: Vec<u8>,
    sent: usize,
    length: usize,
}

impl Output {
    /// Bytes that are not sent yet.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether all is sent.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a line. Short ones share a buffer: a backlog of them is one write, not thousands.
    pub fn push(&mut self, line: Vec<u8>) {
        self.push_part(Part::Text(line));
    }

    /// Adds a line that is in parts.
    pub fn push_parts(&mut self, line: Parts) {
        for part in line {
            self.push_part(part);
        }
    }

    fn push_part(&mut self, part: Part) {
        self.length += part.len();
        match (self.parts.back_mut(), part) {
            (Some(Part::Text(last)), part) if last.len() + part.len() <= SHARED => part.write(last),
            (_, part) => self.parts.push_back(part),
        }
    }

    /// Sends what `write` takes; all of it, or until it would block.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while let Some((bytes, done)) = self.next() {
            match write(bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    *done += count;
                    self.length -= count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is to be sent next, and the count of what is sent of it.
    fn next(&mut self) -> Option<(&[u8], &mut usize)> {
        while self.sent == self.piece.len() {
            match self.parts.front()? {
                Part::Text(text) if self.done < text.len() => break,
                Part::Data(data) if self.done < data.len() => {
                    let rest = &data[self.done..];
                    let piece = &rest[..rest.len().min(PIECE)];
                    self.piece.clear();
                    encode_piece(piece, &mut self.piece);
                    self.done += piece.len();
                    self.sent = 0;
                }
                Part::Text(_) | Part::Data(_) => {
                    self.parts.pop_front();
                    self.piece = Vec::new();
                    (self.done, self.sent) = (0, 0);
                }
            }
        }
        if self.sent < self.piece.len() {
            return Some((&self.piece[self.sent..], &mut self.sent));
        }
        match self.parts.front()? {
            Part::Text(text) => Some((&text[self.done..], &mut self.done)),
            Part::Data(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ostler_protocol::qga::encode::joined;

    #[test]
    fn lines_go_out_in_order_however_little_is_taken() {
        let mut output = Output::default();
        output.push(b"first\n".to_vec());
        output.push_parts(vec![Part::Text(b"sec".to_vec()), Part::Data(b"second".to_vec())]);
        output.push(b"\n".to_vec());
        let long = vec![Part::Data(vec![b'x'; SHARED]), Part::Text(b"\n".to_vec())];
        let expected = [b"first\nsecc2Vjb25k\n".to_vec(), joined(long.clone())].concat();
        output.push_parts(long);
        let mut taken = Vec::new();
        let mut room = 0;
        while !output.is_empty() {
            room = (room + 1) % 4;
            let mut left = room;
            output
                .flush(|bytes| match bytes.first() {
                    Some(byte) if left > 0 => {
                        left -= 1;
                        taken.push(*byte);
                        Ok(1)
                    }
                    _ => Err(io::ErrorKind::WouldBlock.into()),
                })
                .unwrap();
            assert_eq!(output.len() + taken.len(), expected.len());
        }
        assert!(taken == expected);
    }

    #[test]
    fn a_short_file_is_one_write() {
        let mut output = Output::default();
        let parts = vec![
            Part::Text(b"head".to_vec()),
            Part::Data(vec![b'x'; 4096]),
            Part::Text(b"tail\n".to_vec()),
        ];
        output.push_parts(parts.clone());
        let mut writes = Vec::new();
        output
            .flush(|bytes| {
                writes.push(bytes.to_vec());
                Ok(bytes.len())
            })
            .unwrap();
        assert_eq!(writes, [joined(parts)]);
    }

    #[test]
    fn short_lines_are_one_write_and_long_data_is_encoded_in_pieces() {
        let mut output = Output::default();
        for _ in 0..1000 {
            output.push(b"{\"return\": {}}\n".to_vec());
        }
        let data = vec![b'x'; 2 * PIECE + 1];
        let parts =
            vec![Part::Text(b"head".to_vec()), Part::Data(data), Part::Text(b"tail".to_vec())];
        let whole = joined(parts.clone());
        output.push_parts(parts);
        let mut writes = Vec::new();
        output
            .flush(|bytes| {
                writes.push(bytes.to_vec());
                Ok(bytes.len())
            })
            .unwrap();
        let lengths: Vec<_> = writes[1..].iter().map(Vec::len).collect();
        assert_eq!(lengths, [PIECE / 3 * 4, PIECE / 3 * 4, 4, 4]);
        assert!(writes.concat().ends_with(&whole));
        assert!(output.is_empty());
    }
}
