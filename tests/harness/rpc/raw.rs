//! AMQP by hand: for messages that no client library will send.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use lapin::uri::AMQPUri;

use super::CallError;

/// Large enough for what is sent here.
const FRAME_MAX: u32 = 128 << 10;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;

/// A message, its properties as they go over the wire.
#[derive(Debug, Default)]
pub struct RawMessage<'a> {
    /// The exchange.
    pub exchange: &'a str,
    /// The routing key, which need not be text.
    pub key: &'a [u8],
    /// Which properties there are.
    pub flags: u16,
    /// Those, one after the other.
    pub properties: &'a [u8],
    /// The body, which fits into one frame.
    pub body: &'a [u8],
}

impl RawMessage<'_> {
    /// Publish it over a connection of its own; the broker has it when this returns.
    ///
    /// # Errors
    /// If the broker refuses or is not there.
    pub fn publish(&self, uri: &str) -> Result<(), CallError> {
        let garbled = |error: String| CallError::Lost(format!("{uri}: {error}"));
        let uri: AMQPUri = uri.parse().map_err(garbled)?;
        self.send(&uri).map_err(|error| CallError::Lost(error.to_string()))
    }

    fn send(&self, uri: &AMQPUri) -> io::Result<()> {
        let mut stream = TcpStream::connect((uri.authority.host.as_str(), uri.authority.port))?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"AMQP\x00\x00\x09\x01")?;
        expect(&mut stream, [10, 10])?;
        let user = &uri.authority.userinfo;
        let login = format!("\0{}\0{}", user.username, user.password);
        let start = [
            &[0, 10, 0, 11, 0, 0, 0, 0][..],
            &short(b"PLAIN"),
            &(login.len() as u32).to_be_bytes(),
            login.as_bytes(),
            &short(b"en_US"),
        ];
        stream.write_all(&frame(METHOD, 0, &start.concat()))?;
        expect(&mut stream, [10, 30])?;
        let tune = [&[0, 10, 0, 31, 0, 8][..], &FRAME_MAX.to_be_bytes(), &[0, 0]].concat();
        stream.write_all(&frame(METHOD, 0, &tune))?;
        let open = [&[0, 10, 0, 40][..], &short(uri.vhost.as_bytes()), &[0, 0]].concat();
        stream.write_all(&frame(METHOD, 0, &open))?;
        expect(&mut stream, [10, 41])?;
        stream.write_all(&frame(METHOD, 1, &[0, 20, 0, 10, 0]))?;
        expect(&mut stream, [20, 11])?;
        let exchange = short(self.exchange.as_bytes());
        let publish = [&[0, 60, 0, 40, 0, 0][..], &exchange, &short(self.key), &[0]].concat();
        stream.write_all(&frame(METHOD, 1, &publish))?;
        let header = [
            &[0, 60, 0, 0][..],
            &(self.body.len() as u64).to_be_bytes(),
            &self.flags.to_be_bytes(),
            self.properties,
        ];
        stream.write_all(&frame(HEADER, 1, &header.concat()))?;
        stream.write_all(&frame(BODY, 1, self.body))?;
        // The channel is closed after what was said on it is done.
        stream.write_all(&frame(METHOD, 1, &[0, 20, 0, 40, 0, 200, 0, 0, 0, 0, 0]))?;
        expect(&mut stream, [20, 41])
    }
}

/// A short string on the wire.
#[must_use]
pub fn short(text: &[u8]) -> Vec<u8> {
    [&[text.len() as u8], text].concat()
}

/// A table on the wire, holding a table, and so on, this many times.
#[must_use]
pub fn nested(depth: usize) -> Vec<u8> {
    // Each is a name of one byte, a type, and a table.
    let size = |left: usize| ((left * 7) as u32).to_be_bytes();
    let mut table = size(depth).to_vec();
    for left in (0..depth).rev() {
        table.extend(b"\x01nF");
        table.extend(size(left));
    }
    table
}

fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
    let size = (payload.len() as u32).to_be_bytes();
    [&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xce]].concat()
}

/// Read one frame, which is to be this method.
fn expect(stream: &mut TcpStream, [class, method]: [u8; 2]) -> io::Result<()> {
    let mut head = [0; 7];
    stream.read_exact(&mut head)?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let mut payload = vec![0; size as usize + 1];
    stream.read_exact(&mut payload)?;
    if payload.starts_with(&[0, class, 0, method]) {
        return Ok(());
    }
    Err(io::Error::other(format!("not {class}.{method}: {:?}", String::from_utf8_lossy(&payload))))
}
