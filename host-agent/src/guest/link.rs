//! One open socket to a guest: bytes to messages and lines to bytes, both within bounds.
//!
//! The reader takes no more than its [`Budget`] allows: a guest that floods fills its own pipe and
//! waits. What it has read is one buffer of [`CHUNK`] bytes and the value being put together, whose
//! size the parser limits; a value that is larger, or that never ends, is passed over as it streams
//! and counts as bad, again and again as it goes on.
//!
//! Both halves are cancel safe: a call that is dropped loses nothing.

use std::collections::VecDeque;
use std::io;

use ostler_protocol::qga::bounds::limits;
use ostler_protocol::qga::envelope::Message;
use ostler_protocol::qga::framing::{Frame, Parser};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use super::budget::Budget;
use super::request::Line;
use super::settings::Caps;

/// Bytes read at once.
const CHUNK: usize = 16 << 10;
/// What a read costs beside its bytes, so that single bytes are not the cheapest way to be a burden.
const READ_COST: usize = 128;
/// What a message costs beside its bytes.
const MESSAGE_COST: usize = 1 << 10;
/// Bytes without a message, beyond what one may have, that count as one bad message.
const STRETCH: usize = 64 << 10;

/// What came.
#[derive(Debug)]
pub(super) enum Incoming {
    /// A message.
    Message(Message),
    /// The byte that precedes the reply to a sync.
    Delimiter,
    /// Something that is no message.
    Bad,
    /// The end.
    Closed,
}

/// The reading half.
#[derive(Debug)]
pub(super) struct Inbound<R> {
    stream: R,
    caps: Caps,
    budget: Budget,
    parser: Parser,
    limit: usize,
    buffer: Box<[u8]>,
    from: usize,
    to: usize,
    /// Bytes since the last message.
    run: usize,
    /// Bytes of the last message.
    last: usize,
}

impl<R: AsyncRead + Unpin> Inbound<R> {
    pub(super) fn new(stream: R, caps: Caps) -> Self {
        Self {
            stream,
            caps,
            budget: Budget::new(caps.rate, caps.burst, Instant::now()),
            parser: Parser::new(limits(caps.event, caps.depth)),
            limit: caps.event,
            buffer: vec![0; CHUNK].into_boxed_slice(),
            from: 0,
            to: 0,
            run: 0,
            last: 0,
        }
    }

    /// The next thing that comes. While an answer is due a message may be larger than an event may.
    pub(super) async fn next(&mut self, answer_due: bool) -> Incoming {
        loop {
            if let Some(wait) = self.budget.wait(Instant::now()) {
                sleep(wait).await;
                continue;
            }
            if self.from == self.to {
                self.allow(if answer_due { self.caps.answer } else { self.caps.event });
                let read = match self.stream.read(&mut self.buffer).await {
                    Ok(0) | Err(_) => return Incoming::Closed,
                    Ok(read) => read,
                };
                (self.from, self.to) = (0, read);
                self.budget.spend(read + READ_COST, Instant::now());
            }
            let mut input = &self.buffer[self.from..self.to];
            let before = input.len();
            let frame = self.parser.next_frame(&mut input);
            self.from += before - input.len();
            self.run += before - input.len();
            match frame {
                Some(frame) => {
                    self.budget.spend(MESSAGE_COST, Instant::now());
                    return match frame {
                        Ok(Frame::Value(value)) => {
                            self.last = std::mem::take(&mut self.run);
                            Message::from_value(value).map_or(Incoming::Bad, Incoming::Message)
                        }
                        Ok(Frame::Delimiter) => Incoming::Delimiter,
                        Err(_) => Incoming::Bad,
                    };
                }
                None if self.run > self.limit + STRETCH => {
                    self.run = self.limit;
                    return Incoming::Bad;
                }
                None => {}
            }
        }
    }

    /// Takes so much off what this guest may send, beyond what it sent.
    pub(super) fn charge(&mut self, bytes: usize) {
        self.budget.spend(bytes, Instant::now());
    }

    /// The last message was asked for: it is no burden of the guest's making, so that files can be
    /// read faster than a guest may talk.
    pub(super) fn refund(&mut self) {
        let reads = self.last / CHUNK + 1;
        self.budget.refund(self.last + MESSAGE_COST + reads * READ_COST);
        self.last = 0;
    }

    /// The limit for the next message, if none is begun.
    fn allow(&mut self, limit: usize) {
        if limit != self.limit && self.parser.is_idle() {
            self.parser = Parser::new(limits(limit, self.caps.depth));
            self.limit = limit;
        }
    }
}

/// The writing half.
#[derive(Debug)]
pub(super) struct Outbound<W> {
    stream: W,
    queue: VecDeque<(Option<u64>, Line)>,
    written: usize,
}

impl<W: AsyncWrite + Unpin> Outbound<W> {
    pub(super) fn new(stream: W) -> Self {
        Self { stream, queue: VecDeque::new(), written: 0 }
    }

    /// Queues a line; its id is told when it went out whole.
    pub(super) fn push(&mut self, id: Option<u64>, line: Line) {
        self.queue.push_back((id, line));
    }

    /// Whether a line without an id, a sync, waits to be written.
    pub(super) fn has_sync(&self) -> bool {
        self.queue.iter().any(|(id, _)| id.is_none())
    }

