//! What is to be sent.
//!
//! Answers wait here while the other side does not read. How many there may be is the session's to
//! limit: it begins no request while there is a backlog.

use std::collections::VecDeque;
use std::io;

use ostler_protocol::qga::encode::Parts;

/// What lines may share: as much as a port takes at a time.
const SHARED: usize = 32 << 10;

/// Lines on their way out.
#[derive(Debug, Default)]
pub struct Output {
    parts: VecDeque<Vec<u8>>,
    /// How much of the first part is gone.
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
        self.length += line.len();
        match self.parts.back_mut() {
            Some(last) if last.len() + line.len() <= SHARED => last.extend_from_slice(&line),
            _ => self.parts.push_back(line),
        }
    }

    /// Adds a line that is in parts.
    pub fn push_parts(&mut self, line: Parts) {
        for part in line {
            self.push(part);
        }
    }

    /// Sends what `write` takes; all of it, or until it would block.
    pub fn flush(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        while let Some(part) = self.parts.front() {
            match write(&part[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.sent += count;
                    self.length -= count;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.sent == part.len() {
                self.sent = 0;
                self.parts.pop_front();
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_out_in_order_however_little_is_taken() {
        let mut output = Output::default();
        output.push(b"first\n".to_vec());
        output.push_parts(vec![b"sec".to_vec(), b"ond".to_vec(), b"\n".to_vec()]);
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
            assert_eq!(output.len() + taken.len(), 13);
        }
        assert_eq!(taken, b"first\nsecond\n");
    }

    #[test]
    fn short_lines_are_one_write_and_a_long_part_stays_where_it_is() {
        let mut output = Output::default();
        for _ in 0..1000 {
            output.push(b"{\"return\": {}}\n".to_vec());
        }
        let long = vec![b'x'; SHARED];
        let place = long.as_ptr();
        output.push_parts(vec![b"head".to_vec(), long, b"tail".to_vec()]);
        let mut writes = Vec::new();
        output
            .flush(|bytes| {
                writes.push((bytes.len(), bytes.as_ptr()));
                Ok(bytes.len())
            })
            .unwrap();
        assert_eq!(writes.len(), 3);
        assert_eq!(writes[1], (SHARED, place));
    }
}
