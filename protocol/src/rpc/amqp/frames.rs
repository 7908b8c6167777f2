//! What comes from a broker, made fit for a parser that trusts it.
//!
//! Whoever may publish chooses a message's properties, and a broker passes them on unread. Two of
//! them fell a client: headers nested a thousandfold, which a recursive parser follows to the end
//! of its stack, and a short string that is no text, for which it gives up the connection. The
//! message comes again to whoever connects next, so one is enough for a node. Hence they are
//! mended before the parser sees them:
//!
//! - headers are left out, but for [`DELIVERIES`], which is the broker's: nothing else is read;
//! - what is no text has each wrong byte replaced by [`SUBSTITUTE`], which is in no name and no key;
//! - properties that are no properties are left out.
//!
//! Nothing here recurses.

/// The broker's own header: how often a message was delivered before, in vain.
pub const DELIVERIES: &str = "x-delivery-count";
/// What takes the place of a byte that is no text: ASCII's own character for that.
pub const SUBSTITUTE: u8 = 0x1a;

/// Type, channel and size before the payload, the end mark after it.
const HEAD: usize = 7;
const END: usize = 1;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// `basic.deliver`.
const DELIVER: [u8; 4] = [0, 60, 0, 60];
/// Class, weight and size of the body, before the flags that say which properties there are.
const BODY: usize = 12;
/// What each flag stands for, from the highest on.
const PROPERTIES: [Property; 14] = [
    Property::Text,     // content_type
    Property::Text,     // content_encoding
    Property::Headers,  // headers
    Property::Bytes(1), // delivery_mode
    Property::Bytes(1), // priority
    Property::Text,     // correlation_id
    Property::Text,     // reply_to
    Property::Text,     // expiration
    Property::Text,     // message_id
    Property::Bytes(8), // timestamp
    Property::Text,     // type
    Property::Text,     // user_id
    Property::Text,     // app_id
    Property::Text,     // cluster_id
];

#[derive(Clone, Copy)]
enum Property {
    Text,
    Headers,
    Bytes(usize),
}

/// A frame larger than was agreed upon, or no frame at all.
#[derive(Debug, thiserror::Error)]
#[error("the broker sent a frame of {size} bytes, or what is no AMQP; agreed were {limit}")]
pub struct TooLarge {
    size: usize,
    limit: usize,
}

/// Mends a stream of frames, however it is cut into pieces.
#[derive(Debug)]
pub struct Mender {
    limit: usize,
    /// The beginning of a frame whose end is not there yet.
    begun: Vec<u8>,
}

impl Mender {
    /// For a connection with frames of at most this many bytes.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { limit, begun: Vec::new() }
    }

    /// Take what was read, and append to `ready` what is to be parsed.
    ///
    /// # Errors
    /// If a frame is larger than agreed; the connection is of no use then.
    pub fn take(&mut self, read: &[u8], ready: &mut Vec<u8>) -> Result<(), TooLarge> {
        self.begun.extend_from_slice(read);
        let mut at = 0;
        while let Some(head) = self.begun.get(at..at + HEAD) {
            let size = HEAD + u32_of(head, 3).unwrap_or_default() as usize + END;
            if size > self.limit {
                return Err(TooLarge { size, limit: self.limit });
            }
            let Some(frame) = self.begun.get(at..at + size) else { break };
            mend(frame, ready);
            at += size;
        }
        self.begun.drain(..at);
        Ok(())
    }
}

/// Append a whole frame, mended.
fn mend(frame: &[u8], ready: &mut Vec<u8>) {
    let payload = frame.get(HEAD..frame.len() - END).unwrap_or_default();
    let mended = match frame.first() {
        Some(&METHOD) if payload.starts_with(&DELIVER) => deliver(payload),
        Some(&HEADER) => Some(properties(payload)),
        _ => None,
    };
    let Some(mended) = mended else { return ready.extend_from_slice(frame) };
    ready.extend_from_slice(&frame[..3]);
    ready.extend_from_slice(&(mended.len() as u32).to_be_bytes());
    ready.extend_from_slice(&mended);
    ready.extend_from_slice(&frame[frame.len() - END..]);
}

/// A delivery, its consumer, exchange and routing key as text.
fn deliver(payload: &[u8]) -> Option<Vec<u8>> {
    let mut rest = Rest(payload);
    let mut mended = rest.take(DELIVER.len())?.to_vec();
    mended.extend(text(rest.short()?));
    // The delivery's number, and whether it is another's.
    mended.extend(rest.take(9)?);
    mended.extend(text(rest.short()?));
    mended.extend(text(rest.short()?));
    Some(mended)
}

/// The head of a content, with what can be told of its properties.
fn properties(payload: &[u8]) -> Vec<u8> {
    let mut rest = Rest(payload);
    let body = rest.take(BODY).unwrap_or_default();
    let (flags, told) = told(rest).unwrap_or_default();
    [body, &flags.to_be_bytes(), &told].concat()
}

/// The flags of a message's properties, and these; none if they are otherwise than they should be.
fn told(mut rest: Rest<'_>) -> Option<(u16, Vec<u8>)> {
    let mut flags = u16::from_be_bytes(rest.take(2)?.try_into().ok()?);
    let mut told = Vec::with_capacity(rest.0.len());
    for (n, property) in PROPERTIES.iter().enumerate() {
        let flag = 0x8000 >> n;
        if flags & flag == 0 {
            continue;
        }
        match property {
            Property::Text => told.extend(text(rest.short()?)),
            Property::Bytes(count) => told.extend(rest.take(*count)?),
            Property::Headers => {
                let own = deliveries(rest.long()?).unwrap_or_default();
                if own.is_empty() {
                    flags &= !flag;
                } else {
                    told.extend((own.len() as u32).to_be_bytes());
                    told.extend(own);
                }
            }
        }
    }
    // Two bits are left, which stand for more flags; this class has no more.
    (flags & 0b11 == 0).then_some((flags, told))
}