    /// Takes a line back of which nothing went out yet.
    pub(super) fn withdraw(&mut self, id: u64) {
        let begun = usize::from(self.written > 0);
        let mut at = 0;
        self.queue.retain(|(of, _)| {
            at += 1;
            at <= begun || *of != Some(id)
        });
    }

    /// Writes on; the id of a line that is out now. Waits for ever if there is nothing to write.
    pub(super) async fn write(&mut self) -> io::Result<Option<u64>> {
        loop {
            let Some((id, line)) = self.queue.front() else { return std::future::pending().await };
            let wrote = self.stream.write(&line[self.written..]).await?;
            if wrote == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.written += wrote;
            if self.written < line.len() {
                continue;
            }
            let id = *id;
            self.written = 0;
            self.queue.pop_front();
            if id.is_some() || self.queue.is_empty() {
                return Ok(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guest::settings::GuestSettings;
    use std::time::Duration;
    use tokio::io::duplex;

    const CAPS: Caps = GuestSettings::new(Duration::from_secs(10)).caps;

    #[tokio::test(start_paused = true)]
    async fn a_message_may_come_byte_by_byte() {
        let (mut guest, host) = duplex(1);
        let mut inbound = Inbound::new(host, CAPS);
        let line = b"\xFF{\"return\": {}, \"id\": 1}\n{\"event\": \"X\"}";
        let send = async { guest.write_all(line).await.unwrap() };
        let take = async {
            assert!(matches!(inbound.next(true).await, Incoming::Delimiter));
            assert!(matches!(inbound.next(true).await, Incoming::Message(Message::Response(_))));
            assert!(matches!(inbound.next(true).await, Incoming::Message(Message::Event(_))));
        };
        tokio::join!(send, take);
    }

    #[tokio::test(start_paused = true)]
    async fn an_endless_line_is_passed_over_and_keeps_counting_as_bad() {
        let (mut guest, host) = duplex(64 << 10);
        let mut inbound = Inbound::new(host, CAPS);
        let flood = tokio::spawn(async move {
            let mut sent = 0_usize;
            let _ = guest.write_all(b"\"").await;
            while guest.write_all(&[b'a'; 4096]).await.is_ok() {
                sent += 4096;
            }
            sent
        });
        for _ in 0..CAPS.bad {
            assert!(matches!(inbound.next(false).await, Incoming::Bad));
        }
        drop(inbound);
        let sent = flood.await.unwrap();
        assert!(sent < 2 << 20, "{sent} bytes were read before the guest was found out");
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_is_read_at_the_rate_it_is_allowed() {
        let (mut guest, host) = duplex(64 << 10);
        let mut inbound = Inbound::new(host, CAPS);
        let start = Instant::now();
        tokio::spawn(async move { while guest.write_all(b"{\"event\":\"X\"}").await.is_ok() {} });
        let mut messages = 0_u32;
        while start.elapsed() < Duration::from_secs(100) {
            assert!(matches!(inbound.next(false).await, Incoming::Message(_)));
            messages += 1;
        }
        // 256 KiB a second of messages that cost 1 KiB each, and the burst
        assert!((25_000..29_000).contains(&messages), "{messages}");
    }

    #[tokio::test(start_paused = true)]
    async fn nesting_beyond_the_limit_is_bad() {
        let (mut guest, host) = duplex(64 << 10);
        let mut inbound = Inbound::new(host, CAPS);
        tokio::spawn(async move { while guest.write_all(&[b'['; 1024]).await.is_ok() {} });
        for _ in 0..CAPS.bad {
            assert!(matches!(inbound.next(true).await, Incoming::Bad));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_event_may_not_be_as_large_as_an_answer() {
        for (answer_due, size, good) in
            [(false, 300 << 10, false), (true, 300 << 10, true), (true, 2 << 20, false)]
        {
            let (mut guest, host) = duplex(64 << 10);
            let mut inbound = Inbound::new(host, CAPS);
            tokio::spawn(async move {
                let _ = guest.write_all(b"{\"return\": \"").await;
                let _ = guest.write_all(&vec![b'a'; size]).await;
                let _ = guest.write_all(b"\"}\n").await;
            });
            let came = inbound.next(answer_due).await;
            assert_eq!(matches!(came, Incoming::Message(_)), good, "{size} {answer_due}");
        }
    }

    #[tokio::test]
    async fn only_what_is_not_begun_is_taken_back() {
        let (host, mut guest) = duplex(4);
        let mut outbound = Outbound::new(host);
        for id in [1, 2, 3] {
            outbound.push(Some(id), Line::new(vec![b'0' + id as u8; 8]));
        }
        let stuck = tokio::time::timeout(Duration::from_millis(1), outbound.write()).await;
        assert!(stuck.is_err());
        outbound.withdraw(1);
        outbound.withdraw(2);
        let read = tokio::spawn(async move {
            let mut bytes = [0; 16];
            guest.read_exact(&mut bytes).await.unwrap();
            bytes
        });
        assert_eq!(outbound.write().await.unwrap(), Some(1));
        assert_eq!(outbound.write().await.unwrap(), Some(3));
        assert_eq!(&read.await.unwrap(), b"1111111133333333");
    }
}
