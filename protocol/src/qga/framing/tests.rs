//! What the parser claims, by example and by any splitting.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn parse(bytes: &[u8]) -> Vec<Result<Frame, FramingError>> {
    Parser::new(Limits::agent()).frames(bytes).collect()
}

fn values(bytes: &[u8]) -> Vec<Value> {
    parse(bytes)
        .into_iter()
        .map(|frame| match frame {
            Ok(Frame::Value(value)) => value,
            other => panic!("{other:?} of {:?}", String::from_utf8_lossy(bytes)),
        })
        .collect()
}

/// The frames, errors as their texts, of input given in the given pieces.
fn pieces<'a>(limits: Limits, input: impl Iterator<Item = &'a [u8]>) -> Vec<Result<Frame, String>> {
    let mut parser = Parser::new(limits);
    let mut frames = Vec::new();
    for mut piece in input {
        while let Some(frame) = parser.next_frame(&mut piece) {
            frames.push(frame.map_err(|error| error.to_string()));
        }
        assert!(piece.is_empty(), "a parser without a frame to give has read its input");
    }
    frames
}

#[test]
fn values_may_be_glued_and_lines_are_not_needed() {
    assert_eq!(
        values(b"{\"execute\":\"a\"}{\"execute\": \"b\"} [1]\n\n\"x\"{}"),
        [json!({"execute": "a"}), json!({"execute": "b"}), json!([1]), json!("x"), json!({})]
    );
    assert_eq!(values(b"1 2\n-0\n"), [json!(1), json!(2), json!(0)]);
    assert_eq!(values(b"null true false\n"), [json!(null), json!(true), json!(false)]);
}

