//! Images that come compressed: unpacked once all of the file is there and has the digest asked for.
//!
//! Not while it comes in: so a download is resumed as any other, and bytes with a wrong digest never
//! reach a decoder. The price is room for both files for a while. What is unpacked then takes the
//! received file's place, and everything that follows sees only that.
//!
//! Decoders get hostile bytes, so their memory has a limit, what they make of them is capped as what
//! is received, and the node keeps its reserve of free space. Members, streams or frames behind each
//! other are one file, as they are to the tools; anything else behind them is refused.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use liblzma::bufread::XzDecoder;
use liblzma::stream::{CONCATENATED, Error as XzError, Stream};
use ostler_protocol::rpc::image::Compression;
use ostler_protocol::rpc::values::Bytes;
use tokio_util::sync::CancellationToken;

use super::part::{Part, Sink, Written, writing};
use super::{ImageError, Packed};
use crate::durable::remove_if_there;
use crate::threads::Threads;

/// Bytes read, and written, at once.
const CHUNK: usize = 1 << 20;

/// `xz -9` needs 65 MiB.
const XZ_MEMORY: u64 = 128 << 20;

/// The binary logarithm of the largest window: 128 MiB, that of `zstd --long`, and the most that
/// `zstd -d` takes unasked.
const ZSTD_WINDOW: u32 = 27;

/// What to unpack and how far.
#[derive(Debug, Clone)]
pub(super) struct Unpack {
    pub(super) part: Part,
    pub(super) compression: Compression,
    pub(super) cap: Bytes,
    pub(super) keep_free: Bytes,
    /// Where it comes from, for errors.
    pub(super) source_shown: String,
}

/// Unpack what a part holds; what was in it takes its place. Stops soon when the future is dropped.
pub(super) async fn unpack(threads: &Threads, unpack: Unpack) -> Result<Written, ImageError> {
    let dropped = CancellationToken::new();
    let _ends_with_us = dropped.clone().drop_guard();
    let part = unpack.part.clone();
    let run = move || {
        let made = run(&unpack, &dropped);
        if made.is_err() {
            remove_if_there(&unpack.part.made).map_err(writing(&unpack.part))?;
        }
        made
    };
    threads.run(run).await.map_err(writing(&part))?
}

fn run(unpack: &Unpack, dropped: &CancellationToken) -> Result<Written, ImageError> {
    let Unpack { part, compression, cap, keep_free, source_shown } = unpack;
    let packed = |source| ImageError::Packed { source_shown: source_shown.clone(), source };
    let file = File::open(&part.data).map_err(writing(part))?;
    let mut file = BufReader::with_capacity(CHUNK, Watched { file, dropped });
    if !begins(*compression, file.fill_buf().map_err(writing(part))?) {
        return Err(packed(Packed::Not(compression.as_str())));
    }
    let mut decoder = decoder(*compression, file).map_err(writing(part))?;
    let mut sink = Sink::make(part, *keep_free).map_err(writing(part))?;
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = match decoder.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            // The disk's word, or nobody's who still waits.
            Err(error) if error.raw_os_error().is_some() || dropped.is_cancelled() => {
                return Err(writing(part)(error));
            }
            Err(error) => return Err(packed(broken(*compression, &error))),
        };
        if sink.written().0 + count as u64 > cap.0 {
            return Err(packed(Packed::TooLarge(*cap)));
        }
        sink.push(&buffer[..count]).map_err(writing(part))?;
        if dropped.is_cancelled() {
            return Err(writing(part)(called_off()));
        }
    }
    if sink.written() == Bytes(0) {
        return Err(packed(Packed::Empty));
    }
    let written = sink.finish().map_err(writing(part))?;
    part.become_made().map_err(writing(part))?;
    Ok(written)
}

/// The file, until nobody waits any more: a decoder may read for long without making anything.
struct Watched<'a> {
    file: File,
    dropped: &'a CancellationToken,
}

impl Read for Watched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.dropped.is_cancelled() { Err(called_off()) } else { self.file.read(buffer) }
    }
}

fn called_off() -> io::Error {
    io::Error::other("the import was called off")
}

fn begins(compression: Compression, file: &[u8]) -> bool {
    match compression {
        Compression::Gzip => file.starts_with(b"\x1f\x8b"),
        Compression::Xz => file.starts_with(b"\xfd7zXZ\0"),
        // A frame may be one to skip: pzstd begins with such.
        Compression::Zstd => {
            file.starts_with(b"\x28\xb5\x2f\xfd")
                || matches!(file, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
        }
    }
}

fn decoder<'a>(
    compression: Compression,
    file: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::Gzip => Box::new(MultiGzDecoder::new(file)),
        Compression::Xz => {
            let stream = Stream::new_stream_decoder(XZ_MEMORY, CONCATENATED)?;
            Box::new(XzDecoder::new_stream(file, stream))
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(file)?;
            decoder.window_log_max(ZSTD_WINDOW)?;
            Box::new(decoder)
        }
    })
}

/// What a decoder's error means.
fn broken(compression: Compression, error: &io::Error) -> Packed {
    let xz = error.get_ref().and_then(|inner| inner.downcast_ref::<XzError>());
    // libzstd's words are all that is left of its error.
    if matches!(xz, Some(XzError::MemLimit)) || error.to_string().contains("too much memory") {
        return Packed::Memory;
    }
    match error.kind() == io::ErrorKind::UnexpectedEof {
        true => Packed::CutShort(compression.as_str()),
        false => Packed::Damaged(compression.as_str()),
    }
}
