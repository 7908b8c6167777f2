//! How much an agent says at a time on Ostler's own port: both sides know it.
//!
//! A host reads no more of a guest it does not trust, and what is larger is lost to it. So the agent
//! cuts the lists in what it says until that fits, and says that it has: an event then has `truncated`
//! in its data, an answer beside `return`. On the standard port nothing is cut, as by stock agents.

use serde_json::Value;

use super::encode::{self, Part, Parts};
use super::envelope::{Event, TRUNCATED};
use super::framing::Limits;

/// Bytes of an event.
pub const EVENT_BYTES: usize = 256 << 10;
/// Bytes of an answer.
pub const ANSWER_BYTES: usize = 1 << 20;
/// Entries of a list that a host keeps: the first.
pub const ENTRIES: usize = 1024;
/// For what surrounds the value: a name, an id, a time.
const ENVELOPE: usize = 4 << 10;

/// What a message of so many bytes may have. Tokens are limited by the text they take at least, so that
/// what a value takes in memory stays within some ten times its text.
pub const fn limits(bytes: usize, depth: usize) -> Limits {
    Limits { bytes, depth, tokens: bytes / 8 }
}

/// An event that fits.
pub fn event(mut event: Event) -> Event {
    if fit(&mut event.data, EVENT_BYTES)
        && let Value::Object(data) = &mut event.data
    {
        data.insert(TRUNCATED.to_owned(), true.into());
    }
    event
}

/// An answer that fits, unless it is long data: whoever asks for that says how much.
pub fn answer(parts: Parts) -> Parts {
    let shorter = match parts.as_slice() {
        // a token is a byte at least
        [Part::Text(line)] if line.len() > limits(ANSWER_BYTES, 0).tokens - ENVELOPE => {
            shorter(line)
        }
        _ => None,
    };
    shorter.map_or(parts, |line| vec![Part::Text(line)])
}

fn shorter(line: &[u8]) -> Option<Vec<u8>> {
    let mut message: Value = serde_json::from_slice(line).ok()?;
    let members = message.as_object_mut()?;
    if !fit(members.get_mut("return")?, ANSWER_BYTES) {
        return None;
    }
    members.insert(TRUNCATED.to_owned(), true.into());
    encode::line(&message).ok()
}

/// Cuts the longest lists in a value until it fits into a message; whether it had to.
fn fit(value: &mut Value, bytes: usize) -> bool {
    let limits = limits(bytes - ENVELOPE, 0);
    let fits = |value: &Value| {
        tokens(value) <= limits.tokens
            && encode::line(value).is_ok_and(|line| line.len() <= limits.bytes)
    };
    let mut most = ENTRIES;
    let mut whole = true;
    while !fits(value) && most > 0 {
        cut(value, most);
        whole = false;
        most = most * 3 / 4;
    }
    !whole
}

fn cut(value: &mut Value, most: usize) {
    match value {
        Value::Array(list) => {
            list.truncate(most);
            list.iter_mut().for_each(|entry| cut(entry, most));
        }
        Value::Object(members) => members.values_mut().for_each(|member| cut(member, most)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// As a [`Parser`](super::framing::Parser) counts them: with each entry its comma, with each member its
/// name and colon too.
fn tokens(value: &Value) -> usize {
    match value {
        Value::Array(list) => 2 + list.iter().map(|entry| 1 + tokens(entry)).sum::<usize>(),
        Value::Object(members) => {
            2 + members.values().map(|member| 3 + tokens(member)).sum::<usize>()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qga::envelope::{Message, Timestamp};
    use crate::qga::framing::{Frame, Parser};
    use serde_json::json;

    fn interfaces(addresses: usize) -> Value {
        let address = |n: usize| {
            json!({"ip-address": format!("10.{}.{}.1", n / 256, n % 256), "ip-address-type": "ipv4",
                "prefix": 32})
        };
        let all: Vec<_> = (0..addresses).map(address).collect();
        json!([{"name": "eth0", "ip-addresses": [address(0), address(1)]},
            {"name": "kube-ipvs0", "ip-addresses": all}])
    }

    fn read(line: &[u8], bytes: usize) -> Message {
        let frame = Parser::new(limits(bytes, 32)).frames(line).next();
        let Some(Ok(Frame::Value(value))) = frame else { panic!("a host does not read it") };
        Message::from_value(value).unwrap()
    }

    fn told(value: &Value) -> [usize; 2] {
        [0, 1].map(|at| value[at]["ip-addresses"].as_array().unwrap().len())
    }

    #[test]
    fn a_host_reads_every_event_and_whether_it_was_cut() {
        for (addresses, cut) in [(1000, false), (3000, true), (50_000, true)] {
            let data = json!({"interfaces": interfaces(addresses)});
            let whole = Event { event: "X".into(), data, timestamp: Timestamp::default() };
            let line = encode::line(&event(whole)).unwrap();
            let Message::Event(event) = read(&line, EVENT_BYTES) else { panic!("no event") };
            assert_eq!(event.data.get(TRUNCATED).is_some(), cut, "{addresses}");
            assert_eq!(told(&event.data["interfaces"]), [2, addresses.min(ENTRIES)]);
        }
    }

    #[test]
    fn a_host_reads_every_answer_and_whether_it_was_cut() {
        for (addresses, cut) in [(1000, false), (8000, false), (10_000, true), (50_000, true)] {
            let reply = json!({"return": interfaces(addresses), "id": 7});
            let parts = answer(vec![Part::Text(encode::line(&reply).unwrap())]);
            let Message::Response(response) = read(&encode::joined(parts), ANSWER_BYTES) else {
                panic!("no answer")
            };
            assert_eq!((response.truncated, response.id), (cut, Some(7.into())), "{addresses}");
            let most = if cut { ENTRIES } else { addresses };
            assert_eq!(told(&response.outcome.unwrap()), [2, most]);
        }
    }

    #[test]
    fn long_texts_in_many_entries_are_cut_by_their_size() {
        let mount = json!({"mountpoint": "/".repeat(4096), "disk": []});
        let mut value = json!({"filesystems": vec![mount; 2000]});
        assert!(fit(&mut value, EVENT_BYTES));
        let left = value["filesystems"].as_array().unwrap().len();
        assert!((30..64).contains(&left), "{left}");
    }

    #[test]
    fn tokens_are_counted_as_the_parser_counts_them() {
        let value = json!({"a": [1, null, "x", {"b": true}], "c": {}});
        let line = value.to_string();
        let with = |tokens| {
            Parser::new(Limits { bytes: 1000, depth: 9, tokens }).frames(line.as_bytes()).next()
        };
        assert!(matches!(with(tokens(&value)), Some(Ok(_))));
        assert!(matches!(with(tokens(&value) / 2), Some(Err(_))));
    }
}