#[test]
fn single_quotes_are_quotes_too() {
    assert_eq!(
        values(br#"{'execute': 'it\'s "so"', "b": "it\'s"}"#),
        [json!({"execute": "it's \"so\"", "b": "it's"})]
    );
}

#[test]
fn escapes_are_resolved() {
    assert_eq!(
        values(br#""\u00e9\uD83D\uDE00\u0000\b\f\n\r\t\/\\\"""#),
        [json!("\u{e9}\u{1F600}\0\u{8}\u{c}\n\r\t/\\\"")]
    );
    assert_eq!(values("\"é😀\"".as_bytes()), [json!("é😀")]);
}

#[test]
fn numbers_keep_what_64_bits_hold() {
    assert_eq!(
        values(b"[9223372036854775807, -9223372036854775808, 18446744073709551615]"),
        [json!([i64::MAX, i64::MIN, u64::MAX])]
    );
    assert_eq!(values(b"[1.0, 1e3]"), [json!([1.0, 1000.0])]);
}

#[test]
fn what_json_forbids_is_one_error_and_the_next_line_is_heard() {
    for (bad, text) in [
        (&b"{\"a\": 01}"[..], "JSON parse error, stray '01'"),
        (b"{\"a\": 1e999}", "JSON parse error, stray '1e999'"),
        (b"{\"a\": nul}", "JSON parse error, invalid keyword 'nul'"),
        (b"{\"a\": NaN}", "JSON parse error, stray 'N'"),
        (b"{\"a\": [1,]}", "JSON parse error, expecting value"),
        (b"{\"a\": 1,}", "JSON parse error, expecting value"),
        (b"{\"a\" 1}", "JSON parse error, missing : in object pair"),
        (b"{1: 1}", "JSON parse error, key is not a string in object"),
        (b"{\"a\": 1 \"b\": 2}", "JSON parse error, expected separator in dict"),
        (b"{\"a\": 1, \"a\": 2}", "JSON parse error, duplicate key"),
        (b"{\"a\": 1, \"b\": {\"x\": 1, \"x\": 1}}", "JSON parse error, duplicate key"),
        (b"{\"a\"}", "JSON parse error, missing : in object pair"),
        (b"{\"a\": 1, 2}", "JSON parse error, key is not a string in object"),
        (b"[1 2]", "JSON parse error, expected separator in list"),
        (b"[1}", "JSON parse error, expected separator in list"),
        (b"[1,,2]", "JSON parse error, expecting value"),
        (b"{\"a\": 1} // x", "JSON parse error, stray '/'"),
        (b"{\"a\": \"\\x\"}", "JSON parse error, invalid escape sequence in string"),
        (b"{\"a\": \"\\u12G4\"}", "JSON parse error, invalid escape sequence in string"),
        (b"{\"a\": \"\\uD83D\"}", "JSON parse error, \\uD83D is not a valid Unicode character"),
        (b"{\"a\": \"\\uDE00\"}", "JSON parse error, \\uDE00 is not a valid Unicode character"),
        (b"{\"a\": \"\\uD83D\\n\"}", "JSON parse error, \\uD83D is not a valid Unicode character"),
        (
            b"{\"a\": \"\\uD83D\\u0041\"}",
            "JSON parse error, \\uD83D is not a valid Unicode character",
        ),
        (b"{\"a\": \"\xC0\x80\"}", "JSON parse error, invalid UTF-8 sequence in string"),
        (b"{\"a\": \"\xED\xA0\x80\"}", "JSON parse error, invalid UTF-8 sequence in string"),
        (b"{\"a\": \"\t\"}", "JSON parse error, control character 0x09 in a string"),
        (b"\xEF\xBB\xBF{\"a\": 1}", "JSON parse error, stray '\u{FFFD}'"),
    ] {
        let mut input = bad.to_vec();
        input.extend_from_slice(b"\n{\"execute\": \"next\"}\n");
        let frames = parse(&input);
        let errors: Vec<_> = frames
            .iter()
            .filter_map(|frame| frame.as_ref().err())
            .map(ToString::to_string)
            .collect();
        let shown = String::from_utf8_lossy(bad);
        assert_eq!(errors, [text], "{shown}");
        assert_eq!(
            frames.last(),
            Some(&Ok(Frame::Value(json!({"execute": "next"})))),
            "{shown}: the next line is not heard"
        );
    }
}

#[test]
fn three_bad_words_are_three_errors() {
    let errors: Vec<_> = parse(b"a b c\n").into_iter().map(Result::unwrap_err).collect();
    assert_eq!(errors, ["a", "b", "c"].map(|word| FramingError::Keyword(word.into())));
}

#[test]
fn a_bracket_that_closes_nothing_is_an_error_of_its_own() {
    assert_eq!(parse(b"}]").len(), 2);
    assert_eq!(parse(b"[}{\"a\": 1}").len(), 2);
}

#[test]
fn an_open_value_waits_until_a_reset() {
    for open in
        [&b"{"[..], b"{\"a\": \"", b"{\"a\": \"\\", b"{\"a\": \"\\u00", b"[[[[", b"12", b"tru"]
    {
        let mut input = open.to_vec();
        input.extend_from_slice(b"\xFF{\"a\": 1}");
        assert_eq!(
            parse(&input),
            [Ok(Frame::Delimiter), Ok(Frame::Value(json!({"a": 1})))],
            "{}",
            String::from_utf8_lossy(open)
        );
        let mut parser = Parser::new(Limits::agent());
        assert!(parser.is_idle());
        assert_eq!(parser.frames(open).count(), 0);
        assert!(!parser.is_idle());
        parser.reset();
        assert!(parser.is_idle());
    }
}

#[test]
fn the_other_reset_byte_is_no_frame() {
    assert_eq!(parse(b"{\"a\": \"\xFE{}"), [Ok(Frame::Value(json!({})))]);
}

#[test]
fn nesting_is_limited_exactly() {
    let nest = |depth: usize| [vec![b'['; depth], vec![b']'; depth]].concat();
    assert_eq!(parse(&nest(1024)).len(), 1);
    assert!(parse(&nest(1024))[0].is_ok());
    assert_eq!(parse(&nest(1025)), [Err(FramingError::Depth)]);
    let mut cut = vec![b'['; 5000];
    cut.extend_from_slice(b"\n{}");
    assert_eq!(parse(&cut), [Err(FramingError::Depth), Ok(Frame::Value(json!({})))]);
}

#[test]
fn tokens_are_limited_exactly() {
    let limits = Limits { bytes: 1 << 20, depth: 8, tokens: 7 };
    let mut parser = Parser::new(limits);
    assert!(parser.frames(b"[1,2,3]").all(|frame| frame.is_ok()));
    let frames: Vec<_> = parser.frames(b"[1,2,3,4]{}").collect();
    assert_eq!(frames, [Err(FramingError::Tokens), Ok(Frame::Value(json!({})))]);
}

#[test]
fn text_is_limited_and_white_space_is_not_text() {
    let limits = Limits { bytes: 16, depth: 8, tokens: 100 };
    let mut parser = Parser::new(limits);
    let wide = format!("[{}1 ]", " ".repeat(1000));
    assert!(parser.frames(wide.as_bytes()).all(|frame| frame.is_ok()));
    let long = b"{\"a\": \"0123456789abcdef\", \"b\": {}}{\"c\": 1}";
    let frames: Vec<_> = parser.frames(long).collect();
    assert_eq!(frames, [Err(FramingError::Bytes), Ok(Frame::Value(json!({"c": 1})))]);
}

#[test]
fn a_line_without_an_end_is_one_error_and_is_not_kept() {
    let limits = Limits { bytes: 1 << 20, depth: 64, tokens: 1000 };
    for chunk in [&[b'x'; 4096][..], &[b'1'; 4096], &[0xC3; 4096], b"\\n", b"[", b"{\"a\":"] {
        let mut parser = Parser::new(limits);
        let mut errors = parser.frames(b"{\"a\": \"").count();
        for _ in 0..(4 << 20) / chunk.len() {
            errors += parser.frames(chunk).count();
        }
        assert!(errors <= 1, "{errors} errors of {chunk:?}");
        let frames: Vec<_> = parser.frames(b"\xFF{}").collect();
        assert_eq!(frames, [Ok(Frame::Delimiter), Ok(Frame::Value(json!({})))]);
    }
}

#[test]
fn a_file_of_forty_mebibytes_goes_through_and_sixty_five_do_not() {
    let request = |size: usize| {
        [b"{\"execute\": \"x\", \"arguments\": {\"buf-b64\": \"", &vec![b'Q'; size][..], b"\"}}\n"]
            .concat()
    };
    let mut parser = Parser::new(Limits::agent());
    let mut read = |bytes: &[u8]| {
        let mut frames = Vec::new();
        for mut chunk in bytes.chunks(32 << 10) {
            while let Some(frame) = parser.next_frame(&mut chunk) {
                frames.push(frame);
            }
        }
        frames
    };
    let frames = read(&request(53 << 20));
    let [Ok(Frame::Value(value))] = &frames[..] else { panic!("{} frames", frames.len()) };
    assert_eq!(value["arguments"]["buf-b64"].as_str().unwrap().len(), 53 << 20);
    assert_eq!(read(&request(65 << 20)), [Err(FramingError::Bytes)]);
    assert_eq!(read(b"{}"), [Ok(Frame::Value(json!({})))]);
}

/// Any value, written with some of the freedom the stream allows.
fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Into::into),
        any::<u64>().prop_map(Into::into),
        ".*".prop_map(Value::String),
    ];
    leaf.prop_recursive(4, 64, 8, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..8).prop_map(Value::Array),
            proptest::collection::btree_map(".*", inner, 0..8)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Bytes that are rich in what matters to the parser.
