//! The parser: however the stream is cut, the frames are the same; a reset makes the next request
//! heard; what is accepted can be written and read back.

#![no_main]

use libfuzzer_sys::fuzz_target;
use ostler_protocol::qga::encode;
use ostler_protocol::qga::framing::{Frame, FramingError, Limits, Parser};
use serde_json::json;

type Frames = Vec<Result<Frame, FramingError>>;

fn read<'a>(limits: Limits, pieces: impl Iterator<Item = &'a [u8]>) -> (Frames, Parser) {
    let mut parser = Parser::new(limits);
    let mut frames = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = parser.next_frame(&mut piece) {
            frames.push(frame);
        }
        assert!(piece.is_empty(), "input was left");
    }
    (frames, parser)
}

/// A line, read and written.
fn reread(line: &[u8]) -> Vec<u8> {
    let frames: Frames = Parser::new(Limits::agent()).frames(line).collect();
    let [Ok(Frame::Value(value))] = &frames[..] else { panic!("{frames:?}") };
    encode::line(value).expect("a value has a form")
}

fuzz_target!(|input: (u8, &[u8])| {
    let (cut, bytes) = input;
    // the agent's limits, and some that are met in an input of a few bytes
    for limits in [Limits::agent(), Limits { bytes: 60, depth: 6, tokens: 40 }] {
        let (whole, mut parser) = read(limits, std::iter::once(bytes));
        let step = usize::from(cut % 32) + 1;
        assert_eq!(whole, read(limits, bytes.chunks(step)).0, "cut every {step} bytes");
        let next: Frames = parser.frames(b"\xFF{'execute': 'guest-ping'}").collect();
        let ping = Frame::Value(json!({"execute": "guest-ping"}));
        assert_eq!(next, [Ok(Frame::Delimiter), Ok(ping)], "the next request is not heard");
        for frame in whole {
            let Ok(Frame::Value(value)) = frame else { continue };
            let line = encode::line(&value).expect("a value has a form");
            assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
            // a double without a fraction is read back as an integer, and minus nought as nought
            let once = reread(&line);
            assert_eq!(reread(&once), once, "what is written is read as another");
        }
    }
});
