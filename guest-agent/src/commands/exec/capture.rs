//! What a program reads and writes.
//!
//! Of each stream the beginning is kept and the rest is read and dropped: a program that writes
//! without end must be able to go on. What all of them keep together has a limit too.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;

use ostler_protocol::qga::base64::Base64Decoder;
use tokio::io::AsyncWriteExt;
use tokio::net::unix::pipe;

/// So much of a stream is kept, as stock agents do.
const MOST: usize = 16 << 20;
/// So much is kept of all streams, inputs and results: six whole streams.
const MOST_OF_ALL: usize = 96 << 20;
const PIECE: usize = 16 << 10;
/// A whole number of groups of base64.
const INPUT_PIECE: usize = 48 << 10;

/// The memory there is for it all.
#[derive(Debug, Default)]
pub(super) struct Store(Rc<Cell<usize>>);

impl Store {
    /// A share of it, nothing yet.
    pub(super) fn charge(&self) -> Charge {
        Charge { used: self.0.clone(), bytes: 0 }
    }
}

/// Memory that is used, until this is dropped.
#[derive(Debug)]
pub(super) struct Charge {
    used: Rc<Cell<usize>>,
    bytes: usize,
}

impl Charge {
    /// Uses more, if there is so much.
    pub(super) fn grow(&mut self, bytes: usize) -> bool {
        let used = self.used.get().saturating_add(bytes);
        if used > MOST_OF_ALL {
            return false;
        }
        self.used.set(used);
        self.bytes += bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.used.set(self.used.get() - self.bytes);
    }
}

/// What is kept of a stream, while it is still read and afterwards.
pub(super) type Shared = Rc<RefCell<Kept>>;

/// What is kept of a stream.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) data: Vec<u8>,
    /// Whether there was more.
    pub(super) truncated: bool,
    charge: Charge,
}

impl Kept {
    /// Nothing yet.
    pub(super) fn new(charge: Charge) -> Self {
        Self { data: Vec::new(), truncated: false, charge }
    }

    /// A piece from a place on, and whether it reaches the end of what is kept.
    pub(super) fn piece(&self, from: i64, most: usize) -> (&[u8], bool) {
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(self.data.len());
        let rest = &self.data[from..];
        (&rest[..rest.len().min(most)], rest.len() <= most)
    }
}

/// Reads a stream to its end. `room` says whether so much more may be kept.
pub(super) async fn listen(
    stream: Option<pipe::Receiver>,
    kept: &RefCell<Kept>,
    room: &impl Fn(&mut Charge, usize) -> bool,
) {
    let Some(stream) = stream else { return };
    let mut length = 0;
    while stream.readable().await.is_ok() {
        // borrowed here, not in the match: what is kept is told while this waits
        let drained = drain(&stream, &mut kept.borrow_mut(), &mut length, room);
        match drained {
            Ok(Drained::More) => tokio::task::yield_now().await,
            Ok(Drained::Ended) => break,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
    }
}

enum Drained {
    /// There may be more, after the others.
    More,
    Ended,
}

fn drain(
    stream: &pipe::Receiver,
    kept: &mut Kept,
    length: &mut usize,
    room: &impl Fn(&mut Charge, usize) -> bool,
) -> io::Result<Drained> {
    // not held while nothing comes
    let mut piece = [0; PIECE];
    for _ in 0..16 {
        let got = stream.try_read(&mut piece)?;
        if got == 0 {
            return Ok(Drained::Ended);
        }
        let wanted = got.min(MOST - *length);
        if wanted > 0 && room(&mut kept.charge, wanted) {
            kept.data.extend_from_slice(&piece[..wanted]);
            *length += wanted;
            kept.truncated |= wanted < got;
        } else {
            // what is kept is the beginning, without a gap
            kept.truncated = true;
            *length = MOST;
        }
    }
    Ok(Drained::More)
}

/// Gives a program its input. One that does not want it all need not read it.
pub(super) async fn feed(stream: Option<pipe::Sender>, input: Option<(String, Charge)>) {
    let (Some(mut stream), Some((text, _charge))) = (stream, input) else { return };
    let mut decoder = Base64Decoder::default();
    let mut data = Vec::new();
    for piece in text.as_bytes().chunks(INPUT_PIECE) {
        data.clear();
        decoder.push(piece, &mut data);
        if stream.write_all(&data).await.is_err() {
            return;
        }
    }
    data.clear();
    decoder.finish(&mut data);
    // it has ended, or closed its input
    let _ = stream.write_all(&data).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[tokio::test]
    async fn the_beginning_of_a_stream_is_kept_and_the_rest_read() {
        for (length, truncated) in [(MOST, false), (MOST + 1, true)] {
            let (reader, mut writer) = io::pipe().unwrap();
            let writer = std::thread::spawn(move || writer.write_all(&vec![0; length]));
            let reader = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
            let store = Store::default();
            let kept = RefCell::new(Kept::new(store.charge()));
            listen(Some(reader), &kept, &Charge::grow).await;
            writer.join().unwrap().unwrap();
            let kept = kept.into_inner();
            assert_eq!(kept.truncated, truncated, "{length}");
            assert_eq!(kept.data.len(), length.min(MOST));
            drop(kept);
            assert_eq!(store.0.get(), 0);
        }
    }

    #[tokio::test]
    async fn a_stream_there_is_no_room_for_is_read_all_the_same() {
        let (reader, mut writer) = io::pipe().unwrap();
        let writer = std::thread::spawn(move || writer.write_all(&[0; 1 << 20]));
        let reader = pipe::Receiver::from_owned_fd(reader.into()).unwrap();
        let kept = RefCell::new(Kept::new(Store::default().charge()));
        listen(Some(reader), &kept, &|_, _| false).await;
        writer.join().unwrap().unwrap();
        let kept = kept.into_inner();
        assert!(kept.truncated && kept.data.is_empty());
    }

    #[test]
    fn a_piece_is_what_there_is_from_a_place_on() {
        let kept = Kept { data: b"abcdef".to_vec(), ..Kept::new(Store::default().charge()) };
        for (from, most, piece, last) in [
            (0, 4, "abcd", false),
            (4, 4, "ef", true),
            (2, 4, "cdef", true),
            (6, 4, "", true),
            (i64::MAX, 4, "", true),
            (-1, 4, "", true),
        ] {
            assert_eq!(kept.piece(from, most), (piece.as_bytes(), last), "{from}");
        }
    }
}