fn noise() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => proptest::sample::select(br#"{}[]:,"'\ntfu0123456789-+.eE /"#.to_vec()).prop_map(|b| vec![b]),
        1 => any::<u8>().prop_map(|b| vec![b]),
        1 => proptest::sample::select(vec![
            &b"\n"[..], b"\xFF", b"\xFE", b"true", b"\\u", b"\"a\":", b"\\uD83D", b"\xC3\xA9", b"[[[[",
        ]).prop_map(<[u8]>::to_vec),
    ];
    proptest::collection::vec(piece, 0..200).prop_map(|pieces| pieces.concat())
}

fn cut(bytes: &[u8], cuts: Vec<proptest::sample::Index>) -> impl Iterator<Item = &[u8]> {
    let mut at: Vec<_> = cuts.into_iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    let pieces: Vec<_> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
    pieces.into_iter()
}

proptest! {
    #[test]
    fn what_is_encoded_is_read_back(sent in proptest::collection::vec(value(), 0..6)) {
        let bytes: Vec<u8> =
            sent.iter().flat_map(|value| crate::qga::encode::line(value).unwrap()).collect();
        prop_assert!(bytes.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\n'));
        prop_assert_eq!(values(&bytes), sent);
    }

    #[test]
    fn any_splitting_gives_the_same_frames(
        bytes in noise(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..40),
    ) {
        let limits = Limits { bytes: 60, depth: 6, tokens: 40 };
        let whole = pieces(limits, std::iter::once(&bytes[..]));
        prop_assert_eq!(&whole, &pieces(limits, cut(&bytes, cuts)));
        prop_assert_eq!(&whole, &pieces(limits, bytes.chunks(1)));
    }

    #[test]
    fn a_reset_always_makes_the_next_request_heard(bytes in noise()) {
        let mut parser = Parser::new(Limits { bytes: 60, depth: 6, tokens: 40 });
        parser.frames(&bytes).for_each(drop);
        let frames: Vec<_> = parser.frames(b"\xFF{\"execute\": \"guest-ping\"}").collect();
        prop_assert_eq!(
            frames,
            [Ok(Frame::Delimiter), Ok(Frame::Value(json!({"execute": "guest-ping"})))]
        );
    }

    #[test]
    fn whatever_is_accepted_json_accepts_too(bytes in noise()) {
        // without its extensions, the stream is a subset of JSON
        let mut text = [b"[", &bytes[..], b"]"].concat();
        text.retain(|byte| !matches!(byte, b'\'' | 0xFE | 0xFF));
        let mut parser = Parser::new(Limits::agent());
        let frames: Vec<_> = parser.frames(&text).collect();
        if let [Ok(Frame::Value(value))] = &frames[..] && parser.is_idle() {
            let json: Value = serde_json::from_slice(&text).unwrap();
            // numbers too large for 64 bits and zeros with a sign are written differently
            if !bytes.contains(&b'-') {
                prop_assert_eq!(value, &json);
            }
        }
    }
}