/// The entry of a table that is the broker's own, if it is among those before the first one whose
/// length nobody can know.
fn deliveries(table: &[u8]) -> Option<&[u8]> {
    let mut rest = Rest(table);
    loop {
        let entry = rest.0;
        let name = rest.short()?;
        let kind = rest.take(1)?.first()?;
        match kind {
            b't' | b'b' | b'B' => rest.take(1)?,
            b's' | b'u' => rest.take(2)?,
            b'I' | b'i' | b'f' => rest.take(4)?,
            b'D' => rest.take(5)?,
            b'l' | b'L' | b'd' | b'T' => rest.take(8)?,
            b'S' | b'A' | b'F' | b'x' => rest.long()?,
            b'V' => &[],
            _ => return None,
        };
        if name == DELIVERIES.as_bytes() && matches!(kind, b'l' | b'I') {
            return entry.get(..entry.len() - rest.0.len());
        }
    }
}

/// A short string, as text.
fn text(bytes: &[u8]) -> Vec<u8> {
    let mut text = vec![bytes.len() as u8];
    for chunk in bytes.utf8_chunks() {
        text.extend(chunk.valid().as_bytes());
        text.extend(chunk.invalid().iter().map(|_| SUBSTITUTE));
    }
    text
}

fn u32_of(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// What is not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    /// What has its length, of one byte, before it.
    fn short(&mut self) -> Option<&'a [u8]> {
        let count = *self.take(1)?.first()?;
        self.take(usize::from(count))
    }

    /// What has its length, of four bytes, before it.
    fn long(&mut self) -> Option<&'a [u8]> {
        let count = u32_of(self.take(4)?, 0)?;
        self.take(count as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = (payload.len() as u32).to_be_bytes();
        [&[kind, 0, 1], &size[..], payload, &[0xce]].concat()
    }

    fn header(flags: u16, properties: &[u8]) -> Vec<u8> {
        let body = [0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        frame(HEADER, &[&body[..], &flags.to_be_bytes(), properties].concat())
    }

    fn table(entries: &[u8]) -> Vec<u8> {
        [&(entries.len() as u32).to_be_bytes(), entries].concat()
    }

    fn mended(read: &[u8]) -> Vec<u8> {
        let mut ready = Vec::new();
        Mender::new(1 << 20).take(read, &mut ready).unwrap();
        ready
    }

    #[test]
    fn of_the_headers_only_the_brokers_own_is_left() {
        let own = [&[16], DELIVERIES.as_bytes(), b"l", &[0, 0, 0, 0, 0, 0, 0, 3]].concat();
        let mut nested = table(b"");
        for _ in 0..10_000 {
            nested = table(&[b"\x01aF", &nested[..]].concat());
        }
        let foreign = [b"\x01aF", &nested[..], b"\x01bV\x01cS\x00\x00\x00\x01x"].concat();
        // headers, delivery_mode and message_id
        let flags = 0b0011_0000_1000_0000;
        let rest = b"\x02\x03key";
        let given = table(&[&foreign[..], &own].concat());
        let read = header(flags, &[&given[..], rest].concat());
        let left = header(flags, &[&table(&own)[..], rest].concat());
        assert_eq!(mended(&read), left);

        let read = header(flags, &[&table(&foreign)[..], rest].concat());
        assert_eq!(mended(&read), header(flags & !0x2000, rest));
    }

    #[test]
    fn what_is_no_text_is_text_of_the_same_length() {
        // correlation_id and reply_to
        let read = header(0x0600, b"\x05a\xff\xc3\xa4\xc3\x01q");
        assert_eq!(mended(&read), header(0x0600, b"\x05a\x1a\xc3\xa4\x1a\x01q"));
        let method = |key: &[u8]| {
            frame(METHOD, &[&DELIVER[..], b"\x01t", &[0, 0, 0, 0, 0, 0, 0, 1, 0], key].concat())
        };
        assert_eq!(mended(&method(b"\x01e\x02\xffk")), method(b"\x01e\x02\x1ak"));
    }

    #[test]
    fn properties_that_are_none_are_left_out() {
        for broken in [header(0x2000, b"\xff\xff\xff\xff"), header(0x0600, b"\x01a\x05b")] {
            assert_eq!(mended(&broken), header(0, b""));
        }
        assert_eq!(mended(&header(0x8001, b"\x01a")), header(0, b""));
        // Too short to be any.
        assert_eq!(mended(&frame(HEADER, b"\x00")), frame(HEADER, b"\x00\x00"));
    }

    #[test]
    fn it_does_not_matter_how_frames_are_cut() {
        let read = [
            header(0x0400, b"\x01\xff"),
            frame(3, b"\xff\xff body"),
            frame(8, b""),
            header(0, b""),
        ]
        .concat();
        let whole = mended(&read);
        for piece in 1..read.len() {
            let (mut mender, mut ready) = (Mender::new(100), Vec::new());
            for piece in read.chunks(piece) {
                mender.take(piece, &mut ready).unwrap();
            }
            assert_eq!(ready, whole);
        }
    }

    #[test]
    fn a_frame_larger_than_agreed_is_not_waited_for() {
        let mut ready = Vec::new();
        let refused = Mender::new(4096).take(b"HTTP/1.1 400", &mut ready);
        assert!(refused.unwrap_err().to_string().contains("agreed were 4096"));
    }
}
